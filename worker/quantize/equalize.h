// SPDX-License-Identifier: Apache-2.0
// Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1): for a Conv whose channels feed one other
// Conv through nothing or a Relu, scale channel c by s_c = sqrt(r1_c / r2_c) (r1: largest |weight| of the first's
// output channel, r2: of the second's input channel): W1 /= s, b1 /= s, W2 *= s. The function is the same, the ranges
// of both layers' channels become equal. Pairs are swept until they settle; a triple through a depthwise Conv is two
// pairs.
#ifndef QUANT_WORKER_QUANTIZE_EQUALIZE_H_
#define QUANT_WORKER_QUANTIZE_EQUALIZE_H_

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

// Returns the number of pairs equalized. Only positive-homogeneous links count: Relu6 (Clip) blocks a pair, as do a
// second reader, a graph output between, a shared weight tensor, and group counts other than 1 or depthwise. Scales
// that would be zero, infinite or NaN are taken as 1 and limited to [1/64, 64] per pair.
absl::StatusOr<int> EqualizeAcrossLayers(Graph* graph);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_EQUALIZE_H_
