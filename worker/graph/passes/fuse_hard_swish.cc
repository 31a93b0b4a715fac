// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "worker/graph/passes/passes.h"

namespace quant {
namespace {

class HardSwishMatcher {
 public:
  explicit HardSwishMatcher(const Graph& graph) : graph_(graph), index_(graph) {}

  // x when `node` computes HardSwish(x), else "".
  std::string Match(const Node& node) const {
    if (node.op_type == "Div" && IsScalar(node.input(1), 6)) return Product(Inner(node.input(0), "Mul"), 1);
    if (node.op_type == "Mul") return Product(&node, 6);
    return "";
  }

 private:
  bool IsScalar(const std::string& value, float want) const {
    const Tensor* t = graph_.Initializer(value);
    if (t == nullptr || t->elements() != 1 || !IsFloat(t->dtype())) return false;
    const absl::StatusOr<std::vector<float>> v = ToFloat(*t);
    return v.ok() && std::abs(v->front() - want) <= 1e-6f * want;
  }

  // The node of that kind that defines `value`, when nothing but one node reads it.
  const Node* Inner(const std::string& value, std::string_view op_type) const {
    const int i = index_.Producer(value);
    if (i < 0 || index_.Consumers(value).size() != 1 || graph_.IsOutput(value)) return nullptr;
    const Node& n = graph_.nodes[static_cast<size_t>(i)];
    return n.op_type == op_type && n.domain.empty() ? &n : nullptr;
  }

  // x when `mul` is x * (Clip(x + 3, 0, 6) / divisor), or x * HardSigmoid(x) for divisor 6.
  std::string Product(const Node* mul, float divisor) const {
    if (mul == nullptr || mul->inputs.size() != 2) return "";
    for (size_t side = 0; side < 2; ++side) {
      const std::string& x = mul->inputs[side];
      if (x == Gate(mul->inputs[1 - side], divisor)) return x;
    }
    return "";
  }

  std::string Gate(const std::string& value, float divisor) const {
    if (divisor == 6) {
      if (const Node* h = Inner(value, "HardSigmoid"); h != nullptr) {
        const bool ours = std::abs(h->Float("alpha", 0.2f) - 1.0f / 6) < 1e-6f && h->Float("beta", 0.5f) == 0.5f;
        return ours ? h->input(0) : "";
      }
      const Node* div = Inner(value, "Div");
      return div != nullptr && IsScalar(div->input(1), 6) ? Gate(div->input(0), 1) : "";
    }
    const Node* clip = Inner(value, "Clip");
    if (clip == nullptr || !IsZero(clip->input(1)) || !IsScalar(clip->input(2), 6)) return "";
    const Node* add = Inner(clip->input(0), "Add");
    if (add == nullptr) return "";
    if (IsScalar(add->input(1), 3)) return add->input(0);
    if (IsScalar(add->input(0), 3)) return add->input(1);
    return "";
  }

  bool IsZero(const std::string& value) const {
    const Tensor* t = graph_.Initializer(value);
    if (t == nullptr || t->elements() != 1) return false;
    const absl::StatusOr<std::vector<float>> v = ToFloat(*t);
    return v.ok() && v->front() == 0;
  }

  const Graph& graph_;
  const GraphIndex index_;
};

}  // namespace

absl::StatusOr<int> FuseHardSwish(Graph& graph) {
  if (graph.opset < 14) return 0;
  std::vector<std::pair<size_t, std::string>> found;
  {
    const HardSwishMatcher matcher(graph);
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const Node& n = graph.nodes[i];
      if (!n.domain.empty() || n.outputs.size() != 1) continue;
      if (std::string x = matcher.Match(n); !x.empty()) found.emplace_back(i, std::move(x));
    }
  }
  for (auto& [i, x] : found) {
    Node& n = graph.nodes[i];
    n.op_type = "HardSwish";
    n.inputs = {std::move(x)};
    n.attributes.clear();
  }
  if (!found.empty()) graph.RemoveUnused();
  return static_cast<int>(found.size());
}

}  // namespace quant
