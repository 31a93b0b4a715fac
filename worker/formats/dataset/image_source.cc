// SPDX-License-Identifier: Apache-2.0
// Images from an array or from files, through a Preprocessor.
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/dataset/source.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

// Where the images come from.
class ImageReader {
 public:
  virtual ~ImageReader() = default;
  virtual int64_t size() const = 0;
  virtual absl::StatusOr<Image> Get(int64_t index) = 0;
  // For messages: "image 3", "file cat/3.png".
  virtual std::string Label(int64_t index) const = 0;
};

class ArrayImages : public ImageReader {
 public:
  ArrayImages(Tensor array, bool channels_first) : array_(std::move(array)), channels_first_(channels_first) {}

  int64_t size() const override { return array_.dim(0); }
  std::string Label(int64_t index) const override { return absl::StrCat("image ", index); }

  absl::StatusOr<Image> Get(int64_t index) override {
    const int axes[3] = {channels_first_ ? 2 : 1, channels_first_ ? 3 : 2, channels_first_ ? 1 : 3};
    Image image{.height = static_cast<int>(array_.dim(axes[0])),
                .width = static_cast<int>(array_.dim(axes[1])),
                .channels = static_cast<int>(array_.dim(axes[2]))};
    const size_t bytes = array_.bytes().size() / static_cast<size_t>(size());
    image.pixels.resize(bytes);
    const uint8_t* src = reinterpret_cast<const uint8_t*>(array_.bytes().data()) + static_cast<size_t>(index) * bytes;
    if (!channels_first_) {
      std::memcpy(image.pixels.data(), src, bytes);
      return image;
    }
    const size_t channels = static_cast<size_t>(image.channels);
    const size_t area = bytes / channels;
    for (size_t c = 0; c < channels; ++c) {
      for (size_t i = 0; i < area; ++i) image.pixels[i * channels + c] = src[c * area + i];
    }
    return image;
  }

 private:
  const Tensor array_;
  const bool channels_first_;
};

class FileImages : public ImageReader {
 public:
  FileImages(std::filesystem::path folder, std::vector<std::string> files, bool gray)
      : folder_(std::move(folder)), files_(std::move(files)), gray_(gray) {}

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  std::string Label(int64_t index) const override {
    return absl::StrCat("file ", Quoted(files_[static_cast<size_t>(index)]));
  }

  absl::StatusOr<Image> Get(int64_t index) override {
    ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file,
                     MappedFile::Open(folder_ / files_[static_cast<size_t>(index)]));
    ASSIGN_OR_RETURN(Image image, DecodeImage(file->bytes()));
    return gray_ ? ToGray(image) : image;
  }

 private:
  const std::filesystem::path folder_;
  const std::vector<std::string> files_;
  const bool gray_;
};

class ImageSource : public Source {
 public:
  ImageSource(std::unique_ptr<ImageReader> images, Preprocessor preprocessor, ValueInfo input)
      : images_(std::move(images)), preprocessor_(std::move(preprocessor)), input_(std::move(input)) {}

  int64_t size() const override { return images_->size(); }

  absl::StatusOr<Tensor> Read(int64_t begin, int64_t count) override {
    Tensor batch;
    int height = 0;
    int width = 0;
    for (int64_t i = 0; i < count; ++i) {
      absl::StatusOr<Image> image = Prepared(begin + i);
      if (!image.ok()) return Named(begin + i, image.status());
      if (i == 0) {
        height = image->height;
        width = image->width;
        RETURN_IF_ERROR(Named(begin, CheckSize(*image)));
        const Shape shape = preprocessor_.channels_first() ? Shape{count, image->channels, height, width}
                                                           : Shape{count, height, width, image->channels};
        ASSIGN_OR_RETURN(batch, Tensor::Allocate(DType::kFloat32, shape));
      } else if (image->height != height || image->width != width) {
        return Named(begin + i, absl::InvalidArgumentError(
                                    absl::StrCat("it is ", image->width, "x", image->height, ", the one before ", width,
                                                 "x", height, "; set \"resize\" and \"crop\" in preprocess.json")));
      }
      const size_t elements = image->pixels.size();
      preprocessor_.Normalize(*image, batch.mutable_data<float>().subspan(static_cast<size_t>(i) * elements, elements));
    }
    if (input_.dtype == DType::kFloat32) return batch;
    ASSIGN_OR_RETURN(Tensor cast, Cast(batch, input_.dtype));
    RETURN_IF_ERROR(CheckFinite(cast, begin));
    return cast;
  }

  // The first image fits the input: asked when the dataset is opened, so that a misfit is noticed before the job runs.
  absl::Status CheckFirst() {
    if (size() == 0) return absl::OkStatus();
    const absl::StatusOr<Image> image = Prepared(0);
    return Named(0, image.ok() ? CheckSize(*image) : image.status());
  }

