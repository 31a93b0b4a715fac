// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/bitsandbytes/bitsandbytes.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/tensor/packing.h"

namespace quant {
namespace {

constexpr size_t kMaxState = 4096;
constexpr std::string_view kState = ".weight.quant_state.bitsandbytes__";

struct QuantState {
  bool fp4 = false;
  int64_t block_size = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  bool nested = false;
  int64_t nested_block = 256;
  float nested_offset = 0;
};

absl::StatusOr<int64_t> PositiveInt(const LayerParts& parts, const nlohmann::json& value, std::string_view what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() == 0 || value.get<uint64_t>() > uint64_t{1} << 40) {
    return parts.Error(absl::StrCat("quant_state: ", AbslView(what), " is not a positive integer"));
  }
  return value.get<int64_t>();
}

// The JSON text in the one tensor <module>.weight.quant_state.bitsandbytes__<type>.
absl::StatusOr<QuantState> ReadState(const LayerParts& parts) {
  const Tensor* nf4 = parts.Find(absl::StrCat(AbslView(kState), "nf4"));
  const Tensor* fp4 = parts.Find(absl::StrCat(AbslView(kState), "fp4"));
  if ((nf4 == nullptr) == (fp4 == nullptr)) {
    return parts.Error(nf4 == nullptr ? "it has no quant_state.bitsandbytes__nf4 or __fp4"
                                      : "it has two quant_states, nf4 and fp4");
  }
  ASSIGN_OR_RETURN(const Tensor* text,
                   parts.Get(absl::StrCat(AbslView(kState), nf4 != nullptr ? "nf4" : "fp4"), {DType::kUInt8}, {-1}));
  if (text->elements() > static_cast<int64_t>(kMaxState)) {
    return parts.Error(absl::StrCat("quant_state has ", text->elements(), " bytes; at most ", kMaxState, " are read"));
  }
  const std::string_view bytes(reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size());
  // The parser recurses no deeper than the text is long.
  const nlohmann::json json = nlohmann::json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return parts.Error("quant_state is not a JSON object");
  const std::set<std::string> known = {"quant_type",   "blocksize",     "dtype",           "shape",
                                       "nested_dtype", "nested_offset", "nested_blocksize"};
  for (const auto& [key, value] : json.items()) {
    if (!known.contains(key)) return parts.Error(absl::StrCat("quant_state has an unknown key ", Quoted(key)));
  }
  QuantState s;
  s.fp4 = fp4 != nullptr;
  const auto type = json.find("quant_type");
  if (type == json.end() || *type != (s.fp4 ? "fp4" : "nf4")) {
    return parts.Error("quant_state: quant_type is not the one of its name");
  }
  const auto block = json.find("blocksize");
  const auto shape = json.find("shape");
  if (block == json.end() || shape == json.end() || !shape->is_array() || shape->size() != 2) {
    return parts.Error("quant_state needs blocksize and a shape of two numbers");
  }
  ASSIGN_OR_RETURN(s.block_size, PositiveInt(parts, *block, "blocksize"));
  ASSIGN_OR_RETURN(s.rows, PositiveInt(parts, (*shape)[0], "shape"));
  ASSIGN_OR_RETURN(s.cols, PositiveInt(parts, (*shape)[1], "shape"));
  if (s.block_size < 32 || s.block_size > 4096 || (s.block_size & (s.block_size - 1)) != 0) {
    return parts.Error(absl::StrCat("quant_state: blocksize ", s.block_size, " is not a power of two from 32 to 4096"));
  }
  if (!ElementCount(Shape{s.rows, s.cols}).ok()) return parts.Error("quant_state: the shape is too large");
  s.nested = json.contains("nested_blocksize") || json.contains("nested_offset");
  if (!s.nested) return s;
  const auto nested_block = json.find("nested_blocksize");
  const auto offset = json.find("nested_offset");
  if (nested_block == json.end() || offset == json.end() || !offset->is_number() ||
      !std::isfinite(offset->get<float>())) {
    return parts.Error("quant_state needs nested_blocksize and a finite nested_offset together");
  }
  ASSIGN_OR_RETURN(s.nested_block, PositiveInt(parts, *nested_block, "nested_blocksize"));
  s.nested_offset = offset->get<float>();
  return s;
}

absl::StatusOr<WeightMatrix> Read4Bit(const LayerParts& parts) {
  ASSIGN_OR_RETURN(const QuantState s, ReadState(parts));
  CodebookMatrix w{.rows = s.rows, .cols = s.cols, .block_size = s.block_size, .fp4 = s.fp4};
  const int64_t count = s.rows * s.cols;
  // bnb_4bit_quant_storage: the same bytes may be called words of another type.
  const Tensor* packed = parts.Find(".weight");
  if (packed->dtype() == DType::kUInt8 || packed->rank() != 2 || packed->dim(1) != 1 ||
      static_cast<int64_t>(packed->bytes().size()) != (count + 1) / 2) {
    ASSIGN_OR_RETURN(packed, parts.Get(".weight", {DType::kUInt8}, {(count + 1) / 2, 1}));
  }
  ASSIGN_OR_RETURN(w.codebook, parts.Floats(".weight.quant_map", {16}));
  if (s.nested) {
    const int64_t nested = (w.blocks() + s.nested_block - 1) / s.nested_block;
    w.nested_block = s.nested_block;
    w.nested_offset = s.nested_offset;
    ASSIGN_OR_RETURN(const Tensor* codes, parts.Get(".weight.absmax", {DType::kUInt8}, {w.blocks()}));
    ASSIGN_OR_RETURN(w.nested_absmax, parts.Floats(".weight.nested_absmax", {nested}));
    ASSIGN_OR_RETURN(w.nested_map, parts.Floats(".weight.nested_quant_map", {256}));
    const auto* bytes = reinterpret_cast<const uint8_t*>(codes->bytes().data());
    w.nested_codes.assign(bytes, bytes + w.blocks());
    w.absmax.resize(static_cast<size_t>(w.blocks()));
    for (size_t b = 0; b < w.absmax.size(); ++b) {
      w.absmax[b] =
          w.nested_map[w.nested_codes[b]] * w.nested_absmax[b / static_cast<size_t>(w.nested_block)] + w.nested_offset;
    }
  } else {
    ASSIGN_OR_RETURN(w.absmax, parts.Floats(".weight.absmax", {w.blocks()}));
  }
  w.codes.resize(static_cast<size_t>(count));
  UnpackHighFirst({reinterpret_cast<const uint8_t*>(packed->bytes().data()), packed->bytes().size()}, w.codes);
  return WeightMatrix(std::move(w));
}

absl::StatusOr<WeightMatrix> Read8Bit(const LayerParts& parts) {
  ASSIGN_OR_RETURN(const Tensor* weight, parts.Get(".weight", {DType::kInt8}, {-1, -1}));
  GroupedMatrix w{.rows = weight->dim(0), .cols = weight->dim(1), .bits = 8, .group_size = weight->dim(1)};
  if (parts.Find(".weight_format") != nullptr) {
    ASSIGN_OR_RETURN(const Tensor* format, parts.Get(".weight_format", {DType::kUInt8}, {}));
    if (format->bytes()[0] != std::byte{0}) {
      return parts.Error(
          absl::StrCat("weight_format is ", std::to_integer<int>(format->bytes()[0]), "; only 0 (row-major) is read"));
    }
  }
  ASSIGN_OR_RETURN(w.scales, parts.Floats(".SCB", {w.rows}));
  for (float& s : w.scales) s = s / 127.0f;
  const auto* bytes = reinterpret_cast<const int8_t*>(weight->bytes().data());
  w.codes.resize(static_cast<size_t>(w.rows * w.cols));
  for (size_t i = 0; i < w.codes.size(); ++i) w.codes[i] = static_cast<uint8_t>(bytes[i] + 128);
  return WeightMatrix(std::move(w));
}

}  // namespace

absl::StatusOr<std::optional<WeightMatrix>> ReadBitsandbytesLinear(const Checkpoint& checkpoint,
                                                                   std::string_view module) {
  const LayerParts parts(checkpoint, module);
  const Tensor* weight = parts.Find(".weight");
  if (weight == nullptr) {
    if (parts.Find(".weight.absmax") != nullptr || parts.Find(".SCB") != nullptr) {
      return parts.Error("it has absmax or SCB but no weight");
    }
    return std::nullopt;
  }
  if (IsFloat(weight->dtype()) && parts.Find(".weight.absmax") == nullptr) return std::nullopt;
  absl::StatusOr<WeightMatrix> w =
      weight->dtype() == DType::kInt8 || parts.Find(".SCB") != nullptr ? Read8Bit(parts) : Read4Bit(parts);
  if (!w.ok()) return w.status();
  if (const absl::Status s = Validate(*w); !s.ok()) return parts.Error(StdView(s.message()));
  return *std::move(w);
}

}  // namespace quant
