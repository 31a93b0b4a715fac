// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/json_file.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/safetensors/safetensors.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxConfigBytes = size_t{4} << 20;
constexpr size_t kMaxIndexBytes = size_t{64} << 20;
constexpr char kIndexFile[] = "model.safetensors.index.json";

// The first few names, quoted, for a message.
std::string Listed(const std::vector<std::string>& names) {
  constexpr size_t kShown = 4;
  const std::vector<std::string> shown(names.begin(), names.begin() + std::min(names.size(), kShown));
  return absl::StrCat(
      absl::StrJoin(shown, ", ", [](std::string* out, const std::string& n) { out->append(Quoted(n)); }),
      names.size() > kShown ? absl::StrCat(" and ", names.size() - kShown, " more") : "");
}

bool IsWeights(const fs::path& file) {
  static constexpr const char* kEndings[] = {".safetensors", ".bin",     ".pt",   ".pth", ".ckpt",
                                             ".h5",          ".msgpack", ".gguf", ".onnx"};
  const std::string ending = file.extension().string();
  return file.filename() == kIndexFile || file.filename() == "pytorch_model.bin.index.json" ||
         std::any_of(std::begin(kEndings), std::end(kEndings), [&](const char* e) { return ending == e; });
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const fs::path& folder) {
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->folder_ = folder;
  RETURN_IF_ERROR(checkpoint->Load());
  return checkpoint;
}

absl::Status Checkpoint::Load() {
  std::vector<std::string> weights;
  std::error_code error;
  for (auto it = fs::directory_iterator(folder_, error); !error && it != fs::end(it); it.increment(error)) {
    std::error_code ignored;
    const bool is_weights = IsWeights(it->path());
    // Links that matter are refused when they are opened; others are not the checkpoint's.
    const bool is_link = it->is_symlink(ignored) && (is_weights || it->path().filename() == "config.json");
    if (!is_link && it->symlink_status(ignored).type() != fs::file_type::regular) continue;
    (is_weights ? weights : other_files_).push_back(it->path().filename().string());
  }
  if (error) return absl::NotFoundError(absl::StrCat("the checkpoint's folder cannot be read: ", error.message()));
  std::sort(other_files_.begin(), other_files_.end());
  std::sort(weights.begin(), weights.end());
  if (!std::binary_search(other_files_.begin(), other_files_.end(), "config.json")) {
    return absl::NotFoundError("a Hugging Face checkpoint has a config.json; this folder has none");
  }
  ASSIGN_OR_RETURN(config_, ReadJsonObject(folder_ / "config.json", kMaxConfigBytes));

  std::vector<std::string> files;
  for (const std::string& file : weights) {
    if (file.ends_with(".safetensors")) files.push_back(file);
  }
  if (std::binary_search(weights.begin(), weights.end(), kIndexFile)) return LoadIndex();
  if (std::binary_search(files.begin(), files.end(), "model.safetensors")) return LoadFile("model.safetensors");
  if (files.size() == 1) return LoadFile(files[0]);
  if (files.empty()) {
    return absl::NotFoundError(
        absl::StrCat("the folder has no .safetensors file",
                     weights.empty() ? "" : absl::StrCat(", only ", Listed(weights), ", which is not read"),
                     "; save the model with safe_serialization"));
  }
  return absl::InvalidArgumentError(absl::StrCat("the folder has ", files.size(), " .safetensors files (",
                                                 Listed(files), "), no model.safetensors and no ", kIndexFile));
}

absl::Status Checkpoint::LoadIndex() {
  ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonObject(folder_ / kIndexFile, kMaxIndexBytes));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(kIndexFile, " has no object weight_map"));
  }
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(kIndexFile, ": the file of ", Quoted(tensor), " is not a string"));
    }
    files.insert(file.get<std::string>());
  }
  for (const std::string& file : files) {
    if (!file.ends_with(".safetensors") || file.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(kIndexFile, " names ", Quoted(file), ", not a .safetensors file of this folder"));
    }
    RETURN_IF_ERROR(LoadFile(file));
  }
  for (const auto& [tensor, file] : map->items()) {
    const auto found = file_of_.find(tensor);
    if (found == file_of_.end() || found->second != file.get<std::string>()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kIndexFile, ": tensor ", Quoted(tensor), " is not in ", Quoted(file.get<std::string>())));
    }
  }
  if (tensors_.size() != map->size()) {
    for (const auto& [tensor, file] : file_of_) {
      if (map->contains(tensor)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(tensor), " of ", Quoted(file), " is not listed in ", kIndexFile));
    }
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::LoadFile(const std::string& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::OpenBeneath(folder_, file));
  absl::StatusOr<SafetensorsFile> read = ParseSafetensors(mapped->bytes(), mapped);
  if (!read.ok()) return absl::Status(read.status().code(), absl::StrCat(Quoted(file), ": ", read.status().message()));
  for (auto& [name, tensor] : read->tensors) {
    const auto [it, is_new] = file_of_.emplace(name, file);
    if (!is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(name), " is in ", Quoted(it->second), " and in ", Quoted(file)));
    }
    tensors_.emplace(name, std::move(tensor));
  }
  return absl::OkStatus();
}

const Tensor* Checkpoint::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

const nlohmann::json* Checkpoint::Get(std::string_view path) const {
  const nlohmann::json* at = &config_;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string key(path.substr(0, slash));
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (!at->is_object()) return nullptr;
    const auto it = at->find(key);
    if (it == at->end()) return nullptr;
    at = &*it;
  }
  return at->is_null() ? nullptr : at;
}

bool Checkpoint::Has(std::string_view path) const { return Get(path) != nullptr; }

absl::StatusOr<int64_t> Checkpoint::Int(std::string_view path, int64_t otherwise, int64_t least,
                                        int64_t greatest) const {
  const nlohmann::json* value = Get(path);
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", AbslView(path), " is not an integer"));
  }
  const int64_t v = value->get<int64_t>();
  if (v < least || v > greatest) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: ", AbslView(path), " is ", v, "; it must be from ", least, " to ", greatest));
  }
  return v;
}

absl::StatusOr<double> Checkpoint::Float(std::string_view path, double otherwise) const {
  const nlohmann::json* value = Get(path);
  if (value == nullptr) return otherwise;
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", AbslView(path), " is not a finite number"));
  }
  return value->get<double>();
}

absl::StatusOr<bool> Checkpoint::Bool(std::string_view path, bool otherwise) const {
  const nlohmann::json* value = Get(path);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", AbslView(path), " is not true or false"));
}

absl::StatusOr<std::string> Checkpoint::String(std::string_view path, std::string_view otherwise) const {
  const nlohmann::json* value = Get(path);
  if (value == nullptr) return std::string(otherwise);
  if (value->is_string()) return value->get<std::string>();
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", AbslView(path), " is not a string"));
}

std::string Checkpoint::QuantMethod() const {
  const nlohmann::json* value = Get("quantization_config/quant_method");
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

}  // namespace quant
