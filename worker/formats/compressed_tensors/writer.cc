// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/compressed_tensors/compressed_tensors.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/formats/huggingface/quantized_writer.h"

namespace quant {
namespace {

using Json = nlohmann::ordered_json;

// F16 where that is exact, else BF16, else F32.
absl::StatusOr<Tensor> SmallestExact(const std::vector<float>& values, Shape shape) {
  Tensor wide = Tensor::Of<float>(std::move(shape), values);
  const auto all = [&](auto narrow, auto widen) {
    return std::all_of(values.begin(), values.end(), [&](float v) { return widen(narrow(v)) == v; });
  };
  if (all(FloatToFloat16, Float16ToFloat)) return Cast(wide, DType::kFloat16);
  if (all(FloatToBFloat16, BFloat16ToFloat)) return Cast(wide, DType::kBFloat16);
  return wide;
}

std::string ExactPattern(const std::string& module) {
  std::string out = "re:^";
  for (const char c : module) {
    if (c == '.') out += '\\';
    out += c;
  }
  return out + "$";
}

// One entry of config_groups.
struct Grid {
  int bits = 4;
  int64_t group_size = 128;  // -1: channel
  bool symmetric = true;
  bool dynamic_order = false;
  friend auto operator<=>(const Grid&, const Grid&) = default;
};

Json WeightArgs(const Grid& grid) {
  Json group_size = nullptr, order = nullptr;
  if (grid.group_size > 0) group_size = grid.group_size;
  if (grid.dynamic_order) order = "group";
  return {{"num_bits", grid.bits},       {"type", "int"},
          {"symmetric", grid.symmetric}, {"strategy", grid.group_size > 0 ? "group" : "channel"},
          {"group_size", group_size},    {"dynamic", false},
          {"actorder", order},           {"block_structure", nullptr},
          {"observer", "minmax"},        {"observer_kwargs", Json::object()}};
}

Json ActivationArgs() {
  return {{"num_bits", 8},         {"type", "int"},
          {"symmetric", true},     {"strategy", "token"},
          {"group_size", nullptr}, {"dynamic", true},
          {"actorder", nullptr},   {"block_structure", nullptr},
          {"observer", nullptr},   {"observer_kwargs", Json::object()}};
}

class CompressedTensorsWriter : public QuantizedWriter {
 public:
  CompressedTensorsWriter(const Checkpoint& source, const std::filesystem::path& folder, const ExportOptions& options)
      : QuantizedWriter(CheckpointFormat::kCompressedTensors, source, folder, options) {}
  using QuantizedWriter::Start;

 protected:
  absl::StatusOr<std::vector<NamedTensor>> Pack(const std::string& module, const WeightMatrix& weights) override {
    const auto& w = std::get<GroupedMatrix>(weights);
    ASSIGN_OR_RETURN(Tensor scales, SmallestExact(w.scales, {w.rows, w.groups()}));
    std::vector<NamedTensor> out = {{absl::StrCat(module, ".weight_scale"), std::move(scales)}};
    if (options().int8_activations) {
      if (w.bits != 8 || !w.symmetric() || w.group_size < w.cols || !w.group_of.empty()) {
        return LayerError(module, "weights for 8-bit activations have 8 bits, are symmetric and have group size -1");
      }
      ASSIGN_OR_RETURN(Tensor weight, Tensor::Allocate(DType::kInt8, {w.rows, w.cols}));
      const std::span<int8_t> codes = weight.mutable_data<int8_t>();
      for (size_t i = 0; i < w.codes.size(); ++i) codes[i] = static_cast<int8_t>(w.codes[i] - 128);
      out.push_back({absl::StrCat(module, ".weight"), std::move(weight)});
      return out;
    }
    const int64_t per_word = 32 / w.bits;
    ASSIGN_OR_RETURN(Tensor weight, PackRows(w.codes, w.rows, w.cols, w.bits));
    out.push_back({absl::StrCat(module, ".weight_packed"), std::move(weight)});
    out.push_back(
        {absl::StrCat(module, ".weight_shape"), Tensor::Of<int64_t>({2}, std::vector<int64_t>{w.rows, w.cols})});
    if (!w.symmetric()) {
      const int64_t groups = w.groups(), zero_words = (w.rows + per_word - 1) / per_word;
      std::vector<uint32_t> zeros(static_cast<size_t>(zero_words * groups));
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t g = 0; g < groups; ++g) {
          zeros[static_cast<size_t>(r / per_word * groups + g)] |= static_cast<uint32_t>(w.zero(r, g))
                                                                   << (r % per_word * w.bits);
        }
      }
      ASSIGN_OR_RETURN(Tensor stored, WordTensor(zeros, {zero_words, groups}));
      out.push_back({absl::StrCat(module, ".weight_zero_point"), std::move(stored)});
    }
    if (!w.group_of.empty()) {
      out.push_back({absl::StrCat(module, ".weight_g_idx"), Tensor::Of<int32_t>({w.cols}, w.group_of)});
    }
    return out;
  }

  Json Config() const override {
    const LayerScheme common = CommonScheme(layers(), options());
    std::map<Grid, std::vector<std::string>> modules;
    for (const WrittenLayer& l : layers()) {
      const LayerScheme own = SchemeOf(l, common);
      modules[{own.bits, own.group_size, l.spec.symmetric, l.spec.dynamic_order}].push_back(l.module);
    }
    // The largest group stands for the class Linear, the others name their modules.
    auto most = modules.begin();
    for (auto it = modules.begin(); it != modules.end(); ++it) {
      if (it->second.size() > most->second.size()) most = it;
    }
    Json groups = Json::object();
    const auto add = [&](const Grid& grid, std::vector<std::string> targets) {
      Json activations = nullptr;
      if (options().int8_activations) activations = ActivationArgs();
      groups[absl::StrCat("group_", groups.size())] = {{"targets", std::move(targets)},
                                                       {"weights", WeightArgs(grid)},
                                                       {"input_activations", activations},
                                                       {"output_activations", nullptr}};
    };
    if (most == modules.end()) {
      add({common.bits, common.group_size, options().symmetric, false}, {"Linear"});
    } else {
      add(most->first, {"Linear"});
    }
    for (auto it = modules.begin(); it != modules.end(); ++it) {
      if (it == most) continue;
      std::vector<std::string> targets;
      for (const std::string& m : it->second) targets.push_back(ExactPattern(m));
      add(it->first, std::move(targets));
    }
    return {{"quant_method", "compressed-tensors"},
            {"format", options().int8_activations ? "int-quantized" : "pack-quantized"},
            {"quantization_status", "compressed"},
            {"global_compression_ratio", nullptr},
            {"kv_cache_scheme", nullptr},
            {"ignore", Unquantized()},
            {"config_groups", groups}};
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateCompressedTensorsWriter(const Checkpoint& source,
                                                                                const std::filesystem::path& folder,
                                                                                const ExportOptions& options) {
  auto writer = std::make_unique<CompressedTensorsWriter>(source, folder, options);
  RETURN_IF_ERROR(writer->Start());
  return writer;
}

}  // namespace quant
