// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/file/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {
namespace {

// Large enough for whole extents, small beside what the kernel gathers by itself (a tenth of memory, or 30 seconds').
constexpr int64_t kStartEvery = int64_t{32} << 20;

absl::Status IoError(int error, std::string_view what, const std::filesystem::path& path) {
  const std::string message = absl::StrCat(AbslView(what), " ", Quoted(path.filename().string()));
  if (error == ENOSPC || error == EDQUOT) {
    return absl::ResourceExhaustedError(absl::StrCat(message, ": no space left on the disk"));
  }
  return absl::ErrnoToStatus(error, message);
}

}  // namespace

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::filesystem::path& path) {
  std::filesystem::path temporary = path;
  temporary += absl::StrCat(".tmp.", ::getpid());
  ::unlink(temporary.c_str());  // of a process of the same id that died
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return IoError(errno, "cannot create", path);
  return AtomicFile(std::move(fd), std::move(temporary), path);
}

AtomicFile::~AtomicFile() {
  if (fd_.valid()) ::unlink(temporary_.c_str());
}

absl::Status AtomicFile::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return IoError(errno, "cannot write", path_);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
    size_ += n;
  }
  if (size_ - started_ >= kStartEvery) {
    // A hint: what it does not do, or reports, Commit does.
    ::sync_file_range(fd_.get(), started_, size_ - started_, SYNC_FILE_RANGE_WRITE);
    started_ = size_;
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::WriteAt(int64_t offset, std::string_view bytes) {
  if (offset < 0 || offset > size_ || static_cast<int64_t>(bytes.size()) > size_ - offset) {
    return absl::InvalidArgumentError(absl::StrCat("bytes ", offset, " to ",
                                                   offset + static_cast<int64_t>(bytes.size()), " are not among the ",
                                                   size_, " written"));
  }
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_.get(), bytes.data(), bytes.size(), offset);
    if (n < 0) {
      if (errno == EINTR) continue;
      return IoError(errno, "cannot write", path_);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::CommitAs(std::filesystem::path path) {
  path_ = std::move(path);
  return Commit();
}

absl::Status AtomicFile::Pad(int64_t alignment) {
  const int64_t rest = (alignment - size_ % alignment) % alignment;
  return Write(std::string(static_cast<size_t>(rest), '\0'));
}

absl::Status AtomicFile::Commit() {
  if (::fsync(fd_.get()) != 0) return IoError(errno, "cannot sync", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return IoError(errno, "cannot rename", path_);
  fd_.reset();
  const std::filesystem::path folder = path_.parent_path().empty() ? std::filesystem::path(".") : path_.parent_path();
  const UniqueFd dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir.valid() || ::fsync(dir.get()) != 0) return IoError(errno, "cannot sync the folder of", path_);
  return absl::OkStatus();
}

}  // namespace quant
