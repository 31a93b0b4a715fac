// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/selection.h"

#include <regex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quant {
namespace {

constexpr size_t kMaxPattern = 512;

struct Matcher {
  const LayerRule* rule;
  std::regex regex;
  bool is_regex = false;
  bool used = false;

  bool Matches(const Node& node) const {
    if (!rule->op_type.empty() && rule->op_type != node.op_type) return false;
    if (rule->name.empty()) return !rule->op_type.empty();
    return is_regex ? std::regex_search(node.name, regex) : GlobMatches(rule->name, node.name);
  }
};

absl::StatusOr<Matcher> MakeMatcher(const LayerRule& rule) {
  if (rule.name.size() > kMaxPattern) {
    return absl::InvalidArgumentError(
        absl::StrCat("a layer rule's name has ", rule.name.size(), " bytes; at most ", kMaxPattern));
  }
  Matcher m{.rule = &rule, .regex = {}};
  if (rule.name.starts_with("re:")) {
    m.is_regex = true;
    try {
      m.regex = std::regex(rule.name.substr(3), std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& e) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer rule '", rule.name, "' is no regular expression: ", e.what()));
    }
  }
  return m;
}

bool IsLayerOp(const std::string& op) {
  return op == "Conv" || op == "ConvTranspose" || op == "Gemm" || op == "MatMul";
}

}  // namespace

bool GlobMatches(std::string_view glob, std::string_view name) {
  size_t g = 0, n = 0;
  size_t star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (g < glob.size() && (glob[g] == '?' || (glob[g] != '*' && glob[g] == name[n]))) {
      ++g, ++n;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      resume = n;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

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
  std::vector<Matcher> matchers;
  for (const LayerRule& rule : selection.rules) {
    absl::StatusOr<Matcher> m = MakeMatcher(rule);
    if (!m.ok()) return m.status();
    matchers.push_back(*std::move(m));
  }
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
    for (Matcher& m : matchers) {
      if (!m.Matches(node)) continue;
      m.used = true;
      reason = m.rule->skip
                   ? absl::StrCat("rule '", m.rule->name, m.rule->op_type.empty() ? "" : ":", m.rule->op_type, "'")
                   : "";
    }
    reasons[node.name] = reason;
  }
  for (const Matcher& m : matchers) {
    if (m.used) continue;
    notes->push_back(absl::StrCat("rule '", m.rule->name, m.rule->op_type.empty() ? "" : ":", m.rule->op_type,
                                  "' matches no layer with weights"));
  }
  return reasons;
}

}  // namespace quant
