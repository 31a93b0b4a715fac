// SPDX-License-Identifier: Apache-2.0
// What the processor can do with 8-bit integers, as far as results depend on it. Honours ONEDNN_MAX_CPU_ISA, because
// it is oneDNN's kernels that are meant.
#ifndef QUANT_WORKER_RUNTIME_ISA_H_
#define QUANT_WORKER_RUNTIME_ISA_H_

#include <cstdint>

namespace quant {

// Whether products of u8 and s8 are accumulated exactly in int32: VNNI, AVX-VNNI or AMX. Without it the kernels add
// pairs of products in 16 bits with saturation (VPMADDUBSW), and full-range codes give wrong sums.
bool HasExactInt8();

// Greatest |weight| for which such pairs never saturate, whatever the u8 source: 2 * 255 * 64 <= 32767. Weights within
// it are exact on every machine; the runtime executes an operator with larger ones in float32 where HasExactInt8() is
// false (slower, and exact while K * 255 * 127 < 2^24, that is K <= 518; beyond that each sum rounds to 24 bits).
inline constexpr int32_t kSafeWeight = 64;

}  // namespace quant

#endif  // QUANT_WORKER_RUNTIME_ISA_H_
