// SPDX-License-Identifier: Apache-2.0
// Vector kernels over contiguous runs, one CPU thread each: what the plan runs between oneDNN primitives. Highway picks
// the widest instruction set of the machine at run time; every target gives the same bits.
//
// Pointers need only the alignment of their element type. dst may be equal to a source (in place) but must not overlap
// it otherwise. n is a number of elements and may be 0.
#ifndef QUANT_WORKER_RUNTIME_KERNELS_ELEMENTWISE_H_
#define QUANT_WORKER_RUNTIME_KERNELS_ELEMENTWISE_H_

#include <cstddef>
#include <cstdint>

namespace quant::kernels {

// dst[i] = saturate(round_half_even(src[i] / scale) + zero_point): QuantizeLinear of ONNX with one scale. The division
// is a division, not a product with the inverse, so that codes agree with ONNX at every tie. Saturates to the range of
// dst; infinities to its ends; NaN gives zero_point.
void QuantizeF32U8(const float* src, size_t n, float scale, int32_t zero_point, uint8_t* dst);
void QuantizeF32S8(const float* src, size_t n, float scale, int32_t zero_point, int8_t* dst);

// dst[i] = (src[i] - zero_point) * scale.
void DequantizeU8F32(const uint8_t* src, size_t n, float scale, int32_t zero_point, float* dst);
void DequantizeS8F32(const int8_t* src, size_t n, float scale, int32_t zero_point, float* dst);

enum class BinaryOp { kAdd, kSub, kMul, kDiv, kMax, kMin };

// How the elements of an operand go with those of dst: one each, or one for the whole run.
enum class Step { kEach, kOne };

// dst[i] = a[i] op b[i]; an operand with Step::kOne is a single element. kMax and kMin give NaN when either is NaN.
void BinaryF32(BinaryOp op, const float* a, Step a_step, const float* b, Step b_step, size_t n, float* dst);

// dst[i] = min(max(src[i], lo), hi); NaN stays NaN.
void ClampF32(const float* src, size_t n, float lo, float hi, float* dst);

// A quantized operand or result: real = (code - zero_point) * scale.
struct Grid {
  float scale = 1.0f;
  int32_t zero_point = 0;
};

// dst = quantize(clamp(real(a) op real(b), lo, hi)), op kAdd or kMul, with the rounding of QuantizeF32*. All three have
// the same type. b may be one element.
void BinaryU8(BinaryOp op, const uint8_t* a, Grid ga, const uint8_t* b, Step b_step, Grid gb, float lo, float hi,
              Grid gd, size_t n, uint8_t* dst);
void BinaryS8(BinaryOp op, const int8_t* a, Grid ga, const int8_t* b, Step b_step, Grid gb, float lo, float hi, Grid gd,
              size_t n, int8_t* dst);

// dst[r * channels + c] = src[r * channels + c] * mul[c] + add[c] (two roundings), rows of channels.
void ChannelAffineF32(const float* src, size_t rows, size_t channels, const float* mul, const float* add, float* dst);

// dst[c] = sum over rows of src[r * channels + c]. The float sum runs in double, the integer sums are exact: rows up to
// 2^23.
void SumRowsF32(const float* src, size_t rows, size_t channels, double* dst);
void SumRowsU8(const uint8_t* src, size_t rows, size_t channels, int32_t* dst);
void SumRowsS8(const int8_t* src, size_t rows, size_t channels, int32_t* dst);

// Least and greatest element, 0 included in the range (0, 0 for n = 0); NaN is ignored.
void MinMaxF32(const float* src, size_t n, float* min, float* max);

// dst[i] = table[src[i]], 256 entries.
void LookupU8(const uint8_t* src, size_t n, const uint8_t* table, uint8_t* dst);

}  // namespace quant::kernels

#endif  // QUANT_WORKER_RUNTIME_KERNELS_ELEMENTWISE_H_
