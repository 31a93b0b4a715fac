// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/placement.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace quant {
namespace {

bool PassesThrough(const Node& n) {
  static const std::set<std::string>& ops = *new std::set<std::string>{
      "MaxPool", "Reshape",      "Flatten",      "Squeeze", "Unsqueeze", "Transpose", "Slice",  "Identity",
      "Gather",  "DepthToSpace", "SpaceToDepth", "Split",   "Expand",    "Tile",      "Dropout"};
  if (!n.domain.empty()) return false;
  if (n.op_type == "Resize") return n.String("mode", "nearest") == "nearest";
  if (n.op_type == "Pad") return n.String("mode", "constant") != "constant" || n.input(2).empty();
  return ops.contains(n.op_type);
}

bool Averages(const Node& n) {
  return n.domain.empty() &&
         (n.op_type == "Add" || n.op_type == "Mul" || n.op_type == "AveragePool" || n.op_type == "GlobalAveragePool");
}

class Placer {
 public:
  Placer(const Graph& graph, const std::vector<int>& layers)
      : graph_(graph), index_(graph), layers_(layers.begin(), layers.end()) {}

  Placement Run() {
    FindWanted();
    for (const int i : layers_) {
      const Node& n = graph_.nodes[static_cast<size_t>(i)];
      Place(n.input(0));
      const std::string out = OutputBehindActivation(graph_, index_, n);
      if (!graph_.IsOutput(out)) Place(out);
    }
    // Each round can only add values, so this ends; a round settles at least one node of the longest chain.
    for (size_t before = SIZE_MAX; before != placed_.size();) {
      before = placed_.size();
      for (const Node& n : graph_.nodes) Forward(n);
      for (size_t i = graph_.nodes.size(); i-- > 0;) Backward(graph_.nodes[i]);
    }
    return Group();
  }

 private:
  bool Placed(const std::string& v) const { return placed_.contains(v); }
  bool Constant(const std::string& v) const { return v.empty() || graph_.Initializer(v) != nullptr; }
  // Only floats go onto a grid, and constants have theirs elsewhere.
  void Place(const std::string& v) {
    if (Constant(v)) return;
    const auto info = graph_.value_info.find(v);
    if (info != graph_.value_info.end() && !IsFloat(info->second.dtype)) return;
    placed_.insert(v);
  }

  void Forward(const Node& n) {
    if (PassesThrough(n)) {
      if (!Placed(n.input(0))) return;
      for (const std::string& o : n.outputs) {
        if (!graph_.IsOutput(o) && wanted_.contains(o)) Place(o);
      }
    } else if (Averages(n) || n.op_type == "Concat") {
      const std::string out = OutputBehindActivation(graph_, index_, n);
      if (graph_.IsOutput(out) || Placed(out)) return;
      const bool all = std::all_of(n.inputs.begin(), n.inputs.end(),
                                   [&](const std::string& in) { return Placed(in) || Constant(in); });
      const bool any = std::any_of(n.inputs.begin(), n.inputs.end(), [&](const std::string& in) { return Placed(in); });
      if (all && any && wanted_.contains(out)) Place(out);
    }
  }

  // A value is wanted on a grid when a selected layer reads it, or an operator that can work on integer codes and whose
  // own output is wanted. Found once, from the outputs backwards.
  void FindWanted() {
    for (size_t i = graph_.nodes.size(); i-- > 0;) {
      const Node& n = graph_.nodes[i];
      if (layers_.contains(static_cast<int>(i))) wanted_.insert(n.input(0));
      const bool passes = PassesThrough(n);
      if (!passes && !Averages(n) && n.op_type != "Concat") continue;
      const auto is_wanted = [&](const std::string& o) { return wanted_.contains(o) && !graph_.IsOutput(o); };
      const bool any = passes ? std::any_of(n.outputs.begin(), n.outputs.end(), is_wanted)
                              : is_wanted(OutputBehindActivation(graph_, index_, n));
      if (!any) continue;
      for (size_t k = 0; k < (passes ? 1 : n.inputs.size()); ++k) wanted_.insert(n.input(k));
    }
  }

  void Backward(const Node& n) {
    if (PassesThrough(n)) {
      const bool any = std::any_of(n.outputs.begin(), n.outputs.end(), [&](const std::string& o) { return Placed(o); });
      if (any) Place(n.input(0));
    } else if (n.op_type == "Concat" && Placed(OutputBehindActivation(graph_, index_, n))) {
      for (const std::string& in : n.inputs) Place(in);
    }
  }

  // Union of values that must share a grid.
  Placement Group() {
    const std::vector<std::string> values(placed_.begin(), placed_.end());
    std::map<std::string, size_t> id;
    for (size_t i = 0; i < values.size(); ++i) id[values[i]] = i;
    std::vector<size_t> parent(values.size());
    std::iota(parent.begin(), parent.end(), size_t{0});
    const auto root = [&](size_t x) {
      while (parent[x] != x) x = parent[x] = parent[parent[x]];
      return x;
    };
    std::set<std::string> derived;  // values whose range follows from another's
    for (const Node& n : graph_.nodes) {
      if (PassesThrough(n) && Placed(n.input(0))) {
        for (const std::string& o : n.outputs) {
          if (!Placed(o)) continue;
          parent[root(id[o])] = root(id[n.input(0)]);
          derived.insert(o);
        }
      } else if (n.op_type == "Concat" && n.domain.empty() && Placed(n.outputs[0])) {
        for (const std::string& in : n.inputs) {
          if (Placed(in)) parent[root(id[in])] = root(id[n.outputs[0]]);
        }
        if (std::none_of(n.inputs.begin(), n.inputs.end(), [&](const std::string& in) { return Constant(in); })) {
          derived.insert(n.outputs[0]);
        }
      }
    }
    Placement p;
    std::map<size_t, int> number;
    for (const std::string& v : values) {
      const auto [it, is_new] = number.emplace(root(id[v]), static_cast<int>(number.size()));
      if (is_new) p.sources.emplace_back();
      p.grid_of[v] = it->second;
      if (!derived.contains(v)) p.sources[static_cast<size_t>(it->second)].push_back(v);
    }
    return p;
  }

  const Graph& graph_;
  const GraphIndex index_;
  const std::set<int> layers_;
  std::set<std::string> placed_;
  std::set<std::string> wanted_;
};

}  // namespace

std::string OutputBehindActivation(const Graph& graph, const GraphIndex& index, const Node& node) {
  const std::string& out = node.outputs[0];
  const std::vector<int>& readers = index.Consumers(out);
  if (readers.size() != 1 || graph.IsOutput(out)) return out;
  const Node& next = graph.nodes[static_cast<size_t>(readers[0])];
  const bool clip = next.op_type == "Clip" && (next.input(1).empty() || graph.Initializer(next.input(1))) &&
                    (next.input(2).empty() || graph.Initializer(next.input(2)));
  return next.domain.empty() && (next.op_type == "Relu" || clip) ? next.outputs[0] : out;
}

Placement PlaceGrids(const Graph& graph, const std::vector<int>& layers) { return Placer(graph, layers).Run(); }

}  // namespace quant
