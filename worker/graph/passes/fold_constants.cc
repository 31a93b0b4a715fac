// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

#include "worker/graph/passes/passes.h"

namespace quant {
namespace {

constexpr int64_t kMaxGrowthBytes = 1 << 20;

bool Foldable(const Node& node) {
  static const std::unordered_set<std::string>& kept = *new std::unordered_set<std::string>{
      "QuantizeLinear",   "DequantizeLinear", "DynamicQuantizeLinear", "RandomNormal",
      "RandomNormalLike", "RandomUniform",    "RandomUniformLike",     "Bernoulli",
      "Multinomial",      "Dropout"};
  return !node.inputs.empty() && !kept.contains(node.op_type);
}

// The node's constant inputs, or nullopt when one is not constant.
std::optional<std::vector<const Tensor*>> ConstantInputs(const Graph& graph, const Node& node) {
  std::vector<const Tensor*> inputs;
  for (const std::string& in : node.inputs) {
    const Tensor* t = in.empty() ? nullptr : graph.Initializer(in);
    if (!in.empty() && t == nullptr) return std::nullopt;
    inputs.push_back(t);
  }
  return inputs;
}

}  // namespace

absl::StatusOr<int> FoldConstants(Graph& graph, const Evaluator& evaluate) {
  std::unordered_set<std::string> outputs;
  for (const ValueInfo& v : graph.outputs) outputs.insert(v.name);
  const auto fold = [&](const Node& node) {
    if (evaluate == nullptr || !Foldable(node)) return false;
    for (const std::string& out : node.outputs) {
      if (outputs.contains(out)) return false;
    }
    const std::optional<std::vector<const Tensor*>> inputs = ConstantInputs(graph, node);
    if (!inputs.has_value()) return false;
    int64_t bytes = 0;
    for (const Tensor* t : *inputs) bytes += t == nullptr ? 0 : static_cast<int64_t>(t->bytes().size());
    absl::StatusOr<std::vector<Tensor>> results = evaluate(node, *inputs, std::max(bytes, kMaxGrowthBytes));
    if (!results.ok() || results->size() != node.outputs.size()) return false;
    for (size_t i = 0; i < results->size(); ++i) {
      if (node.outputs[i].empty()) continue;
      graph.value_info.erase(node.outputs[i]);
      graph.initializers.insert_or_assign(node.outputs[i], std::move((*results)[i]));
    }
    return true;
  };
  // One walk suffices: in topological order a folded node is constant input to those after it.
  std::vector<Node> kept;
  kept.reserve(graph.nodes.size());
  for (Node& node : graph.nodes) {
    if (!fold(node)) kept.push_back(std::move(node));
  }
  const int folded = static_cast<int>(graph.nodes.size() - kept.size());
  graph.nodes = std::move(kept);
  if (folded > 0) graph.RemoveUnused();
  return folded;
}

}  // namespace quant
