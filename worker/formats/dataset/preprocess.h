// SPDX-License-Identifier: Apache-2.0
// preprocess.json: how an 8-bit image becomes a model input. Internal to formats/dataset; the format is documented in
// docs/formats/datasets.md.
//
//   value = (pixel * scale - mean[c]) / std[c]     c counts in the order of output_channels
//
// after converting to gray (channels "GRAY"), resizing and cropping in that order.
#ifndef QUANT_WORKER_FORMATS_DATASET_PREPROCESS_H_
#define QUANT_WORKER_FORMATS_DATASET_PREPROCESS_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/dataset/image.h"

namespace quant {

struct PreprocessSpec {
  std::string array;                   // name of the stored array; empty: not given
  std::string layout = "NHWC";         // of the stored array: NHWC or NCHW
  std::string channels;                // of the stored images, e.g. "RGB" or "GRAY"; empty: not given
  std::string output_layout = "NCHW";  // of the model's input
  std::string output_channels;         // empty: as stored
  double scale = 1.0;
  std::vector<double> mean = {0.0};  // one, or one per output channel
  std::vector<double> std = {1.0};
  std::vector<int> resize;  // {}: none; {side}: the shorter side; {height, width}
  std::vector<int> crop;    // {}: none; {height, width}
};

// INVALID_ARGUMENT naming the key for an unknown one, a wrong type or a value out of range; NOT_FOUND.
absl::StatusOr<PreprocessSpec> ReadPreprocess(const std::filesystem::path& file);

// A spec made ready for images of a number of channels. Immutable.
class Preprocessor {
 public:
  // INVALID_ARGUMENT when mean, std or the channel names do not fit `channels`.
  static absl::StatusOr<Preprocessor> Create(const PreprocessSpec& spec, int channels);

  // Resize and crop alone. INVALID_ARGUMENT when the image is smaller than the crop.
  absl::StatusOr<Image> Geometry(Image image) const;

  // Normalises into `dst` of height * width * channels floats in the output layout.
  void Normalize(const Image& image, std::span<float> dst) const;

  bool has_geometry() const { return !resize_.empty() || !crop_.empty(); }
  bool channels_first() const { return channels_first_; }

 private:
  bool channels_first_ = true;
  std::vector<int> resize_;
  std::vector<int> crop_;
  std::vector<size_t> source_;             // per output channel, the stored channel it is made of
  std::vector<std::vector<float>> table_;  // per output channel, the value of each of the 256 pixel values
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_DATASET_PREPROCESS_H_
