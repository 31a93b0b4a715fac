// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/panel_product.h"

#include <algorithm>
#include <cstdlib>

#include "worker/calibrate/bfloat16_micro.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kWidth = 16;
constexpr int64_t kMicroRows = 8;
constexpr int64_t kMicroPanels = 2;
constexpr int64_t kDepth = 512;  // pairs at a time: of 128 columns and of all lanes they take 512 KiB, half an L2 cache
static_assert(kPanelRows % (kMicroPanels * kWidth) == 0);

}  // namespace

PackedSquare::PackedSquare(const float* a, int64_t n, bool backwards)
    : n_(n), words_(static_cast<size_t>((n + kWidth - 1) / kWidth * pairs() * kWidth)) {
  const auto at = [&](int64_t i) { return backwards ? n - 1 - i : i; };
#pragma omp parallel for schedule(static)
  for (int64_t pair = 0; pair < pairs(); ++pair) {
    const float* const low = a + at(2 * pair) * n;
    const float* const high = 2 * pair + 1 < n ? a + at(2 * pair + 1) * n : nullptr;
    for (int64_t c = 0; c < n; ++c) {
      const uint32_t upper = high == nullptr ? 0 : RoundToBFloat16(high[at(c)]) << 16;
      words_[static_cast<size_t>((c / kWidth * pairs() + pair) * kWidth + c % kWidth)] =
          RoundToBFloat16(low[at(c)]) | upper;
    }
  }
}

PackedLanes::PackedLanes(int64_t n) : pairs_((n + 1) / 2), words_(static_cast<size_t>(pairs_ * kPanelRows)) {}

void PackedLanes::Clear() { std::fill(words_.begin(), words_.end(), 0); }

void PackedLanes::Set(int64_t k, const float* row) {
  const int shift = k % 2 == 0 ? 0 : 16;
  const uint32_t other = k % 2 == 0 ? 0xFFFF0000U : 0xFFFFU;
  for (int64_t p = 0; p < kPanelRows / kWidth; ++p) {
    uint32_t* const words = words_.data() + (p * pairs_ + k / 2) * kWidth;
    for (int64_t i = 0; i < kWidth; ++i) {
      words[i] = (words[i] & other) | RoundToBFloat16(row[p * kWidth + i]) << shift;
    }
  }
}

#if defined(QUANT_HAVE_X86)

void PanelProduct(const PackedSquare& a, const PackedLanes& x, int64_t count, int64_t begin, int64_t end, float* out,
                  int64_t stride) {
  alignas(64) float micro[kMicroRows * kMicroPanels * kWidth];
  const int64_t pairs = (count + 1) / 2;
  for (int64_t m = begin; m < end; ++m) std::fill_n(out + (m - begin) * stride, kPanelRows, 0.0f);
  for (int64_t from = 0; from < pairs; from += kDepth) {
    const int64_t depth = std::min(kDepth, pairs - from);
    for (int64_t lane = 0; lane < kPanelRows; lane += kMicroPanels * kWidth) {
      const uint32_t* const right = x.panel(lane / kWidth) + from * kWidth;
      for (int64_t m = begin / kMicroRows * kMicroRows; m < end; m += kMicroRows) {
        const uint32_t* const left = a.panel(m / kWidth) + from * kWidth + m % kWidth;
        BFloat16Micro<kMicroRows, kMicroPanels>(left, right, x.pairs() * kWidth, depth, micro);
        for (int64_t i = std::max(m, begin); i < std::min(m + kMicroRows, end); ++i) {
          float* const dst = out + (i - begin) * stride + lane;
          const float* const src = micro + (i - m) * kMicroPanels * kWidth;
          for (int64_t l = 0; l < kMicroPanels * kWidth; ++l) dst[l] += src[l];
        }
      }
    }
  }
}

#else

void PanelProduct(const PackedSquare&, const PackedLanes&, int64_t, int64_t, int64_t, float*, int64_t) { std::abort(); }

#endif

}  // namespace quant::weight_only
