// SPDX-License-Identifier: Apache-2.0
// Making good, in a layer's weights, what quantized layers before it have done to its inputs. GPTQ as published fits
// Q y to W y, y being the inputs in the quantized model; but the model wants W x, x the inputs of the original. So the
// weights to quantize are those of least mean squared error of W' y against W x:
//
//   W' = W + share * W D (H + ridge)^-1,     H = (2/n) sum y y^T,  D = (2/n) sum (x - y) y^T   (cross_moment.h)
//
// (after Qronos, arXiv 2505.11695, and GPTAQ, arXiv 2504.02692, which correct inside the sweep). A regression on n
// tokens with cols unknowns per row has an error of about cols / n, so the correction is shrunk: share = n / (n + 4
// cols), and ridge = 0.1 of the mean of H's diagonal. KL to the original on held-out stories, tinystories-656k at 4
// bits in groups of 32, without and with: 23,370 calibration tokens 0.0231, 0.0170; 3,572 tokens 0.0279, 0.0223; 1,275
// tokens (3.3 per column of the widest layer) 0.0317, 0.0278, where share 1 with ridge 0.01 is worse than nothing.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_INPUT_ERROR_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_INPUT_ERROR_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/cross_moment.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/factor.h"
#include "worker/quantize/weight_only/grid.h"

namespace quant::weight_only {

struct InputErrorOptions {
  double share = -1;   // 0 to 1; -1: n / (n + 4 cols)
  double ridge = 0.1;  // of the mean of H's diagonal; above 0, at most 10
  int threads = 0;     // 0: OpenMP's; the bits do not depend on it
};

struct CompensatedWeights {
  std::vector<float> weights;  // [rows, cols]; the given ones when there is a note
  std::string note;            // why nothing was changed, or ""
};

// `hessian` is that of the quantized model's inputs, over the same tokens as `cross`. The losses that GPTQ then reports
// are against the compensated weights. INVALID_ARGUMENT: sizes or token counts that do not agree, options out of range,
// weights that are not finite. Cost: cols^3 / 3 + 2 rows cols^2 multiply-adds. Memory: the result and 4 cols^2 bytes (8
// more up to 4096 columns).
absl::StatusOr<CompensatedWeights> CompensateInputError(const MatrixView& weights, const HessianMatrix& hessian,
                                                        const CrossMomentMatrix& cross,
                                                        const InputErrorOptions& options = {});

// The same, with a factor that the layers of one input share.
absl::StatusOr<CompensatedWeights> CompensateInputError(const MatrixView& weights, SharedFactor& input,
                                                        const CrossMomentMatrix& cross,
                                                        const InputErrorOptions& options = {});

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_INPUT_ERROR_H_
