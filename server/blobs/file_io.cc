// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/write_at.h"

namespace quant {

absl::Status FileError(int error, std::string_view doing, const std::filesystem::path& path) {
  const std::string message = absl::StrCat("cannot ", AbslView(doing), " ", Quoted(path.native(), 300), ": ",
                                           std::generic_category().message(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(message, "; make room on that disk")), "DISK_FULL",
                        {}, absl::Seconds(5));
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::StatusOr<UniqueFd> OpenFile(const std::filesystem::path& path, int flags, unsigned mode) {
  while (true) {
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, mode));
    if (fd.valid()) return fd;
    if (errno != EINTR) return FileError(errno, "open", path);
  }
}

absl::Status WriteAt(int fd, absl::Span<const std::string_view> pieces, int64_t offset,
                     const std::filesystem::path& path) {
  const int error = quant::WriteAt(fd, pieces, offset);
  return error == 0 ? absl::OkStatus() : FileError(error, "write", path);
}

absl::StatusOr<std::string> ReadAt(int fd, int64_t size, int64_t offset, const std::filesystem::path& path) {
  std::string data(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = ::pread(fd, data.data() + done, data.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return FileError(errno, "read", path);
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  data.resize(done);
  return data;
}

absl::Status SyncFile(int fd, const std::filesystem::path& path) {
  // After a failed fsync the kernel may have thrown the pages away: it is an error for good, never repeated.
  return ::fsync(fd) == 0 ? absl::OkStatus() : FileError(errno, "fsync", path);
}

absl::Status SyncFolder(const std::filesystem::path& folder) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(folder, O_RDONLY | O_DIRECTORY));
  return SyncFile(fd.get(), folder);
}

absl::Status MakeFolder(const std::filesystem::path& folder) {
  struct stat info;
  if (::stat(folder.c_str(), &info) == 0) {
    return S_ISDIR(info.st_mode) ? absl::OkStatus() : FileError(ENOTDIR, "use as a folder", folder);
  }
  const std::filesystem::path parent = folder.parent_path();
  if (!parent.empty() && parent != folder) RETURN_IF_ERROR(MakeFolder(parent));
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return FileError(errno, "make folder", folder);
  return SyncFolder(parent.empty() ? "." : parent);
}

absl::StatusOr<int64_t> FreeBytes(const std::filesystem::path& folder) {
  struct statvfs info;
  if (::statvfs(folder.c_str(), &info) != 0) return FileError(errno, "measure", folder);
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

}  // namespace quant
