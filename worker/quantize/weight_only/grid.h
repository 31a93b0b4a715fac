// SPDX-License-Identifier: Apache-2.0
// Integer grids for groups of weights: which scale and zero point a group gets.
//
//   code(w) = clamp(rint(w / scale) + zero, 0, 2^bits - 1), half to even;   value = scale * (code - zero)
//
// Before any search (lo, hi: extremes of the group, widened to contain 0; B = 2^bits - 1):
//   asymmetric   scale = (hi - lo) / B, zero = rint(-lo / scale)
//   symmetric    scale = 2 max|w| / B, zero = 2^(bits-1): the largest positive weight is clipped by half a step (GPTQ).
//                The reference code halves the scale of a group without negative weights, which clips half of it; not
//                so here
//   full range   the extreme with the larger magnitude gets code 0: scale = -extreme / 2^(bits-1), perhaps negative;
//                every code is used (AutoRound)
// The scale is rounded to `scale_type` before the zero point and the codes are chosen, so that what is measured is what
// a file holds. It is kept between the type's least positive and greatest finite value.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_GRID_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_GRID_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace quant::weight_only {

// A float32 matrix [rows, cols], row-major, borrowed.
struct MatrixView {
  std::span<const float> values;
  int64_t rows = 0;
  int64_t cols = 0;
  const float* row(int64_t r) const { return values.data() + r * cols; }
};

enum class Symmetry { kAsymmetric, kSymmetric, kFullRange };

// How the scale of a group is chosen.
enum class ScaleSearch {
  kMinMax,       // from the extremes, as above
  kMse,          // extremes times 1, 0.99, ... 0.21; least sum |error|^2.4 (GPTQ's "mse")
  kWeightedMse,  // least sum importance * error^2 over scales from 1.1 to 0.3 of the extremes' and neighbouring zero
                 // points, each then refitted to its codes by least squares; importance is the column's E[x^2]
};

enum class ScaleType { kFloat32, kFloat16, kBFloat16 };

struct GridOptions {
  int bits = 4;              // 2, 3, 4 or 8
  int64_t group_size = 128;  // columns; -1: one group per row. The last group is shorter when it does not divide cols
  Symmetry symmetry = Symmetry::kAsymmetric;
  ScaleSearch search = ScaleSearch::kWeightedMse;
  ScaleType scale_type = ScaleType::kFloat16;
  int zero_min = 0;  // asymmetric: least zero point. 1 for GPTQ v1 files, which cannot hold 0
};

struct Grid {
  float scale = 1;  // finite, not 0
  float zero = 0;   // an integer, zero_min to 2^bits - 1
};

// INVALID_ARGUMENT naming the option, its value and what is allowed.
absl::Status CheckOptions(const GridOptions& options);

// INVALID_ARGUMENT: sizes that do not agree, an empty matrix, or a NaN or infinite weight (row and column named).
absl::Status CheckWeights(const MatrixView& weights);

// Columns per group for a matrix of `cols` columns: group_size, or cols for -1 or when there are fewer.
int64_t GroupColumns(const GridOptions& options, int64_t cols);

// `value` rounded half to even to `type`, saturated to its finite range, its magnitude at least the least positive one
// (0 becomes that; the sign is kept).
float RoundScale(float value, ScaleType type);

// The grid of a group. `importance` is empty (all ones) or has one entry >= 0 per weight; one that is all zero, or
// holds NaN or infinity, counts as empty. A group of zeros is exact on any grid and gets the one of weights between -1
// and 1. Weights must be finite. Cost: 1 pass for kMinMax, 80 with a logarithm each for kMse, about 60 for
// kWeightedMse.
Grid FindGrid(std::span<const float> weights, std::span<const float> importance, const GridOptions& options);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_GRID_H_
