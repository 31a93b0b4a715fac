// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/quantized_writer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/atomic_file.h"

namespace quant {
namespace {

// Embeddings are two-dimensional but no linear layers.
bool IsEmbedding(std::string_view module) {
  return module.find("embed") != std::string_view::npos || module.ends_with("wte") || module.ends_with("wpe");
}

absl::Status OfLayer(std::string_view module, const absl::Status& s) {
  return absl::Status(s.code(), absl::StrCat("layer ", Quoted(module), ": ", s.message()));
}

bool WholeRow(const WrittenLayer& l) { return !l.spec.codebook && l.spec.group_size >= l.cols; }

}  // namespace

LayerScheme CommonScheme(std::span<const WrittenLayer> layers, const ExportOptions& options) {
  bool some_group = false;
  bool fits_recipe = options.group_size > 0;
  for (const WrittenLayer& l : layers) {
    some_group = some_group || !WholeRow(l);
    fits_recipe = fits_recipe && l.spec.group_size == options.group_size;
  }
  std::map<LayerScheme, int64_t> count;
  for (const WrittenLayer& l : layers) {
    const bool row = WholeRow(l) && !fits_recipe && !(some_group && l.spec.group_size == options.group_size);
    ++count[{.bits = l.spec.bits, .group_size = row ? -1 : l.spec.group_size}];
  }
  LayerScheme best{.bits = options.bits, .group_size = options.group_size};
  int64_t most = count.contains(best) ? count[best] : 0;
  for (const auto& [scheme, n] : count) {
    if (n > most) std::tie(best, most) = std::pair(scheme, n);
  }
  return best;
}

LayerScheme SchemeOf(const WrittenLayer& layer, const LayerScheme& common) {
  const LayerScheme own{.bits = layer.spec.bits, .group_size = layer.spec.group_size};
  if (own == common || !WholeRow(layer)) return own;
  return {.bits = own.bits, .group_size = -1};
}

QuantizedWriter::QuantizedWriter(CheckpointFormat format, const Checkpoint& source, std::filesystem::path folder,
                                 ExportOptions options)
    : format_(format), source_(source), folder_(std::move(folder)), options_(std::move(options)) {}

absl::Status QuantizedWriter::Start() {
  RETURN_IF_ERROR(PrepareFolder(source_, folder_));
  for (std::string& name : FloatTensorNames(source_)) known_.insert(std::move(name));
  constexpr int64_t kPartsOfLayer = 6;
  ASSIGN_OR_RETURN(tensors_,
                   SafetensorsWriter::Create(
                       folder_, {.expected_tensors = kPartsOfLayer * static_cast<int64_t>(source_.tensors().size())}));
  return absl::OkStatus();
}

absl::Status QuantizedWriter::Account(const std::string& name) {
  if (given_.insert(name).second) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " is given twice"));
}

absl::Status QuantizedWriter::AddTensor(std::string_view name, const Tensor& tensor) {
  RETURN_IF_ERROR(Account(std::string(name)));
  constexpr std::string_view kWeight = ".weight";
  if (tensor.rank() == 2 && IsFloat(tensor.dtype()) && name.ends_with(kWeight)) {
    const std::string_view module = name.substr(0, name.size() - kWeight.size());
    if (!IsEmbedding(module)) unquantized_.emplace(module);
  }
  return tensors_->Add(name, tensor);
}

