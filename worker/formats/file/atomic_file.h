// SPDX-License-Identifier: Apache-2.0
// AtomicFile: a file that appears under its name whole or not at all.
//
//   ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::Create(path));
//   RETURN_IF_ERROR(out.Write(bytes));
//   return out.Commit();
//
// Written to a temporary name in the same folder, fsynced, renamed over `path`, and the folder fsynced. Without Commit
// the temporary file is removed. Thread-compatible.
#ifndef QUANT_WORKER_FORMATS_FILE_ATOMIC_FILE_H_
#define QUANT_WORKER_FORMATS_FILE_ATOMIC_FILE_H_

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace quant {

class AtomicFile {
 public:
  // The folder must exist. Errors as the system says (NOT_FOUND, PERMISSION_DENIED, ...).
  static absl::StatusOr<AtomicFile> Create(const std::filesystem::path& path);
  AtomicFile(AtomicFile&&) noexcept = default;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  // Appends; the disk starts on it meanwhile, so that Commit has little to wait for. RESOURCE_EXHAUSTED when the disk
  // is full or a quota is reached.
  absl::Status Write(std::string_view bytes);
  // Appends zeros until the size is a multiple of `alignment`.
  absl::Status Pad(int64_t alignment);
  // Overwrites bytes written before: [offset, offset + bytes.size()) must lie within size(), or INVALID_ARGUMENT. For a
  // header whose content is known only at the end.
  absl::Status WriteAt(int64_t offset, std::string_view bytes);
  // Bytes written so far.
  int64_t size() const { return size_; }
  // Makes the file visible and durable; nothing may be written afterwards.
  absl::Status Commit();
  // The same under another name in the same folder, for a name that is known only at the end.
  absl::Status CommitAs(std::filesystem::path path);

 private:
  AtomicFile(UniqueFd fd, std::filesystem::path temporary, std::filesystem::path path)
      : fd_(std::move(fd)), temporary_(std::move(temporary)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::filesystem::path temporary_;
  std::filesystem::path path_;
  int64_t size_ = 0;
  int64_t started_ = 0;  // bytes that the disk was told to write
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_FILE_ATOMIC_FILE_H_
