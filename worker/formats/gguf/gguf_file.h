// SPDX-License-Identifier: Apache-2.0
// Writes a GGUF file (version 3) in one pass: tensors go to disk as they come, the header, whose size follows from the
// keys and the names of the tensors alone, is filled in at the end. Layout: docs/formats/gguf.md.
//
//   ASSIGN_OR_RETURN(GgufFile file, GgufFile::Create(path, keys, {{"token_embd.weight", 2}, ...}));
//   RETURN_IF_ERROR(file.Begin("token_embd.weight", {vocab, hidden}, GgufType::kF16));
//   RETURN_IF_ERROR(file.Write(bytes));  // as often as needed
//   ...
//   return file.Finish();
//
// Thread-compatible.
#ifndef QUANT_WORKER_FORMATS_GGUF_GGUF_FILE_H_
#define QUANT_WORKER_FORMATS_GGUF_GGUF_FILE_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/file/atomic_file.h"
#include "worker/formats/gguf/blocks.h"
#include "worker/tensor/tensor.h"

namespace quant {

// Integers of the metadata are uint32: llama.cpp refuses others. std::vector<int32_t> is for token types.
using GgufValue = std::variant<uint32_t, float, bool, std::string, std::vector<std::string>, std::vector<float>,
                               std::vector<int32_t>>;
using GgufKeys = std::vector<std::pair<std::string, GgufValue>>;  // in the order of the file

class GgufFile {
 public:
  // `tensors`: names and ranks of all that will come, in any order. INVALID_ARGUMENT: a key or name that is empty or
  // repeats, a name of 64 bytes or more, a rank above 4. Else as AtomicFile::Create.
  static absl::StatusOr<GgufFile> Create(const std::filesystem::path& path, GgufKeys keys,
                                         std::vector<std::pair<std::string, int>> tensors);
  GgufFile(GgufFile&&) noexcept = default;

  // Changes a uint32 key that was given to Create.
  void Set(std::string_view key, uint32_t value);

  // Begins a tensor of shape `shape`, the last dimension being the fastest. INVALID_ARGUMENT: it was not announced, was
  // given before, has another rank, or a last dimension that the type's blocks do not divide; the one before it is not
  // complete.
  absl::Status Begin(std::string_view name, const Shape& shape, GgufType type);
  // INVALID_ARGUMENT when the tensor is longer than it was said to be.
  absl::Status Write(std::string_view bytes);

  // FAILED_PRECONDITION naming a tensor that never came or is not complete.
  absl::Status Finish();

 private:
  struct Info {
    std::string name;
    Shape shape;
    GgufType type;
    int64_t offset;
  };

  explicit GgufFile(AtomicFile file) : file_(std::move(file)) {}
  std::string Header() const;

  AtomicFile file_;
  GgufKeys keys_;
  std::map<std::string, int, std::less<>> awaited_;
  std::vector<Info> infos_;
  int64_t header_bytes_ = 0;  // without padding
  int64_t data_begin_ = 0;
  int64_t left_ = 0;  // of the present tensor
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GGUF_GGUF_FILE_H_
