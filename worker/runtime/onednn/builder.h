// SPDX-License-Identifier: Apache-2.0
// PlanBuilder: turns a graph with known shapes into a Plan. It walks the nodes in order and lets the emitter of each
// operator append steps; an emitter may look ahead and take the following nodes into its step (activation, residual
// sum, quantization), which are then skipped. Operators without an emitter run their plain-loop implementation of op.h.
//
// Values are lazy in three ways:
//   - a value has a buffer per layout, and the second is made by a reorder step only when someone asks for it;
//   - DequantizeLinear makes no step: its output remembers the codes and their grid. An emitter that works on codes
//     uses them; anyone else asks for the value itself and then a dequantize step is made, once;
//   - constants cost nothing until they are read.
//
// Buffers live from the step that writes them first to the step that uses them last; Finish() places them in one arena,
// largest first at the lowest free offset.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_BUILDER_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_BUILDER_H_

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "common/status_macros.h"
#include "worker/runtime/infer.h"
#include "worker/runtime/kernels/elementwise.h"
#include "worker/runtime/onednn/plan.h"

namespace quant::onednn {

using kernels::Grid;

struct Value {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  int64_t elements = 0;
  const Tensor* constant = nullptr;
  std::array<int, 2> buffer = {-1, -1};  // by Layout
  int codes = -1;                        // the value that holds the codes, when dequantization is still to be done
  Grid grid;                             // of the codes

  bool has_buffer() const { return buffer[0] >= 0 || buffer[1] >= 0; }
};

// Weights or other constants behind a DequantizeLinear, as integers: real = codes * scale of the channel.
struct QuantizedConstant {
  std::vector<int32_t> codes;  // zero point already subtracted; row-major
  std::vector<float> scales;   // one, or one per index of `axis`
  int axis = -1;               // -1: one scale
  int32_t max_abs = 0;
  bool FitsS8() const { return fits_s8; }
  bool fits_s8 = false;
};

// An argument of a primitive: a buffer seen through a descriptor, or memory of its own.
struct Arg {
  int key;
  dnnl::memory::desc desc;
  int buffer = -1;
  dnnl::memory memory;
  static Arg Of(int key, dnnl::memory::desc desc, int buffer) { return {key, std::move(desc), buffer, {}}; }
  static Arg Of(int key, dnnl::memory memory) { return {key, {}, -1, std::move(memory)}; }
};

class PlanBuilder {
 public:
  PlanBuilder(const Graph& graph, const GraphIndex& index, std::shared_ptr<const InferredPlan> shapes,
              WeightCache& weights, const CompileOptions& options);

  absl::StatusOr<std::unique_ptr<Plan>> Build();

  // ---- the graph, for emitters
  const Node& node(int i) const { return graph_.nodes[static_cast<size_t>(i)]; }
  // Id of a value, -1 for the absent value "".
  int Id(std::string_view name) const;
  int In(int node_index, size_t i) const { return Id(node(node_index).input(i)); }
  int Out(int node_index, size_t i = 0) const;
  Value& value(int id) { return values_[static_cast<size_t>(id)]; }
  const Value& value(int id) const { return values_[static_cast<size_t>(id)]; }
  const std::vector<int>& Consumers(int id) const { return index_.Consumers(value(id).name); }
  int Producer(int id) const { return index_.Producer(value(id).name); }

  // Whether the value must exist in the end: a graph output or tapped. Fusion never crosses such a value.
  bool Pinned(int id) const { return pinned_.contains(id); }
  // The one node that reads the value, when it is read once and not pinned; else -1.
  int OnlyConsumer(int id) const;
  // Whether a step may read the value now.
  bool Available(int id) const;
  // Marks a node as done by a step of another node.
  void Claim(int node_index) { claimed_[static_cast<size_t>(node_index)] = true; }
  bool Claimed(int node_index) const { return claimed_[static_cast<size_t>(node_index)]; }
  // Whether nothing reads the value after the nodes claimed so far and `readers`.
  bool DeadAfter(int id, std::span<const int> readers) const;

  // The constant behind DequantizeLinear(initializer), one scale or one per index of an axis; nullptr when the value is
  // not that. Kept by the builder.
  const QuantizedConstant* Quantized(int id);
  // The grid of a QuantizeLinear or DequantizeLinear node with one constant scale, to or from 8 bits.
  bool NodeGrid(int node_index, Grid* grid);
  // Whether the value is a constant, or Q/DQ, Cast or Transpose of constants (which planning leaves in the graph).
  bool IsConstant(int id) const;
  // The content of such a value, computed when first asked for; null for other values. Kept by the plan.
  absl::StatusOr<const Tensor*> Constant(int id);
  // All elements of such a value as float; empty when it is not constant.
  std::vector<float> ConstantFloats(int id);

