// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "worker/graph/passes/passes.h"

namespace quant {
namespace {

// ONNX's numbers of element types (TensorProto.DataType), which Cast names in an attribute.
std::optional<DType> CastTarget(int64_t onnx_type) {
  static const std::unordered_map<int64_t, DType>& types = *new std::unordered_map<int64_t, DType>{
      {1, DType::kFloat32}, {2, DType::kUInt8},   {3, DType::kInt8},      {4, DType::kUInt16},   {5, DType::kInt16},
      {6, DType::kInt32},   {7, DType::kInt64},   {9, DType::kBool},      {10, DType::kFloat16}, {11, DType::kFloat64},
      {12, DType::kUInt32}, {13, DType::kUInt64}, {16, DType::kBFloat16}, {21, DType::kUInt4},   {22, DType::kInt4}};
  const auto it = types.find(onnx_type);
  return it == types.end() ? std::nullopt : std::optional<DType>(it->second);
}

class NoOps {
 public:
  explicit NoOps(const Graph& graph) : graph_(graph) {
    for (const ValueInfo& v : graph.inputs) types_[v.name] = &v;
    for (const ValueInfo& v : graph.outputs) types_[v.name] = &v;
    for (const auto& [name, v] : graph.value_info) types_[name] = &v;
    for (const Node& n : graph.nodes) used_.insert(n.inputs.begin(), n.inputs.end());
    for (const ValueInfo& v : graph.outputs) used_.insert(v.name);
  }

  // Whether output 0 is input 0 and nothing else of the node is used.
  bool IsNoOp(const Node& n) const {
    if (!n.domain.empty() || n.inputs.empty() || n.outputs.empty() || n.outputs[0].empty() || n.inputs[0].empty())
      return false;
    for (size_t i = 1; i < n.outputs.size(); ++i) {
      if (!n.outputs[i].empty() && used_.contains(n.outputs[i])) return false;
    }
    const std::string& op = n.op_type;
    if (op == "Identity") return true;
    if (op == "Dropout") return IsInference(n);
    if (op == "Cast") return IsSameType(n);
    if (op == "Transpose") return IsSameOrder(n);
    if (op == "Reshape") return AllCopied(n) || IsSameShape(n);
    if (op == "Flatten") return IsSameShape(n);
    if (op == "Pad") return AllZero(n);
    if (op == "Concat" || op == "Sum" || op == "Max" || op == "Min" || op == "Mean") return n.inputs.size() == 1;
    return false;
  }

 private:
  const ValueInfo* Type(const std::string& value) const {
    const auto it = types_.find(value);
    return it == types_.end() ? nullptr : it->second;
  }

  // The content of a constant input of integers; nullopt when it is absent or not constant.
  std::optional<std::vector<int64_t>> ConstantInts(const std::string& value) const {
    const Tensor* t = graph_.Initializer(value);
    if (t == nullptr || IsFloat(t->dtype())) return std::nullopt;
    absl::StatusOr<std::vector<int64_t>> v = ToInt64(*t);
    return v.ok() ? std::optional(*std::move(v)) : std::nullopt;
  }

  bool IsInference(const Node& n) const {
    if (n.input(2).empty()) return true;
    const auto training = ConstantInts(n.input(2));
    return training.has_value() && training->size() == 1 && training->front() == 0;
  }

  bool IsSameType(const Node& n) const {
    const std::optional<DType> to = CastTarget(n.Int("to", 0));
    const Tensor* constant = graph_.Initializer(n.inputs[0]);
    const ValueInfo* info = Type(n.inputs[0]);
    if (!to.has_value() || (constant == nullptr && info == nullptr)) return false;
    return *to == (constant != nullptr ? constant->dtype() : info->dtype);
  }

  static bool IsSameOrder(const Node& n) {
    const std::vector<int64_t> perm = n.Ints("perm");
    for (size_t i = 0; i < perm.size(); ++i) {
      if (perm[i] != static_cast<int64_t>(i)) return false;
    }
    return !perm.empty();
  }

  // Reshape with nothing but zeros, "as in the input", for each of its axes.
  bool AllCopied(const Node& n) const {
    const auto shape = ConstantInts(n.input(1));
    const ValueInfo* x = Type(n.inputs[0]);
    return n.Int("allowzero", 0) == 0 && shape.has_value() && x != nullptr && x->has_shape &&
           shape->size() == x->shape.size() &&
           std::all_of(shape->begin(), shape->end(), [](int64_t d) { return d == 0; });
  }

  bool IsSameShape(const Node& n) const {
    const ValueInfo* x = Type(n.inputs[0]);
    const ValueInfo* y = Type(n.outputs[0]);
    return x != nullptr && y != nullptr && x->has_shape && y->has_shape &&
           std::equal(x->shape.begin(), x->shape.end(), y->shape.begin(), y->shape.end(),
                      [](const Dim& a, const Dim& b) { return a.known() && a.value == b.value; });
  }

  bool AllZero(const Node& n) const {
    const auto pads = ConstantInts(n.input(1));
    return pads.has_value() && std::all_of(pads->begin(), pads->end(), [](int64_t p) { return p == 0; });
  }

  const Graph& graph_;
  std::unordered_map<std::string, const ValueInfo*> types_;
  std::unordered_set<std::string> used_;
};

void Rename(const std::unordered_map<std::string, std::string>& names, std::vector<std::string>& values) {
  for (std::string& v : values) {
    if (const auto it = names.find(v); it != names.end()) v = it->second;
  }
}

}  // namespace

absl::StatusOr<int> RemoveNoOps(Graph& graph) {
  const size_t before = graph.nodes.size();
  std::unordered_set<std::string> outputs;
  for (const ValueInfo& v : graph.outputs) outputs.insert(v.name);
  std::unordered_map<std::string, std::string> alias;    // output of a removed node -> its input
  std::unordered_map<std::string, std::string> renamed;  // value -> the graph output that it becomes
  std::unordered_set<std::string> produced;
  std::vector<Node> kept;
  kept.reserve(before);
  {
    const NoOps rules(graph);
    for (Node& n : graph.nodes) {
      const bool no_op = rules.IsNoOp(n);  // before its inputs are renamed: types are known by the old names
      Rename(alias, n.inputs);
      if (no_op && !outputs.contains(n.outputs[0])) {
        alias[n.outputs[0]] = n.inputs[0];
        continue;
      }
      // A graph output keeps its name: the producer of the input takes it over, unless the input is itself an output,
      // a graph input or a constant.
      if (no_op && produced.contains(n.inputs[0]) && !outputs.contains(n.inputs[0]) &&
          renamed.emplace(n.inputs[0], n.outputs[0]).second) {
        continue;
      }
      produced.insert(n.outputs.begin(), n.outputs.end());
      kept.push_back(std::move(n));
    }
  }
  for (Node& n : kept) {
    Rename(renamed, n.inputs);
    Rename(renamed, n.outputs);
  }
  for (const auto& [from, to] : renamed) graph.value_info.erase(from);
  graph.nodes = std::move(kept);
  graph.RemoveUnused();
  return static_cast<int>(before - graph.nodes.size());
}

}  // namespace quant
