// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/gguf_writer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/gguf/architecture.h"
#include "worker/formats/gguf/blocks.h"
#include "worker/formats/gguf/gguf_file.h"
#include "worker/formats/gguf/vocabulary.h"
#include "worker/formats/huggingface/layer_parts.h"

namespace quant {
namespace {

constexpr char kFileType[] = "general.file_type";
constexpr char kRopeFactors[] = "rope_freqs.weight";
constexpr size_t kWriteBytes = size_t{1} << 20;

// general.file_type of a file most of whose layers have the type.
uint32_t FileType(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return 0;
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ4_1:
      return 3;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBF16:
      return 32;
  }
  return 0;
}

class GgufWriter : public CheckpointWriter {
 public:
  GgufWriter(GgufArchitecture architecture, GgufFile file)
      : architecture_(std::move(architecture)), file_(std::move(file)) {}

  absl::Status Start(std::vector<std::string> notes) {
    notes_ = std::move(notes);
    if (architecture_.rope_factors.empty()) return absl::OkStatus();
    const std::vector<float>& f = architecture_.rope_factors;
    RETURN_IF_ERROR(file_.Begin(kRopeFactors, {static_cast<int64_t>(f.size())}, GgufType::kF32));
    return file_.Write({reinterpret_cast<const char*>(f.data()), f.size() * sizeof(float)});
  }

