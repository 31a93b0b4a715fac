// SPDX-License-Identifier: Apache-2.0
// Rewrites that prepare a graph for quantization and execution. Each keeps what the graph computes (up to rounding of
// the weights' dtype where noted), the names and order of its inputs and outputs, and its invariants; each can be run
// again and then changes nothing. Each returns how many nodes it removed or rewrote.
//
// Source: algorithms of "Graph preparation for CNNs" as in Jacob et al., "Quantization and Training of Neural Networks
// for Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2 (batch-normalization folding).
#ifndef QUANT_WORKER_GRAPH_PASSES_PASSES_H_
#define QUANT_WORKER_GRAPH_PASSES_PASSES_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

// Computes one node from constant inputs (null for an absent one): worker/runtime supplies it, which the graph must not
// depend on. An error means "cannot": the node then stays. `max_bytes` limits the outputs together; the evaluator
// answers RESOURCE_EXHAUSTED before it allocates more. An empty function folds nothing.
using Evaluator = std::function<absl::StatusOr<std::vector<Tensor>>(
    const Node& node, std::span<const Tensor* const> inputs, int64_t max_bytes)>;

// Replaces nodes all of whose inputs are initializers by their results. Stays: QuantizeLinear and DequantizeLinear
// (they are the form of a quantized weight), random operators, nodes that define a graph output, and nodes whose result
// exceeds both 1 MiB and the size of the inputs.
absl::StatusOr<int> FoldConstants(Graph& graph, const Evaluator& evaluate);

// Removes nodes that hand their input on unchanged: Identity, Dropout (at inference), Cast to the type there is,
// Transpose, Reshape and Flatten to the same layout, Pad by nothing, and Concat, Sum, Max, Min and Mean of one input.
// Also removes what nobody reads (Graph::RemoveUnused).
absl::StatusOr<int> RemoveNoOps(Graph& graph);

// Folds a per-channel affine step into the Conv, ConvTranspose or Gemm before it:
//   BatchNormalization: f = gamma / sqrt(max(var, 0) + epsilon), y = (x - mean) f + beta;
//   Mul, Div, Add, Sub with a constant that is a scalar or runs along the channels.
// W' = W f along the output channels (axis 0 of Conv; axis 1 within its group of ConvTranspose; the N axis of Gemm),
// b' = b f + shift, computed in double and rounded once to the dtype of W. sqrt(...) is at least 1e-6, so that a dead
// channel (var and epsilon about 0) cannot blow the weights up. Only when the step is the sole reader of the product,
// weights and constants are initializers, and the results are finite in that dtype.
absl::StatusOr<int> FoldChannelAffine(Graph& graph);

// Rewrites x * Clip(x + 3, 0, 6) / 6 (in either order of the last two steps) and x * HardSigmoid(x, 1/6, 1/2) as
// HardSwish, which came with operator set 14; older graphs stay as they are.
absl::StatusOr<int> FuseHardSwish(Graph& graph);

struct PrepareResult {
  int constants_folded = 0;
  int no_ops_removed = 0;
  int affine_folded = 0;
  int hard_swish_fused = 0;
};

// All of the above until none changes anything; the graph is valid afterwards. INVALID_ARGUMENT when it was not.
absl::StatusOr<PrepareResult> Prepare(Graph& graph, const Evaluator& evaluate);

}  // namespace quant

#endif  // QUANT_WORKER_GRAPH_PASSES_PASSES_H_
