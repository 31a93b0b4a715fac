// SPDX-License-Identifier: Apache-2.0
// Round to nearest: each group its grid (grid.h), each weight its nearest code. The baseline of every other method.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_RTN_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_RTN_H_

#include <span>

#include "absl/status/statusor.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

// `importance`: empty, or one weight >= 0 per column (the Hessian's diagonal) for ScaleSearch::kWeightedMse.
// Zero points are left out of the result (GroupedMatrix::zeros empty) on symmetric and full-range grids.
// INVALID_ARGUMENT: as CheckOptions and CheckWeights, or an importance of another length.
// Uses `threads` (0: OpenMP's number); the bits do not depend on it. Memory: the result.
absl::StatusOr<GroupedMatrix> QuantizeRtn(const MatrixView& weights, const GridOptions& options,
                                          std::span<const float> importance = {}, int threads = 0);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_RTN_H_
