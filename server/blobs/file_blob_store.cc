// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/file_blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/file_blob_writer.h"
#include "server/blobs/file_io.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

// A use is written to disk at most this often per blob.
constexpr absl::Duration kTouchInterval = absl::Minutes(10);
constexpr char kCommittedSuffix[] = ".committed";

std::string KeyOf(std::string_view upload_id, const BlobId& blob) {
  return absl::StrCat(AbslView(upload_id), "-", blob.sha256);
}

absl::Time MtimeOf(const struct stat& info) { return absl::TimeFromTimespec(info.st_mtim); }

// Calls `visit` with each entry's name, in no order.
template <typename Visit>
absl::Status ForEachEntry(const fs::path& folder, Visit visit) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    visit(it->path().filename().string());
  }
  return error ? FileError(error.value(), "list", folder) : absl::OkStatus();
}

// Calls `visit` with the id and stat of each stored blob.
template <typename Visit>
absl::Status ForEachBlob(const fs::path& root, Visit visit) {
  std::vector<std::string> prefixes;
  RETURN_IF_ERROR(ForEachEntry(root, [&](const std::string& name) { prefixes.push_back(name); }));
  for (const std::string& prefix : prefixes) {
    if (prefix.size() != 2) continue;
    RETURN_IF_ERROR(ForEachEntry(root / prefix, [&](const std::string& name) {
      struct stat info;
      if (!IsSha256Hex(name) || ::lstat((root / prefix / name).c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return;
      visit(BlobId{name, info.st_size}, info);
    }));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBlobId(const BlobId& blob) {
  if (!IsSha256Hex(blob.sha256)) {
    return absl::InvalidArgumentError(
        absl::StrCat("sha256 must be 64 lower-case hex digits, not ", Quoted(blob.sha256, 80)));
  }
  if (blob.size_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("size_bytes must not be negative, not ", blob.size_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckUploadId(std::string_view upload_id) {
  const bool good =
      !upload_id.empty() && upload_id.size() <= 64 && std::all_of(upload_id.begin(), upload_id.end(), [](char c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
      });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("upload_id must be 1 to 64 of [A-Za-z0-9_-], not ", Quoted(upload_id, 80)));
}

FileBlobStore::FileBlobStore(fs::path folder, FileBlobStoreOptions options)
    : folder_(std::move(folder)), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<FileBlobStore>> FileBlobStore::Open(const fs::path& folder,
                                                                   FileBlobStoreOptions options) {
  if (!options.free_bytes) options.free_bytes = FreeBytes;
  std::unique_ptr<FileBlobStore> store(new FileBlobStore(folder, std::move(options)));
  RETURN_IF_ERROR(MakeFolder(folder / "blobs" / "sha256"));
  RETURN_IF_ERROR(MakeFolder(folder / "uploads"));
  if (!store->options_.shared) RETURN_IF_ERROR(store->SweepOrphans());
  RETURN_IF_ERROR(store->Scan());
  return store;
}

fs::path FileBlobStore::PathOf(const BlobId& blob) const {
  return folder_ / "blobs" / "sha256" / blob.sha256.substr(0, 2) / blob.sha256;
}

absl::Status FileBlobStore::Scan() {
  return ForEachBlob(folder_ / "blobs" / "sha256", [this](const BlobId& blob, const struct stat&) {
    ++blobs_;
    bytes_ += blob.size_bytes;
  });
}

absl::Status FileBlobStore::SweepOrphans() {
  const fs::path uploads = folder_ / "uploads";
  std::vector<std::string> names;
  RETURN_IF_ERROR(ForEachEntry(uploads, [&](const std::string& name) { names.push_back(name); }));
  int64_t swept = 0;
  for (const std::string& name : names) {
    const bool is_number = absl::EndsWith(name, kCommittedSuffix);
    const std::string key = is_number ? name.substr(0, name.size() - (sizeof(kCommittedSuffix) - 1)) : name;
    if (key.size() < 66 || !IsSha256Hex(std::string_view(key).substr(key.size() - 64))) continue;  // not ours
    const bool useful = is_number ? fs::exists(uploads / key) : CommittedBytes(uploads / key) > 0;
    if (!useful && ::unlink((uploads / name).c_str()) == 0) ++swept;
  }
  LOG_IF(INFO, swept > 0) << "removed " << swept << " files of uploads that a crash cut off before their first commit";
  return absl::OkStatus();
}

absl::StatusOr<bool> FileBlobStore::Touch(const BlobId& blob) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  const fs::path path = PathOf(blob);
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return false;
    return FileError(errno, "look for", path);
  }
  if (!S_ISREG(info.st_mode) || info.st_size != blob.size_bytes) return false;
  const absl::Time now = options_.clock->Now();
  if (now - MtimeOf(info) > kTouchInterval) {
    const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, absl::ToTimespec(now)};
    // Remove looks at the time and unlinks under the same lock: it either sees this use, or has been here before.
    MutexLock lock(&publish_mu_);
    if (::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) return false;
      return FileError(errno, "touch", path);
    }
  }
  return true;
}

absl::StatusOr<int64_t> FileBlobStore::CommittedSize(std::string_view upload_id, const BlobId& blob) {
  RETURN_IF_ERROR(CheckUploadId(upload_id));
  RETURN_IF_ERROR(CheckBlobId(blob));
  return CommittedBytes(folder_ / "uploads" / KeyOf(upload_id, blob));
}

absl::Status FileBlobStore::Admit(int64_t more) {
  ASSIGN_OR_RETURN(const int64_t free, options_.free_bytes(folder_));
  int64_t promised = 0;
  for (const auto& [key, left] : open_) promised += left;
  const int64_t available = free - promised - options_.reserve_bytes;
  if (more <= available) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat(
          "no room for ", more, " bytes: ", free, " bytes are free, of which ", promised,
          " are promised to other uploads and ", options_.reserve_bytes,
          " are kept in reserve; delete models or datasets, or make room on the disk that holds the data folder")),
      "DISK_FULL", {{"wanted", absl::StrCat(more)}, {"available", absl::StrCat(std::max<int64_t>(0, available))}},
      absl::Seconds(5));
}

