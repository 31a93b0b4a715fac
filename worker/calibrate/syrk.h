// SPDX-License-Identifier: Apache-2.0
// The products behind Hessians and cross moments, one block of tokens at a time.
// Work is cut into tiles of fixed size, each done by one thread, so the bits do not depend on the number of threads.
#ifndef QUANT_WORKER_CALIBRATE_SYRK_H_
#define QUANT_WORKER_CALIBRATE_SYRK_H_

#include <cstdint>

namespace quant::syrk {

// sum[i, j] += sum over tokens of x[t, i] x[t, j] for j <= i, and for j > i in tiles on the diagonal.
// x is [tokens, cols] row-major; sum is [cols, cols].
void AddFloat32(const float* x, int64_t tokens, int64_t cols, float* sum);

// sum[i, j] += sum over tokens of x[t, i] y[t, j], all i and j.
void AddCrossFloat32(const float* x, const float* y, int64_t tokens, int64_t cols, float* sum);

// Whether this CPU has AddBFloat16 (AVX512_BF16); false too when ONEDNN_MAX_CPU_ISA forbids it.
bool HasBFloat16();

inline constexpr int64_t kPanel = 16;          // columns of a panel
inline constexpr int64_t kBlockTokens = 1024;  // of a full block

// Rounds tokens [first, first + count) of a block to bfloat16 and puts them into `pairs`, laid out as panels of 16
// columns: pairs[panel][t / 2][column] holds token t in its low half when t is even, in its high half when odd. Columns
// past `cols` in the last panel stay as they are (zero). x is [count, cols]. `pairs` has kBlockTokens / 2 rows.
void PackBFloat16(const float* x, int64_t first, int64_t count, int64_t cols, uint32_t* pairs);

// As AddFloat32 for packed tokens, of which there are `tokens` (an odd one's partner is zero).
void AddBFloat16(const uint32_t* pairs, int64_t tokens, int64_t cols, float* sum);

}  // namespace quant::syrk

#endif  // QUANT_WORKER_CALIBRATE_SYRK_H_
