// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/gptq/gptq.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/formats/huggingface/quantized_writer.h"

namespace quant {
namespace {

// Raises zero point 0 to 1 by adding 1 to the codes of its group too, which means the same, where no code is the
// largest. INVALID_ARGUMENT where one is.
absl::Status RaiseZeroPoints(const std::string& module, GroupedMatrix* w) {
  if (std::find(w->zeros.begin(), w->zeros.end(), 0.0f) == w->zeros.end()) return absl::OkStatus();
  const int64_t groups = w->groups();
  const uint8_t most = static_cast<uint8_t>((1 << w->bits) - 1);
  for (int64_t r = 0; r < w->rows; ++r) {
    uint8_t* codes = w->codes.data() + r * w->cols;
    float* zeros = w->zeros.data() + r * groups;
    for (int64_t c = 0; c < w->cols; ++c) {
      const int64_t g = w->group(c);
      if (zeros[g] != 0) continue;
      if (codes[c] == most) {
        return LayerError(module,
                          absl::StrCat("zero point 0 in group ", g, " of output ", r,
                                       " cannot be written: the format gptq stores zero point - 1 without a sign."
                                       " Use zero points from 1, a symmetric grid, or the format gptq_v2"));
      }
      ++codes[c];
    }
    for (int64_t g = 0; g < groups; ++g) zeros[g] = std::max(zeros[g], 1.0f);
  }
  return absl::OkStatus();
}

// Matches exactly the module, in the regular expressions of GPTQModel and vLLM.
std::string ExactPattern(const char* sign, const std::string& module) {
  std::string out = absl::StrCat(sign, "^");
  for (const char c : module) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!plain) out += '\\';
    out += c;
  }
  return out + "$";
}

class GptqWriter : public QuantizedWriter {
 public:
  GptqWriter(const Checkpoint& source, const std::filesystem::path& folder, const ExportOptions& options,
             GptqVersion version)
      : QuantizedWriter(version == GptqVersion::kV1 ? CheckpointFormat::kGptq : CheckpointFormat::kGptqV2, source,
                        folder, options),
        version_(version) {}
  using QuantizedWriter::Start;

 protected:
  absl::StatusOr<std::vector<NamedTensor>> Pack(const std::string& module, const WeightMatrix& weights) override {
    const auto& given = std::get<GroupedMatrix>(weights);
    GroupedMatrix raised;
    const GroupedMatrix* w = &given;
    if (version_ == GptqVersion::kV1 && std::find(given.zeros.begin(), given.zeros.end(), 0.0f) != given.zeros.end()) {
      raised = given;
      RETURN_IF_ERROR(RaiseZeroPoints(module, &raised));
      w = &raised;
    }
    const int64_t groups = w->groups(), per_row = w->rows * w->bits / 32;
    ASSIGN_OR_RETURN(Tensor qweight, PackDown(w->codes, w->rows, w->cols, w->bits));
    const int subtract = version_ == GptqVersion::kV1 ? 1 : 0;
    std::vector<uint32_t> zero_words(static_cast<size_t>(groups * per_row));
    std::vector<float> scales(static_cast<size_t>(groups * w->rows));
    std::vector<uint8_t> zeros(static_cast<size_t>(w->rows));
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t r = 0; r < w->rows; ++r) {
        zeros[static_cast<size_t>(r)] = static_cast<uint8_t>(static_cast<int>(w->zero(r, g)) - subtract);
        scales[static_cast<size_t>(g * w->rows + r)] = w->scales[static_cast<size_t>(r * groups + g)];
      }
      PackWords(zeros, w->bits,
                std::span(zero_words).subspan(static_cast<size_t>(g * per_row), static_cast<size_t>(per_row)));
    }
    ASSIGN_OR_RETURN(Tensor qzeros, WordTensor(zero_words, {groups, per_row}));
    ASSIGN_OR_RETURN(Tensor stored_scales, ExactFloat16(module, scales, {groups, w->rows}));
    std::vector<int32_t> g_idx(static_cast<size_t>(w->cols));
    for (int64_t c = 0; c < w->cols; ++c) g_idx[static_cast<size_t>(c)] = static_cast<int32_t>(w->group(c));
    return std::vector<NamedTensor>{{absl::StrCat(module, ".qweight"), std::move(qweight)},
                                    {absl::StrCat(module, ".qzeros"), std::move(qzeros)},
                                    {absl::StrCat(module, ".scales"), std::move(stored_scales)},
                                    {absl::StrCat(module, ".g_idx"), Tensor::Of<int32_t>({w->cols}, g_idx)}};
  }

  absl::StatusOr<Tensor> PackBias(const Tensor& bias) override { return RoundedFloat16(bias); }

  nlohmann::ordered_json Config() const override {
    const LayerScheme common = CommonScheme(layers(), options());
    bool symmetric = layers().empty() ? options().symmetric : true;
    bool dynamic_order = false, lm_head = false;
    nlohmann::ordered_json dynamic = nlohmann::ordered_json::object();
    for (const WrittenLayer& l : layers()) {
      symmetric = symmetric && l.spec.symmetric;
      dynamic_order = dynamic_order || l.spec.dynamic_order;
      lm_head = lm_head || l.module == "lm_head";
      const LayerScheme own = SchemeOf(l, common);
      if (own == common) continue;
      dynamic[ExactPattern("+:", l.module)] = {{"bits", own.bits}, {"group_size", own.group_size}};
    }
    for (const std::string& module : Unquantized()) {
      if (module != "lm_head") dynamic[ExactPattern("-:", module)] = nlohmann::ordered_json::object();
    }
    const char* name = version_ == GptqVersion::kV1 ? "gptq" : "gptq_v2";
    nlohmann::ordered_json block = {
        {"bits", common.bits},
        {"group_size", common.group_size},
        {"sym", symmetric},
        {"desc_act", dynamic_order},
        {"static_groups", options().static_groups},
        {"true_sequential", options().true_sequential},
        {"damp_percent", options().damping},
        {"lm_head", lm_head},
        {"quant_method", "gptq"},
        {"checkpoint_format", name},
        {"format", name},
        {"pack_dtype", "int32"},
        {"meta", {{"quantizer", nlohmann::ordered_json::array({ToolName()})}, {"method", options().method}}}};
    if (!dynamic.empty()) block["dynamic"] = std::move(dynamic);
    return block;
  }

  std::vector<std::string> ConfigFiles() const override { return {"quantize_config.json"}; }

 private:
  GptqVersion version_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateGptqWriter(const Checkpoint& source,
                                                                   const std::filesystem::path& folder,
                                                                   const ExportOptions& options, GptqVersion version) {
  auto writer = std::make_unique<GptqWriter>(source, folder, options, version);
  RETURN_IF_ERROR(writer->Start());
  return writer;
}

}  // namespace quant
