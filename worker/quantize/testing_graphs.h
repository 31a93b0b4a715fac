// SPDX-License-Identifier: Apache-2.0
// Small graphs for the tests of this folder.
#ifndef QUANT_WORKER_QUANTIZE_TESTING_GRAPHS_H_
#define QUANT_WORKER_QUANTIZE_TESTING_GRAPHS_H_

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "worker/graph/graph.h"

namespace quant {

class GraphMaker {
 public:
  explicit GraphMaker(Shape input, unsigned seed = 1) : rng_(seed) {
    ValueInfo x{.name = "x", .has_shape = true};
    for (const int64_t d : input) x.shape.push_back({.value = d});
    graph.inputs.push_back(x);
  }

  // Adds a node called `out` + "_node" that makes `out`.
  GraphMaker& Op(std::string op, std::vector<std::string> in, std::string out,
                 std::map<std::string, Attribute> attributes = {}) {
    graph.nodes.push_back({.name = out + "_node",
                           .op_type = std::move(op),
                           .inputs = std::move(in),
                           .outputs = {out},
                           .attributes = std::move(attributes)});
    return *this;
  }

  // A seeded normal constant.
  GraphMaker& Normal(const std::string& name, Shape shape, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> v(static_cast<size_t>(*ElementCount(shape)));
    for (float& x : v) x = normal(rng_);
    graph.initializers[name] = Tensor::Of<float>(std::move(shape), v);
    return *this;
  }

  // Conv 3x3 pad 1 with bias: out = conv(in), weights out + ".w", bias out + ".b".
  GraphMaker& Conv(const std::string& in, const std::string& out, int64_t in_channels, int64_t out_channels,
                   int64_t group = 1, float scale = 0.3f) {
    Normal(out + ".w", {out_channels, in_channels / group, 3, 3}, scale);
    Normal(out + ".b", {out_channels}, scale);
    return Op(
        "Conv", {in, out + ".w", out + ".b"}, out,
        {{"kernel_shape", std::vector<int64_t>{3, 3}}, {"pads", std::vector<int64_t>{1, 1, 1, 1}}, {"group", group}});
  }

  Graph Output(const std::string& value) {
    graph.outputs.push_back({.name = value});
    return graph;
  }

  Graph graph;

 private:
  std::mt19937 rng_;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_TESTING_GRAPHS_H_
