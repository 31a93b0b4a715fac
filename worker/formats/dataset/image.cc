// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/image.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

constexpr int kWeightBits = 22;

// The source pixels a destination pixel is made of, and their weights in 1 / 2^kWeightBits.
struct Window {
  int first = 0;
  std::vector<int32_t> weights;
};

std::vector<Window> Windows(int src, int dst) {
  const double scale = static_cast<double>(src) / dst;
  const double stretch = std::max(scale, 1.0);  // also the support of the triangle
  std::vector<Window> windows(static_cast<size_t>(dst));
  for (int i = 0; i < dst; ++i) {
    const double center = (i + 0.5) * scale;
    // NOLINTBEGIN(bugprone-incorrect-roundings): Pillow rounds so, and the pixels are to be Pillow's.
    const int first = std::max(0, static_cast<int>(center - stretch + 0.5));
    const int last = std::min(src, static_cast<int>(center + stretch + 0.5));
    std::vector<double> w;
    double sum = 0;
    for (int k = first; k < last; ++k) {
      w.push_back(std::max(0.0, 1.0 - std::abs((k - center + 0.5) / stretch)));
      sum += w.back();
    }
    Window& window = windows[static_cast<size_t>(i)];
    window.first = first;
    for (const double v : w) window.weights.push_back(static_cast<int32_t>(0.5 + v / sum * (1 << kWeightBits)));
    // NOLINTEND(bugprone-incorrect-roundings)
  }
  return windows;
}

uint8_t Round(int64_t sum) { return static_cast<uint8_t>(std::clamp<int64_t>(sum >> kWeightBits, 0, 255)); }

// One pass along an axis: `lines` lines of `length` pixels become `windows.size()` long. Strides are in elements.
void Pass(const uint8_t* src, uint8_t* dst, const std::vector<Window>& windows, int lines, size_t src_line,
          size_t src_step, size_t dst_line, size_t dst_step, int channels) {
  for (int line = 0; line < lines; ++line) {
    for (size_t i = 0; i < windows.size(); ++i) {
      const Window& w = windows[i];
      const uint8_t* from = src + static_cast<size_t>(line) * src_line + static_cast<size_t>(w.first) * src_step;
      uint8_t* to = dst + static_cast<size_t>(line) * dst_line + i * dst_step;
      for (int c = 0; c < channels; ++c) {
        int64_t sum = int64_t{1} << (kWeightBits - 1);
        for (size_t k = 0; k < w.weights.size(); ++k)
          sum += int64_t{w.weights[k]} * from[k * src_step + static_cast<size_t>(c)];
        to[c] = Round(sum);
      }
    }
  }
}

}  // namespace

Image ToGray(const Image& rgb) {
  Image gray{
      .height = rgb.height, .width = rgb.width, .channels = 1, .pixels = std::vector<uint8_t>(rgb.pixels.size() / 3)};
  for (size_t i = 0; i < gray.pixels.size(); ++i) {
    const uint8_t* p = &rgb.pixels[3 * i];
    gray.pixels[i] = static_cast<uint8_t>((19595u * p[0] + 38470u * p[1] + 7471u * p[2] + 32768u) >> 16);
  }
  return gray;
}

Image Resize(const Image& src, int height, int width) {
  if (src.height == height && src.width == width) return src;
  const size_t c = static_cast<size_t>(src.channels);
  const size_t w0 = static_cast<size_t>(src.width) * c;
  const size_t w1 = static_cast<size_t>(width) * c;
  Image rows{.height = src.height, .width = width, .channels = src.channels};
  rows.pixels.resize(static_cast<size_t>(src.height) * w1);
  Pass(src.pixels.data(), rows.pixels.data(), Windows(src.width, width), src.height, w0, c, w1, c, src.channels);
  Image dst{.height = height, .width = width, .channels = src.channels};
  dst.pixels.resize(static_cast<size_t>(height) * w1);
  Pass(rows.pixels.data(), dst.pixels.data(), Windows(src.height, height), width, c, w1, c, w1, src.channels);
  return dst;
}

std::pair<int64_t, int64_t> SizeForShorterSide(const Image& src, int side) {
  const int shorter = std::min(src.height, src.width);
  const auto scaled = [&](int v) { return v == shorter ? int64_t{side} : int64_t{side} * v / shorter; };
  return {scaled(src.height), scaled(src.width)};
}

absl::StatusOr<Image> CenterCrop(const Image& src, int height, int width) {
  if (src.height < height || src.width < width) {
    return absl::InvalidArgumentError(absl::StrCat("the image is ", src.width, "x", src.height,
                                                   ", smaller than the crop of ", width, "x", height,
                                                   "; set a larger \"resize\" in preprocess.json"));
  }
  if (src.height == height && src.width == width) return src;
  const int top = static_cast<int>(std::nearbyint((src.height - height) / 2.0));
  const int left = static_cast<int>(std::nearbyint((src.width - width) / 2.0));
  Image dst{.height = height, .width = width, .channels = src.channels};
  const size_t row = static_cast<size_t>(width) * static_cast<size_t>(src.channels);
  dst.pixels.reserve(static_cast<size_t>(height) * row);
  for (int y = 0; y < height; ++y) {
    const size_t at = (static_cast<size_t>(top + y) * static_cast<size_t>(src.width) + static_cast<size_t>(left)) *
                      static_cast<size_t>(src.channels);
    dst.pixels.insert(dst.pixels.end(), src.pixels.begin() + static_cast<std::ptrdiff_t>(at),
                      src.pixels.begin() + static_cast<std::ptrdiff_t>(at + row));
  }
  return dst;
}

}  // namespace quant
