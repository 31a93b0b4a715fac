// SPDX-License-Identifier: Apache-2.0
// MappedFile: a regular file mapped read-only, the way every reader of untrusted files here gets its bytes.
//
// The mapping is shared_ptr-held because tensors borrow from it and outlive the reader. The file must not shrink while
// it is mapped (a read past the new end is SIGBUS): jobs read from a private, read-only folder.
//
// Thread-safety: immutable after Open.
#ifndef QUANT_WORKER_FORMATS_FILE_MAPPED_FILE_H_
#define QUANT_WORKER_FORMATS_FILE_MAPPED_FILE_H_

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

class MappedFile {
 public:
  // NOT_FOUND when there is none; INVALID_ARGUMENT when it is not a regular file; PERMISSION_DENIED and INTERNAL as the
  // system says. An empty file has empty bytes().
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& file);

  // Opens a file named by untrusted content (ONNX external data) inside `folder`. INVALID_ARGUMENT when `relative` is
  // empty, absolute, holds "..", a backslash or NUL, or when any part of it below `folder` is a symbolic link;
  // otherwise as Open.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> OpenBeneath(const std::filesystem::path& folder,
                                                                       std::string_view relative);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  // Maps the open descriptor; `name` is for messages.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Map(int fd, std::string_view name);

  const std::byte* data_;
  size_t size_;
};

// Gives back the memory of whole pages within `bytes`, which lie in a MappedFile: reading them again reads the disk.
// For readers that go through a large file once.
void ReleasePages(std::span<const std::byte> bytes);

// Has the disk start reading `bytes`, which lie in a MappedFile and will be needed soon; does not wait for it.
void PrefetchPages(std::span<const std::byte> bytes);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_FILE_MAPPED_FILE_H_
