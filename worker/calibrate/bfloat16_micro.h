// SPDX-License-Identifier: Apache-2.0
// The innermost product of matrices in bfloat16 with float32 sums, twice as fast as in float32, for CPUs with
// AVX512_BF16 (syrk.h, HasBFloat16). Included by the few files that build a product on it.
//
// An operand is packed in panels of 16 columns: panel[pair][16] words, a word holding one column's values in two
// successive rows of the sum, the earlier one in its low half.
#ifndef QUANT_WORKER_CALIBRATE_BFLOAT16_MICRO_H_
#define QUANT_WORKER_CALIBRATE_BFLOAT16_MICRO_H_

#include <bit>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#define QUANT_HAVE_X86 1
#endif

namespace quant {

// Half to even; of finite values.
inline uint32_t RoundToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
}

#if defined(QUANT_HAVE_X86)

// dst[kRows][16 kPanels] = the sums over `pairs` of columns [0, kRows) of panel `a` times those of the kPanels panels
// from `b` on, which are `stride` words apart. 16 to 24 sums hide the latency of the product.
template <int64_t kRows, int64_t kPanels>
[[gnu::target("avx512f,avx512bf16")]] inline void BFloat16Micro(const uint32_t* a, const uint32_t* b, int64_t stride,
                                                                int64_t pairs, float* dst) {
  __m512 acc[kRows][kPanels];
#pragma GCC unroll 8
  for (int64_t m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int64_t n = 0; n < kPanels; ++n) acc[m][n] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh right[kPanels];
#pragma GCC unroll 4
    for (int64_t n = 0; n < kPanels; ++n) {
      right[n] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + n * stride + k * 16));
    }
#pragma GCC unroll 8
    for (int64_t m = 0; m < kRows; ++m) {
      const auto left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[k * 16 + m])));
#pragma GCC unroll 4
      for (int64_t n = 0; n < kPanels; ++n) acc[m][n] = _mm512_dpbf16_ps(acc[m][n], left, right[n]);
    }
  }
#pragma GCC unroll 8
  for (int64_t m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int64_t n = 0; n < kPanels; ++n) _mm512_storeu_ps(dst + (m * kPanels + n) * 16, acc[m][n]);
  }
}

#endif

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_BFLOAT16_MICRO_H_
