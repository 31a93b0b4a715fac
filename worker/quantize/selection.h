// SPDX-License-Identifier: Apache-2.0
// Which layers a method may touch: the layers there are, and the rules that leave some of them alone.
#ifndef QUANT_WORKER_QUANTIZE_SELECTION_H_
#define QUANT_WORKER_QUANTIZE_SELECTION_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"
#include "worker/quantize/quantize.h"

namespace quant {

// A node with constant weights in input 1: Conv, ConvTranspose, Gemm or MatMul.
struct WeightedLayer {
  int node = 0;          // index in graph.nodes
  int channel_axis = 0;  // of the weights: the output channels (ConvTranspose with groups: those of one group)
  int64_t channels = 0;  // weights.dim(channel_axis)
  int64_t parameters = 0;
};

// All of them in graph order. MatMul counts when its second input is a constant of rank 2.
std::vector<WeightedLayer> FindWeightedLayers(const Graph& graph);

// What the selection says of each weighted layer: why it is left alone, or "" when it may be quantized; by node name.
// A rule that matches no layer is told in `notes`.
// INVALID_ARGUMENT: a regular expression that does not compile, or an op_type that is not one of the four.
absl::StatusOr<std::map<std::string, std::string>> SelectLayers(const Graph& graph, const LayerSelection& selection,
                                                                std::vector<std::string>* notes);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_SELECTION_H_
