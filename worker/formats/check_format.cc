// SPDX-License-Identifier: Apache-2.0
// What each format can hold. Sources of the limits: docs/formats/*.md, one page per format.
#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/strings.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {
namespace {

constexpr std::pair<CheckpointFormat, const char*> kNames[] = {
    {CheckpointFormat::kGptq, "gptq"},
    {CheckpointFormat::kGptqV2, "gptq_v2"},
    {CheckpointFormat::kAwq, "awq"},
    {CheckpointFormat::kBitsandbytes, "bitsandbytes"},
    {CheckpointFormat::kCompressedTensors, "compressed-tensors"},
    {CheckpointFormat::kGguf, "gguf"},
    {CheckpointFormat::kOnnx, "onnx"}};

bool Among(int bits, std::initializer_list<int> known) {
  return std::find(known.begin(), known.end(), bits) != known.end();
}

// "" or what is in the way. `group` is -1 for one group per row.
std::string GptqLimit(const WeightSpec& spec, int64_t group, int64_t rows, int64_t cols) {
  if (spec.codebook) return "it has no codebooks";
  if (!Among(spec.bits, {2, 3, 4, 8})) return absl::StrCat("it holds 2, 3, 4 and 8 bits, not ", spec.bits);
  if (spec.float_zeros) return "its zero points are integers";
  if (rows % 32 != 0) return absl::StrCat("outputs come in multiples of 32, not ", rows);
  if (cols % 32 != 0) return absl::StrCat("inputs come in multiples of 32, not ", cols);
  if (group > 0 && cols % group != 0) return absl::StrCat("group size ", group, " does not divide ", cols, " inputs");
  return "";
}

std::string AwqLimit(const WeightSpec& spec, int64_t group, int64_t rows, int64_t cols) {
  if (spec.codebook) return "it has no codebooks";
  if (spec.bits != 4) return absl::StrCat("it holds 4 bits only, not ", spec.bits);
  if (spec.float_zeros) return "its zero points are integers";
  if (spec.dynamic_order) return "it has no g_idx for act-order with dynamic groups; use static groups";
  if (rows % 8 != 0) return absl::StrCat("outputs come in multiples of 8, not ", rows);
  if (spec.group_size <= 0) return "it has no group size -1";
  if (group > 0 && cols % group != 0) return absl::StrCat("group size ", group, " does not divide ", cols, " inputs");
  if (spec.group_size > cols) {
    return absl::StrCat("group size ", spec.group_size, " exceeds the ", cols,
                        " inputs, and all layers have one group size");
  }
  return "";
}

std::string BitsandbytesLimit(const WeightSpec& spec, int64_t group) {
  if (spec.codebook) {
    const int64_t block = spec.group_size;
    const bool legal = block >= 32 && block <= 4096 && (block & (block - 1)) == 0;
    return legal ? "" : absl::StrCat("blocks have 32 to 4096 weights, a power of two, not ", block);
  }
  if (spec.bits != 8) return absl::StrCat("it holds NF4, FP4 and LLM.int8, no integer grid of ", spec.bits, " bits");
  if (!spec.symmetric || spec.float_zeros) return "LLM.int8 is symmetric";
  if (spec.dynamic_order || group != -1) return "LLM.int8 has one scale per row (group size -1)";
  return "";
}

std::string CompressedTensorsLimit(const WeightSpec& spec, int64_t group, int64_t cols) {
  if (spec.codebook) return "it has no NF4 or FP4 codebooks";
  if (!Among(spec.bits, {4, 8})) return absl::StrCat("its loaders take 4 and 8 bits, not ", spec.bits);
  if (spec.float_zeros) return "its zero points are integers";
  if (group > 0 && cols % group != 0) return absl::StrCat("group size ", group, " does not divide ", cols, " inputs");
  return "";
}

std::string Limit(CheckpointFormat format, const WeightSpec& spec, int64_t rows, int64_t cols) {
  const int64_t group = spec.group_size <= 0 || spec.group_size >= cols ? -1 : spec.group_size;
  switch (format) {
    case CheckpointFormat::kGptq:
    case CheckpointFormat::kGptqV2:
      return GptqLimit(spec, group, rows, cols);
    case CheckpointFormat::kAwq:
      return AwqLimit(spec, group, rows, cols);
    case CheckpointFormat::kBitsandbytes:
      return BitsandbytesLimit(spec, group);
    case CheckpointFormat::kCompressedTensors:
      return CompressedTensorsLimit(spec, group, cols);
    case CheckpointFormat::kGguf:
    case CheckpointFormat::kOnnx:
      break;
  }
  if (!spec.codebook && !Among(spec.bits, {2, 3, 4, 8})) {
    return absl::StrCat("there are 2, 3, 4 and 8 bits, not ", spec.bits);
  }
  return "";
}

std::string Alternatives(const WeightSpec& spec, int64_t rows, int64_t cols) {
  std::vector<std::string> fit;
  for (const auto& [format, name] : kNames) {
    if (Limit(format, spec, rows, cols).empty()) fit.push_back(name);
  }
  return absl::StrJoin(fit, ", ");
}

}  // namespace

