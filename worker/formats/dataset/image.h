// SPDX-License-Identifier: Apache-2.0
// 8-bit images: decoding, scaling and cropping, as the usual training pipelines do it (Pillow under torchvision), so
// that a model sees what it was trained on. Internal to formats/dataset.
#ifndef QUANT_WORKER_FORMATS_DATASET_IMAGE_H_
#define QUANT_WORKER_FORMATS_DATASET_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace quant {

// Row-major, channels last.
struct Image {
  int height = 0;
  int width = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;  // [height, width, channels]
};

// Larger images are refused before they are decoded.
inline constexpr int64_t kMaxPixels = int64_t{1} << 26;

// A JPEG or PNG, told apart by its first bytes, as RGB: grey is repeated, transparency dropped, 16 bits cut to 8.
// INVALID_ARGUMENT: neither format, damaged or truncated, over kMaxPixels, CMYK.
absl::StatusOr<Image> DecodeImage(std::span<const std::byte> bytes);

// RGB to one channel: luma of ITU-R 601, (19595 R + 38470 G + 7471 B + 32768) >> 16.
Image ToGray(const Image& rgb);

// Bilinear with antialiasing, to exactly height x width (both > 0): a triangle filter whose support grows with the
// reduction, along rows first, then columns, with 22-bit weights and 8-bit values between.
Image Resize(const Image& src, int height, int width);

// The {height, width} that makes the shorter side `side`; the longer one is floor(side * long / short).
std::pair<int64_t, int64_t> SizeForShorterSide(const Image& src, int side);

// The middle height x width, rounding half to even. INVALID_ARGUMENT when the image is smaller.
absl::StatusOr<Image> CenterCrop(const Image& src, int height, int width);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_DATASET_IMAGE_H_
