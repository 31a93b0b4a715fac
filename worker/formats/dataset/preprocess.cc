// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/preprocess.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "nlohmann/json.hpp"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = 1 << 16;
constexpr int kMaxSide = 1 << 14;

absl::Status Wrong(std::string_view key, std::string_view want) {
  return absl::InvalidArgumentError(absl::StrCat("\"", AbslView(key), "\" must be ", AbslView(want)));
}

absl::StatusOr<std::string> OneOf(const std::string& key, const Json& v, std::initializer_list<const char*> choices) {
  for (const char* c : choices) {
    if (v.is_string() && v.get_ref<const std::string&>() == c) return std::string(c);
  }
  std::string want;
  for (const char* c : choices) absl::StrAppend(&want, want.empty() ? "" : ", ", c);
  return Wrong(key, absl::StrCat("one of ", want));
}

absl::StatusOr<std::vector<double>> Numbers(const std::string& key, const Json& v) {
  std::vector<double> out;
  const Json list = v.is_array() ? v : Json::array({v});
  for (const Json& e : list) {
    const double d = e.is_number() ? e.get<double>() : std::nan("");
    if (!std::isfinite(d)) return Wrong(key, "a number, or a list of one number per channel");
    out.push_back(d);
  }
  if (out.empty() || out.size() > 1024) return Wrong(key, "a number, or a list of one number per channel");
  return out;
}

absl::StatusOr<std::vector<int>> Sides(const std::string& key, const Json& v) {
  std::vector<int> out;
  const Json list = v.is_array() ? v : Json::array({v});
  for (const Json& e : list) {
    if (!e.is_number_integer() || e.get<int64_t>() < 1 || e.get<int64_t>() > kMaxSide || e.get<double>() > kMaxSide) {
      out.clear();
      break;
    }
    out.push_back(e.get<int>());
  }
  if (out.empty() || out.size() > 2)
    return Wrong(key, absl::StrCat("a size, or [height, width], of 1 to ", kMaxSide, " pixels"));
  return out;
}

absl::Status Set(const std::string& key, const Json& v, PreprocessSpec& spec) {
  if (key == "array") {
    if (!v.is_string()) return Wrong(key, "the name of an array");
    spec.array = v.get<std::string>();
  } else if (key == "layout") {
    ASSIGN_OR_RETURN(spec.layout, OneOf(key, v, {"NHWC", "NCHW"}));
  } else if (key == "output_layout") {
    ASSIGN_OR_RETURN(spec.output_layout, OneOf(key, v, {"NCHW", "NHWC"}));
  } else if (key == "channels") {
    ASSIGN_OR_RETURN(spec.channels, OneOf(key, v, {"RGB", "BGR", "GRAY"}));
  } else if (key == "output_channels") {
    ASSIGN_OR_RETURN(spec.output_channels, OneOf(key, v, {"RGB", "BGR", "GRAY"}));
  } else if (key == "scale") {
    ASSIGN_OR_RETURN(const std::vector<double> scale, Numbers(key, v));
    if (scale.size() != 1) return Wrong(key, "one number");
    spec.scale = scale[0];
  } else if (key == "mean") {
    ASSIGN_OR_RETURN(spec.mean, Numbers(key, v));
  } else if (key == "std") {
    ASSIGN_OR_RETURN(spec.std, Numbers(key, v));
    if (std::any_of(spec.std.begin(), spec.std.end(), [](double d) { return d <= 0; })) return Wrong(key, "over 0");
  } else if (key == "resize") {
    ASSIGN_OR_RETURN(spec.resize, Sides(key, v));
  } else if (key == "crop") {
    ASSIGN_OR_RETURN(spec.crop, Sides(key, v));
    if (spec.crop.size() == 1) spec.crop.push_back(spec.crop[0]);
  } else if (key != "description") {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown key ", Quoted(key),
                     "; known are array, layout, channels, output_layout, output_channels, "
                     "scale, mean, std, resize, crop, description"));
  }
  return absl::OkStatus();
}

