// SPDX-License-Identifier: Apache-2.0
// Graph: a model with ONNX semantics, whatever it came from.
//
// Values are named by strings, as in ONNX. A value is a graph input, an initializer (a constant tensor), or an output
// of exactly one node. Invariants (Validate checks them all):
//   1. every value has exactly one definition;
//   2. nodes stand in topological order: a node's inputs are defined before it;
//   3. every graph output is defined;
//   4. node names are unique and not empty.
// An empty string among a node's inputs or outputs means "absent", as in ONNX.
//
// Operators mean what the ONNX operator set `opset` says, 13 <= opset <= 23: importers lift older models to 13. Where
// an operator moved an attribute to an input after 13 (axes of Reduce*, of Pad, ...) both forms may stand. Operators of
// other domains keep their domain ("com.microsoft").
//
// Quantization is a form of the same graph: activations and weights pass through QuantizeLinear/DequantizeLinear pairs.
//
// Thread-safety: thread-compatible.
#ifndef QUANT_WORKER_GRAPH_GRAPH_H_
#define QUANT_WORKER_GRAPH_GRAPH_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

using Attribute = std::variant<int64_t, float, std::string, std::vector<int64_t>, std::vector<float>,
                               std::vector<std::string>, Tensor>;

struct Node {
  std::string name;
  std::string op_type;
  std::string domain;  // "" is the standard operator set
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::map<std::string, Attribute> attributes;  // ordered, so that export is deterministic

  // Input i, or "" when absent.
  const std::string& input(size_t i) const;
  // The attribute, or the default when it is absent or of another type.
  int64_t Int(std::string_view key, int64_t otherwise) const;
  float Float(std::string_view key, float otherwise) const;
  std::string String(std::string_view key, std::string_view otherwise) const;
  std::vector<int64_t> Ints(std::string_view key, std::vector<int64_t> otherwise = {}) const;
  std::vector<float> Floats(std::string_view key) const;
  bool Has(std::string_view key) const { return attributes.find(std::string(key)) != attributes.end(); }
};

// A dimension is known (symbol empty, value >= 0), symbolic ("batch"), or unknown (symbol empty, value -1).
struct Dim {
  int64_t value = -1;
  std::string symbol;
  bool known() const { return value >= 0; }
};

// Type and shape of an input, output or inner value, as far as known.
struct ValueInfo {
  std::string name;
  DType dtype = DType::kFloat32;
  bool has_shape = false;  // false: not even the rank is known
  std::vector<Dim> shape;
};

class Graph {
 public:
  std::string name;
  std::string producer;  // who made the original file, kept for export
  int64_t opset = 13;
  std::map<std::string, int64_t> other_opsets;  // domain -> version, e.g. {"com.microsoft", 1}
  std::vector<ValueInfo> inputs;                // without initializers
  std::vector<ValueInfo> outputs;
  std::vector<Node> nodes;
  std::map<std::string, Tensor> initializers;
  std::map<std::string, ValueInfo> value_info;  // inferred types of inner values, where known
  std::map<std::string, std::string> metadata;

  // The constant called `value`, or null.
  const Tensor* Initializer(std::string_view value) const;

  // A name not used by any value or node: `base`, or `base_1`, `base_2`, ...
  std::string UniqueName(std::string_view base) const;

  // Makes every node input and graph output that reads `from` read `to`. Graph outputs keep their name: when `from` is
  // a graph output the caller renames the producer instead.
  void ReplaceUses(std::string_view from, std::string_view to);

  // Whether `value` is a graph output.
  bool IsOutput(std::string_view value) const;

  // Removes initializers and value_info nobody reads, and nodes none of whose outputs is read. Inputs stay.
  void RemoveUnused();

  // Orders nodes topologically, keeping the present order where it can. INVALID_ARGUMENT for a cycle, naming a node.
  absl::Status Sort();

  // Checks the invariants above. INVALID_ARGUMENT naming node and value.
  absl::Status Validate() const;

  // Bytes of all initializers.
  int64_t InitializerBytes() const;
};

// Who defines and reads each value; made from a graph and stale as soon as the graph changes.
class GraphIndex {
 public:
  explicit GraphIndex(const Graph& graph);
  // Index of the node that has `value` as an output, or -1 (input, initializer, unknown).
  int Producer(std::string_view value) const;
  // Indices of the nodes that read `value`, in order, a node once per reading input.
  const std::vector<int>& Consumers(std::string_view value) const;

 private:
  std::unordered_map<std::string, int> producer_;
  std::unordered_map<std::string, std::vector<int>> consumers_;
};

}  // namespace quant

#endif  // QUANT_WORKER_GRAPH_GRAPH_H_
