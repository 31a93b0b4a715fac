// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/bitsandbytes/bitsandbytes.h"
#include "worker/formats/huggingface/layer_parts.h"
#include "worker/formats/huggingface/quantized_writer.h"
#include "worker/tensor/codebooks.h"
#include "worker/tensor/packing.h"

namespace quant {
namespace {

enum class Kind { kUnknown, kNormalFloat4, kFloat4, kInteger8 };

// SCB with SCB / 127 == scale where there is one.
float Scb(float scale) {
  const float about = scale * 127.0f;
  for (const float s : {about, std::nextafter(about, 0.0f), std::nextafter(about, 2 * about)}) {
    if (s / 127.0f == scale) return s;
  }
  return about;
}

class BitsandbytesWriter : public QuantizedWriter {
 public:
  BitsandbytesWriter(const Checkpoint& source, const std::filesystem::path& folder, const ExportOptions& options)
      : QuantizedWriter(CheckpointFormat::kBitsandbytes, source, folder, options) {}
  using QuantizedWriter::Start;

 protected:
  absl::StatusOr<std::vector<NamedTensor>> Pack(const std::string& module, const WeightMatrix& weights) override {
    const auto* codebook = std::get_if<CodebookMatrix>(&weights);
    const Kind kind = codebook == nullptr ? Kind::kInteger8 : codebook->fp4 ? Kind::kFloat4 : Kind::kNormalFloat4;
    const bool nested = codebook != nullptr && !codebook->nested_codes.empty();
    if (kind_ == Kind::kUnknown) {
      kind_ = kind;
      nested_ = nested;
    }
    if (kind != kind_ || nested != nested_) {
      return LayerError(module, "its quantization is of another kind than that of the layers before");
    }
    return codebook != nullptr ? Pack4Bit(module, *codebook) : Pack8Bit(module, std::get<GroupedMatrix>(weights));
  }

  nlohmann::ordered_json Config() const override {
    const bool eight = kind_ == Kind::kInteger8;
    nlohmann::ordered_json skipped = nullptr;
    if (const std::vector<std::string> modules = Unquantized(); !modules.empty()) skipped = modules;
    return {{"quant_method", "bitsandbytes"},
            {"load_in_4bit", !eight},
            {"load_in_8bit", eight},
            {"_load_in_4bit", !eight},
            {"_load_in_8bit", eight},
            {"bnb_4bit_quant_type", kind_ == Kind::kFloat4 ? "fp4" : "nf4"},
            {"bnb_4bit_use_double_quant", nested_},
            {"bnb_4bit_compute_dtype", WeightType() == DType::kFloat16 ? "float16" : "bfloat16"},
            {"bnb_4bit_quant_storage", "uint8"},
            {"llm_int8_threshold", 6.0},  // Transformers wants a float
            {"llm_int8_skip_modules", skipped},
            {"llm_int8_enable_fp32_cpu_offload", false},
            {"llm_int8_has_fp16_weight", false}};
  }

