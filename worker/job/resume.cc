// SPDX-License-Identifier: Apache-2.0
#include "worker/job/resume.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/build_info.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "quant/v1/workers.pb.h"
#include "worker/formats/safetensors/safetensors.h"
#include "worker/formats/safetensors/writer.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kFile[] = "model.safetensors";

fs::path BlockFolder(const fs::path& folder, int64_t block) { return folder / absl::StrFormat("block-%04d", block); }
fs::path StateFolder(const fs::path& folder, int64_t next) { return folder / absl::StrFormat("state-%04d", next); }

// Names in the file are numbers and parts: layer names may hold anything.
class Collector {
 public:
  template <typename T>
  void Add(const std::string& name, Shape shape, const std::vector<T>& values) {
    if (!values.empty()) tensors_.push_back({name, Tensor::Of<T>(std::move(shape), values)});
  }
  void Add(const std::string& name, const Tensor& tensor) { tensors_.push_back({name, tensor}); }
  const std::vector<NamedTensor>& tensors() const { return tensors_; }

 private:
  std::vector<NamedTensor> tensors_;
};

template <typename T>
Shape Flat(const std::vector<T>& v) {
  return {static_cast<int64_t>(v.size())};
}

void AddWeights(const std::string& prefix, const WeightMatrix& weights, Collector* out, json* facts) {
  if (const auto* w = std::get_if<GroupedMatrix>(&weights)) {
    (*facts)["grouped"] = {{"rows", w->rows}, {"cols", w->cols}, {"bits", w->bits}, {"group_size", w->group_size}};
    out->Add(prefix + "codes", Flat(w->codes), w->codes);
    out->Add(prefix + "scales", Flat(w->scales), w->scales);
    out->Add(prefix + "zeros", Flat(w->zeros), w->zeros);
    out->Add(prefix + "group_of", Flat(w->group_of), w->group_of);
    return;
  }
  const CodebookMatrix& w = std::get<CodebookMatrix>(weights);
  (*facts)["codebook"] = {{"rows", w.rows},
                          {"cols", w.cols},
                          {"block_size", w.block_size},
                          {"fp4", w.fp4},
                          {"offset", w.nested_offset},
                          {"nested_block", w.nested_block}};
  out->Add(prefix + "codes", Flat(w.codes), w.codes);
  out->Add(prefix + "table", Flat(w.codebook), w.codebook);
  out->Add(prefix + "absmax", Flat(w.absmax), w.absmax);
  out->Add(prefix + "nested_codes", Flat(w.nested_codes), w.nested_codes);
  out->Add(prefix + "nested_absmax", Flat(w.nested_absmax), w.nested_absmax);
  out->Add(prefix + "nested_map", Flat(w.nested_map), w.nested_map);
}

json OutcomeFacts(const QuantizedLayer& layer) {
  const LayerOutcome& o = layer.outcome;
  return {{"name", o.name},
          {"op", o.op},
          {"method", o.method},
          {"bits", o.bits},
          {"group_size", o.group_size},
          {"fallback", o.fallback},
          {"parameters", o.parameters},
          {"routed_tokens", o.routed_tokens},
          {"output", o.output},
          {"relative_error", layer.relative_error}};
}

absl::Status Write(const fs::path& folder, const Collector& tensors, std::map<std::string, std::string> metadata) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("making ", folder.string()));
  ASSIGN_OR_RETURN(const auto writer,
                   SafetensorsWriter::Create(folder, {.max_file_bytes = INT64_MAX, .metadata = std::move(metadata)}));
  for (const NamedTensor& t : tensors.tensors()) RETURN_IF_ERROR(writer->Add(t.name, t.tensor));
  return writer->Finish();
}

// What we wrote ourselves is still checked like any file: a disk may have lost the end of it.
template <typename T>
absl::Status Read(const SafetensorsFile& file, const std::string& name, std::vector<T>* out) {
  const auto it = file.tensors.find(name);
  if (it == file.tensors.end()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tensor owned, it->second.Clone());
  if (owned.dtype() != DTypeOf<T>::value) return absl::DataLossError(absl::StrCat(name, " has another type"));
  const std::span<const T> values = owned.data<T>();
  out->assign(values.begin(), values.end());
  return absl::OkStatus();
}

