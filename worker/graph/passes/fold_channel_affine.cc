// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/graph/passes/passes.h"

namespace quant {
namespace {

// With sqrt(var + epsilon) below this a factor exceeds 10^6 and only amplifies rounding noise of a dead channel.
constexpr double kMinDeviation = 1e-6;

// y[c] = x[c] * factor[c] + shift[c]
struct Affine {
  std::vector<double> factor;
  std::vector<double> shift;
};

// A product whose weights can take the affine step.
struct Product {
  Node* node = nullptr;
  const Tensor* weights = nullptr;
  const Tensor* bias = nullptr;  // null: none
  int64_t channels = 0;
  int rank = 0;  // of the output; the channels are axis 1
};

absl::StatusOr<std::vector<double>> Doubles(const Tensor& t) {
  ASSIGN_OR_RETURN(const Tensor d, Cast(t, DType::kFloat64));
  const std::span<const double> v = d.data<double>();
  return std::vector<double>(v.begin(), v.end());
}

std::optional<Product> AsProduct(const Graph& graph, Node& node) {
  Product p;
  p.node = &node;
  p.weights = graph.Initializer(node.input(1));
  p.bias = graph.Initializer(node.input(2));
  if (!node.domain.empty() || p.weights == nullptr || !IsFloat(p.weights->dtype())) return std::nullopt;
  if (p.bias == nullptr && !node.input(2).empty()) return std::nullopt;
  p.rank = p.weights->rank();
  const int64_t group = node.Int("group", 1);
  if (p.weights->elements() == 0) return std::nullopt;  // hence channels <= elements below
  if (node.op_type == "Conv" && p.rank >= 3) {
    p.channels = p.weights->dim(0);
  } else if (node.op_type == "ConvTranspose" && p.rank >= 3) {
    if (group <= 0 || group > p.weights->dim(0) || p.weights->dim(0) % group != 0) return std::nullopt;
    p.channels = p.weights->dim(1) * group;
  } else if (node.op_type == "Gemm" && p.rank == 2) {
    p.channels = p.weights->dim(node.Int("transB", 0) != 0 ? 0 : 1);
  } else {
    return std::nullopt;
  }
  if (p.bias != nullptr) {
    // Gemm's C may vary along the rows too: that is no bias.
    const Shape& s = p.bias->shape();
    const bool per_channel = p.bias->elements() == p.channels && (s.empty() || s.back() == p.channels);
    const bool scalar = node.op_type == "Gemm" && p.bias->elements() == 1;
    if (!IsFloat(p.bias->dtype()) || (!per_channel && !scalar)) return std::nullopt;
  }
  return p;
}

// A constant spread over the channels, or nullopt when its shape varies along another axis or adds axes.
absl::StatusOr<std::optional<std::vector<double>>> PerChannel(const Tensor& t, const Product& p) {
  const Shape& s = t.shape();
  if (static_cast<int>(s.size()) > p.rank || !IsFloat(t.dtype())) return std::optional<std::vector<double>>();
  for (size_t i = 0; i < s.size(); ++i) {
    const bool channel_axis = static_cast<int>(s.size() - i) == p.rank - 1;
    if (s[i] != 1 && !(channel_axis && s[i] == p.channels)) return std::optional<std::vector<double>>();
  }
  ASSIGN_OR_RETURN(std::vector<double> v, Doubles(t));
  if (v.size() == 1) v.resize(static_cast<size_t>(p.channels), v[0]);
  return std::optional(std::move(v));
}

absl::StatusOr<std::optional<Affine>> FromBatchNorm(const Graph& graph, const Node& bn, const Product& p) {
  const size_t n = static_cast<size_t>(p.channels);
  if (bn.outputs.size() > 1 || bn.Int("training_mode", 0) != 0) return std::optional<Affine>();
  std::vector<double> param[4];  // scale, bias, mean, variance
  for (size_t i = 0; i < 4; ++i) {
    const Tensor* t = graph.Initializer(bn.input(i + 1));
    if (t == nullptr || t->elements() != p.channels || t->rank() != 1 || !IsFloat(t->dtype()))
      return std::optional<Affine>();
    ASSIGN_OR_RETURN(param[i], Doubles(*t));
  }
  const double epsilon = static_cast<double>(bn.Float("epsilon", 1e-5f));
  Affine a{.factor = std::vector<double>(n), .shift = std::vector<double>(n)};
  for (size_t c = 0; c < n; ++c) {
    const double deviation = std::sqrt(std::max(param[3][c], 0.0) + epsilon);
    a.factor[c] = param[0][c] / std::max(deviation, kMinDeviation);
    a.shift[c] = param[1][c] - param[2][c] * a.factor[c];
  }
  return std::optional(std::move(a));
}

absl::StatusOr<std::optional<Affine>> FromElementwise(const Graph& graph, const Node& n, const Product& p) {
  const bool constant_first = graph.Initializer(n.input(0)) != nullptr;
  const Tensor* t = graph.Initializer(n.input(constant_first ? 0 : 1));
  // c - x and c / x are not of the form x * f + s with this f; c / x is not affine at all.
  if (t == nullptr || n.inputs.size() != 2 || (constant_first && (n.op_type == "Sub" || n.op_type == "Div"))) {
    return std::optional<Affine>();
  }
  ASSIGN_OR_RETURN(const std::optional<std::vector<double>> v, PerChannel(*t, p));
  if (!v.has_value()) return std::optional<Affine>();
  const size_t count = v->size();
  Affine a{.factor = std::vector<double>(count, 1.0), .shift = std::vector<double>(count, 0.0)};
  for (size_t c = 0; c < count; ++c) {
    if (n.op_type == "Mul") a.factor[c] = (*v)[c];
    if (n.op_type == "Div") a.factor[c] = 1.0 / (*v)[c];
    if (n.op_type == "Add") a.shift[c] = (*v)[c];
    if (n.op_type == "Sub") a.shift[c] = -(*v)[c];
  }
  return std::optional(std::move(a));
}

absl::StatusOr<std::optional<Affine>> AffineOf(const Graph& graph, const Node& n, const Product& p) {
  if (!n.domain.empty() || n.outputs.empty()) return std::optional<Affine>();
  if (n.op_type == "BatchNormalization") return FromBatchNorm(graph, n, p);
  if (n.op_type == "Mul" || n.op_type == "Div" || n.op_type == "Add" || n.op_type == "Sub") {
    return FromElementwise(graph, n, p);
  }
  return std::optional<Affine>();
}

// The output channel of weight element i.
int64_t ChannelOf(const Product& p, int64_t i) {
  const Tensor& w = *p.weights;
  if (p.node->op_type == "Conv") return i / (w.elements() / w.dim(0));
  if (p.node->op_type == "Gemm") {
    return p.node->Int("transB", 0) != 0 ? i / w.dim(1) : i % w.dim(1);
  }
  // ConvTranspose: [C, M / group, ...]; input channel c belongs to group c / (C / group).
  const int64_t per_input = w.elements() / w.dim(0);
  const int64_t c = i / per_input;
  const int64_t m = (i % per_input) / (per_input / w.dim(1));
  return c / (w.dim(0) / p.node->Int("group", 1)) * w.dim(1) + m;
}

struct Folded {
  Tensor weights;
  Tensor bias;
};

// The new weights and bias, or nullopt when they are not finite in the weights' dtype.
absl::StatusOr<std::optional<Folded>> Compute(const Product& p, const Affine& a) {
  ASSIGN_OR_RETURN(std::vector<double> w, Doubles(*p.weights));
  for (size_t i = 0; i < w.size(); ++i) w[i] *= a.factor[static_cast<size_t>(ChannelOf(p, static_cast<int64_t>(i)))];
  std::vector<double> b(static_cast<size_t>(p.channels), 0.0);
  if (p.bias != nullptr) {
    ASSIGN_OR_RETURN(b, Doubles(*p.bias));
    b.resize(static_cast<size_t>(p.channels), b[0]);
  }
  const double beta = p.node->op_type == "Gemm" ? static_cast<double>(p.node->Float("beta", 1)) : 1.0;
  for (size_t c = 0; c < b.size(); ++c) b[c] = beta * b[c] * a.factor[c] + a.shift[c];

  Folded out;
  ASSIGN_OR_RETURN(out.weights, Cast(Tensor::Of<double>(p.weights->shape(), w), p.weights->dtype()));
  ASSIGN_OR_RETURN(out.bias, Cast(Tensor::Of<double>({p.channels}, b), p.weights->dtype()));
  for (const Tensor* t : {&out.weights, &out.bias}) {
    ASSIGN_OR_RETURN(const std::vector<float> v, ToFloat(*t));
    if (!std::all_of(v.begin(), v.end(), [](float x) { return std::isfinite(x); })) return std::optional<Folded>();
  }
  return std::optional(std::move(out));
}

// Where a new constant goes: over the old one when only this node reads it, else beside it.
std::string NameFor(const Graph& graph, const GraphIndex& index, const std::string& old, const std::string& otherwise) {
  if (!old.empty() && index.Consumers(old).size() == 1 && !graph.IsOutput(old)) return old;
  return graph.UniqueName(otherwise);
}

}  // namespace

absl::StatusOr<int> FoldChannelAffine(Graph& graph) {
  const GraphIndex index(graph);
  std::vector<bool> removed(graph.nodes.size(), false);
  int folded = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    std::optional<Product> p = AsProduct(graph, graph.nodes[i]);
    // A product may take several steps in turn: Conv, Mul, Add.
    while (p.has_value()) {
      const std::string value = p->node->outputs.at(0);
      const std::vector<int>& readers = index.Consumers(value);
      if (readers.size() != 1 || graph.IsOutput(value)) break;
      const size_t step = static_cast<size_t>(readers[0]);
      Node& next = graph.nodes[step];
      if (next.op_type == "BatchNormalization" && next.input(0) != value) break;
      ASSIGN_OR_RETURN(const std::optional<Affine> affine, AffineOf(graph, next, *p));
      if (!affine.has_value()) break;
      ASSIGN_OR_RETURN(std::optional<Folded> result, Compute(*p, *affine));
      if (!result.has_value()) break;

      Node& node = *p->node;
      const std::string weights = NameFor(graph, index, node.inputs[1], node.name + "_weight");
      const std::string bias = NameFor(graph, index, node.input(2), node.name + "_bias");
      graph.initializers.insert_or_assign(weights, std::move(result->weights));
      graph.initializers.insert_or_assign(bias, std::move(result->bias));
      node.inputs.resize(3);
      node.inputs[1] = weights;
      node.inputs[2] = bias;
      if (node.op_type == "Gemm") node.attributes.erase("beta");
      graph.value_info.erase(value);
      node.outputs[0] = next.outputs[0];
      next = Node();
      removed[step] = true;
      ++folded;
      p = AsProduct(graph, node);
    }
  }
  if (folded == 0) return 0;
  std::vector<Node> kept;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!removed[i]) kept.push_back(std::move(graph.nodes[i]));
  }
  graph.nodes = std::move(kept);
  graph.RemoveUnused();
  return folded;
}

}  // namespace quant
