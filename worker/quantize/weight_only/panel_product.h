// SPDX-License-Identifier: Apache-2.0
// The products of a square matrix, the same for every panel of rows, with what changes from panel to panel: most of the
// arithmetic of GPTQ's sweep (sweep.h) and of coordinate descent (descent.h). In bfloat16 with float32 sums, for CPUs
// that have that (calibrate/syrk.h), with the matrix packed once; twice as fast as OpenBLAS's float32.
//
// What rounding costs: both factors are off by at most 2^-9, independently, so a sum of products is off by about 2^-9
// of the root of the sum of its squares. Here sums move the point at which a weight is rounded; what that adds to a
// loss is about 1e-5 of it.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_PANEL_PRODUCT_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_PANEL_PRODUCT_H_

#include <cstdint>
#include <vector>

#include "worker/quantize/weight_only/panel.h"

namespace quant::weight_only {

// A square matrix in panels of 16 columns of bfloat16 (calibrate/bfloat16_micro.h): 2 n^2 bytes.
class PackedSquare {
 public:
  // From a[n, n] row-major; backwards: with rows and columns numbered from the last.
  PackedSquare(const float* a, int64_t n, bool backwards);

  int64_t n() const { return n_; }
  int64_t pairs() const { return (n_ + 1) / 2; }
  const uint32_t* panel(int64_t p) const { return words_.data() + p * pairs() * 16; }

 private:
  int64_t n_;
  std::vector<uint32_t> words_;  // [ceil(n / 16)][pairs][16]
};

// n rows of kPanelRows lanes, packed the same way.
class PackedLanes {
 public:
  explicit PackedLanes(int64_t n);

  void Clear();
  // Takes row k in; `row` has kPanelRows values.
  void Set(int64_t k, const float* row);

  int64_t pairs() const { return pairs_; }
  const uint32_t* panel(int64_t p) const { return words_.data() + p * pairs_ * 16; }

 private:
  int64_t pairs_;
  std::vector<uint32_t> words_;
};

// out[m - begin][lane] = sum over k < count of a[k, m] x[k, lane], begin <= m < end; rows of `out` are `stride` apart,
// a negative one for a matrix packed backwards. count is even or all there is; rows of x that were not set count as 0.
void PanelProduct(const PackedSquare& a, const PackedLanes& x, int64_t count, int64_t begin, int64_t end, float* out,
                  int64_t stride);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_PANEL_PRODUCT_H_
