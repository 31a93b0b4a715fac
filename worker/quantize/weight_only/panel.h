// SPDX-License-Identifier: Apache-2.0
// GPTQ on a panel of rows: rows are independent, so a panel goes through the whole sweep (sweep.h), and then through
// coordinate descent (descent.h), on one thread. Inside a panel arrays are [column][lane], a lane being a row, so that
// a column of 128 rows is quantized at once and everything between blocks of columns is a matrix product.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_PANEL_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_PANEL_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

inline constexpr int64_t kPanelRows = 128;

// What all panels share.
struct SweepPlan {
  MatrixView weights;
  GridOptions grid;
  std::span<const float> importance;  // per column
  std::vector<uint8_t> dead;          // per column: its weights count as 0
  std::vector<int32_t> column;        // k -> column; k = cols - 1 is visited first (factor.h)
  std::vector<int32_t> group;         // k -> group of the result
  int64_t block = 128;                // columns between matrix products
  bool grids_from_updated = false;    // groups, contiguous in k then, get their grids when the sweep reaches them
  int descent_passes = 0;
  bool refit_scales = false;
  double lambda = 0;  // on the diagonal of H
};

// The state of one panel; lanes past the last row hold weights 0 on the grid 1 * (code - 0).
struct Panel {
  explicit Panel(const GroupedMatrix& out);

  // Grids and codes from and to rows [first, first + rows) of `out`; Load sets first and rows.
  void Load(const GroupedMatrix& out, int64_t first_row);
  void Store(GroupedMatrix& out) const;

  int64_t first = 0;
  int64_t rows = 0;
  std::vector<float> scale;               // [groups][lanes]
  std::vector<float> zero;                // [groups][lanes]
  std::vector<uint8_t> codes;             // [cols][lanes]
  std::vector<float> d;                   // [cols][lanes] quantized - original
  std::array<double, kPanelRows> loss{};  // d (H + lambda I) d^T
};

// The weight that counts: 0 in a dead column.
inline float Live(const SweepPlan& plan, int64_t row, int64_t col) {
  return plan.dead[static_cast<size_t>(col)] != 0 ? 0.0f : plan.weights.row(row)[col];
}

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_PANEL_H_
