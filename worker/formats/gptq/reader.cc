// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/gptq/gptq.h"
#include "worker/formats/huggingface/layer_parts.h"

namespace quant {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 30;

absl::StatusOr<GptqVersion> VersionOf(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const std::string older, checkpoint.String("quantization_config/checkpoint_format", ""));
  ASSIGN_OR_RETURN(const std::string newer, checkpoint.String("quantization_config/format", older));
  if (!older.empty() && older != newer) {
    return absl::InvalidArgumentError(absl::StrCat("quantization_config says checkpoint_format ", Quoted(older),
                                                   " and format ", Quoted(newer), "; they must agree"));
  }
  ASSIGN_OR_RETURN(const std::string words, checkpoint.String("quantization_config/pack_dtype", "int32"));
  if (words != "int32") {
    return absl::UnimplementedError(absl::StrCat("GPTQ weights packed in ", Quoted(words), " are not read; int32 are"));
  }
  if (newer.empty() || newer == "gptq") return GptqVersion::kV1;
  if (newer == "gptq_v2") return GptqVersion::kV2;
  return absl::UnimplementedError(
      absl::StrCat("GPTQ checkpoints of format ", Quoted(newer), " are not read; gptq and gptq_v2 are"));
}

bool Known(int64_t bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

}  // namespace

absl::StatusOr<std::optional<WeightMatrix>> ReadGptqLinear(const Checkpoint& checkpoint, std::string_view module) {
  const LayerParts parts(checkpoint, module);
  if (parts.Find(".qweight") == nullptr) {
    if (parts.Find(".qzeros") != nullptr || parts.Find(".scales") != nullptr) {
      return parts.Error("it has qzeros or scales but no qweight");
    }
    return std::nullopt;
  }
  ASSIGN_OR_RETURN(const GptqVersion version, VersionOf(checkpoint));
  ASSIGN_OR_RETURN(int64_t bits, checkpoint.Int("quantization_config/bits", 4, 2, 8));
  ASSIGN_OR_RETURN(const int64_t configured, checkpoint.Int("quantization_config/group_size", -1, -1, kMaxGroup));

  ASSIGN_OR_RETURN(const Tensor* qweight, parts.Get(".qweight", {DType::kInt32}, {-1, -1}));
  const int64_t word_rows = qweight->dim(0), rows = qweight->dim(1);
  int64_t cols = word_rows * 32 / bits;
  if (parts.Find(".g_idx") != nullptr) {
    ASSIGN_OR_RETURN(const Tensor* g_idx, parts.Get(".g_idx", {DType::kInt32}, {-1}));
    cols = g_idx->dim(0);
    bits = word_rows * 32 / cols;  // of this layer
  }
  if (!Known(bits) || cols * bits != word_rows * 32 || rows % 32 != 0) {
    return parts.Error(absl::StrCat("qweight ", ShapeString(qweight->shape()), " does not hold ", cols,
                                    " inputs of 2, 3, 4 or 8 bits by a multiple of 32 outputs"));
  }
  ASSIGN_OR_RETURN(const Tensor* scales,
                   parts.Get(".scales", {DType::kFloat16, DType::kBFloat16, DType::kFloat32}, {-1, rows}));
  const int64_t groups = scales->dim(0);
  int64_t group_size = configured <= 0 ? cols : std::min(configured, cols);
  if ((cols + group_size - 1) / group_size != groups && cols % groups == 0) group_size = cols / groups;
  if ((cols + group_size - 1) / group_size != groups) {
    return parts.Error(absl::StrCat("scales has ", groups, " groups; ", cols, " inputs in groups of ", configured,
                                    " make another number"));
  }

  GroupedMatrix w{.rows = rows, .cols = cols, .bits = static_cast<int>(bits), .group_size = group_size};
  ASSIGN_OR_RETURN(w.group_of, parts.GroupOf(".g_idx", cols, group_size));
  ASSIGN_OR_RETURN(const std::vector<float> by_group, parts.Floats(".scales", {groups, rows}));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> zero_words, parts.Words(".qzeros", {groups, rows * bits / 32}));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> words, parts.Words(".qweight", {word_rows, rows}));
  w.codes.resize(static_cast<size_t>(rows * cols));
  UnpackDown(words, rows, cols, w.bits, w.codes);
  w.scales.resize(static_cast<size_t>(rows * groups));
  w.zeros.resize(w.scales.size());
  std::vector<uint8_t> zeros(static_cast<size_t>(rows));
  const size_t zero_row = static_cast<size_t>(rows * bits / 32);
  const int add = version == GptqVersion::kV1 ? 1 : 0;
  for (int64_t g = 0; g < groups; ++g) {
    UnpackWords(std::span(zero_words).subspan(static_cast<size_t>(g) * zero_row, zero_row), w.bits, zeros);
    for (int64_t r = 0; r < rows; ++r) {
      const size_t to = static_cast<size_t>(r * groups + g);
      const int zero = zeros[static_cast<size_t>(r)] + add;
      if (zero >= 1 << bits) {
        return parts.Error(absl::StrCat("qzeros holds ", zero - 1, " for group ", g, " of output ", r,
                                        "; the format gptq stores zero point - 1, and readers take this for 0 or for ",
                                        zero, ": quantize again with zero points from 1, or as gptq_v2"));
      }
      w.zeros[to] = static_cast<float>(zero);
      w.scales[to] = by_group[static_cast<size_t>(g * rows + r)];
    }
  }
  DropMiddleZeros(&w);
  WeightMatrix out = std::move(w);
  if (const absl::Status s = Validate(out); !s.ok()) return parts.Error(StdView(s.message()));
  return out;
}

}  // namespace quant