  absl::Status AddTensor(std::string_view name, const Tensor& tensor) override {
    const std::optional<std::string> as = GgufTensorName(name);
    if (!as.has_value()) {
      return absl::UnimplementedError(absl::StrCat("llama.cpp has no tensor ", Quoted(name), " in this architecture"));
    }
    if (as->empty()) return absl::OkStatus();
    if (!IsFloat(tensor.dtype()) || tensor.rank() < 1 || tensor.rank() > 2) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " is ", DTypeName(tensor.dtype()),
                                                     ShapeString(tensor.shape()),
                                                     "; a vector or matrix of floats goes"
                                                     " into a GGUF file"));
    }
    // llama.cpp's kernels take norms and biases in F32.
    GgufType type = GgufType::kF32;
    if (tensor.rank() == 2 && tensor.dtype() == DType::kFloat16) type = GgufType::kF16;
    if (tensor.rank() == 2 && tensor.dtype() == DType::kBFloat16) type = GgufType::kBF16;
    RETURN_IF_ERROR(file_.Begin(*as, tensor.shape(), type));
    // Row by row; a vector has rows of one.
    const int64_t rows = tensor.dim(0), cols = tensor.rank() == 2 ? tensor.dim(1) : 1;
    const bool same = type != GgufType::kF32 || tensor.dtype() == DType::kFloat32;
    const size_t row_bytes = rows == 0 ? 0 : tensor.bytes().size() / static_cast<size_t>(rows);
    std::string out;
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<const std::byte> row =
          tensor.bytes().subspan(static_cast<size_t>(GgufSourceRow(architecture_, name, r)) * row_bytes, row_bytes);
      if (same) {
        out.append(reinterpret_cast<const char*>(row.data()), row.size());
      } else {
        ASSIGN_OR_RETURN(const Tensor one, Tensor::Borrow(tensor.dtype(), {cols}, row, nullptr));
        ASSIGN_OR_RETURN(const std::vector<float> values, ToFloat(one));
        out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
      }
      if (out.size() >= kWriteBytes) RETURN_IF_ERROR(file_.Write(std::exchange(out, {})));
    }
    return file_.Write(out);
  }

  absl::Status AddLinear(std::string_view module, const WeightMatrix& weights, const Tensor* bias) override {
    if (const absl::Status s = Validate(weights); !s.ok()) return LayerError(module, StdView(s.message()));
    const std::string name = absl::StrCat(AbslView(module), ".weight");
    const std::optional<std::string> as = GgufTensorName(name);
    if (!as.has_value() || as->empty()) {
      return absl::UnimplementedError(absl::StrCat("llama.cpp has no layer ", Quoted(module), " in this architecture"));
    }
    const GgufFit fit = FitGguf(weights);
    ++types_[fit.type];
    if (!fit.exact) Note(std::string(module), fit);
    RETURN_IF_ERROR(file_.Begin(*as, {Rows(weights), Cols(weights)}, fit.type));
    std::string out;
    for (int64_t r = 0; r < Rows(weights); ++r) {
      PackGgufRow(weights, fit, GgufSourceRow(architecture_, name, r), &out);
      if (out.size() >= kWriteBytes) RETURN_IF_ERROR(file_.Write(std::exchange(out, {})));
    }
    RETURN_IF_ERROR(file_.Write(out));
    if (bias == nullptr) return absl::OkStatus();
    return AddTensor(absl::StrCat(AbslView(module), ".bias"), *bias);
  }

  absl::Status Finish() override {
    GgufType most = GgufType::kF16;
    int64_t count = 0;
    for (const auto& [type, n] : types_) {
      if (n > count) std::tie(most, count) = std::pair(type, n);
    }
    file_.Set(kFileType, FileType(most));
    for (const auto& [what, layers] : inexact_) {
      notes_.push_back(absl::StrCat("gguf: ", layers.second, layers.second == 1 ? " layer" : " layers", " (",
                                    layers.first, layers.second == 1 ? ") " : ", ...) ", what));
    }
    return file_.Finish();
  }

 private:
  void Note(const std::string& module, const GgufFit& fit) {
    const std::string what =
        fit.same_codes ? absl::StrCat("as ", GgufTypeName(fit.type), " with the same codes: ", fit.reason)
                       : absl::StrCat("requantized from their values as ", GgufTypeName(fit.type), ": ", fit.reason);
    auto& [first, count] = inexact_.emplace(what, std::pair(module, 0)).first->second;
    ++count;
  }

  GgufArchitecture architecture_;
  GgufFile file_;
  std::map<GgufType, int64_t> types_;
  std::map<std::string, std::pair<std::string, int64_t>> inexact_;  // what: first layer, how many
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateGgufWriter(const Checkpoint& source,
                                                                   const std::filesystem::path& folder,
                                                                   const ExportOptions& options) {
  ASSIGN_OR_RETURN(GgufArchitecture architecture, ReadGgufArchitecture(source));
  ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, ReadGgufVocabulary(source, architecture.vocab_size));
  // A constant here means: it is float even where the source is quantized.
  std::vector<std::pair<std::string, int>> tensors;
  for (const std::string& name : FloatTensorNames(source)) {
    const std::optional<std::string> as = GgufTensorName(name);
    if (!as.has_value()) {
      return absl::UnimplementedError(
          absl::StrCat("the source's tensor ", Quoted(name), " has no place in a GGUF file of ", architecture.name));
    }
    if (as->empty()) continue;
    const Tensor* t = source.Find(name);
    const bool matrix = t == nullptr || !IsFloat(t->dtype()) || t->rank() == 2;
    tensors.emplace_back(*as, matrix ? 2 : 1);
  }
  if (!architecture.rope_factors.empty()) tensors.emplace_back(kRopeFactors, 1);
  RETURN_IF_ERROR(PrepareFolder(source, folder));
  GgufKeys keys = architecture.keys;
  const std::string tool = absl::StrCat("quantd:", options.tool_version.empty() ? "unversioned" : options.tool_version);
  keys.emplace_back("general.quantized_by", tool);
  keys.emplace_back("general.quantization_version", uint32_t{2});
  keys.emplace_back(kFileType, uint32_t{0});
  for (auto& key : VocabularyKeys(vocabulary)) keys.push_back(std::move(key));
  ASSIGN_OR_RETURN(GgufFile file, GgufFile::Create(folder / "model.gguf", std::move(keys), std::move(tensors)));
  std::vector<std::string> notes = architecture.notes;
  notes.insert(notes.end(), vocabulary.notes.begin(), vocabulary.notes.end());
  auto writer = std::make_unique<GgufWriter>(std::move(architecture), std::move(file));
  RETURN_IF_ERROR(writer->Start(std::move(notes)));
  return writer;
}

}  // namespace quant
