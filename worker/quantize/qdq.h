// SPDX-License-Identifier: Apache-2.0
// Writes QuantizeLinear/DequantizeLinear nodes and their constants into a graph, as lean as runtimes accept: constants
// of equal content are one initializer, names are the value's with a short suffix.
#ifndef QUANT_WORKER_QUANTIZE_QDQ_H_
#define QUANT_WORKER_QUANTIZE_QDQ_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/calibrate/observer.h"
#include "worker/graph/graph.h"
#include "worker/quantize/weights.h"

namespace quant {

// Thread-compatible. The graph must outlive the builder.
class QdqBuilder {
 public:
  explicit QdqBuilder(Graph* graph) : graph_(graph) {}

  // Appends the pair for float value `v` to `nodes` and makes every reader of `v` in the graph, and in `nodes`, read
  // the dequantized value instead (graph outputs keep `v`). `grid_name` names the scale: values on one grid share it.
  void AppendPair(const std::string& v, const Grid& grid, std::string_view grid_name, DType type,
                  std::vector<Node>* nodes);

  // Appends a DequantizeLinear of int8 weights and makes input 1 of `layer` read it. Layers that share one weight
  // tensor share the result.
  void AppendWeights(const QuantizedWeights& weights, Node* layer, std::vector<Node>* nodes);

  // The same for an int32 bias at scale input_scale * weight scale, as input 2.
  void AppendBias(std::span<const float> bias, float input_scale, const QuantizedWeights& weights, Node* layer,
                  std::vector<Node>* nodes);

  // The name of an initializer with this content: an equal one that this builder or its predecessor made, or a new one
  // called `base`.
  std::string Constant(const std::string& base, const Tensor& content);

 private:
  Graph* graph_;
};

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_QDQ_H_
