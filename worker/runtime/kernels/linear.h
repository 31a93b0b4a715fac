// SPDX-License-Identifier: Apache-2.0
// Linear layers y = x W^T whose weights stay as they are stored: 32- or 16-bit floats in a mapped file, or packed codes
// (the forms of worker/graph/linear.h). Two ways to multiply:
//
//   few rows of x   Gemv*: every weight is read once, widened in registers and multiplied into all rows of x
//   many rows       DequantizeBlock: some rows and columns of W as float32, for a matrix product in cache
//
// Highway picks the instruction set at run time. Sums are in float32 in an order that depends on the instruction set
// and the shape, not on how rows are split over threads.
#ifndef QUANT_WORKER_RUNTIME_KERNELS_LINEAR_H_
#define QUANT_WORKER_RUNTIME_KERNELS_LINEAR_H_

#include <cstddef>
#include <cstdint>

namespace quant::kernels {

enum class WeightType { kF32, kF16, kBF16, kNBits, kCodebook };

// A matrix [rows, cols] where it lies. Nothing is owned, and `data` need not be aligned.
struct WeightView {
  WeightType type = WeightType::kF32;
  int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;  // row-major elements, or codes
  // kNBits: rows of `blocks` blocks of `block_bytes` bytes, codes of 2, 4 or 8 bits, the first in the lowest bits;
  // W[n, k] = scales[n, g] * (code - zero[n, g]), g = k / block. `zeros` null: default_zero everywhere.
  // kCodebook: one stream of 4-bit codes, even elements in the high nibble; W[i] = table[code] * scales[i / block].
  int bits = 4;
  int64_t block = 0, blocks = 0, block_bytes = 0;
  const float* scales = nullptr;
  const float* zeros = nullptr;
  float default_zero = 0;
  const float* table = nullptr;  // 16
};

// dst[(n - row_begin) * ld + k - col_begin] = W[n, k], float32 as the formulas above say, each operation rounded: the
// same bits as DequantizeRows of worker/tensor/weight_matrix.h.
void DequantizeBlock(const WeightView& w, int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end,
                     float* dst, int64_t ld);

// Floats of scratch that all rows of Gemv share, and that each thread needs besides.
int64_t GemvSharedFloats(const WeightView& w, int64_t m);
int64_t GemvThreadFloats(const WeightView& w);

// Brings x [m, cols] into the order in which Gemv reads it, in shared[GemvSharedFloats(w, m)]. Once per product, before
// the threads start.
void GemvPrepare(const WeightView& w, const float* x, int64_t m, float* shared);

// y[i * ldy + n] = sum over k of x[i, k] * W[n, k] + bias[n] for all rows i of x and n in [row_begin, row_end); bias
// may be null. `shared` as made by GemvPrepare; own[GemvThreadFloats(w)] is the thread's.
void Gemv(const WeightView& w, const float* x, int64_t m, const float* shared, float* own, const float* bias,
          int64_t row_begin, int64_t row_end, float* y, int64_t ldy);

}  // namespace quant::kernels

#endif  // QUANT_WORKER_RUNTIME_KERNELS_LINEAR_H_
