// SPDX-License-Identifier: Apache-2.0
// Coordinate descent on the quadratic form, after GPTQ or instead of it (QuantEase: Behdin et al. 2023, arXiv
// 2309.01885; CDQuant: Nair and Suggala 2024, arXiv 2406.17542).
//
// With G = D (H + lambda I), column by column the code moves to the grid's nearest to w_j + d_j - G_j / (H_jj +
// lambda), the exact minimum over that code; a move is made only where it lowers the loss as computed. Columns go in
// blocks: one product gives G for a block, inside which columns are visited several times. Optionally the scale of each
// group is refitted first, with its codes fixed: the best change is -(v G) / (v H v) with v = code - zero, rounded to
// the scale's type and kept only where it lowers the loss.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_DESCENT_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_DESCENT_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/panel.h"
#include "worker/quantize/weight_only/panel_product.h"

namespace quant::weight_only {

// Buffers of one thread, used for panel after panel.
class Descent {
 public:
  // All outlive this. Scales are refitted when groups are contiguous columns and at most 512 of them. `packed`: the
  // Hessian again, for products in bfloat16; null: they are in float32.
  Descent(const SweepPlan& plan, const HessianMatrix& hessian, const PackedSquare* packed, const GroupedMatrix& out);

  // plan.descent_passes passes over the panel. panel.loss never rises.
  void Run(Panel& panel);

  // Codes nearest to the weights, with d and loss: a start without GPTQ.
  void Nearest(Panel& panel);

  // d H d^T, without lambda, of each row of the panel, from its loss.
  void UndampedLoss(const Panel& panel, double* row_loss) const;

 private:
  void Pack(const Panel& panel, int64_t begin, int64_t end);
  void Block(Panel& panel, int64_t begin, int64_t end);
  void Refit(Panel& panel, int64_t group, int64_t block_begin);

  const SweepPlan& plan_;
  const HessianMatrix& hessian_;
  const PackedSquare* packed_;
  const GroupedMatrix& out_;
  int64_t cols_;
  bool refit_;
  int64_t block_;
  std::optional<PackedLanes> packed_d_;
  std::vector<float> g_;        // [block][lanes]
  std::vector<float> level_;    // [group][lanes]: code - zero
  std::vector<float> product_;  // [group][lanes]: H level
};

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_DESCENT_H_