const char* CheckpointFormatName(CheckpointFormat format) {
  for (const auto& [known, name] : kNames) {
    if (known == format) return name;
  }
  return "unknown";
}

absl::StatusOr<CheckpointFormat> ParseCheckpointFormat(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& [format, known] : kNames) {
    if (name == known) return format;
    names.push_back(known);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no checkpoint format ", Quoted(name), "; there are ", absl::StrJoin(names, ", ")));
}

WeightSpec SpecOf(const WeightMatrix& weights) {
  if (const auto* codebook = std::get_if<CodebookMatrix>(&weights)) {
    return {.codebook = true, .bits = 4, .group_size = codebook->block_size};
  }
  const auto& w = std::get<GroupedMatrix>(weights);
  const float most = static_cast<float>((1 << w.bits) - 1);
  const bool integers = std::all_of(w.zeros.begin(), w.zeros.end(), [&](float z) {
    return z >= 0 && z <= most && z == static_cast<float>(static_cast<int>(z));
  });
  return {.bits = w.bits,
          .group_size = w.group_size,
          .symmetric = w.symmetric(),
          .float_zeros = !integers,
          .dynamic_order = !w.group_of.empty()};
}

std::vector<int64_t> FittingGroupSizes(CheckpointFormat format, const WeightSpec& spec, int64_t rows, int64_t cols) {
  constexpr int64_t kLeast = 8;  // a scale for fewer weights than that is no compression
  std::set<int64_t> candidates = {-1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  for (int64_t d = 1; d * d <= cols; ++d) {
    if (cols % d != 0) continue;
    candidates.insert({d, cols / d});
  }
  std::vector<int64_t> fit;
  for (const int64_t g : candidates) {
    if (g != -1 && (g < kLeast || (!spec.codebook && g > cols))) continue;
    WeightSpec changed = spec;
    changed.group_size = g;
    if (Limit(format, changed, rows, cols).empty()) fit.push_back(g);
  }
  return fit;
}

absl::Status CheckFormat(CheckpointFormat format, const WeightSpec& spec, int64_t rows, int64_t cols) {
  if (rows <= 0 || cols <= 0 || spec.group_size == 0 || spec.group_size < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("group size ", spec.group_size, " in a layer of ", rows, " x ", cols, " makes no sense"));
  }
  const std::string limit = Limit(format, spec, rows, cols);
  if (limit.empty()) return absl::OkStatus();
  constexpr size_t kListed = 16;
  std::vector<int64_t> fit = FittingGroupSizes(format, spec, rows, cols);
  const bool cut = fit.size() > kListed;
  if (cut) fit.resize(kListed);
  const std::string remedy =
      fit.empty() ? absl::StrCat("no group size fits; formats that hold such a layer: ", Alternatives(spec, rows, cols))
                  : absl::StrCat("group sizes that fit: ", absl::StrJoin(fit, ", "), cut ? ", ..." : "");
  return absl::InvalidArgumentError(absl::StrCat("the ", CheckpointFormatName(format),
                                                 " format cannot hold a layer of ", rows, " outputs and ", cols,
                                                 " inputs: ", limit, "; ", remedy));
}

}  // namespace quant