 private:
  // The dtype of the original weights, by the first of them that is there.
  DType WeightType() const {
    for (const WrittenLayer& l : layers()) {
      const Tensor* w = source().Find(absl::StrCat(l.module, ".weight"));
      if (w != nullptr && IsFloat(w->dtype()) && w->dtype() != DType::kFloat64) return w->dtype();
    }
    return DType::kBFloat16;
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack4Bit(const std::string& module, const CodebookMatrix& w) {
    const std::span<const float> table = w.fp4 ? Fp4Table() : Nf4Table();
    if (!std::equal(table.begin(), table.end(), w.codebook.begin())) {
      return LayerError(module, "its codebook is not bitsandbytes' table, which kernels have built in");
    }
    ASSIGN_OR_RETURN(Tensor packed, Tensor::Allocate(DType::kUInt8, {static_cast<int64_t>(w.codes.size() + 1) / 2, 1}));
    const std::span<uint8_t> bytes = packed.mutable_data<uint8_t>();
    const std::span<const uint8_t> codes = w.codes;
    constexpr size_t kPiece = 1 << 16;
#pragma omp parallel for schedule(static)
    for (size_t begin = 0; begin < codes.size(); begin += kPiece) {
      PackHighFirst(codes.subspan(begin, std::min(kPiece, codes.size() - begin)), bytes.subspan(begin / 2));
    }
    if (w.codes.size() % 2 == 1 && !w.fp4) bytes.back() = static_cast<uint8_t>(bytes.back() | 7);  // 7 means 0 in NF4
    const std::string weight = absl::StrCat(module, ".weight");
    const auto length = [](const auto& v) { return static_cast<int64_t>(v.size()); };
    const char* dtype = WeightType() == DType::kFloat16    ? "float16"
                        : WeightType() == DType::kBFloat16 ? "bfloat16"
                                                           : "float32";
    // Python's separators, as json.dumps has them.
    std::string state = absl::StrCat("{\"quant_type\": \"", w.fp4 ? "fp4" : "nf4", "\", \"blocksize\": ", w.block_size,
                                     ", \"dtype\": \"", dtype, "\", \"shape\": [", w.rows, ", ", w.cols, "]");
    std::vector<NamedTensor> out = {{weight, std::move(packed)}};
    if (nested_) {
      out.push_back({weight + ".absmax", Tensor::Of<uint8_t>({length(w.nested_codes)}, w.nested_codes)});
      out.push_back({weight + ".nested_absmax", Tensor::Of<float>({length(w.nested_absmax)}, w.nested_absmax)});
      out.push_back({weight + ".nested_quant_map", Tensor::Of<float>({length(w.nested_map)}, w.nested_map)});
      absl::StrAppend(&state, ", \"nested_blocksize\": ", w.nested_block, ", \"nested_dtype\": \"float32\"",
                      ", \"nested_offset\": ", nlohmann::json(static_cast<double>(w.nested_offset)).dump());
    } else {
      out.push_back({weight + ".absmax", Tensor::Of<float>({length(w.absmax)}, w.absmax)});
    }
    state += "}";
    out.push_back({weight + ".quant_map", Tensor::Of<float>({16}, table)});
    out.push_back({absl::StrCat(weight, ".quant_state.bitsandbytes__", w.fp4 ? "fp4" : "nf4"),
                   Tensor::Of<uint8_t>({length(state)}, std::vector<uint8_t>(state.begin(), state.end()))});
    return out;
  }

  absl::StatusOr<std::vector<NamedTensor>> Pack8Bit(const std::string& module, const GroupedMatrix& w) {
    ASSIGN_OR_RETURN(Tensor weight, Tensor::Allocate(DType::kInt8, {w.rows, w.cols}));
    const std::span<int8_t> codes = weight.mutable_data<int8_t>();
    for (size_t i = 0; i < w.codes.size(); ++i) codes[i] = static_cast<int8_t>(w.codes[i] - 128);
    std::vector<float> scb(w.scales.size());
    for (size_t i = 0; i < scb.size(); ++i) scb[i] = Scb(w.scales[i]);
    ASSIGN_OR_RETURN(Tensor format, Tensor::Allocate(DType::kUInt8, {}));  // 0: row-major
    return std::vector<NamedTensor>{{absl::StrCat(module, ".weight"), std::move(weight)},
                                    {absl::StrCat(module, ".SCB"), Tensor::Of<float>({w.rows}, scb)},
                                    {absl::StrCat(module, ".weight_format"), std::move(format)}};
  }

  Kind kind_ = Kind::kUnknown;
  bool nested_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateBitsandbytesWriter(const Checkpoint& source,
                                                                           const std::filesystem::path& folder,
                                                                           const ExportOptions& options) {
  auto writer = std::make_unique<BitsandbytesWriter>(source, folder, options);
  RETURN_IF_ERROR(writer->Start());
  return writer;
}

}  // namespace quant