  // ---- buffers
  // The buffer of a value in `layout`, making it (dequantize, reorder) when it is not there yet.
  absl::StatusOr<int> Use(int id, Layout layout);
  // The layout the value is in; kPlain when it is in none.
  Layout LayoutOf(int id) const;
  // A new buffer for a value that the next step writes.
  int Define(int id, Layout layout);
  // Makes `id` the same bytes as buffer `buffer`.
  void DefineAs(int id, Layout layout, int buffer);
  // Makes `id` the same bytes as `source` under its own shape (plain layout).
  absl::Status Alias(int id, int source);
  // Leaves `silu` = x * sigmoid(x) to the one product that reads it; and what it is of, -1 when it is no such value.
  void DeferSilu(int silu, int x) { silu_of_[silu] = x; }
  int SiluOf(int id) const {
    const auto it = silu_of_.find(id);
    return it == silu_of_.end() ? -1 : it->second;
  }
  // Makes `id` the lazily dequantized form of `codes`.
  void DefineDequantized(int id, int codes, Grid grid);
  // A value that the graph does not have, such as the codes of a pooled quantized value.
  int Anonymous(DType dtype, Shape shape);
  // A buffer that belongs to no value.
  int Temporary(int64_t bytes);
  // The value in `buffer` is dead and another takes its place.
  void ReuseBuffer(int buffer) { buffers_[static_cast<size_t>(buffer)].values = 0; }
  bool BufferIsShared(int buffer) const { return buffers_[static_cast<size_t>(buffer)].values > 1; }
  bool BufferIsWritable(int buffer) const;

  // ---- steps
  void AddStep(Step step, std::initializer_list<int> reads, std::initializer_list<int> writes);
  void AddStep(Step step, const std::vector<int>& reads, const std::vector<int>& writes);
  // A primitive; `what` is followed by its implementation's name. Arguments with DNNL_ARG_DST (and the like) among
  // `written` keys write their buffers.
  void AddPrimitive(std::string_view node_name, std::string_view what, const dnnl::primitive& primitive,
                    const dnnl::memory::desc& scratchpad, std::vector<Arg> args, int threads);
  // Threads for a step that takes `microseconds` on one: all, or one when handing out the work would gain little: a
  // barrier costs about 4 us when all cores are ours, and 10 times that when others want them too. ResNet-20 at batch
  // 1, int8, 2 threads, whose layers take about 12 us: 0.26 ms with limits of 30 and 15 us, 0.18 ms with 8.
  int ThreadsFor(double microseconds) const { return microseconds >= 10.0 ? threads_ : 1; }
  int threads() const { return threads_; }
  WeightCache& weights() { return weights_; }

  // Runs the node's plain-loop implementation. An operator that only moves elements of its first input works on the
  // codes when that is still to be dequantized.
  absl::Status EmitReference(int node_index);

 private:
  struct Buffer {
    int64_t bytes = 0;
    int first = -1, last = -1;
    int values = 0;              // that share it
    std::byte* fixed = nullptr;  // constants and outputs
    int input = -1;
    int64_t offset = -1;
  };

  absl::Status EmitNode(int node_index);
  absl::Status EmitTaps();
  absl::Status EmitTap(int id);
  absl::Status EmitReorder(int id, Layout from, Layout to);
  absl::Status EmitDequantize(int id, Layout layout);
  absl::Status DefineOutputs();
  absl::Status Place();
  int NewBuffer(int64_t bytes);
  void Touch(int buffer);
  void CollectValues();

  const Graph& graph_;
  const GraphIndex& index_;
  std::shared_ptr<const InferredPlan> shapes_;
  WeightCache& weights_;
  const CompileOptions& options_;
  const int threads_;

  std::vector<Value> values_;
  std::unordered_map<std::string, int> ids_;
  std::unordered_set<int> pinned_;
  std::unordered_set<int> untapped_;  // tapped values not shown yet
  std::vector<int> newly_defined_;
  std::unordered_map<int, int> silu_of_;
  std::vector<bool> claimed_;
  std::vector<Buffer> buffers_;
  std::unordered_map<int, std::unique_ptr<QuantizedConstant>> quantized_;
  std::unordered_map<int, Tensor> owned_constants_;  // by value
  std::vector<std::function<void()>> after_placing_;
  std::unique_ptr<Plan> plan_;
  int64_t scratchpad_bytes_ = 0;
};

// Appends a step that copies elements between two arrangements of the same `dims` (strides in elements).
absl::Status EmitCopy(PlanBuilder& builder, std::string_view node_name, std::string_view what, DType dtype,
                      std::span<const int64_t> dims, const dnnl::memory::dims& src_strides, int src,
                      const dnnl::memory::dims& dst_strides, int dst);

// Appends the steps of a node, perhaps with nodes after it, and returns true; or returns false, having changed nothing,
// when it has no better way than the plain loops.
using Emitter = absl::StatusOr<bool> (*)(PlanBuilder& builder, int node_index);
// Null when there is none.
Emitter FindEmitter(std::string_view domain, std::string_view op_type);

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_BUILDER_H_
