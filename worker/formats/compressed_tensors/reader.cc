// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/compressed_tensors/compressed_tensors.h"
#include "worker/formats/huggingface/layer_parts.h"

namespace quant {
namespace {

absl::Status CheckFormatName(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const std::string format, checkpoint.String("quantization_config/format", "pack-quantized"));
  for (const char* known : {"pack-quantized", "int-quantized", "naive-quantized", "mixed-precision"}) {
    if (format == known) return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat("compressed-tensors of format ", Quoted(format),
                                               " are not read; pack-quantized, int-quantized and naive-quantized are"));
}

// Scales [rows, groups], [rows] or [1] as [rows, groups]; sets group_size.
absl::Status ReadScales(const LayerParts& parts, GroupedMatrix* w) {
  const Tensor* t = parts.Find(".weight_scale");
  if (t == nullptr) return parts.Error("there is no tensor weight_scale");
  const bool whole = t->rank() <= 1 && t->elements() == 1;
  int64_t groups = 1;
  if (t->rank() == 2) groups = t->dim(1);
  if (groups < 1 || w->cols % groups != 0) {
    return parts.Error(absl::StrCat("weight_scale has shape ", ShapeString(t->shape()), ", which does not divide ",
                                    w->cols, " inputs into groups"));
  }
  w->group_size = w->cols / groups;
  if (whole) {
    ASSIGN_OR_RETURN(const std::vector<float> one,
                     t->rank() == 0 ? parts.Floats(".weight_scale", {}) : parts.Floats(".weight_scale", {1}));
    w->scales.assign(static_cast<size_t>(w->rows), one[0]);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(w->scales, t->rank() == 2 ? parts.Floats(".weight_scale", {w->rows, groups})
                                             : parts.Floats(".weight_scale", {w->rows}));
  return absl::OkStatus();
}

absl::StatusOr<GroupedMatrix> ReadPacked(const LayerParts& parts) {
  ASSIGN_OR_RETURN(const Tensor* packed, parts.Get(".weight_packed", {DType::kInt32}, {-1, -1}));
  ASSIGN_OR_RETURN(const Tensor* shape, parts.Get(".weight_shape", {DType::kInt64, DType::kInt32}, {2}));
  ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ToInt64(*shape));
  const int64_t rows = packed->dim(0), words = packed->dim(1);
  GroupedMatrix w{.rows = sizes[0], .cols = sizes[1]};
  constexpr int64_t kMost = int64_t{1} << 40;
  if (w.rows != rows || w.cols < 1 || w.cols > kMost) {
    return parts.Error(absl::StrCat("weight_shape says ", ShapeString(sizes), ", but weight_packed is ",
                                    ShapeString(packed->shape())));
  }
  if ((w.cols + 7) / 8 == words) {
    w.bits = 4;
  } else if ((w.cols + 3) / 4 == words) {
    w.bits = 8;
  } else {
    return parts.Error(absl::StrCat("weight_packed ", ShapeString(packed->shape()), " does not hold ", w.cols,
                                    " inputs of 4 or 8 bits"));
  }
  RETURN_IF_ERROR(ReadScales(parts, &w));
  const int64_t groups = w.groups();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> bits, parts.Words(".weight_packed", {rows, words}));
  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  for (int64_t r = 0; r < rows; ++r) {
    UnpackWords(std::span(bits).subspan(static_cast<size_t>(r * words), static_cast<size_t>(words)), w.bits,
                std::span(w.codes).subspan(static_cast<size_t>(r * w.cols), static_cast<size_t>(w.cols)));
  }
  if (parts.Find(".weight_zero_point") != nullptr) {
    const int64_t per_word = 32 / w.bits, zero_words = (rows + per_word - 1) / per_word;
    ASSIGN_OR_RETURN(const std::vector<uint32_t> zeros, parts.Words(".weight_zero_point", {zero_words, groups}));
    w.zeros.resize(w.scales.size());
    const uint32_t mask = (uint32_t{1} << w.bits) - 1;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        const uint32_t word = zeros[static_cast<size_t>(r / per_word * groups + g)];
        w.zeros[static_cast<size_t>(r * groups + g)] = static_cast<float>(word >> (r % per_word * w.bits) & mask);
      }
    }
  }
  ASSIGN_OR_RETURN(w.group_of, parts.GroupOf(".weight_g_idx", w.cols, w.group_size));
  return w;
}

absl::StatusOr<GroupedMatrix> ReadInt8(const LayerParts& parts) {
  ASSIGN_OR_RETURN(const Tensor* weight, parts.Get(".weight", {DType::kInt8}, {-1, -1}));
  GroupedMatrix w{.rows = weight->dim(0), .cols = weight->dim(1), .bits = 8};
  RETURN_IF_ERROR(ReadScales(parts, &w));
  const auto* bytes = reinterpret_cast<const int8_t*>(weight->bytes().data());
  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  for (size_t i = 0; i < w.codes.size(); ++i) w.codes[i] = static_cast<uint8_t>(bytes[i] + 128);
  if (const Tensor* zeros = parts.Find(".weight_zero_point"); zeros != nullptr) {
    const bool whole = zeros->elements() == 1;
    if (zeros->dtype() != DType::kInt8 || (!whole && zeros->elements() != w.rows * w.groups())) {
      return parts.Error(absl::StrCat("weight_zero_point is ", DTypeName(zeros->dtype()), ShapeString(zeros->shape()),
                                      "; it must be int8, one for each scale"));
    }
    w.zeros.resize(w.scales.size());
    const auto* z = reinterpret_cast<const int8_t*>(zeros->bytes().data());
    for (size_t i = 0; i < w.zeros.size(); ++i) w.zeros[i] = static_cast<float>(z[whole ? 0 : i] + 128);
  }
  ASSIGN_OR_RETURN(w.group_of, parts.GroupOf(".weight_g_idx", w.cols, w.group_size));
  return w;
}

}  // namespace

absl::StatusOr<std::optional<WeightMatrix>> ReadCompressedTensorsLinear(const Checkpoint& checkpoint,
                                                                        std::string_view module) {
  const LayerParts parts(checkpoint, module);
  const Tensor* weight = parts.Find(".weight");
  const bool packed = parts.Find(".weight_packed") != nullptr;
  if (!packed && weight == nullptr) {
    if (parts.Find(".weight_scale") != nullptr) return parts.Error("it has weight_scale but no weight");
    return std::nullopt;
  }
  if (packed && weight != nullptr) return parts.Error("it has both weight and weight_packed");
  if (!packed && IsFloat(weight->dtype())) return std::nullopt;
  RETURN_IF_ERROR(CheckFormatName(checkpoint));
  absl::StatusOr<GroupedMatrix> w = packed ? ReadPacked(parts) : ReadInt8(parts);
  if (!w.ok()) return w.status();
  DropMiddleZeros(&*w);
  WeightMatrix out = *std::move(w);
  if (const absl::Status s = Validate(out); !s.ok()) return parts.Error(StdView(s.message()));
  return out;
}

}  // namespace quant
