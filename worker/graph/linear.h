// SPDX-License-Identifier: Apache-2.0
// Linear layers in a graph: how a weight matrix stands there, in floating point and quantized. Everything that treats
// linear layers alike (statistics, weight-only methods, exporters, the runtime's kernels) finds them here.
//
// Floating point, [N, K] as in Hugging Face checkpoints, of any float type, without a copy of the weights:
//
//   W: initializer [N, K] -> [Cast to float32] -> Transpose(perm = 1, 0) -> MatMul(x, .) -> [Add(bias [N])]
//
// or, as ONNX exporters write it, MatMul(x, W [K, N]) with an initializer. Backends see through Cast and Transpose and
// read W where it is.
//
// Quantized, after com.microsoft.MatMulNBits (ONNX Runtime's contrib operators):
//
//   y = MatMulNBits(x, B, scales[, zero_points[, g_idx[, bias]]]);  attributes K, N, bits, block_size
//   B uint8 [N, blocks, ceil(block_size * bits / 8)]: codes of a block LSB first, lower k in lower bits, padded with 0
//   scales float32 [N, blocks]; zero_points uint8 [N, ceil(blocks * bits / 8)] packed like codes, each row padded to
//   whole bytes, or float32 [N, blocks]; absent: 2^(bits - 1). bits 2, 4 or 8; W[n, k] = scale * (code - zero)
//
// of which ONNX Runtime runs block sizes 16, 32, 64, 128 and 256; ours takes any. 3-bit codes stand in 4 bits, with the
// attribute quant_bits = 3. A dynamic act-order (GroupedMatrix::group_of) is a Gather of x's last axis in front, so
// that groups are runs of columns again.
//
// Codebooks (NF4, FP4), domain "quantd":
//
//   y = MatMulCodebook(x, B, absmax, codebook);  attributes K, N, block_size
//   B uint8 [ceil(N * K / 2)], the flattened [N, K] matrix, even elements in the high nibble (bitsandbytes);
//   absmax float32 [ceil(N * K / block_size)]; codebook float32 [16]
#ifndef QUANT_WORKER_GRAPH_LINEAR_H_
#define QUANT_WORKER_GRAPH_LINEAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

inline constexpr char kQuantdDomain[] = "quantd";
inline constexpr char kMicrosoftDomain[] = "com.microsoft";

// A linear layer in floating point.
struct Linear {
  std::string name;         // of its MatMul node; for checkpoints the module's, such as "model.layers.0.mlp.up_proj"
  int node = -1;            // the MatMul's index in graph.nodes
  std::string input;        // x
  std::string output;       // of the MatMul, before a bias
  std::string weight;       // the initializer
  bool transposed = false;  // the initializer is [N, K] and is read through a Transpose
  int64_t rows = 0;         // N, outputs
  int64_t cols = 0;         // K, inputs
};

// All of them, in graph order: MatMul nodes whose second input is a rank-2 floating-point initializer as above.
std::vector<Linear> FindLinears(const Graph& graph);

// Rows [begin, end) of the layer's [N, K] weights as float32 into dst[(end - begin) * cols], whatever their type and
// orientation; weights that stand as [N, K] on OpenMP's threads.
// INVALID_ARGUMENT: a weight is NaN or infinite (its row and column are named).
absl::Status ReadLinearWeights(const Graph& graph, const Linear& linear, int64_t begin, int64_t end,
                               std::span<float> dst);
absl::StatusOr<std::vector<float>> LinearWeights(const Graph& graph, const Linear& linear, int64_t begin, int64_t end);
inline absl::StatusOr<std::vector<float>> LinearWeights(const Graph& graph, const Linear& linear) {
  return LinearWeights(graph, linear, 0, linear.rows);
}

// Appends to `graph` a float linear layer: the nodes above over initializer `weight` ([rows, cols], already in the
// graph), with MatMul named `name`. Returns the output's name. `bias` is an initializer of [rows] or "".
std::string AppendLinear(Graph* graph, const std::string& name, const std::string& x, const std::string& weight,
                         const std::string& bias = "");

// The same with quantized weights: the node is named `name` and its constants `name`.codes, `name`.scales, ... .
// INVALID_ARGUMENT as Validate(WeightMatrix).
absl::StatusOr<std::string> AppendQuantizedLinear(Graph* graph, const std::string& name, const std::string& x,
                                                  const WeightMatrix& weights, const std::string& bias = "");

// Puts quantized weights in place of a float layer's: its MatMul node becomes the quantized form, with the same name
// and output; the float weights leave the graph where nobody else reads them. The node's index may change.
absl::Status ReplaceLinear(Graph* graph, std::string_view name, const WeightMatrix& weights);

// The weights of a MatMulNBits or MatMulCodebook node. INVALID_ARGUMENT: not such a node, or its constants do not fit
// its attributes (untrusted files reach this).
absl::StatusOr<WeightMatrix> QuantizedWeightsOf(const Graph& graph, const Node& node);

}  // namespace quant

#endif  // QUANT_WORKER_GRAPH_LINEAR_H_
