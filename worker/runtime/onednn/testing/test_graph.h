// SPDX-License-Identifier: Apache-2.0
// Small graphs for tests of the oneDNN backend, and their comparison with the reference backend.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_TESTING_TEST_GRAPH_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_TESTING_TEST_GRAPH_H_

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "worker/graph/graph.h"
#include "worker/runtime/executable.h"

namespace quant::testing {

// Builds a graph node by node; every function returns the name of the value it made. Random content comes from the
// seed, so a failure repeats.
class TestGraph {
 public:
  explicit TestGraph(unsigned seed = 1) : random_(seed) {}

  // A float input; its first dimension is free.
  std::string Input(Shape shape, DType dtype = DType::kFloat32);
  std::string Constant(const Tensor& tensor);
  // Uniform in [low, high].
  std::string Random(Shape shape, float low = -1, float high = 1);
  // Uniform integers in [low, high].
  std::string RandomCodes(DType dtype, Shape shape, int low, int high);
  std::string Op(std::string type, std::vector<std::string> inputs, std::map<std::string, Attribute> attributes = {},
                 size_t outputs = 1);
  void Output(const std::string& value, DType dtype = DType::kFloat32);

  std::string Quantize(const std::string& x, float scale, int zero_point, DType dtype = DType::kUInt8);
  std::string Dequantize(const std::string& q, float scale, int zero_point, DType dtype = DType::kUInt8);
  std::string QuantizeDequantize(const std::string& x, float scale, int zero_point, DType dtype = DType::kUInt8) {
    return Dequantize(Quantize(x, scale, zero_point, dtype), scale, zero_point, dtype);
  }
  // s8 weights in [-limit, limit] through a DequantizeLinear with a scale per index of `axis` (-1: one scale).
  std::string Weights(Shape shape, int axis, int limit = 127);

  std::shared_ptr<const Graph> Build();
  // Random content for the graph's inputs with this batch size.
  std::vector<Tensor> Inputs(int64_t batch);

 private:
  std::string Name() { return "v" + std::to_string(next_++); }

  Graph graph_;
  std::mt19937 random_;
  std::vector<Shape> input_shapes_;
  int next_ = 0;
};

struct Comparison {
  std::string plan;      // DescribePlan of the oneDNN backend
  double greatest = 0;   // difference, over all outputs
  double magnitude = 0;  // of the reference's outputs
};

// Runs both backends; a failure of either, of shapes or of types fails the test.
Comparison Compare(const std::shared_ptr<const Graph>& graph, const std::vector<Tensor>& inputs, int threads = 2);

// Compares, and expects the greatest difference to be at most `relative` of the greatest magnitude.
std::string ExpectNear(TestGraph& graph, int64_t batch, double relative, int threads = 2);

// The same for 8-bit outputs: every code within `steps`, and at most `share` of them different at all.
std::string ExpectCodes(TestGraph& graph, int64_t batch, int steps, double share);

}  // namespace quant::testing

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_TESTING_TEST_GRAPH_H_