absl::StatusOr<PreprocessSpec> Parse(std::string_view text) {
  if (text.size() > kMaxBytes) return absl::InvalidArgumentError(absl::StrCat("over ", kMaxBytes, " bytes"));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  PreprocessSpec spec;
  for (const auto& [key, value] : json.items()) RETURN_IF_ERROR(Set(key, value, spec));
  return spec;
}

}  // namespace

absl::StatusOr<PreprocessSpec> ReadPreprocess(const std::filesystem::path& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  absl::StatusOr<PreprocessSpec> spec = Parse(mapped->text());
  if (spec.ok()) return spec;
  return absl::Status(spec.status().code(), absl::StrCat(file.filename().string(), ": ", spec.status().message()));
}

absl::StatusOr<Preprocessor> Preprocessor::Create(const PreprocessSpec& spec, int channels) {
  const size_t count = static_cast<size_t>(channels);
  const auto fits = [&](const std::vector<double>& v) { return v.size() == 1 || v.size() == count; };
  if (!fits(spec.mean) || !fits(spec.std)) {
    return absl::InvalidArgumentError(absl::StrCat("preprocess.json: mean has ", spec.mean.size(), " and std ",
                                                   spec.std.size(), " numbers; the images have ", channels,
                                                   " channels"));
  }
  Preprocessor p;
  p.channels_first_ = spec.output_layout == "NCHW";
  p.resize_ = spec.resize;
  p.crop_ = spec.crop;
  // "RGB" against "BGR" is the only reordering there is.
  const bool reversed =
      !spec.channels.empty() && !spec.output_channels.empty() && spec.channels != spec.output_channels;
  const bool gray = spec.channels == "GRAY" || spec.output_channels == "GRAY";
  if ((reversed && (channels != 3 || gray)) || (!gray && !spec.channels.empty() && channels != 3) ||
      (gray && channels != 1)) {
    return absl::InvalidArgumentError(absl::StrCat("preprocess.json: channels ", Quoted(spec.channels),
                                                   " and output_channels ", Quoted(spec.output_channels),
                                                   " do not fit images of ", channels, " channels"));
  }
  for (size_t c = 0; c < count; ++c) {
    const double mean = spec.mean[spec.mean.size() == 1 ? 0 : c];
    const double deviation = spec.std[spec.std.size() == 1 ? 0 : c];
    std::vector<float> table(256);
    for (size_t v = 0; v < 256; ++v) {
      table[v] = static_cast<float>((static_cast<double>(v) * spec.scale - mean) / deviation);
    }
    p.table_.push_back(std::move(table));
    p.source_.push_back(reversed ? count - 1 - c : c);
  }
  return p;
}

absl::StatusOr<Image> Preprocessor::Geometry(Image image) const {
  if (!resize_.empty()) {
    const auto [height, width] = resize_.size() == 1 ? SizeForShorterSide(image, resize_[0])
                                                     : std::pair<int64_t, int64_t>(resize_[0], resize_[1]);
    if (height > kMaxPixels || width > kMaxPixels / height) {
      return absl::InvalidArgumentError(
          absl::StrCat("resizing to ", width, "x", height, " exceeds ", kMaxPixels, " pixels"));
    }
    image = Resize(image, static_cast<int>(height), static_cast<int>(width));
  }
  if (!crop_.empty()) return CenterCrop(image, crop_[0], crop_[1]);
  return image;
}

void Preprocessor::Normalize(const Image& image, std::span<float> dst) const {
  const size_t channels = source_.size();
  const size_t area = image.pixels.size() / channels;
  for (size_t c = 0; c < channels; ++c) {
    const uint8_t* from = image.pixels.data() + source_[c];
    const std::vector<float>& table = table_[c];
    float* to = dst.data() + (channels_first_ ? c * area : c);
    const size_t step = channels_first_ ? 1 : channels;
    for (size_t i = 0; i < area; ++i) to[i * step] = table[from[i * channels]];
  }
}

}  // namespace quant
