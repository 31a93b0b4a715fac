// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/syrk.h"

#include <cblas.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/calibrate/bfloat16_micro.h"

namespace quant::syrk {
namespace {

// Lower-triangle tiles (i, j), j <= i, of an n x n grid, in the order of their running number.
std::vector<std::pair<int64_t, int64_t>> LowerTiles(int64_t n) {
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) tiles.emplace_back(i, j);
  }
  return tiles;
}

}  // namespace

namespace {

constexpr int64_t kTile = 256;

// sum[i, j] += x^T y on one tile. Inside a parallel region OpenBLAS runs on the calling thread.
void ProductTile(const float* x, const float* y, int64_t tokens, int64_t cols, int64_t i, int64_t j, float* sum) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<blasint>(std::min(kTile, cols - i)),
              static_cast<blasint>(std::min(kTile, cols - j)), static_cast<blasint>(tokens), 1.0f, x + i,
              static_cast<blasint>(cols), y + j, static_cast<blasint>(cols), 1.0f, sum + i * cols + j,
              static_cast<blasint>(cols));
}

}  // namespace

void AddFloat32(const float* x, int64_t tokens, int64_t cols, float* sum) {
  const std::vector<std::pair<int64_t, int64_t>> tiles = LowerTiles((cols + kTile - 1) / kTile);
  const auto count = static_cast<int64_t>(tiles.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t t = 0; t < count; ++t) {
    const auto [i, j] = tiles[static_cast<size_t>(t)];
    ProductTile(x, x, tokens, cols, i * kTile, j * kTile, sum);
  }
}

void AddCrossFloat32(const float* x, const float* y, int64_t tokens, int64_t cols, float* sum) {
  const int64_t side = (cols + kTile - 1) / kTile;
#pragma omp parallel for schedule(dynamic)
  for (int64_t t = 0; t < side * side; ++t) {
    ProductTile(x, y, tokens, cols, t / side * kTile, t % side * kTile, sum);
  }
}

void PackBFloat16(const float* x, int64_t first, int64_t count, int64_t cols, uint32_t* pairs) {
  const int64_t panels = (cols + kPanel - 1) / kPanel;
#pragma omp parallel for schedule(static)
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t width = std::min(kPanel, cols - p * kPanel);
    for (int64_t t = 0; t < count; ++t) {
      const float* src = x + t * cols + p * kPanel;
      uint32_t* dst = pairs + (p * (kBlockTokens / 2) + (first + t) / 2) * kPanel;
      if ((first + t) % 2 == 0) {
        for (int64_t c = 0; c < width; ++c) dst[c] = RoundToBFloat16(src[c]);
      } else {
        for (int64_t c = 0; c < width; ++c) dst[c] |= RoundToBFloat16(src[c]) << 16;
      }
    }
  }
}

#if defined(QUANT_HAVE_X86)

bool HasBFloat16() {
  static const bool has = [] {
    const char* const cap = std::getenv("ONEDNN_MAX_CPU_ISA");
    const std::string_view isa = cap == nullptr ? "" : cap;
    const bool allowed = isa.empty() || isa == "ALL" || isa == "DEFAULT" || isa.find("BF16") != isa.npos ||
                         isa.find("FP16") != isa.npos || isa.find("AMX") != isa.npos;
    return allowed && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16");
  }();
  return has;
}

namespace {

constexpr int64_t kMicroRows = 8;  // 8 x 48: 24 accumulators, 3 loads and 8 broadcasts to 24 products
constexpr int64_t kMicroPanels = 3;
constexpr int64_t kTilePanels = 12;  // 192 columns: the two sides of a tile take 768 KiB, most of an L2 cache

// One tile: panels [pi, pi + kTilePanels) of rows against as many from pj on, those not wholly above the diagonal.
void Tile(const uint32_t* packed, int64_t pairs, int64_t cols, int64_t panels, int64_t pi, int64_t pj, float* sum) {
  constexpr int64_t kStride = (kBlockTokens / 2) * kPanel;
  alignas(64) float micro[kMicroRows * kMicroPanels * kPanel];
  for (int64_t b = pj; b < std::min(pj + kTilePanels, panels); b += kMicroPanels) {
    for (int64_t i = pi * kPanel; i < std::min((pi + kTilePanels) * kPanel, cols); i += kMicroRows) {
      const int64_t j = b * kPanel;
      if (j >= i + kMicroRows) continue;
      BFloat16Micro<kMicroRows, kMicroPanels>(packed + (i / kPanel) * kStride + i % kPanel, packed + b * kStride,
                                              kStride, pairs, micro);
      const int64_t width = std::min(kMicroPanels * kPanel, cols - j);
      for (int64_t m = 0; m < std::min(kMicroRows, cols - i); ++m) {
        float* dst = sum + (i + m) * cols + j;
        for (int64_t n = 0; n < width; ++n) dst[n] += micro[m * kMicroPanels * kPanel + n];
      }
    }
  }
}

}  // namespace

void AddBFloat16(const uint32_t* pairs, int64_t tokens, int64_t cols, float* sum) {
  // The packed block has a multiple of three panels (Hessian allocates it so); those past the columns are zero.
  const int64_t panels = (cols + kPanel - 1) / kPanel;
  const std::vector<std::pair<int64_t, int64_t>> tiles = LowerTiles((panels + kTilePanels - 1) / kTilePanels);
  const auto count = static_cast<int64_t>(tiles.size());
#pragma omp parallel for schedule(dynamic)
  for (int64_t t = 0; t < count; ++t) {
    Tile(pairs, (tokens + 1) / 2, cols, panels, tiles[static_cast<size_t>(t)].first * kTilePanels,
         tiles[static_cast<size_t>(t)].second * kTilePanels, sum);
  }
}

#else

bool HasBFloat16() { return false; }
void AddBFloat16(const uint32_t*, int64_t, int64_t, float*) { std::abort(); }

#endif

}  // namespace quant::syrk
