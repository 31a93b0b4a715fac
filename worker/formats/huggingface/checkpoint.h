// SPDX-License-Identifier: Apache-2.0
// Checkpoint: a Hugging Face model folder as it is on disk: config.json, the tensors of its safetensors files (mapped,
// not read), and what else lies there. Knows no architecture (builder.h) and no quantized layout (quantized.h).
//
// Thread-safety: immutable after Open.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_CHECKPOINT_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_CHECKPOINT_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

class Checkpoint {
 public:
  // Opens `folder`. Tensors come from model.safetensors.index.json and the files it names, or else from
  // model.safetensors, or else from the one *.safetensors file there is. Every rule of the safetensors reader holds
  // (safetensors.h), and besides: the index names plain files in this folder (no links), every tensor it lists is in
  // that file, none is in two or unlisted. NOT_FOUND: no config.json or no safetensors file (pickled weights are
  // refused by name). INVALID_ARGUMENT: malformed, naming file and tensor or key; config.json above 4 MiB, nested
  // deeper than 32, or not an object.
  static absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const nlohmann::json& config() const { return config_; }
  // By name, borrowed from mapped files and perhaps unaligned.
  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  const Tensor* Find(std::string_view name) const;
  // Regular files in the folder (no sub-folders) that hold no weights, sorted: tokenizer, generation_config.json, ...
  // config.json is among them.
  const std::vector<std::string>& other_files() const { return other_files_; }

  // Reading config.json; `path` is a key, or keys joined by '/'. Absent or null gives `otherwise`.
  // INVALID_ARGUMENT naming the key and the file: another type, or outside [least, greatest].
  absl::StatusOr<int64_t> Int(std::string_view path, int64_t otherwise, int64_t least, int64_t greatest) const;
  absl::StatusOr<double> Float(std::string_view path, double otherwise) const;  // finite
  absl::StatusOr<bool> Bool(std::string_view path, bool otherwise) const;
  absl::StatusOr<std::string> String(std::string_view path, std::string_view otherwise) const;
  bool Has(std::string_view path) const;  // present and not null

  // quantization_config.quant_method ("gptq", "awq", "bitsandbytes", "compressed-tensors"), "" when there is none.
  std::string QuantMethod() const;

 private:
  const nlohmann::json* Get(std::string_view path) const;
  absl::Status Load();
  absl::Status LoadIndex();
  absl::Status LoadFile(const std::string& file);

  std::filesystem::path folder_;
  nlohmann::json config_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> file_of_;
  std::vector<std::string> other_files_;
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_CHECKPOINT_H_
