// SPDX-License-Identifier: Apache-2.0
// The walk over a graph that makes a plan possible: with concrete input shapes, the dtype and shape of every value, and
// the content of those that follow from constants and shapes alone. Both backends start from it, and constant folding
// uses its EvaluateNode.
#ifndef QUANT_WORKER_RUNTIME_INFER_H_
#define QUANT_WORKER_RUNTIME_INFER_H_

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/graph/graph.h"
#include "worker/runtime/op.h"

namespace quant {

// Values up to this size are computed while planning when they depend on nothing but constants and shapes.
inline constexpr int64_t kMaxFoldedBytes = int64_t{16} << 20;

// What InferShapes found out. Movable, not copyable: `values` points into `constants` and into the graph.
struct InferredPlan {
  InferredPlan() = default;
  InferredPlan(InferredPlan&&) = default;
  InferredPlan& operator=(InferredPlan&&) = default;
  InferredPlan(const InferredPlan&) = delete;
  InferredPlan& operator=(const InferredPlan&) = delete;

  // Every graph input, every initializer, every present output of every node. `constant` is set for initializers and
  // folded values.
  std::unordered_map<std::string, TensorDesc> values;
  // Per node of graph.nodes: whether all its outputs are constants already, so that it need not run.
  std::vector<bool> folded;
  // The folded values. A map: its elements do not move.
  std::map<std::string, Tensor> constants;

  // The value called `name`; CHECK-fails when the graph has none (a programming error).
  const TensorDesc& Value(std::string_view name) const;
  // The same for each input of `node`, null for absent ones.
  std::vector<const TensorDesc*> Inputs(const Node& node) const;
};

// Checks `inputs` (dtype and shape; their content is not looked at) against graph.inputs: count, dtype, rank and every
// dimension that the graph fixes. INVALID_ARGUMENT naming input, value and what is wanted.
absl::Status CheckInputs(const Graph& graph, std::span<const TensorDesc> inputs);

// Walks a valid graph in order with inputs of these shapes (checked as above). QuantizeLinear and DequantizeLinear are
// never folded: backends fuse them with their neighbours; nor are Cast and Transpose of floating-point matrices, which
// may be weights mapped from a file. `graph` must outlive the plan.
// INVALID_ARGUMENT (shapes do not fit an operator, or a folded value cannot be computed), UNIMPLEMENTED (no such
// operator or mode, a shape that depends on data): the message names the node and its operator.
absl::StatusOr<InferredPlan> InferShapes(const Graph& graph, std::span<const TensorDesc> inputs);

// Computes one node from the content of all its inputs (null: absent); one tensor per node output, the absent ones
// empty. The inputs may be borrowed and unaligned. Errors as above, and RESOURCE_EXHAUSTED when the outputs would need
// more than `max_bytes`.
absl::StatusOr<std::vector<Tensor>> EvaluateNode(const Node& node, std::span<const Tensor* const> inputs,
                                                 int64_t max_bytes = int64_t{1} << 30);

// `tensor` itself when its elements are aligned for their type, else an owned copy: Op::Compute wants them aligned, and
// weights mapped from a file need not be.
absl::StatusOr<Tensor> AlignedTensor(const Tensor& tensor);

// The node's name and operator in front of an error message, for a status that comes from an Op.
absl::Status AtNode(const Node& node, const absl::Status& status);

}  // namespace quant

#endif  // QUANT_WORKER_RUNTIME_INFER_H_
