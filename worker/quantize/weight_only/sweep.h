// SPDX-License-Identifier: Apache-2.0
// GPTQ's sweep over one panel of rows, in the form of factor.h: for each block of columns one product of what is done
// with the factor, then the columns of the block one after the other.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_SWEEP_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_SWEEP_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/quantize/weight_only/factor.h"
#include "worker/quantize/weight_only/panel.h"
#include "worker/quantize/weight_only/panel_product.h"

namespace quant::weight_only {

// Buffers of one thread, used for panel after panel. T is float (vector kernels) or double (plain loops, for codes that
// agree with exact arithmetic).
template <typename T>
class Sweep {
 public:
  // All outlive this. `packed`: the factor again, for products in bfloat16; null: they are in T.
  Sweep(const SweepPlan& plan, const Factor<T>& factor, const PackedSquare* packed);

  // Fills panel.codes, d and loss, and its grids when they come from updated weights.
  void Run(Panel& panel);

 private:
  void LoadWeights(const Panel& panel);
  // sums[k - begin][lane] = sum over the columns i >= done of d_i L_ik, begin <= k < end <= done.
  void Sums(int64_t begin, int64_t end, int64_t done, T* sums);
  void FindGrids(Panel& panel, int64_t begin, int64_t end);
  void FindGrid(Panel& panel, int64_t begin, int64_t end, int64_t block_begin, int64_t done);
  void Columns(Panel& panel, int64_t begin, int64_t end);

  const SweepPlan& plan_;
  const Factor<T>& factor_;
  const PackedSquare* packed_;
  std::optional<PackedLanes> packed_d_;
  int64_t cols_;
  std::vector<T> w_;               // [cols][lanes] in order of k
  std::vector<T> d_;               // [cols][lanes] in order of k
  std::vector<T> acc_;             // [block][lanes]
  std::vector<T> update_;          // [columns of a group and what lies between][lanes]: updated - original weights
  std::vector<uint8_t> codes_;     // [cols][lanes] in order of k
  std::vector<float> group_;       // one row's weights of one group, in order of column
  std::vector<float> importance_;  // theirs
};

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_SWEEP_H_
