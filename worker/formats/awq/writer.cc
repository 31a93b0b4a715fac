// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/awq/awq.h"
#include "worker/formats/awq/layout.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/formats/huggingface/quantized_writer.h"

namespace quant {
namespace {

class AwqWriter : public QuantizedWriter {
 public:
  AwqWriter(const Checkpoint& source, const std::filesystem::path& folder, const ExportOptions& options)
      : QuantizedWriter(CheckpointFormat::kAwq, source, folder, options) {}
  using QuantizedWriter::Start;

 protected:
  absl::StatusOr<std::vector<NamedTensor>> Pack(const std::string& module, const WeightMatrix& weights) override {
    const auto& w = std::get<GroupedMatrix>(weights);
    if (layers().front().spec.group_size != w.group_size) {
      return LayerError(module, absl::StrCat("group size ", w.group_size, ", but ", layers().front().module, " has ",
                                             layers().front().spec.group_size, ": awq has one group size for all"));
    }
    const int64_t groups = w.groups(), per_row = w.rows / 8;
    // Eight rows at a time: a column of words.
    std::vector<uint32_t> words(static_cast<size_t>(w.cols * per_row));
    std::vector<uint32_t> zeros(static_cast<size_t>(groups * per_row));
    std::vector<float> scales(static_cast<size_t>(groups * w.rows));
    for (int64_t at = 0; at < per_row; ++at) {
      for (int i = 0; i < 8; ++i) {
        const int64_t r = 8 * at + kAwqOrder[i];
        const uint8_t* codes = w.codes.data() + r * w.cols;
        for (int64_t c = 0; c < w.cols; ++c) {
          words[static_cast<size_t>(c * per_row + at)] |= static_cast<uint32_t>(codes[c]) << (4 * i);
        }
        for (int64_t g = 0; g < groups; ++g) {
          zeros[static_cast<size_t>(g * per_row + at)] |= static_cast<uint32_t>(w.zero(r, g)) << (4 * i);
          scales[static_cast<size_t>(g * w.rows + r)] = w.scales[static_cast<size_t>(r * groups + g)];
        }
      }
    }
    ASSIGN_OR_RETURN(Tensor qweight, WordTensor(words, {w.cols, per_row}));
    ASSIGN_OR_RETURN(Tensor qzeros, WordTensor(zeros, {groups, per_row}));
    ASSIGN_OR_RETURN(Tensor stored_scales, ExactFloat16(module, scales, {groups, w.rows}));
    return std::vector<NamedTensor>{{absl::StrCat(module, ".qweight"), std::move(qweight)},
                                    {absl::StrCat(module, ".qzeros"), std::move(qzeros)},
                                    {absl::StrCat(module, ".scales"), std::move(stored_scales)}};
  }

  absl::StatusOr<Tensor> PackBias(const Tensor& bias) override { return RoundedFloat16(bias); }

  nlohmann::ordered_json Config() const override {
    bool lm_head = false;
    for (const WrittenLayer& l : layers()) lm_head = lm_head || l.module == "lm_head";
    nlohmann::ordered_json skipped = nullptr;
    if (const std::vector<std::string> modules = Unquantized(); modules != std::vector<std::string>{"lm_head"}) {
      skipped = modules;
    }
    return {{"quant_method", "awq"},
            {"bits", 4},
            {"group_size", layers().empty() ? options().group_size : layers().front().spec.group_size},
            {"zero_point", true},
            {"version", "gemm"},
            {"lm_head", lm_head},
            {"modules_to_not_convert", skipped}};
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateAwqWriter(const Checkpoint& source,
                                                                  const std::filesystem::path& folder,
                                                                  const ExportOptions& options) {
  auto writer = std::make_unique<AwqWriter>(source, folder, options);
  RETURN_IF_ERROR(writer->Start());
  return writer;
}

}  // namespace quant