 private:
  absl::StatusOr<Image> Prepared(int64_t index) {
    ASSIGN_OR_RETURN(Image image, images_->Get(index));
    if (!preprocessor_.has_geometry()) return image;
    return preprocessor_.Geometry(std::move(image));
  }

  absl::Status Named(int64_t index, const absl::Status& s) const {
    if (s.ok()) return s;
    return absl::Status(s.code(),
                        absl::StrCat(images_->Label(index), " for input ", Quoted(input_.name), ": ", s.message()));
  }

  absl::Status CheckSize(const Image& image) const {
    if (!input_.has_shape) return absl::OkStatus();
    const bool first = preprocessor_.channels_first();
    if (input_.shape.size() != 4) {
      return absl::InvalidArgumentError(
          absl::StrCat("the input has ", input_.shape.size(), " axes, images need 4 (", first ? "NCHW" : "NHWC", ")"));
    }
    const Dim& c = input_.shape[first ? 1 : 3];
    const Dim& h = input_.shape[first ? 2 : 1];
    const Dim& w = input_.shape[first ? 3 : 2];
    if (c.known() && c.value != image.channels) {
      return absl::InvalidArgumentError(absl::StrCat("the image has ", image.channels, " channels, the model wants ",
                                                     c.value, "; check channels and output_layout in preprocess.json"));
    }
    if ((h.known() && h.value != image.height) || (w.known() && w.value != image.width)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the image is ", image.width, "x", image.height, " pixels, the model wants ",
                       w.known() ? absl::StrCat(w.value) : "any", "x", h.known() ? absl::StrCat(h.value) : "any",
                       "; set \"resize\" and \"crop\" in preprocess.json to fit"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckFinite(const Tensor& batch, int64_t begin) const {
    if (!IsFloat(batch.dtype())) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(batch));
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::isfinite(values[i])) continue;
      const int64_t sample = begin + static_cast<int64_t>(i) / (batch.elements() / batch.dim(0));
      return absl::InvalidArgumentError(absl::StrCat("sample ", sample, " of input ", Quoted(input_.name),
                                                     " exceeds the range of ", DTypeName(input_.dtype),
                                                     "; check scale, mean and std in preprocess.json"));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<ImageReader> images_;
  const Preprocessor preprocessor_;
  const ValueInfo input_;
};

absl::StatusOr<std::unique_ptr<Source>> Make(std::unique_ptr<ImageReader> images, const PreprocessSpec& spec,
                                             int channels, const ValueInfo& input) {
  if (DTypeBits(input.dtype) < 8) return absl::UnimplementedError("4-bit inputs are not supported");
  ASSIGN_OR_RETURN(Preprocessor preprocessor, Preprocessor::Create(spec, channels));
  auto source = std::make_unique<ImageSource>(std::move(images), std::move(preprocessor), input);
  RETURN_IF_ERROR(source->CheckFirst());
  return source;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> MakeImageArraySource(const std::string& array_name, Tensor array,
                                                             const PreprocessSpec& spec, const ValueInfo& input) {
  const bool first = spec.layout == "NCHW";
  const std::string what =
      absl::StrCat("array ", Quoted(array_name), ", ", DTypeName(array.dtype()), " ", ShapeString(array.shape()));
  if (array.dtype() != DType::kUInt8 || array.rank() != 4) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": preprocess.json is for uint8 images of 4 axes (",
                                                   spec.layout,
                                                   "); leave it out for data that is ready for the model"));
  }
  const int64_t channels = array.dim(first ? 1 : 3);
  if (array.elements() == 0 || channels > 1024 || array.elements() / array.dim(0) > kMaxPixels * channels) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": no images, or unlikely ones; check layout in preprocess.json"));
  }
  return Make(std::make_unique<ArrayImages>(std::move(array), first), spec, static_cast<int>(channels), input);
}

absl::StatusOr<std::unique_ptr<Source>> MakeImageFileSource(const std::filesystem::path& folder,
                                                            std::vector<std::string> files, const PreprocessSpec& spec,
                                                            const ValueInfo& input) {
  PreprocessSpec ready = spec;
  if (ready.channels.empty()) {
    // One channel wanted and nothing said: gray.
    const size_t axis = spec.output_layout == "NCHW" ? 1 : 3;
    const bool one = input.has_shape && input.shape.size() == 4 && input.shape[axis].value == 1;
    ready.channels = one || spec.output_channels == "GRAY" ? "GRAY" : "RGB";
  }
  if (ready.channels == "BGR")
    return absl::InvalidArgumentError("preprocess.json: image files are decoded as RGB or GRAY, not BGR");
  const bool gray = ready.channels == "GRAY";
  return Make(std::make_unique<FileImages>(folder, std::move(files), gray), ready, gray ? 1 : 3, input);
}

}  // namespace quant
