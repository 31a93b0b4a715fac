// SPDX-License-Identifier: Apache-2.0
// AWQ (Lin et al. 2023, arXiv 2306.00978): scales s per input channel so that round to nearest of W diag(s), seen by
// inputs x / s, loses least. x / s comes free when s is folded into whatever makes x; that is the caller's part.
//
// Candidates, with x the mean |x| of a channel and w the mean of |weight| / largest of its group, over all layers:
//   s = x^r   and   s = x^r / (w^(1-r) + 1e-4),   r = 0, 1/20, ... 1,
// each divided by sqrt(max s * min s), then golden section around the best r. The first with r = 0 is the identity.
// The measure is tr(D H D^T) with D = Q(W diag(s)) / s - W summed over the layers: exact for their outputs, where the
// paper runs the sub-block forward each time; with the Hessian that GPTQ needs anyway it costs 16 to 64 times less.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_AWQ_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_AWQ_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

struct AwqOptions {
  GridOptions grid = {.search = ScaleSearch::kMinMax};  // how candidates are rounded
  int steps = 20;                                       // of r, 1 to 100
  int64_t search_rows =
      512;          // per layer, evenly spread, by which candidates are compared; the choice is checked on all
  int threads = 0;  // 0: OpenMP's; the bits do not depend on it
};

struct AwqResult {
  std::vector<float> scales;  // [cols], positive, 2^-10 to 2^10; all 1 when nothing beats the identity. 1 in a channel
                              // whose inputs are all 0
  double ratio = 0;           // r
  bool uses_weights = false;  // the second form
  double identity_loss = 0;   // tr(D H D^T) over all rows of all layers
  double loss = 0;            // the same with `scales`; at most identity_loss
  bool identity() const { return loss == identity_loss; }
};

// `layers`: the linear layers that read this input, one or more, each [rows, hessian.cols].
// INVALID_ARGUMENT: no layer, sizes that do not agree, options out of range, weights that are NaN or infinite, or a
// Hessian that is not finite. Cost: about 2 steps + 9 times rounding and rows cols^2 multiply-adds for search_rows
// rows.
absl::StatusOr<AwqResult> SearchAwqScales(std::span<const MatrixView> layers, const HessianMatrix& hessian,
                                          const AwqOptions& options);

// weights[r, c] * scales[c].
std::vector<float> ScaleColumns(const MatrixView& weights, std::span<const float> scales);

// The Hessian of x / s, with its mean |x|: what GPTQ or another search on scaled weights needs.
HessianMatrix ScaleHessian(const HessianMatrix& hessian, std::span<const float> scales);

// AWQ's clip search: round to nearest with the grid of weights clipped to 1, 0.95, ... 0.55 of their group's largest
// magnitude, or the one of ScaleSearch::kWeightedMse, whichever has the least d H_gg d^T, H_gg being the group's part
// of H. Groups above 512 columns take the latter at once. INVALID_ARGUMENT as SearchAwqScales.
absl::StatusOr<GroupedMatrix> QuantizeClipped(const MatrixView& weights, const GridOptions& options,
                                              const HessianMatrix& hessian, int threads = 0);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_AWQ_H_
