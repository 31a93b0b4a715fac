// SPDX-License-Identifier: Apache-2.0
// Packing of small unsigned codes into bytes, the one layout that all formats but one are made of: a bit stream, least
// significant bit first. Code i occupies bits [i * bits, (i + 1) * bits) of the stream, bit b of which is bit b % 8 of
// byte b / 8. Read as little-endian words it is also "first code in the lowest bits of the word", 3-bit codes
// straddling words included (AutoGPTQ). bitsandbytes has the first of two 4-bit codes in the high half of a byte.
//
// Eight codes at a time are moved in a 64-bit register, a fraction of a nanosecond per code.
#ifndef QUANT_WORKER_TENSOR_PACKING_H_
#define QUANT_WORKER_TENSOR_PACKING_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace quant {

// ceil(count * bits / 8).
inline size_t PackedBytes(size_t count, int bits) { return (count * static_cast<size_t>(bits) + 7) / 8; }

// Packs codes (each below 2^bits, bits 1 to 8) into dst[PackedBytes(codes.size(), bits)]; unused high bits become 0.
void PackBits(std::span<const uint8_t> codes, int bits, std::span<uint8_t> dst);

// The reverse: reads dst.size() codes from at least PackedBytes(dst.size(), bits) bytes.
void UnpackBits(std::span<const uint8_t> src, int bits, std::span<uint8_t> dst);

// Two 4-bit codes per byte, the first in the high half; after an odd number of codes the last low half is 0.
void PackHighFirst(std::span<const uint8_t> codes, std::span<uint8_t> dst);
void UnpackHighFirst(std::span<const uint8_t> src, std::span<uint8_t> dst);

}  // namespace quant

#endif  // QUANT_WORKER_TENSOR_PACKING_H_
