// SPDX-License-Identifier: Apache-2.0
// GPTQ (Frantar et al. 2023, arXiv 2210.17323): codes chosen column by column so that each column's rounding error is
// made good by the columns not yet done, as the Hessian of the layer's inputs says.
//
// Where the defaults depart from the reference implementation, at no cost when the model runs:
//   - columns are visited by falling H_jj, while groups stay where they are (static groups): no g_idx is needed;
//   - the scale of a group is the one of least error weighted with H_jj (grid.h);
//   - coordinate descent on the same quadratic form afterwards (descent.h), with the groups' scales refitted.
// What each is worth is in README.md. Dead inputs (H_jj = 0) count as weight 0 like there, but stay out of the damping,
// which the reference computes with a 1 in their place, whatever the unit of the others.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_GPTQ_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_GPTQ_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/factor.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

// In which order columns are visited, and which columns make a group.
enum class ActOrder {
  kOff,            // as they stand
  kDynamicGroups,  // by falling H_jj; groups are runs in that order: GroupedMatrix::group_of is filled
  kStaticGroups,   // by falling H_jj; groups as they stand, their grids found beforehand
  kGroupAware,     // by falling H_jj inside each group, groups by their greatest (GAR: arXiv 2505.14638)
};

// From which weights the grid of a group is found: as they are, or as earlier columns' errors have changed them when
// the sweep reaches the group. kStaticGroups always uses the first, kDynamicGroups always the second.
enum class GridSource { kOriginal, kUpdated };

enum class GptqArithmetic {
  kFastest,  // float32, the factor in float64 up to 4096 columns; products between blocks of columns in bfloat16 with
             // float32 sums where the CPU has them (panel_product.h)
  kFloat64,  // the sweep in float64 too, several times slower; coordinate descent is in float32 always
};

struct GptqOptions {
  GridOptions grid;
  ActOrder act_order = ActOrder::kStaticGroups;
  GridSource grid_source = GridSource::kOriginal;
  double damping = 0.01;     // lambda as a share of the mean of H's diagonal; above 0
  int block_size = 128;      // columns between matrix products; with kUpdated it decides, as in the reference code, how
                             // stale the weights are from which a grid is found
  int descent_passes = 1;    // 0 to 100
  bool refit_scales = true;  // in each descent pass; groups of at most 512 columns
  // Fewer tokens than this share of expected_tokens (a mixture's expert): round to nearest instead.
  double min_token_fraction = 0.005;
  int64_t expected_tokens = 0;
  GptqArithmetic arithmetic = GptqArithmetic::kFastest;
  int threads = 0;  // 0: OpenMP's number; the bits do not depend on it

  // The reference implementation (IST-DASLab/gptq, MIT): no act-order, grids from updated weights, min-max scales in
  // float32, no descent. Same codes as it in exact arithmetic.
  static GptqOptions Plain(int bits, int64_t group_size, Symmetry symmetry = Symmetry::kAsymmetric);
};

enum class GptqOutcome {
  kSwept,        // the method as asked, perhaps with more damping: see note
  kDescentOnly,  // no factor: coordinate descent from the nearest codes
  kNearest,      // round to nearest
};

struct GptqResult {
  GroupedMatrix weights;
  GptqOutcome outcome = GptqOutcome::kSwept;
  std::string note;              // what was done besides and why, for the report; "" when nothing
  std::vector<double> row_loss;  // d H d^T per row (quadratic.h), without damping; to about 0.1 %, 0.5 % with products
                                 // in bfloat16
  double loss = 0;               // their sum
  double lambda = 0;             // added to H's diagonal
};

// Quantizes weights[rows, cols] for inputs with this Hessian.
// Never fails for numerical reasons: when H + lambda I cannot be factored, damping is raised and floors are put under
// the diagonal (factor.h); when that does not help, coordinate descent without a factor; when H is useless (no tokens,
// not finite, a negative diagonal), round to nearest with uniform importance. The outcome and the note say which.
// INVALID_ARGUMENT: options out of range, sizes that do not agree, a weight that is NaN or infinite (named).
// RESOURCE_EXHAUSTED: no memory.
// Cost: cols^3 / 3 + (1 + 2 descent_passes) rows cols^2 multiply-adds. Memory besides weights, Hessian and result:
// 4 cols^2 bytes (8 more while a factor of at most 4096 columns is made; 4 more for copies in bfloat16), 2.3 KiB per
// column and 1 KiB per group and thread.
absl::StatusOr<GptqResult> QuantizeGptq(const MatrixView& weights, const HessianMatrix& hessian,
                                        const GptqOptions& options);

// The same, with a factor that the layers of one input share: the cols^3 / 3 are spent once.
absl::StatusOr<GptqResult> QuantizeGptq(const MatrixView& weights, SharedFactor& input, const GptqOptions& options);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_GPTQ_H_