absl::StatusOr<WeightMatrix> ReadWeights(const SafetensorsFile& file, const std::string& prefix, const json& facts) {
  WeightMatrix result;
  if (facts.contains("grouped")) {
    const json& f = facts["grouped"];
    GroupedMatrix w{.rows = f.at("rows"), .cols = f.at("cols"), .bits = f.at("bits"), .group_size = f.at("group_size")};
    RETURN_IF_ERROR(Read(file, prefix + "codes", &w.codes));
    RETURN_IF_ERROR(Read(file, prefix + "scales", &w.scales));
    RETURN_IF_ERROR(Read(file, prefix + "zeros", &w.zeros));
    RETURN_IF_ERROR(Read(file, prefix + "group_of", &w.group_of));
    result = std::move(w);
  } else {
    const json& f = facts.at("codebook");
    CodebookMatrix w{.rows = f.at("rows"), .cols = f.at("cols"), .block_size = f.at("block_size"), .fp4 = f.at("fp4")};
    w.nested_offset = f.at("offset");
    w.nested_block = f.at("nested_block");
    RETURN_IF_ERROR(Read(file, prefix + "codes", &w.codes));
    RETURN_IF_ERROR(Read(file, prefix + "table", &w.codebook));
    RETURN_IF_ERROR(Read(file, prefix + "absmax", &w.absmax));
    RETURN_IF_ERROR(Read(file, prefix + "nested_codes", &w.nested_codes));
    RETURN_IF_ERROR(Read(file, prefix + "nested_absmax", &w.nested_absmax));
    RETURN_IF_ERROR(Read(file, prefix + "nested_map", &w.nested_map));
    result = std::move(w);
  }
  RETURN_IF_ERROR(Validate(result));
  return result;
}

absl::StatusOr<BlockResult> ParseBlock(const SafetensorsFile& file, int64_t block) {
  const json facts = json::parse(file.metadata.at("block"));
  BlockResult result{.block = block};
  result.notes = facts.at("notes").get<std::vector<std::string>>();
  size_t i = 0;
  for (const json& f : facts.at("layers")) {
    QuantizedLayer layer;
    layer.outcome = {.name = f.at("name"),
                     .op = f.at("op"),
                     .method = f.at("method"),
                     .bits = f.at("bits"),
                     .group_size = f.at("group_size"),
                     .fallback = f.at("fallback"),
                     .parameters = f.at("parameters"),
                     .routed_tokens = f.at("routed_tokens"),
                     .output = f.at("output")};
    layer.relative_error = f.at("relative_error");
    if (f.contains("grouped") || f.contains("codebook")) {
      ASSIGN_OR_RETURN(layer.weights, ReadWeights(file, absl::StrCat(i, "."), f));
    }
    result.layers.push_back(std::move(layer));
    ++i;
  }
  for (size_t c = 0; c < facts.at("changed").size(); ++c) {
    const auto it = file.tensors.find(absl::StrCat("changed.", c));
    if (it == file.tensors.end()) return absl::DataLossError("a changed tensor is missing");
    ASSIGN_OR_RETURN(result.changed[facts.at("changed")[c].get<std::string>()], it->second.Clone());
  }
  return result;
}

// The file's content when it is whole and of this run.
absl::StatusOr<SafetensorsFile> Open(const fs::path& folder, const std::string& fingerprint) {
  ASSIGN_OR_RETURN(SafetensorsFile file, ReadSafetensors(folder / kFile));
  const auto it = file.metadata.find("fingerprint");
  if (it == file.metadata.end() || it->second != fingerprint)
    return absl::FailedPreconditionError("it is of another run");
  return file;
}

