// SPDX-License-Identifier: Apache-2.0
// Where QuantizeLinear/DequantizeLinear pairs go in static INT8 quantization.
//
// A value (activation) is *placed* when it shall live on an integer grid. The rules:
//   1. the input of every selected layer (Conv, ConvTranspose, Gemm, MatMul) is placed;
//   2. its output is placed, behind a fused Relu or Clip where that is the only reader, unless it is a graph output;
//      only so can runtimes run the layer from int8 to int8;
//   3. an operator that only moves or selects elements (Reshape, Transpose, MaxPool, ...) passes its input's grid on to
//      its output: if one side is placed and read by something placed, so is the other, on the same grid;
//   4. the inputs and the output of a Concat share one grid when its output is placed;
//   5. the output (behind a fused Relu or Clip) of Add, Mul, AveragePool, GlobalAveragePool is placed when all inputs
//      are placed or constant and something that reads it is quantized.
// Softmax, normalizations, Gelu and everything unknown stay in floating point and read dequantized values.
#ifndef QUANT_WORKER_QUANTIZE_PLACEMENT_H_
#define QUANT_WORKER_QUANTIZE_PLACEMENT_H_

#include <map>
#include <string>
#include <vector>

#include "worker/graph/graph.h"

namespace quant {

struct Placement {
  // Placed value -> the grid it is on. Values on one grid share scale and zero point.
  std::map<std::string, int> grid_of;
  // Grid -> the values whose calibrated ranges it must hold (those that no pass-through rule derives from another).
  std::vector<std::vector<std::string>> sources;
};

// `layers`: indices of the selected layers' nodes.
Placement PlaceGrids(const Graph& graph, const std::vector<int>& layers);

// The value that a node's output 0 becomes behind an activation that a runtime folds into the node's quantized output:
// the output of a Relu or Clip (with constant bounds) that is its only reader; else output 0 itself.
std::string OutputBehindActivation(const Graph& graph, const GraphIndex& index, const Node& node);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_PLACEMENT_H_
