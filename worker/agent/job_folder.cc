// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/job_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <system_error>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/unique_fd.h"
#include "quant/v1/workers.pb.h"
#include "worker/agent/text.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

absl::Status FileError(int error, std::string_view what, const fs::path& path) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot ", AbslView(what), " ", path.string()));
}

absl::Status WriteFile(const fs::path& path, std::string_view bytes) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return FileError(errno, "make", path);
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "write", path);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JobFolder> JobFolder::Create(const fs::path& jobs, const fs::path& resume, std::string_view job_id,
                                            int64_t token) {
  const bool plain = !job_id.empty() && job_id.size() <= 64 && std::all_of(job_id.begin(), job_id.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-';
  });
  if (!plain) {
    return absl::InvalidArgumentError(absl::StrCat("job id ", Quoted(job_id), " is not 1 to 64 of [A-Za-z0-9-]"));
  }
  const fs::path path = jobs / absl::StrCat(AbslView(job_id), "-", token);
  std::error_code error;
  fs::remove_all(path, error);
  JobFolder folder(path, resume / job_id);  // from here on removed on any way out
  for (const char* part : {"model", "baseline", "calibration", "evaluation", "output", "work"}) {
    fs::create_directories(path / part, error);
    if (error) return FileError(error.value(), "make", path / part);
  }
  fs::create_directories(folder.resume_, error);
  if (!error) fs::create_directory_symlink(fs::absolute(folder.resume_), path / "resume", error);
  if (error) return FileError(error.value(), "make", folder.resume_);
  return folder;
}

JobFolder::~JobFolder() {
  if (path_.empty()) return;
  std::error_code error;
  fs::remove_all(path_, error);  // does not follow links
  if (error) LOG(ERROR) << "cannot remove the job folder " << path_.string() << ": " << error.message();
}

void JobFolder::DiscardResume() {
  std::error_code error;
  fs::remove_all(resume_, error);
  if (error) LOG(ERROR) << "cannot remove " << resume_.string() << ": " << error.message();
}

absl::Status JobFolder::Link(std::string_view part, std::string_view manifest_path, const fs::path& cached) {
  RETURN_IF_ERROR(CheckManifestPath(manifest_path));
  const fs::path path = path_ / part / manifest_path;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  const auto collides = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("file path ", Quoted(manifest_path), " collides with another path of its manifest"));
  };
  if (error == std::errc::not_a_directory || error == std::errc::file_exists) return collides();
  if (error) return FileError(error.value(), "make", path.parent_path());
  if (::link(cached.c_str(), path.c_str()) == 0) return absl::OkStatus();
  if (errno == EEXIST) return collides();
  // EMLINK: the blob has all the links it can have; the others: a file system or kernel policy without hard links.
  if (errno != EMLINK && errno != EPERM && errno != EOPNOTSUPP && errno != EXDEV) return FileError(errno, "link", path);
  if (::symlink(cached.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return errno == EEXIST ? collides() : FileError(errno, "link", path);
}

absl::Status JobFolder::WriteLease(const v1::Lease& lease) {
  return WriteFile(path_ / "lease.pb", lease.SerializeAsString());
}

absl::Status JobFolder::ReadOutcome(v1::CompleteJobRequest& outcome) const {
  const fs::path path = path_ / "work/outcome.pb";
  // O_NONBLOCK: opening a fifo must not block.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid() && errno == ENOENT) return absl::NotFoundError("the child left no outcome.pb");
  if (!fd.valid()) return absl::InvalidArgumentError(FileError(errno, "read", path).message());
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return FileError(errno, "read", path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("outcome.pb is not a regular file");
  if (info.st_size > kMaxOutcomeBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("outcome.pb has ", info.st_size, " bytes; at most ", kMaxOutcomeBytes, " are taken"));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + have, bytes.size() - have);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return absl::InvalidArgumentError("outcome.pb cannot be read to its end");
    have += static_cast<size_t>(n);
  }
  if (!outcome.ParseFromString(bytes)) return absl::InvalidArgumentError("outcome.pb is no CompleteJobRequest");
  if (outcome.outcome_case() == v1::CompleteJobRequest::OUTCOME_NOT_SET) {
    return absl::InvalidArgumentError("outcome.pb has no outcome");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OutputFile>> JobFolder::ListOutput() const {
  const fs::path root = path_ / "output";
  std::vector<OutputFile> files;
  std::error_code error;
  // A recursive_directory_iterator does not descend into links to folders.
  for (auto it = fs::recursive_directory_iterator(root, error); !error && it != fs::end(it); it.increment(error)) {
    const std::string relative = it->path().lexically_relative(root).generic_string();
    struct stat info;
    if (::lstat(it->path().c_str(), &info) != 0) return FileError(errno, "read", it->path());
    if (S_ISDIR(info.st_mode)) {
      RETURN_IF_ERROR(CheckManifestPath(relative));  // bounds the depth, too
      continue;
    }
    if (!S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat("the job's output ", Quoted(relative), " is not a regular file"));
    }
    RETURN_IF_ERROR(CheckManifestPath(relative));
    if (files.size() == kMaxOutputFiles) {
      return absl::InvalidArgumentError(absl::StrCat("the job's output has more than ", kMaxOutputFiles, " files"));
    }
    files.push_back({.path = relative, .file = it->path()});
  }
  if (error) return FileError(error.value(), "list", root);
  std::sort(files.begin(), files.end(), [](const OutputFile& a, const OutputFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace quant
