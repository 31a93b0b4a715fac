// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/panel.h"

#include <algorithm>

namespace quant::weight_only {

Panel::Panel(const GroupedMatrix& out)
    : scale(static_cast<size_t>(out.groups() * kPanelRows)),
      zero(scale.size()),
      codes(static_cast<size_t>(out.cols * kPanelRows)),
      d(codes.size()) {}

void Panel::Load(const GroupedMatrix& out, int64_t first_row) {
  first = first_row;
  rows = std::min(kPanelRows, out.rows - first);
  loss.fill(0);
  std::fill(scale.begin(), scale.end(), 1.0f);
  std::fill(zero.begin(), zero.end(), 0.0f);
  const int64_t groups = out.groups();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      scale[static_cast<size_t>(g * kPanelRows + r)] = out.scales[static_cast<size_t>((first + r) * groups + g)];
      zero[static_cast<size_t>(g * kPanelRows + r)] = out.zero(first + r, g);
    }
  }
}

void Panel::Store(GroupedMatrix& out) const {
  const int64_t groups = out.groups();
  constexpr int64_t kTile = 32;  // columns whose lanes stay in the cache while rows are written
  for (int64_t begin = 0; begin < out.cols; begin += kTile) {
    const int64_t end = std::min(begin + kTile, out.cols);
    for (int64_t r = 0; r < rows; ++r) {
      uint8_t* const dst = out.codes.data() + (first + r) * out.cols;
      for (int64_t c = begin; c < end; ++c) dst[c] = codes[static_cast<size_t>(c * kPanelRows + r)];
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const auto to = static_cast<size_t>((first + r) * groups + g);
      const auto from = static_cast<size_t>(g * kPanelRows + r);
      out.scales[to] = scale[from];
      if (!out.zeros.empty()) out.zeros[to] = zero[from];
    }
  }
}

}  // namespace quant::weight_only
