// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/graph.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {
namespace {

const std::string kAbsent;

template <typename T>
const T* Find(const Node& node, std::string_view key) {
  const auto it = node.attributes.find(std::string(key));
  return it == node.attributes.end() ? nullptr : std::get_if<T>(&it->second);
}

}  // namespace

const std::string& Node::input(size_t i) const { return i < inputs.size() ? inputs[i] : kAbsent; }

int64_t Node::Int(std::string_view key, int64_t otherwise) const {
  const int64_t* v = Find<int64_t>(*this, key);
  return v ? *v : otherwise;
}

float Node::Float(std::string_view key, float otherwise) const {
  const float* v = Find<float>(*this, key);
  return v ? *v : otherwise;
}

std::string Node::String(std::string_view key, std::string_view otherwise) const {
  const std::string* v = Find<std::string>(*this, key);
  return v ? *v : std::string(otherwise);
}

std::vector<int64_t> Node::Ints(std::string_view key, std::vector<int64_t> otherwise) const {
  const std::vector<int64_t>* v = Find<std::vector<int64_t>>(*this, key);
  if (v != nullptr) return *v;
  return otherwise;
}

std::vector<float> Node::Floats(std::string_view key) const {
  const std::vector<float>* v = Find<std::vector<float>>(*this, key);
  return v ? *v : std::vector<float>();
}

const Tensor* Graph::Initializer(std::string_view value) const {
  const auto it = initializers.find(std::string(value));
  return it == initializers.end() ? nullptr : &it->second;
}

std::string Graph::UniqueName(std::string_view base) const {
  std::unordered_set<std::string_view> used;
  for (const ValueInfo& v : inputs) used.insert(v.name);
  for (const auto& [key, tensor] : initializers) used.insert(key);
  for (const Node& n : nodes) {
    used.insert(n.name);
    for (const std::string& o : n.outputs) used.insert(o);
  }
  std::string candidate(base);
  for (int i = 1; used.contains(candidate); ++i) candidate = absl::StrCat(AbslView(base), "_", i);
  return candidate;
}

void Graph::ReplaceUses(std::string_view from, std::string_view to) {
  for (Node& n : nodes) {
    for (std::string& in : n.inputs) {
      if (in == from) in = std::string(to);
    }
  }
}

bool Graph::IsOutput(std::string_view value) const {
  return std::any_of(outputs.begin(), outputs.end(), [&](const ValueInfo& v) { return v.name == value; });
}

void Graph::RemoveUnused() {
  std::unordered_set<std::string> live;
  for (const ValueInfo& v : outputs) live.insert(v.name);
  std::vector<bool> keep(nodes.size(), false);
  for (size_t i = nodes.size(); i-- > 0;) {
    const Node& n = nodes[i];
    keep[i] = std::any_of(n.outputs.begin(), n.outputs.end(), [&](const std::string& o) { return live.contains(o); });
    if (keep[i]) live.insert(n.inputs.begin(), n.inputs.end());
  }
  std::vector<Node> kept;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (keep[i]) kept.push_back(std::move(nodes[i]));
  }
  nodes = std::move(kept);
  for (const Node& n : nodes) live.insert(n.outputs.begin(), n.outputs.end());
  std::erase_if(initializers, [&](const auto& kv) { return !live.contains(kv.first); });
  std::erase_if(value_info, [&](const auto& kv) { return !live.contains(kv.first); });
}

absl::Status Graph::Sort() {
  const GraphIndex index(*this);
  std::vector<char> state(nodes.size(), 0);  // 0 new, 1 on the path, 2 placed
  std::vector<int> order;
  for (size_t root = 0; root < nodes.size(); ++root) {
    // Depth first with an explicit stack: graphs from outside may be deep.
    std::vector<std::pair<int, size_t>> stack;
    if (state[root] == 0) stack.emplace_back(static_cast<int>(root), 0), state[root] = 1;
    while (!stack.empty()) {
      auto& [n, next] = stack.back();
      const Node& node = nodes[static_cast<size_t>(n)];
      if (next == node.inputs.size()) {
        state[static_cast<size_t>(n)] = 2;
        order.push_back(n);
        stack.pop_back();
        continue;
      }
      const int p = index.Producer(node.inputs[next++]);
      if (p < 0 || state[static_cast<size_t>(p)] == 2) continue;
      if (state[static_cast<size_t>(p)] == 1) {
        return absl::InvalidArgumentError(
            absl::StrCat("the graph has a cycle through node '", nodes[static_cast<size_t>(p)].name, "'"));
      }
      state[static_cast<size_t>(p)] = 1;
      stack.emplace_back(p, 0);
    }
  }
  std::vector<Node> sorted;
  sorted.reserve(nodes.size());
  for (const int i : order) sorted.push_back(std::move(nodes[static_cast<size_t>(i)]));
  nodes = std::move(sorted);
  return absl::OkStatus();
}

absl::Status Graph::Validate() const {
  std::unordered_set<std::string> defined;
  std::unordered_set<std::string> names;
  for (const ValueInfo& v : inputs) {
    if (v.name.empty() || !defined.insert(v.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("graph input '", v.name, "' is nameless or repeats"));
    }
  }
  for (const auto& [key, tensor] : initializers) {
    if (key.empty() || !defined.insert(key).second) {
      return absl::InvalidArgumentError(absl::StrCat("initializer '", key, "' is nameless or repeats a value"));
    }
  }
  for (const Node& n : nodes) {
    if (n.name.empty() || !names.insert(n.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("node name '", n.name, "' is empty or repeats"));
    }
    for (const std::string& in : n.inputs) {
      if (!in.empty() && !defined.contains(in)) {
        return absl::InvalidArgumentError(
            absl::StrCat("node '", n.name, "' (", n.op_type, ") reads '", in, "', which nothing before it defines"));
      }
    }
    for (const std::string& out : n.outputs) {
      if (!out.empty() && !defined.insert(out).second) {
        return absl::InvalidArgumentError(absl::StrCat("node '", n.name, "' defines '", out, "' a second time"));
      }
    }
  }
  for (const ValueInfo& v : outputs) {
    if (!defined.contains(v.name)) {
      return absl::InvalidArgumentError(absl::StrCat("graph output '", v.name, "' is not defined"));
    }
  }
  return absl::OkStatus();
}

int64_t Graph::InitializerBytes() const {
  int64_t sum = 0;
  for (const auto& [key, tensor] : initializers) sum += static_cast<int64_t>(tensor.bytes().size());
  return sum;
}

GraphIndex::GraphIndex(const Graph& graph) {
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    for (const std::string& o : graph.nodes[i].outputs) {
      if (!o.empty()) producer_[o] = static_cast<int>(i);
    }
    for (const std::string& in : graph.nodes[i].inputs) {
      if (!in.empty()) consumers_[in].push_back(static_cast<int>(i));
    }
  }
}

int GraphIndex::Producer(std::string_view value) const {
  const auto it = producer_.find(std::string(value));
  return it == producer_.end() ? -1 : it->second;
}

const std::vector<int>& GraphIndex::Consumers(std::string_view value) const {
  static const std::vector<int>& none = *new std::vector<int>();
  const auto it = consumers_.find(std::string(value));
  return it == consumers_.end() ? none : it->second;
}

}  // namespace quant