absl::StatusOr<std::unique_ptr<BlobWriter>> FileBlobStore::OpenWriter(std::string_view upload_id, const BlobId& blob,
                                                                      int64_t write_offset) {
  RETURN_IF_ERROR(CheckUploadId(upload_id));
  RETURN_IF_ERROR(CheckBlobId(blob));
  if (blob.size_bytes > options_.max_blob_bytes) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat("a blob of ", blob.size_bytes, " bytes is over the limit of ",
                                                  options_.max_blob_bytes, " (quantd --max-blob)")),
        "BLOB_TOO_LARGE", {{"limit", absl::StrCat(options_.max_blob_bytes)}});
  }
  std::string key = KeyOf(upload_id, blob);
  const fs::path partial = folder_ / "uploads" / key;
  {
    MutexLock lock(&mu_);
    if (open_.contains(key)) {
      return WithReason(absl::AbortedError(absl::StrCat("another stream is writing upload ", Quoted(upload_id))),
                        "UPLOAD_BUSY", {}, absl::Seconds(1));
    }
    const int64_t committed = CommittedBytes(partial);
    if (write_offset != committed) {
      return WithReason(absl::OutOfRangeError(absl::StrCat("write_offset is ", write_offset, " but ", committed,
                                                           " bytes of upload ", Quoted(upload_id), " are committed")),
                        "UPLOAD_OFFSET_MISMATCH", {{"committed", absl::StrCat(committed)}});
    }
    const int64_t left = std::max<int64_t>(0, blob.size_bytes - committed);
    RETURN_IF_ERROR(Admit(left));
    open_[key] = left;
  }
  return FileBlobWriter::Open(this, std::move(key), partial, blob);
}

void FileBlobStore::CloseUpload(const std::string& key) {
  MutexLock lock(&mu_);
  open_.erase(key);
}

void FileBlobStore::NoteWritten(const std::string& key, int64_t bytes) {
  MutexLock lock(&mu_);
  open_[key] -= bytes;
}

