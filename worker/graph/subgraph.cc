// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/subgraph.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

ValueInfo InfoOf(const Graph& graph, const std::string& value) {
  for (const ValueInfo& v : graph.outputs) {
    if (v.name == value) return v;
  }
  const auto it = graph.value_info.find(value);
  return it == graph.value_info.end() ? ValueInfo{.name = value} : it->second;
}

}  // namespace

absl::StatusOr<Graph> Subgraph(const Graph& graph, std::span<const ValueInfo> inputs,
                               std::span<const std::string> outputs) {
  const GraphIndex index(graph);
  std::set<std::string, std::less<>> given;
  for (const ValueInfo& v : inputs) given.insert(v.name);
  // Backwards from the outputs; nodes are visited once.
  std::vector<bool> needed(graph.nodes.size(), false);
  std::set<std::string, std::less<>> seen, own_inputs;
  std::vector<std::string> pending(outputs.begin(), outputs.end());
  Graph part;
  while (!pending.empty()) {
    const std::string value = std::move(pending.back());
    pending.pop_back();
    if (value.empty() || given.contains(value) || !seen.insert(value).second) continue;
    if (const Tensor* constant = graph.Initializer(value)) {
      part.initializers[value] = *constant;
      continue;
    }
    const int producer = index.Producer(value);
    if (producer >= 0) {
      if (needed[static_cast<size_t>(producer)]) continue;
      needed[static_cast<size_t>(producer)] = true;
      for (const std::string& in : graph.nodes[static_cast<size_t>(producer)].inputs) pending.push_back(in);
      continue;
    }
    own_inputs.insert(value);
  }
  part.name = graph.name;
  part.producer = graph.producer;
  part.opset = graph.opset;
  part.other_opsets = graph.other_opsets;
  part.inputs.assign(inputs.begin(), inputs.end());
  for (const ValueInfo& v : graph.inputs) {
    if (own_inputs.erase(v.name) > 0) part.inputs.push_back(v);
  }
  if (!own_inputs.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the graph has no value '", *own_inputs.begin(), "'"));
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!needed[i]) continue;
    part.nodes.push_back(graph.nodes[i]);
    for (const std::string& out : graph.nodes[i].outputs) {
      if (const auto it = graph.value_info.find(out); it != graph.value_info.end()) part.value_info.insert(*it);
    }
  }
  for (const std::string& out : outputs) part.outputs.push_back(InfoOf(graph, out));
  return part;
}

}  // namespace quant
