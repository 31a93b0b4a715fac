// SPDX-License-Identifier: Apache-2.0
#include "worker/tensor/packing.h"

#include "absl/log/check.h"

namespace quant {

void PackBits(std::span<const uint8_t> codes, int bits, std::span<uint8_t> dst) {
  CHECK(bits >= 1 && bits <= 8);
  CHECK_GE(dst.size(), PackedBytes(codes.size(), bits));
  uint32_t pending = 0;
  int have = 0;
  size_t at = 0;
  for (const uint8_t code : codes) {
    pending |= static_cast<uint32_t>(code) << have;
    have += bits;
    if (have >= 8) {
      dst[at++] = static_cast<uint8_t>(pending);
      pending >>= 8;
      have -= 8;
    }
  }
  if (have > 0) dst[at] = static_cast<uint8_t>(pending);
}

void UnpackBits(std::span<const uint8_t> src, int bits, std::span<uint8_t> dst) {
  CHECK(bits >= 1 && bits <= 8);
  CHECK_GE(src.size(), PackedBytes(dst.size(), bits));
  const uint32_t mask = (1u << bits) - 1;
  uint32_t pending = 0;
  int have = 0;
  size_t at = 0;
  for (uint8_t& code : dst) {
    if (have < bits) {
      pending |= static_cast<uint32_t>(src[at++]) << have;
      have += 8;
    }
    code = static_cast<uint8_t>(pending & mask);
    pending >>= bits;
    have -= bits;
  }
}

}  // namespace quant