absl::Status FileBlobStore::Publish(const fs::path& partial, const BlobId& blob) {
  const fs::path path = PathOf(blob);
  RETURN_IF_ERROR(MakeFolder(path.parent_path()));
  MutexLock lock(&publish_mu_);
  struct stat info;
  const bool is_new = ::lstat(path.c_str(), &info) != 0;
  if (!is_new && info.st_size != blob.size_bytes) {
    // Something outside of us cut or replaced the file; verified bytes take its place.
    LOG(ERROR) << Quoted(path.native()) << " had " << info.st_size << " bytes instead of " << blob.size_bytes
               << "; replaced by a new upload";
    bytes_ += blob.size_bytes - info.st_size;
  }
  if (::rename(partial.c_str(), path.c_str()) != 0) return FileError(errno, "publish", path);
  if (is_new) {
    ++blobs_;
    bytes_ += blob.size_bytes;
  }
  ::chmod(path.c_str(), 0444);  // a courtesy: nobody should write to it by mistake
  return SyncFolder(path.parent_path());
}

namespace {

class FileBlobReader : public BlobReader {
 public:
  FileBlobReader(UniqueFd fd, fs::path path, int64_t size) : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}
  absl::StatusOr<std::string> Read(int64_t offset, int64_t size) override {
    size = std::min(size, size_ - offset);
    if (offset < 0 || size <= 0) return std::string();
    ASSIGN_OR_RETURN(std::string data, ReadAt(fd_.get(), size, offset, path_));
    if (static_cast<int64_t>(data.size()) != size) {
      return absl::DataLossError(
          absl::StrCat("blob ", path_.filename().string(), " is shorter than its ", size_, " bytes"));
    }
    return data;
  }

 private:
  const UniqueFd fd_;
  const fs::path path_;
  const int64_t size_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlobReader>> FileBlobStore::OpenReader(const BlobId& blob) {
  ASSIGN_OR_RETURN(const bool stored, Touch(blob));
  const fs::path path = PathOf(blob);
  auto fd = stored ? OpenFile(path, O_RDONLY) : absl::NotFoundError("");
  if (absl::IsNotFound(fd.status())) {
    return absl::NotFoundError(absl::StrCat("no blob ", blob.sha256, " of ", blob.size_bytes, " bytes"));
  }
  RETURN_IF_ERROR(fd.status());
  return std::make_unique<FileBlobReader>(*std::move(fd), path, blob.size_bytes);
}

absl::StatusOr<std::vector<BlobId>> FileBlobStore::Stale(absl::Time before) {
  std::vector<BlobId> stale;
  RETURN_IF_ERROR(ForEachBlob(folder_ / "blobs" / "sha256", [&](BlobId blob, const struct stat& info) {
    if (MtimeOf(info) < before) stale.push_back(std::move(blob));
  }));
  return stale;
}

absl::StatusOr<bool> FileBlobStore::Remove(const BlobId& blob, absl::Time before) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  const fs::path path = PathOf(blob);
  MutexLock lock(&publish_mu_);
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0 || MtimeOf(info) >= before) return false;
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return false;
    return FileError(errno, "remove", path);
  }
  --blobs_;
  bytes_ -= info.st_size;
  return true;
}

absl::StatusOr<int64_t> FileBlobStore::DropUploads(absl::Time before) {
  const fs::path uploads = folder_ / "uploads";
  std::vector<std::string> names;
  RETURN_IF_ERROR(ForEachEntry(uploads, [&](const std::string& name) { names.push_back(name); }));
  int64_t bytes = 0;
  for (const std::string& name : names) {
    if (absl::EndsWith(name, kCommittedSuffix)) continue;
    if (name.size() < 66 || !IsSha256Hex(std::string_view(name).substr(name.size() - 64))) continue;
    struct stat info;
    MutexLock lock(&mu_);  // no writer opens it meanwhile
    if (open_.contains(name) || ::lstat((uploads / name).c_str(), &info) != 0 || MtimeOf(info) >= before) continue;
    ::unlink(CommittedPath(uploads / name).c_str());  // first: without it the bytes are an orphan
    if (::unlink((uploads / name).c_str()) == 0) bytes += info.st_size;
  }
  return bytes;
}

}  // namespace quant
