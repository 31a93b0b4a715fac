// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/equalize.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

namespace quant {
namespace {

constexpr int kSweeps = 20;
constexpr double kSettled = 1e-3;

struct ConvWeights {
  const Node* node;
  std::vector<float> weights;  // [out, in / group, kernel...]
  std::vector<float> bias;     // empty: none
  int64_t out = 0, in = 0, kernel = 0, group = 1;

  bool depthwise() const { return group > 1 && in == 1 && out == group; }
  // Calls f(weight index) for those of output channel c.
  template <typename F>
  void OutputChannel(int64_t c, F f) const {
    for (int64_t i = 0; i < in * kernel; ++i) f(static_cast<size_t>(c * in * kernel + i));
  }
  // ... and for those of input channel c.
  template <typename F>
  void InputChannel(int64_t c, F f) const {
    if (depthwise()) return OutputChannel(c, f);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < kernel; ++k) f(static_cast<size_t>((o * in + c) * kernel + k));
    }
  }
};

}  // namespace

absl::StatusOr<int> EqualizeAcrossLayers(Graph* graph) {
  const GraphIndex index(*graph);
  std::map<int, ConvWeights> convs;
  for (size_t i = 0; i < graph->nodes.size(); ++i) {
    const Node& n = graph->nodes[i];
    const Tensor* w = graph->Initializer(n.input(1));
    if (n.op_type != "Conv" || !n.domain.empty() || w == nullptr || w->rank() < 3 || w->elements() == 0) continue;
    const Tensor* b = graph->Initializer(n.input(2));
    if (!n.input(2).empty() && b == nullptr) continue;
    if (index.Consumers(n.input(1)).size() > 1 || (b && index.Consumers(n.input(2)).size() > 1)) continue;
    absl::StatusOr<std::vector<float>> values = ToFloat(*w);
    if (!values.ok()) return values.status();
    ConvWeights c{.node = &n, .weights = *std::move(values), .bias = {}};
    c.out = w->dim(0);
    c.in = w->dim(1);
    c.kernel = w->elements() / (c.out * c.in);
    c.group = n.Int("group", 1);
    if (c.group != 1 && !c.depthwise()) continue;
    if (b != nullptr) {
      absl::StatusOr<std::vector<float>> bias = ToFloat(*b);
      if (!bias.ok()) return bias.status();
      c.bias = *std::move(bias);
    }
    convs.emplace(static_cast<int>(i), std::move(c));
  }
  // The pairs: conv -> (Relu) -> conv with a single reader at each step.
  std::vector<std::pair<ConvWeights*, ConvWeights*>> pairs;
  for (auto& [i, first] : convs) {
    std::string value = first.node->outputs[0];
    const ConvWeights* second = nullptr;
    for (int step = 0; step < 2; ++step) {
      const std::vector<int>& readers = index.Consumers(value);
      if (readers.size() != 1 || graph->IsOutput(value)) break;
      const Node& next = graph->nodes[static_cast<size_t>(readers[0])];
      if (next.op_type == "Relu" && step == 0) {
        value = next.outputs[0];
        continue;
      }
      const auto it = convs.find(readers[0]);
      if (it != convs.end() && next.input(0) == value) second = &it->second;
      break;
    }
    if (second == nullptr) continue;
    const int64_t channels = second->depthwise() ? second->out : second->in;
    if (channels == first.out) pairs.emplace_back(&first, const_cast<ConvWeights*>(second));
  }
  if (pairs.empty()) return 0;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    double change = 0;
    for (const auto& [a, b] : pairs) {
      for (int64_t c = 0; c < a->out; ++c) {
        double r1 = 0, r2 = 0;
        a->OutputChannel(c, [&](size_t i) { r1 = std::max(r1, std::fabs(double{a->weights[i]})); });
        b->InputChannel(c, [&](size_t i) { r2 = std::max(r2, std::fabs(double{b->weights[i]})); });
        double s = std::sqrt(r1 / r2);
        if (!std::isfinite(s) || s <= 0) s = 1;
        s = std::clamp(s, 1.0 / 64, 64.0);
        change = std::max(change, std::fabs(std::log(s)));
        a->OutputChannel(c, [&](size_t i) { a->weights[i] = static_cast<float>(a->weights[i] / s); });
        if (!a->bias.empty()) a->bias[static_cast<size_t>(c)] = static_cast<float>(a->bias[static_cast<size_t>(c)] / s);
        b->InputChannel(c, [&](size_t i) { b->weights[i] = static_cast<float>(b->weights[i] * s); });
      }
    }
    if (change < kSettled) break;
  }
  for (const auto& [i, c] : convs) {
    const Shape shape = graph->Initializer(c.node->input(1))->shape();
    graph->initializers[c.node->input(1)] = Tensor::Of<float>(shape, c.weights);
    if (!c.bias.empty()) graph->initializers[c.node->input(2)] = Tensor::Of<float>({c.out}, c.bias);
  }
  return static_cast<int>(pairs.size());
}

}  // namespace quant