absl::Status QuantizedWriter::AddLinear(std::string_view module, const WeightMatrix& weights, const Tensor* bias) {
  if (const absl::Status s = Validate(weights); !s.ok()) return OfLayer(module, s);
  const std::string name(module);
  WrittenLayer layer{.module = name, .spec = SpecOf(weights), .rows = Rows(weights), .cols = Cols(weights)};
  if (const absl::Status s = CheckFormat(format_, layer.spec, layer.rows, layer.cols); !s.ok()) {
    return OfLayer(module, s);
  }
  // Loaders look for layers where the architecture has them; a tied lm_head, above all, is no layer of its own.
  if (!known_.contains(absl::StrCat(name, ".weight"))) {
    return OfLayer(module, absl::InvalidArgumentError(
                               absl::StrCat("the source has no tensor ", Quoted(absl::StrCat(name, ".weight")),
                                            "; a tied output layer cannot be quantized apart from the embedding")));
  }
  RETURN_IF_ERROR(Account(absl::StrCat(name, ".weight")));
  layers_.push_back(layer);
  ASSIGN_OR_RETURN(std::vector<NamedTensor> parts, Pack(name, weights));
  if (bias != nullptr) {
    if (bias->rank() != 1 || bias->dim(0) != layer.rows || !IsFloat(bias->dtype())) {
      return OfLayer(module, absl::InvalidArgumentError(absl::StrCat("its bias is ", DTypeName(bias->dtype()),
                                                                     ShapeString(bias->shape()), ", not floats of [",
                                                                     layer.rows, "]")));
    }
    RETURN_IF_ERROR(Account(absl::StrCat(name, ".bias")));
    absl::StatusOr<Tensor> packed = PackBias(*bias);
    if (!packed.ok()) return OfLayer(module, packed.status());
    parts.push_back({absl::StrCat(name, ".bias"), *std::move(packed)});
  }
  return tensors_->AddTogether(parts);
}

std::vector<std::string> QuantizedWriter::Unquantized() const {
  std::set<std::string> names = unquantized_;
  names.insert(options_.unquantized.begin(), options_.unquantized.end());
  names.insert("lm_head");
  for (const WrittenLayer& l : layers_) names.erase(l.module);
  return {names.begin(), names.end()};
}

std::string QuantizedWriter::ToolName() const {
  return absl::StrCat("quantd:", options_.tool_version.empty() ? "unversioned" : options_.tool_version);
}

absl::Status QuantizedWriter::Finish() {
  for (const std::string& name : known_) {
    if (given_.contains(name)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("tensor ", Quoted(name), " of the source checkpoint was never written"));
  }
  RETURN_IF_ERROR(tensors_->Finish());
  const nlohmann::ordered_json block = Config();
  nlohmann::json config = source_.config();
  config["quantization_config"] = block;
  std::vector<std::string> written = {"config.json", "quantize_config.json", "quant_config.json"};
  RETURN_IF_ERROR(CopyOtherFiles(source_, folder_, written));
  for (const std::string& file : ConfigFiles()) {
    ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::Create(folder_ / file));
    RETURN_IF_ERROR(out.Write(block.dump(2) + "\n"));
    RETURN_IF_ERROR(out.Commit());
  }
  // Last, because a folder without config.json is no checkpoint.
  ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::Create(folder_ / "config.json"));
  RETURN_IF_ERROR(out.Write(config.dump(2) + "\n"));
  return out.Commit();
}

absl::StatusOr<Tensor> RoundedFloat16(const Tensor& bias) {
  ASSIGN_OR_RETURN(Tensor out, Cast(bias, DType::kFloat16));
  ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(out));
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("entry ", i, " of its bias exceeds float16, which the format wants"));
  }
  return out;
}

absl::StatusOr<Tensor> ExactFloat16(const std::string& module, std::span<const float> values, Shape shape) {
  ASSIGN_OR_RETURN(Tensor out, Tensor::Allocate(DType::kFloat16, std::move(shape)));
  const std::span<uint16_t> bits = out.mutable_data<uint16_t>();
  for (size_t i = 0; i < values.size(); ++i) {
    bits[i] = FloatToFloat16(values[i]);
    if (Float16ToFloat(bits[i]) == values[i]) continue;
    return OfLayer(module, absl::InvalidArgumentError(absl::StrCat(
                               "scale ", i, " is ", values[i],
                               ", which is no float16 number; round scales to 16 bits before codes are chosen")));
  }
  return out;
}

}  // namespace quant