absl::StatusOr<BlockResult> ReadBlock(const fs::path& folder, int64_t block, const std::string& fingerprint) {
  ASSIGN_OR_RETURN(const SafetensorsFile file, Open(BlockFolder(folder, block), fingerprint));
  try {
    return ParseBlock(file, block);
  } catch (const std::exception& e) {  // nlohmann::json and std::map::at throw
    return absl::DataLossError(absl::StrCat("block ", block, " cannot be read: ", e.what()));
  }
}

}  // namespace

std::string ResumeFingerprint(const v1::Lease& lease, const v1::Recipe& recipe) {
  return Sha256Hex(absl::StrCat(lease.model().digest(), "\n", lease.baseline_model().digest(), "\n",
                                lease.calibration_dataset().digest(), "\n", lease.evaluation_dataset().digest(), "\n",
                                recipe.SerializeAsString(), "\n", BuildVersion(), "\n", DetectIsa()));
}

fs::path ResumeFolder(const fs::path& job) {
  std::error_code error;
  return fs::is_directory(job / "resume", error) ? job / "resume" : fs::path();
}

ResumePoints::ResumePoints(fs::path folder, std::string fingerprint)
    : folder_(std::move(folder)), fingerprint_(std::move(fingerprint)) {}

std::optional<ResumePoints::Point> ResumePoints::Load() {
  std::error_code error;
  if (folder_.empty() || !fs::is_directory(folder_, error)) return std::nullopt;
  Point point;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    int64_t next = 0;
    if (std::sscanf(entry.path().filename().c_str(), "state-%ld", &next) == 1) point.next = std::max(point.next, next);
  }
  if (point.next == 0) return std::nullopt;
  const auto read = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const SafetensorsFile state, Open(StateFolder(folder_, point.next), fingerprint_));
    const auto it = state.tensors.find("hidden");
    if (it == state.tensors.end()) return absl::DataLossError("the state has no hidden states");
    ASSIGN_OR_RETURN(point.state, it->second.Clone());
    for (int64_t b = 0; b < point.next; ++b) {
      ASSIGN_OR_RETURN(BlockResult block, ReadBlock(folder_, b, fingerprint_));
      point.blocks.push_back(std::move(block));
    }
    return absl::OkStatus();
  };
  if (const absl::Status status = read(); !status.ok()) {
    LOG(WARNING) << "the resume point in " << folder_.string() << " is not used: " << status.message();
    Clear();
    return std::nullopt;
  }
  return point;
}

absl::Status ResumePoints::Save(const BlockResult& result, std::span<const std::byte> state) {
  if (folder_.empty()) return absl::OkStatus();
  Collector tensors;
  json facts = {{"layers", json::array()}, {"changed", json::array()}, {"notes", result.notes}};
  for (const QuantizedLayer& layer : result.layers) {
    json f = OutcomeFacts(layer);
    if (layer.weights.has_value()) AddWeights(absl::StrCat(facts["layers"].size(), "."), *layer.weights, &tensors, &f);
    facts["layers"].push_back(std::move(f));
  }
  for (const auto& [name, tensor] : result.changed) {
    tensors.Add(absl::StrCat("changed.", facts["changed"].size()), tensor);
    facts["changed"].push_back(name);
  }
  const std::string text = facts.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  RETURN_IF_ERROR(Write(BlockFolder(folder_, result.block), tensors, {{"block", text}, {"fingerprint", fingerprint_}}));
  Collector hidden;
  ASSIGN_OR_RETURN(const Tensor bytes,
                   Tensor::Borrow(DType::kUInt8, {static_cast<int64_t>(state.size())}, state, nullptr));
  hidden.Add("hidden", bytes);
  RETURN_IF_ERROR(Write(StateFolder(folder_, result.block + 1), hidden, {{"fingerprint", fingerprint_}}));
  std::error_code error;
  fs::remove_all(StateFolder(folder_, result.block), error);
  return absl::OkStatus();
}

void ResumePoints::Clear() {
  std::error_code error;
  if (folder_.empty()) return;
  for (const auto& entry : fs::directory_iterator(folder_, error)) fs::remove_all(entry.path(), error);
}

}  // namespace quant
