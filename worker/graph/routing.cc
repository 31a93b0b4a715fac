// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/routing.h"

#include <set>
#include <vector>

#include "worker/graph/linear.h"

namespace quant {
namespace {

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), index_(graph) {}

  // The share that all of what is made of `value` is multiplied by, or "".
  std::string ShareOf(const std::string& value) const {
    std::set<std::string> seen = {value};
    std::vector<std::string> open = {value};
    std::string share;
    while (!open.empty()) {
      const std::string v = open.back();
      open.pop_back();
      if (graph_.IsOutput(v)) return "";
      for (const int c : index_.Consumers(v)) {
        const Node& node = graph_.nodes[static_cast<size_t>(c)];
        if (const std::string by = Multiplier(node, v); !by.empty()) {
          if (!share.empty() && share != by) return "";
          share = by;
          continue;
        }
        for (const std::string& out : node.outputs) {
          if (!out.empty() && seen.insert(out).second) open.push_back(out);
        }
      }
    }
    return share;
  }

 private:
  // The share by which a Mul multiplies `value`, or "".
  std::string Multiplier(const Node& node, const std::string& value) const {
    if (node.op_type != "Mul" || node.inputs.size() != 2) return "";
    const std::string& other = node.inputs[0] == value ? node.inputs[1] : node.inputs[0];
    const Node* split = NodeOf(other);
    if (split == nullptr || split->op_type != "Split") return "";
    const Node* scatter = NodeOf(split->input(0));
    return scatter != nullptr && scatter->op_type == "ScatterElements" ? other : "";
  }
  const Node* NodeOf(const std::string& value) const {
    const int producer = index_.Producer(value);
    return producer < 0 ? nullptr : &graph_.nodes[static_cast<size_t>(producer)];
  }

  const Graph& graph_;
  const GraphIndex index_;
};

}  // namespace

std::map<std::string, std::string> RoutedLinears(const Graph& graph) {
  std::map<std::string, std::string> routed;
  const Finder finder(graph);
  for (const Linear& linear : FindLinears(graph)) {
    if (std::string share = finder.ShareOf(linear.output); !share.empty()) routed[linear.name] = std::move(share);
  }
  return routed;
}

}  // namespace quant
