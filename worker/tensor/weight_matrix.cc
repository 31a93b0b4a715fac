// SPDX-License-Identifier: Apache-2.0
#include "worker/tensor/weight_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"

namespace quant {
namespace {

absl::Status Wrong(const char* field, int64_t have, int64_t want) {
  return absl::InvalidArgumentError(
      absl::StrCat("quantized weights: ", field, " has ", have, " entries, needs ", want));
}

bool AllFinite(std::span<const float> values) {
  for (const float v : values) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

absl::Status CheckCodes(std::span<const uint8_t> codes, int64_t want, int levels) {
  if (static_cast<int64_t>(codes.size()) != want) return Wrong("codes", static_cast<int64_t>(codes.size()), want);
  uint8_t most = 0;
  for (const uint8_t c : codes) most = std::max(most, c);
  if (most < levels) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("quantized weights: code ", most, " is above ", levels - 1));
}

absl::Status CheckGrouped(const GroupedMatrix& w) {
  if (w.bits != 2 && w.bits != 3 && w.bits != 4 && w.bits != 8) {
    return absl::InvalidArgumentError(absl::StrCat("quantized weights: ", w.bits, " bits; there are 2, 3, 4 and 8"));
  }
  if (w.rows <= 0 || w.cols <= 0 || w.group_size <= 0 || w.group_size > w.cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantized weights: group size ", w.group_size, " in a matrix of ", w.rows, " x ", w.cols));
  }
  if (absl::Status s = CheckCodes(w.codes, w.rows * w.cols, 1 << w.bits); !s.ok()) return s;
  const int64_t groups = w.rows * w.groups();
  if (static_cast<int64_t>(w.scales.size()) != groups) {
    return Wrong("scales", static_cast<int64_t>(w.scales.size()), groups);
  }
  if (!w.zeros.empty() && static_cast<int64_t>(w.zeros.size()) != groups) {
    return Wrong("zeros", static_cast<int64_t>(w.zeros.size()), groups);
  }
  if (!AllFinite(w.scales) || !AllFinite(w.zeros)) {
    return absl::InvalidArgumentError("quantized weights: a scale or zero point is NaN or infinite");
  }
  if (w.group_of.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(w.group_of.size()) != w.cols) {
    return Wrong("group_of", static_cast<int64_t>(w.group_of.size()), w.cols);
  }
  for (const int32_t g : w.group_of) {
    if (g < 0 || g >= w.groups()) {
      return absl::InvalidArgumentError(
          absl::StrCat("quantized weights: a column is in group ", g, " of ", w.groups()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCodebook(const CodebookMatrix& w) {
  const bool power_of_two = w.block_size > 0 && (w.block_size & (w.block_size - 1)) == 0;
  if (w.rows <= 0 || w.cols <= 0 || !power_of_two || w.nested_block <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantized weights: block size ", w.block_size, " in a matrix of ", w.rows, " x ", w.cols));
  }
  if (absl::Status s = CheckCodes(w.codes, w.rows * w.cols, 16); !s.ok()) return s;
  if (w.codebook.size() != 16) return Wrong("codebook", static_cast<int64_t>(w.codebook.size()), 16);
  if (static_cast<int64_t>(w.absmax.size()) != w.blocks()) {
    return Wrong("absmax", static_cast<int64_t>(w.absmax.size()), w.blocks());
  }
  if (!w.nested_codes.empty()) {
    const int64_t nested = (w.blocks() + w.nested_block - 1) / w.nested_block;
    if (static_cast<int64_t>(w.nested_codes.size()) != w.blocks()) {
      return Wrong("nested_codes", static_cast<int64_t>(w.nested_codes.size()), w.blocks());
    }
    if (static_cast<int64_t>(w.nested_absmax.size()) != nested) {
      return Wrong("nested_absmax", static_cast<int64_t>(w.nested_absmax.size()), nested);
    }
    if (w.nested_map.size() != 256) return Wrong("nested_map", static_cast<int64_t>(w.nested_map.size()), 256);
  }
  if (!AllFinite(w.absmax) || !AllFinite(w.codebook) || !AllFinite(w.nested_absmax) || !AllFinite(w.nested_map) ||
      !std::isfinite(w.nested_offset)) {
    return absl::InvalidArgumentError("quantized weights: a scale or table entry is NaN or infinite");
  }
  return absl::OkStatus();
}

void DequantizeGrouped(const GroupedMatrix& w, int64_t begin, int64_t end, float* dst) {
  const int64_t groups = w.groups();
  for (int64_t r = begin; r < end; ++r, dst += w.cols) {
    const uint8_t* codes = w.codes.data() + r * w.cols;
    const float* scales = w.scales.data() + r * groups;
    if (!w.group_of.empty()) {
      for (int64_t c = 0; c < w.cols; ++c) {
        const int64_t g = w.group(c);
        dst[c] = scales[g] * (static_cast<float>(codes[c]) - w.zero(r, g));
      }
      continue;
    }
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = scales[g], zero = w.zero(r, g);
      const int64_t stop = std::min(w.cols, (g + 1) * w.group_size);
      for (int64_t c = g * w.group_size; c < stop; ++c) dst[c] = scale * (static_cast<float>(codes[c]) - zero);
    }
  }
}

void DequantizeCodebook(const CodebookMatrix& w, int64_t begin, int64_t end, float* dst) {
  const int64_t first = begin * w.cols, stop = end * w.cols;
  for (int64_t at = first; at < stop;) {
    const int64_t block = at / w.block_size, block_end = std::min(stop, (block + 1) * w.block_size);
    std::array<float, 16> table;
    for (size_t i = 0; i < table.size(); ++i) table[i] = w.codebook[i] * w.absmax[static_cast<size_t>(block)];
    for (; at < block_end; ++at) dst[at - first] = table[w.codes[static_cast<size_t>(at)]];
  }
}

}  // namespace

int64_t Rows(const WeightMatrix& w) {
  return std::visit([](const auto& m) { return m.rows; }, w);
}

int64_t Cols(const WeightMatrix& w) {
  return std::visit([](const auto& m) { return m.cols; }, w);
}

absl::Status Validate(const WeightMatrix& w) {
  if (const auto* grouped = std::get_if<GroupedMatrix>(&w)) return CheckGrouped(*grouped);
  return CheckCodebook(std::get<CodebookMatrix>(w));
}

void DequantizeRows(const WeightMatrix& w, int64_t begin, int64_t end, std::span<float> dst) {
  CHECK_EQ(static_cast<int64_t>(dst.size()), (end - begin) * Cols(w));
  if (const auto* grouped = std::get_if<GroupedMatrix>(&w)) return DequantizeGrouped(*grouped, begin, end, dst.data());
  DequantizeCodebook(std::get<CodebookMatrix>(w), begin, end, dst.data());
}

double BitsPerWeight(const WeightMatrix& w, int scale_bits) {
  if (const auto* grouped = std::get_if<GroupedMatrix>(&w)) {
    const double groups = static_cast<double>(grouped->scales.size());
    double zero_bits = grouped->zeros.empty() ? 0 : grouped->bits;
    for (const float z : grouped->zeros) {
      if (z != std::nearbyint(z)) zero_bits = scale_bits;
    }
    return grouped->bits + groups * (scale_bits + zero_bits) / static_cast<double>(grouped->codes.size());
  }
  const CodebookMatrix& m = std::get<CodebookMatrix>(w);
  const double per_block = m.nested_codes.empty() ? 32 : 8 + 32.0 / static_cast<double>(m.nested_block);
  return 4 + per_block / static_cast<double>(m.block_size);
}

}  // namespace quant
