// SPDX-License-Identifier: Apache-2.0
// Reads back a GGUF file that CreateGgufWriter wrote (or another of versions 2 and 3 with the same tensor types): its
// metadata, and tensors as float32 under their Hugging Face names and in that order of rows.
#ifndef QUANT_WORKER_FORMATS_GGUF_GGUF_MODEL_H_
#define QUANT_WORKER_FORMATS_GGUF_GGUF_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/gguf/architecture.h"
#include "worker/formats/gguf/blocks.h"
#include "worker/formats/gguf/gguf_file.h"

namespace quant {

// Thread-safety: immutable after Open.
class GgufModel {
 public:
  struct Entry {
    GgufType type;
    Shape shape;  // the last dimension is the fastest
    std::span<const std::byte> bytes;
  };

  // Maps the file. INVALID_ARGUMENT: not such a file, truncated, a key or name that repeats, offsets that do not follow
  // each other, padding that is missing. UNIMPLEMENTED: another version, or a tensor type that blocks.h does not have.
  static absl::StatusOr<std::shared_ptr<const GgufModel>> Open(const std::filesystem::path& file);
  // The same of bytes in memory, which `owner` keeps alive.
  static absl::StatusOr<std::shared_ptr<const GgufModel>> Parse(std::span<const std::byte> bytes,
                                                                std::shared_ptr<const void> owner);

  // Keys whose type is in GgufValue; others are checked and left out.
  const std::map<std::string, GgufValue, std::less<>>& keys() const { return keys_; }
  // By the names in the file.
  const std::map<std::string, Entry, std::less<>>& tensors() const { return tensors_; }

  // Rows [begin, end) of the tensor that is called `name` in Hugging Face checkpoints
  // ("model.layers.0.mlp.up_proj.weight"), in their order there; a vector has rows of one. NOT_FOUND: the file has
  // none. INVALID_ARGUMENT: rows out of range.
  absl::StatusOr<std::vector<float>> Rows(std::string_view name, int64_t begin, int64_t end) const;
  // Its entry, or null.
  const Entry* Find(std::string_view name) const;

 private:
  std::shared_ptr<const void> owner_;  // the mapping, which the entries point into
  std::map<std::string, GgufValue, std::less<>> keys_;
  std::map<std::string, Entry, std::less<>> tensors_;
  GgufArchitecture architecture_;  // as far as rows need it
};

// The values of one row of `type`; bytes.size() is GgufRowBytes(type, dst.size()).
void DequantizeGgufRow(GgufType type, std::span<const std::byte> bytes, std::span<float> dst);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GGUF_GGUF_MODEL_H_
