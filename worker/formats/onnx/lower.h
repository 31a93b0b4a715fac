// SPDX-License-Identifier: Apache-2.0
// Rewrites a graph so that ONNX Runtime from 1.21 and other readers of operator set 21 run it. Internal to
// formats/onnx, graph in, graph out.
#ifndef QUANT_WORKER_FORMATS_ONNX_LOWER_H_
#define QUANT_WORKER_FORMATS_ONNX_LOWER_H_

#include "absl/status/status.h"
#include "worker/graph/graph.h"

namespace quant {

// Whether the graph has something to lower: operator set 23, or a quantized linear layer in a form that ONNX Runtime
// does not know.
bool NeedsLowering(const Graph& graph);

// From operator set 23 to 21, of which the graph has as much as can be: RMSNormalization, RotaryEmbedding and Attention
// become products, sums and Softmax in float32, with values of the same names.
// Attention: masks count as the operator says, a mask with is_causal besides; queries stand at the end of the keys (as
// with a KV cache); the soft cap comes before the mask, as in Gemma 2 and in ONNX after operator set 23, whose first
// text has it after, where it would undo the mask. UNIMPLEMENTED naming the node: RMSNormalization over another axis
// than the last, Attention with its fourth output, heads that are not attributes where inputs have rank 3.
absl::Status LowerToOpset21(Graph& graph);

// Quantized linear layers (worker/graph/linear.h) in forms that ONNX Runtime runs, with exactly the same weights:
//   2, 3 and 4 bits: MatMulNBits with 4 bits, in blocks of the largest of 256, 128, 64, 32, 16 that divides the group,
//     scales repeated; groups that none of them divides: uint4 DequantizeLinear with blocks of the group, and MatMul;
//   8 bits: uint8 DequantizeLinear and MatMul (ONNX Runtime 1.21 has MatMulNBits for 4 bits only);
//   NF4 and FP4: com.microsoft MatMulBnb4, magnitudes repeated where blocks are larger than its largest, 256; any other
//     table is read by Gather.
// INVALID_ARGUMENT as QuantizedWeightsOf. UNIMPLEMENTED naming the node: zero points that are not integers with 8 bits
// or with groups that no block divides.
absl::Status LowerQuantizedLinears(Graph& graph);

// The reverse for com.microsoft MatMulBnb4, on import: with constant weights it becomes MatMulCodebook, which the rest
// of the worker knows. Others stay.
void RaiseBnb4(Graph& graph);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_LOWER_H_
