// SPDX-License-Identifier: Apache-2.0
#include "worker/tensor/packing.h"

#include <bit>
#include <cstring>

#include "absl/log/check.h"
#include "absl/log/log.h"

namespace quant {
namespace {

static_assert(std::endian::native == std::endian::little);

// `width` low bits in each of the fields of `field` bits of a word.
constexpr uint64_t Mask(int width, int field) {
  uint64_t mask = 0;
  for (int at = 0; at < 64; at += field) mask |= (width < 64 ? (uint64_t{1} << width) - 1 : ~uint64_t{0}) << at;
  return mask;
}

// Moves the upper of each two neighbouring fields of `width` bits, which begin every `pitch` bits, down to the lower
// one.
template <int kWidth, int kPitch>
uint64_t Join(uint64_t x) {
  constexpr uint64_t kLow = Mask(kWidth, 2 * kPitch);
  return (x & kLow) | (x >> (kPitch - kWidth) & kLow << kWidth);
}

// The reverse.
template <int kWidth, int kPitch>
uint64_t Part(uint64_t x) {
  constexpr uint64_t kLow = Mask(kWidth, 2 * kPitch);
  return (x & kLow) | (x << (kPitch - kWidth) & kLow << kPitch);
}

// Closes the gaps between eight codes, one per byte, in three steps: pairs, fours, all.
template <int kBits>
uint64_t Close(uint64_t x) {
  return Join<4 * kBits, 32>(Join<2 * kBits, 16>(Join<kBits, 8>(x)));
}

// The reverse.
template <int kBits>
uint64_t Open(uint64_t x) {
  return Part<kBits, 8>(Part<2 * kBits, 16>(Part<4 * kBits, 32>(x)));
}

uint64_t Load(const uint8_t* from, size_t bytes) {
  uint64_t x = 0;
  std::memcpy(&x, from, bytes);
  return x;
}

template <int kBits>
void Pack(std::span<const uint8_t> codes, uint8_t* dst) {
  size_t i = 0;
  for (; i + 8 <= codes.size(); i += 8, dst += kBits) {
    const uint64_t x = Close<kBits>(Load(codes.data() + i, 8));
    std::memcpy(dst, &x, kBits);
  }
  const size_t left = codes.size() - i;
  if (left == 0) return;
  const uint64_t x = Close<kBits>(Load(codes.data() + i, left));
  std::memcpy(dst, &x, PackedBytes(left, kBits));
}

template <int kBits>
void Unpack(const uint8_t* src, std::span<uint8_t> dst) {
  size_t i = 0;
  for (; i + 8 <= dst.size(); i += 8, src += kBits) {
    const uint64_t x = Open<kBits>(Load(src, kBits));
    std::memcpy(dst.data() + i, &x, 8);
  }
  const size_t left = dst.size() - i;
  if (left == 0) return;
  const uint64_t x = Open<kBits>(Load(src, PackedBytes(left, kBits)));
  std::memcpy(dst.data() + i, &x, left);
}

// Calls f.template operator()<bits>().
template <typename F>
void ForBits(int bits, F f) {
  switch (bits) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    case 6:
      return f.template operator()<6>();
    case 7:
      return f.template operator()<7>();
    case 8:
      return f.template operator()<8>();
    default:
      LOG(FATAL) << bits << " bits per code";
  }
}

// Exchanges the halves of each byte.
uint64_t SwapHalves(uint64_t x) { return (x & Mask(4, 8)) << 4 | (x >> 4 & Mask(4, 8)); }

}  // namespace

void PackBits(std::span<const uint8_t> codes, int bits, std::span<uint8_t> dst) {
  CHECK_GE(dst.size(), PackedBytes(codes.size(), bits));
  ForBits(bits, [&]<int kBits>() { Pack<kBits>(codes, dst.data()); });
}

void UnpackBits(std::span<const uint8_t> src, int bits, std::span<uint8_t> dst) {
  CHECK_GE(src.size(), PackedBytes(dst.size(), bits));
  ForBits(bits, [&]<int kBits>() { Unpack<kBits>(src.data(), dst); });
}

void PackHighFirst(std::span<const uint8_t> codes, std::span<uint8_t> dst) {
  CHECK_GE(dst.size(), PackedBytes(codes.size(), 4));
  size_t i = 0;
  for (; i + 8 <= codes.size(); i += 8) {
    const uint64_t x = SwapHalves(Close<4>(Load(codes.data() + i, 8)));
    std::memcpy(dst.data() + i / 2, &x, 4);
  }
  const size_t left = codes.size() - i;
  if (left == 0) return;
  const uint64_t x = SwapHalves(Close<4>(Load(codes.data() + i, left)));
  std::memcpy(dst.data() + i / 2, &x, PackedBytes(left, 4));
}

void UnpackHighFirst(std::span<const uint8_t> src, std::span<uint8_t> dst) {
  CHECK_GE(src.size(), PackedBytes(dst.size(), 4));
  size_t i = 0;
  for (; i + 8 <= dst.size(); i += 8) {
    const uint64_t x = Open<4>(SwapHalves(Load(src.data() + i / 2, 4)));
    std::memcpy(dst.data() + i, &x, 8);
  }
  const size_t left = dst.size() - i;
  if (left == 0) return;
  const uint64_t x = Open<4>(SwapHalves(Load(src.data() + i / 2, PackedBytes(left, 4))));
  std::memcpy(dst.data() + i, &x, left);
}

}  // namespace quant
