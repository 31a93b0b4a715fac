// SPDX-License-Identifier: Apache-2.0
// Half-quadratic quantization (Badri and Shaji 2023, HQQ): without data, the zero point of each group that minimises
// sum |w - value|^p with p = 0.7, which cares less about outliers than squares do. The scale is that of the extremes;
//   e <- sign(r) max(0, |r| - |r|^(p-1) / beta) of the residual r = w - value,   zero <- mean(code - (w - e) / scale),
// beta from 10 by 1.01 per step, 20 steps, the best by sum |r| kept.
//
// Where we depart: the zero point is then rounded to an integer, its two neighbours are tried, each with the scale
// refitted to its codes, and the plain grid of the extremes stays a candidate; least sum |r|^p wins. So every format
// can hold the result. kFloat keeps the zero point as it comes.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_HQQ_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_HQQ_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

enum class ZeroPoints { kInteger, kFloat };

struct HqqOptions {
  int bits = 4;                                // 2, 3, 4 or 8
  int64_t group_size = 64;                     // or -1; HQQ is weak with one group per row
  ScaleType scale_type = ScaleType::kFloat16;  // of float zero points too
  ZeroPoints zero_points = ZeroPoints::kInteger;
  int zero_min = 0;     // as GridOptions
  float p = 0.7f;       // norm of the error, above 0 and at most 1
  int iterations = 20;  // at most, 1 to 1000; it ends when the error rises
};

// Asymmetric always. INVALID_ARGUMENT as CheckOptions and CheckWeights. Uses `threads` (0: OpenMP's); the bits do not
// depend on it. Cost: 20 passes with a logarithm and an exponential per weight.
absl::StatusOr<GroupedMatrix> QuantizeHqq(const MatrixView& weights, const HqqOptions& options, int threads = 0);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_HQQ_H_
