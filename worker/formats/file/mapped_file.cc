// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/file/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/unique_fd.h"

namespace quant {
namespace {

// Opening must not block on a FIFO nor acquire a terminal; Map refuses both afterwards.
constexpr int kOpenFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
constexpr size_t kMaxPath = 4096;

absl::Status OpenError(int error, std::string_view name) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot open ", Quoted(name)));
}

// The parts of a relative path from outside; "." is skipped.
absl::StatusOr<std::vector<std::string>> SafeParts(std::string_view relative) {
  const auto refuse = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("file name ", Quoted(relative), " ", AbslView(why), "; it must be a plain path below the folder"));
  };
  if (relative.empty()) return refuse("is empty");
  if (relative.size() > kMaxPath) return refuse("is too long");
  if (relative.front() == '/') return refuse("is absolute");
  if (relative.find('\\') != std::string_view::npos) return refuse("has a backslash");
  if (relative.find('\0') != std::string_view::npos) return refuse("has a NUL byte");
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= relative.size();) {
    const size_t end = std::min(relative.find('/', begin), relative.size());
    const std::string_view part = relative.substr(begin, end - begin);
    if (part == "..") return refuse("has '..'");
    if (!part.empty() && part != ".") parts.emplace_back(part);
    begin = end + 1;
  }
  if (parts.empty() || relative.back() == '/') return refuse("names a folder");
  return parts;
}

size_t BytesIntoPage(const std::byte* data, size_t page) { return reinterpret_cast<uintptr_t>(data) % page; }

}  // namespace

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Map(int fd, std::string_view name) {
  struct stat st = {};
  if (::fstat(fd, &st) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", Quoted(name)));
  if (!S_ISREG(st.st_mode)) return absl::InvalidArgumentError(absl::StrCat(Quoted(name), " is not a regular file"));
  const size_t size = static_cast<size_t>(st.st_size);
  const std::byte* data = nullptr;
  if (size > 0) {
    void* p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", Quoted(name)));
    data = static_cast<const std::byte*>(p);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(data, size));
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::filesystem::path& file) {
  const UniqueFd fd(::open(file.c_str(), kOpenFlags));
  if (!fd.valid()) return OpenError(errno, file.filename().string());
  return Map(fd.get(), file.filename().string());
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::OpenBeneath(const std::filesystem::path& folder,
                                                                          std::string_view relative) {
  ASSIGN_OR_RETURN(const std::vector<std::string> parts, SafeParts(relative));
  const std::filesystem::path base = folder.empty() ? std::filesystem::path(".") : folder;
  UniqueFd at(::open(base.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY));
  if (!at.valid()) return OpenError(errno, base.string());
  for (size_t i = 0; i < parts.size(); ++i) {
    const int kind = i + 1 == parts.size() ? kOpenFlags : O_RDONLY | O_CLOEXEC | O_DIRECTORY;
    UniqueFd next(::openat(at.get(), parts[i].c_str(), kind | O_NOFOLLOW));
    if (!next.valid()) {
      const int error = errno;
      // O_NOFOLLOW answers ELOOP for a link, with O_DIRECTORY it is ENOTDIR.
      struct stat st = {};
      if (::fstatat(at.get(), parts[i].c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode)) {
        return absl::InvalidArgumentError(
            absl::StrCat("file name ", Quoted(relative), " goes through a symbolic link; put the file itself there"));
      }
      return OpenError(error, relative);
    }
    at = std::move(next);
  }
  return Map(at.get(), relative);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void ReleasePages(std::span<const std::byte> bytes) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t skip = (page - BytesIntoPage(bytes.data(), page)) % page;  // to the first whole page
  if (skip >= bytes.size()) return;
  const size_t whole = (bytes.size() - skip) / page * page;
  if (whole > 0) ::madvise(const_cast<std::byte*>(bytes.data()) + skip, whole, MADV_DONTNEED);
}

void PrefetchPages(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const size_t before = BytesIntoPage(bytes.data(), static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
  ::madvise(const_cast<std::byte*>(bytes.data()) - before, before + bytes.size(), MADV_WILLNEED);
}

}  // namespace quant
