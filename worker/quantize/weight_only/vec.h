// SPDX-License-Identifier: Apache-2.0
// The vector kernels of weight-only quantization, compiled per instruction set and chosen at run time. All floats are
// finite. On one instruction set the same arguments give the same bits; sums are taken in another order on another.
//
// Codes of a grid: code(w) = clamp(rint(w / scale) + zero, 0, qmax), half to even; value = scale * (code - zero).
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_VEC_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_VEC_H_

#include <cstddef>
#include <cstdint>

namespace quant::weight_only::vec {

// Least and greatest of w[n], n > 0.
void MinMax(const float* w, size_t n, float* lo, float* hi);

// Whether every value is finite.
bool AllFinite(const float* w, size_t n);

// sum h[i] |value(w[i]) - w[i]|^p; h may be null (all ones). p = 2 is fast, another takes a logarithm and an
// exponential per weight.
float GridError(const float* w, const float* h, size_t n, float scale, float zero, float qmax, float p);

// num = sum h (code - zero) w and den = sum h (code - zero)^2: num / den is the best scale for these codes.
void GridFit(const float* w, const float* h, size_t n, float scale, float zero, float qmax, float* num, float* den);

// codes[n] on the grid.
void Encode(const float* w, size_t n, float scale, float zero, float qmax, uint8_t* codes);

// codes[n] = how many of the 15 ascending limits are less than w[i] * inverse.
void EncodeTable(const float* w, size_t n, float inverse, const float* limits, uint8_t* codes);

// One half-quadratic step (hqq.h) for code = clamp(rint(w / scale + zero), 0, qmax), zero any float:
// error = sum |w - scale (code - zero)|, zero_sum = sum code - (w - e) / scale with e the shrunken error.
void HalfQuadratic(const float* w, size_t n, float scale, float zero, float qmax, float beta, float p, float* error,
                   float* zero_sum);

// ---- panels: [column][lane], lanes being rows of the matrix; `lanes` a multiple of kLanes, the stride of every array.

inline constexpr int64_t kLanes = 32;

// Columns of one block of GPTQ's sweep, from the last to the first (factor.h has the algebra).
struct SweepBlock {
  int64_t count = 0;  // columns
  int64_t lanes = 0;
  const float* l = nullptr;  // L[first, first], row-major with stride ldl
  int64_t ldl = 0;
  const float* w = nullptr;             // [count][lanes] original weights
  const float* acc = nullptr;           // [count][lanes] sums over the columns already done
  float* d = nullptr;                   // [count][lanes] out: quantized - original
  uint8_t* codes = nullptr;             // [count][lanes] out
  const float* const* scale = nullptr;  // [count] -> [lanes]
  const float* const* zero = nullptr;
  float qmax = 15;
  float* loss = nullptr;  // [lanes] out: the block's share of d (H + lambda I) d^T
};
void Sweep(const SweepBlock& block);

// Coordinate descent over one block of columns, `rounds` times in order of columns.
struct DescentBlock {
  int64_t count = 0;
  int64_t lanes = 0;
  const float* h = nullptr;  // H[first, first], row-major with stride ldh
  int64_t ldh = 0;
  float lambda = 0;  // added to H's diagonal
  int rounds = 1;
  float* g = nullptr;        // [count][lanes] in and out: (D (H + lambda I)) of these columns
  float* d = nullptr;        // [count][lanes] in and out
  uint8_t* codes = nullptr;  // in and out
  const float* const* scale = nullptr;
  const float* const* zero = nullptr;
  float qmax = 15;
  float* gain = nullptr;  // [lanes] out: change of d (H + lambda I) d^T, never above 0
};
void Descend(const DescentBlock& block);

}  // namespace quant::weight_only::vec

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_VEC_H_
