// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/selection.h"

#include "absl/strings/str_cat.h"
#include "worker/quantize/layer_pattern.h"

namespace quant {
namespace {

bool IsLayerOp(const std::string& op) {
  return op == "Conv" || op == "ConvTranspose" || op == "Gemm" || op == "MatMul";
}

}  // namespace

std::vector<WeightedLayer> FindWeightedLayers(const Graph& graph) {
  std::vector<WeightedLayer> layers;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    if (!n.domain.empty() || !IsLayerOp(n.op_type)) continue;
    const Tensor* w = graph.Initializer(n.input(1));
    if (w == nullptr || !IsFloat(w->dtype()) || w->elements() == 0) continue;
    int axis;
    if (n.op_type == "Conv" && w->rank() >= 3) {
      axis = 0;
    } else if (n.op_type == "ConvTranspose" && w->rank() >= 3) {
      axis = 1;
    } else if (n.op_type == "Gemm" && w->rank() == 2) {
      axis = n.Int("transB", 0) ? 0 : 1;
    } else if (n.op_type == "MatMul" && w->rank() == 2) {
      axis = 1;
    } else {
      continue;
    }
    layers.push_back(
        {.node = static_cast<int>(i), .channel_axis = axis, .channels = w->dim(axis), .parameters = w->elements()});
  }
  return layers;
}

absl::StatusOr<std::map<std::string, std::string>> SelectLayers(const Graph& graph, const LayerSelection& selection,
                                                                std::vector<std::string>* notes) {
  for (const std::string& op : selection.op_types) {
    if (!IsLayerOp(op)) {
      return absl::InvalidArgumentError(
          absl::StrCat("op_types has '", op, "'; layers that can be quantized are Conv, ConvTranspose, Gemm, MatMul"));
    }
  }
  std::vector<LayerPattern> patterns;
  for (const LayerRule& rule : selection.rules) {
    absl::StatusOr<LayerPattern> p = LayerPattern::Create(rule.name, rule.op_type);
    if (!p.ok()) return p.status();
    patterns.push_back(*std::move(p));
  }
  std::vector<bool> used(patterns.size(), false);
  const std::vector<WeightedLayer> layers = FindWeightedLayers(graph);
  std::map<std::string, std::string> reasons;
  for (size_t i = 0; i < layers.size(); ++i) {
    const Node& node = graph.nodes[static_cast<size_t>(layers[i].node)];
    std::string reason;
    if (!selection.op_types.empty() && !selection.op_types.contains(node.op_type)) {
      reason = absl::StrCat("op_types leaves out ", node.op_type);
    } else if (selection.skip_first && i == 0) {
      reason = "first layer (skip_first)";
    } else if (selection.skip_last && i + 1 == layers.size()) {
      reason = "last layer (skip_last)";
    }
    for (size_t r = 0; r < patterns.size(); ++r) {
      if (!patterns[r].Matches(node.name, node.op_type)) continue;
      used[r] = true;
      reason = selection.rules[r].skip ? absl::StrCat("rule '", patterns[r].Text(), "'") : "";
    }
    reasons[node.name] = reason;
  }
  for (size_t r = 0; r < patterns.size(); ++r) {
    if (used[r]) continue;
    notes->push_back(absl::StrCat("rule '", patterns[r].Text(), "' matches no layer with weights"));
  }
  return reasons;
}

}  // namespace quant
