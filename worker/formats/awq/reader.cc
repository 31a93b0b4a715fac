// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/awq/awq.h"
#include "worker/formats/awq/layout.h"
#include "worker/formats/huggingface/layer_parts.h"

namespace quant {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 30;

struct AwqConfig {
  int64_t group_size = 128;  // -1: all inputs
};

absl::StatusOr<AwqConfig> ReadConfig(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const std::string version, checkpoint.String("quantization_config/version", "gemm"));
  ASSIGN_OR_RETURN(const std::string layout, checkpoint.String("quantization_config/format", version));
  if (absl::AsciiStrToLower(layout) != "gemm") {
    return absl::UnimplementedError(
        absl::StrCat("AWQ checkpoints of version ", Quoted(layout), " are not read; gemm is"));
  }
  ASSIGN_OR_RETURN(const int64_t older, checkpoint.Int("quantization_config/w_bit", 4, 1, 16));
  ASSIGN_OR_RETURN(const int64_t bits, checkpoint.Int("quantization_config/bits", older, 1, 16));
  if (bits != 4) return absl::InvalidArgumentError(absl::StrCat("AWQ weights have 4 bits, not ", bits));
  ASSIGN_OR_RETURN(const bool zero_point, checkpoint.Bool("quantization_config/zero_point", true));
  if (!zero_point) return absl::UnimplementedError("AWQ checkpoints without zero points are not read");
  AwqConfig config;
  ASSIGN_OR_RETURN(const int64_t q_group, checkpoint.Int("quantization_config/q_group_size", 128, -1, kMaxGroup));
  ASSIGN_OR_RETURN(config.group_size, checkpoint.Int("quantization_config/group_size", q_group, -1, kMaxGroup));
  return config;
}

// The nibble of column `col` in a row of words.
uint8_t Nibble(const uint32_t* words, int64_t col) {
  constexpr int kPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // inverse of kAwqOrder
  return static_cast<uint8_t>(words[col / 8] >> (4 * kPlace[col % 8]) & 15);
}

}  // namespace

absl::StatusOr<std::optional<WeightMatrix>> ReadAwqLinear(const Checkpoint& checkpoint, std::string_view module) {
  const LayerParts parts(checkpoint, module);
  if (parts.Find(".qweight") == nullptr) {
    if (parts.Find(".qzeros") != nullptr || parts.Find(".scales") != nullptr) {
      return parts.Error("it has qzeros or scales but no qweight");
    }
    return std::nullopt;
  }
  ASSIGN_OR_RETURN(const AwqConfig config, ReadConfig(checkpoint));
  ASSIGN_OR_RETURN(const Tensor* qweight, parts.Get(".qweight", {DType::kInt32}, {-1, -1}));
  const int64_t cols = qweight->dim(0), words_per_row = qweight->dim(1), rows = words_per_row * 8;
  const int64_t group_size = config.group_size <= 0 ? cols : config.group_size;
  if (group_size > cols || cols % group_size != 0) {
    return parts.Error(absl::StrCat("group_size ", group_size, " does not divide its ", cols, " inputs"));
  }
  const int64_t groups = cols / group_size;
  ASSIGN_OR_RETURN(const std::vector<uint32_t> words, parts.Words(".qweight", {cols, words_per_row}));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> zeros, parts.Words(".qzeros", {groups, words_per_row}));
  ASSIGN_OR_RETURN(const std::vector<float> by_group, parts.Floats(".scales", {groups, rows}));

  GroupedMatrix w{.rows = rows, .cols = cols, .bits = 4, .group_size = group_size};
  w.codes.resize(static_cast<size_t>(rows * cols));
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      w.codes[static_cast<size_t>(r * cols + c)] = Nibble(words.data() + c * words_per_row, r);
    }
  }
  w.scales.resize(static_cast<size_t>(rows * groups));
  w.zeros.resize(w.scales.size());
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t r = 0; r < rows; ++r) {
      w.zeros[static_cast<size_t>(r * groups + g)] = Nibble(zeros.data() + g * words_per_row, r);
      w.scales[static_cast<size_t>(r * groups + g)] = by_group[static_cast<size_t>(g * rows + r)];
    }
  }
  DropMiddleZeros(&w);
  WeightMatrix out = std::move(w);
  if (const absl::Status s = Validate(out); !s.ok()) return parts.Error(StdView(s.message()));
  return out;
}

}  // namespace quant
