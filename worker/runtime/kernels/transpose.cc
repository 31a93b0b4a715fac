// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/kernels/transpose.h"

#include <algorithm>
#include <cstring>

#include "absl/log/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "worker/runtime/kernels/transpose.cc"
#include "hwy/foreach_target.h"  // NOLINT(misc-header-include-cycle): compiles this file once per instruction set
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace quant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Planes to pixels: dst[r * cols + c] = src[r + c * stride] for 2 to 4 planes. Returns the rows done.
template <typename T>
int64_t Interleave(int64_t rows, int64_t cols, const T* src, int64_t stride, T* dst) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t r = 0;
  for (; r + lanes <= rows; r += lanes) {
    const auto a = hn::LoadU(d, src + r);
    const auto b = hn::LoadU(d, src + r + stride);
    T* to = dst + r * cols;
    if (cols == 2) {
      hn::StoreInterleaved2(a, b, d, to);
    } else if (cols == 3) {
      hn::StoreInterleaved3(a, b, hn::LoadU(d, src + r + 2 * stride), d, to);
    } else {
      hn::StoreInterleaved4(a, b, hn::LoadU(d, src + r + 2 * stride), hn::LoadU(d, src + r + 3 * stride), d, to);
    }
  }
  return r;
}

int64_t Interleave8(int64_t rows, int64_t cols, const uint8_t* src, int64_t stride, uint8_t* dst) {
  return Interleave(rows, cols, src, stride, dst);
}
int64_t Interleave32(int64_t rows, int64_t cols, const uint32_t* src, int64_t stride, uint32_t* dst) {
  return Interleave(rows, cols, src, stride, dst);
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quant::kernels {
namespace {

HWY_EXPORT(Interleave8);
HWY_EXPORT(Interleave32);

template <typename T>
void Copy(int64_t rows, int64_t cols, const T* src, int64_t row_stride, int64_t col_stride, T* dst) {
  int64_t first = 0;
  if (row_stride == 1 && cols >= 2 && cols <= 4) {
    if constexpr (sizeof(T) == 1) first = HWY_DYNAMIC_DISPATCH(Interleave8)(rows, cols, src, col_stride, dst);
    if constexpr (sizeof(T) == 4) first = HWY_DYNAMIC_DISPATCH(Interleave32)(rows, cols, src, col_stride, dst);
  }
  // Tiles of a few kilobytes: each cache line that is read is used up before it leaves.
  constexpr int64_t kTile = 32;
  for (int64_t r0 = first; r0 < rows; r0 += kTile) {
    const int64_t r1 = std::min(rows, r0 + kTile);
    for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
      const int64_t c1 = std::min(cols, c0 + kTile);
      for (int64_t r = r0; r < r1; ++r) {
        const T* from = src + r * row_stride + c0 * col_stride;
        T* to = dst + r * cols;
        for (int64_t c = c0; c < c1; ++c, from += col_stride) to[c] = *from;
      }
    }
  }
}

}  // namespace

void CopyMatrix(size_t size, int64_t rows, int64_t cols, const std::byte* src, int64_t row_stride, int64_t col_stride,
                std::byte* dst) {
  if (rows <= 0 || cols <= 0) return;
  if (col_stride == 1) {
    const size_t row = static_cast<size_t>(cols) * size;
    if (row_stride == cols) {
      std::memcpy(dst, src, row * static_cast<size_t>(rows));
      return;
    }
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(dst + static_cast<size_t>(r) * row, src + static_cast<size_t>(r * row_stride) * size, row);
    }
    return;
  }
  switch (size) {
    case 1:
      return Copy(rows, cols, reinterpret_cast<const uint8_t*>(src), row_stride, col_stride,
                  reinterpret_cast<uint8_t*>(dst));
    case 2:
      return Copy(rows, cols, reinterpret_cast<const uint16_t*>(src), row_stride, col_stride,
                  reinterpret_cast<uint16_t*>(dst));
    case 4:
      return Copy(rows, cols, reinterpret_cast<const uint32_t*>(src), row_stride, col_stride,
                  reinterpret_cast<uint32_t*>(dst));
    case 8:
      return Copy(rows, cols, reinterpret_cast<const uint64_t*>(src), row_stride, col_stride,
                  reinterpret_cast<uint64_t*>(dst));
    default:
      CHECK(false) << "no elements of " << size << " bytes";
  }
}

}  // namespace quant::kernels
#endif  // HWY_ONCE
