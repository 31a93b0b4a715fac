// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/blob_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <set>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
constexpr absl::Duration kPoll = absl::Milliseconds(50);

absl::Status FileError(const std::error_code& error, std::string_view what, const fs::path& path) {
  return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot ", AbslView(what), " ", path.string()));
}

absl::Status MakeEmptyFolder(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return FileError(error, "remove", path);
  fs::create_directories(path, error);
  if (error) return FileError(error, "make", path);
  return absl::OkStatus();
}

// Removes what has lain there for a week: its job ended elsewhere, or its server is gone.
void SweepOld(const fs::path& folder) {
  std::error_code error;
  const auto limit = fs::file_time_type::clock::now() - std::chrono::hours(7 * 24);
  std::vector<fs::path> old;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::end(it); it.increment(error)) {
    std::error_code ignored;
    if (it->last_write_time(ignored) < limit) old.push_back(it->path());
  }
  for (const fs::path& path : old) {
    LOG(WARNING) << "removing " << path.string() << ": nobody went on from it for a week";
    fs::remove_all(path, error);
  }
}

absl::StatusOr<UniqueFd> LockFolder(const fs::path& root) {
  const fs::path path = root / "lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path.string()));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, absl::StrCat("cannot lock ", path.string()));
    return absl::FailedPreconditionError(absl::StrCat("the cache folder ", root.string(),
                                                      " is in use by another quant-worker: give each its own --cache, "
                                                      "or one worker more --slots"));
  }
  return fd;
}

// The size of a regular file, or -1.
int64_t RegularFileSize(const fs::path& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? info.st_size : -1;
}

absl::Status CheckDigest(const FileDigest& blob) {
  if (IsSha256Hex(blob.sha256) && blob.size_bytes >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("not a digest: ", Quoted(blob.sha256), " of ", blob.size_bytes, " bytes"));
}

}  // namespace

BlobCache::Pins& BlobCache::Pins::operator=(Pins&& other) noexcept {
  if (this != &other) {
    Drop();
    cache_ = std::exchange(other.cache_, nullptr);
    names_ = std::move(other.names_);
  }
  return *this;
}

void BlobCache::Pins::Drop() {
  if (cache_ != nullptr) std::exchange(cache_, nullptr)->Unpin(names_);
}

absl::StatusOr<std::unique_ptr<BlobCache>> BlobCache::Open(const fs::path& root, int64_t max_bytes) {
  if (max_bytes <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("--cache-bytes is ", max_bytes, ": it must be positive"));
  }
  std::error_code error;
  const fs::path absolute = fs::absolute(root, error);
  if (error) return FileError(error, "find", root);
  fs::create_directories(absolute / "blobs", error);
  if (error) return FileError(error, "make the cache folder", absolute);
  ASSIGN_OR_RETURN(UniqueFd lock, LockFolder(absolute));
  std::unique_ptr<BlobCache> cache(new BlobCache(absolute, max_bytes, std::move(lock)));
  RETURN_IF_ERROR(cache->Sweep());
  return cache;
}

absl::Status BlobCache::Sweep() {
  RETURN_IF_ERROR(MakeEmptyFolder(root_ / "tmp"));
  RETURN_IF_ERROR(MakeEmptyFolder(root_ / "jobs"));
  SweepOld(resume_folder());
  struct Found {
    int64_t mtime_ns;
    int64_t size;
    std::string name;
  };
  std::vector<Found> found;
  std::vector<fs::path> strays;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(root_ / "blobs", error); !error && it != fs::end(it);
       it.increment(error)) {
    struct stat info;
    const std::string name = it->path().filename().string();
    if (::lstat(it->path().c_str(), &info) != 0) continue;
    if (S_ISDIR(info.st_mode)) continue;
    if (S_ISREG(info.st_mode) && IsSha256Hex(name) && it->path() == PathOf(name)) {
      found.push_back({info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec, info.st_size, name});
    } else {
      strays.push_back(it->path());
    }
  }
  if (error) return FileError(error, "read the cache folder", root_ / "blobs");
  for (const fs::path& path : strays) {
    LOG(WARNING) << "removing " << path.string() << " from the cache: it is no blob";
    fs::remove(path, error);
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.mtime_ns < b.mtime_ns; });
  MutexLock lock(&mu_);
  for (const Found& f : found) {
    entries_[f.name] = {.size = f.size, .used = next_use_++, .present = true};
    stats_.bytes += f.size;
  }
  while (stats_.bytes > max_bytes_ && EvictOne()) {
  }
  return absl::OkStatus();
}

absl::StatusOr<BlobCache::Pins> BlobCache::Pin(const std::vector<FileDigest>& blobs, const Stop& stop) {
  std::vector<FileDigest> distinct;
  std::set<std::string> seen;
  int64_t total = 0;
  for (const FileDigest& blob : blobs) {
    RETURN_IF_ERROR(CheckDigest(blob));
    if (!seen.insert(blob.sha256).second) continue;
    distinct.push_back(blob);
    // Capped one past the limit, so that absurd sizes cannot overflow the sum.
    total = std::min(max_bytes_, total) + std::min(blob.size_bytes, max_bytes_ + 1 - std::min(max_bytes_, total));
    if (total > max_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the job's input files need more than the ", max_bytes_,
                       " bytes of this worker's cache: start it with a larger --cache-bytes"));
    }
  }
  MutexLock lock(&mu_);
  while (!TryPin(distinct)) {
    if (stop && stop()) return absl::CancelledError("stopped while waiting for room in the cache");
    changed_.WaitFor(&mu_, kPoll);
  }
  Pins pins;
  pins.cache_ = this;
  pins.names_.assign(seen.begin(), seen.end());
  return pins;
}

bool BlobCache::TryPin(const std::vector<FileDigest>& blobs) {
  int64_t kept = 0;  // bytes that cannot be evicted for this request
  int64_t wanted = 0;
  std::set<std::string> names;
  for (const FileDigest& blob : blobs) {
    auto it = entries_.find(blob.sha256);
    // A file of another size than asked for is damaged (or the request is wrong, which its download will show).
    if (it != entries_.end() && it->second.pins == 0 && it->second.size != blob.size_bytes) {
      Erase(it);
      it = entries_.end();
    }
    if (it == entries_.end()) wanted += blob.size_bytes;
    names.insert(blob.sha256);
  }
  for (const auto& [name, entry] : entries_) {
    if (entry.pins > 0 || names.contains(name)) kept += entry.size;
  }
  if (wanted > max_bytes_ - kept) return false;
  for (const FileDigest& blob : blobs) {
    const auto [it, fresh] = entries_.try_emplace(blob.sha256, Entry{.size = blob.size_bytes});
    if (fresh) stats_.bytes += blob.size_bytes;
    it->second.pins++;
    it->second.used = next_use_++;
  }
  while (stats_.bytes > max_bytes_ && EvictOne()) {
  }
  return true;
}

void BlobCache::Unpin(const std::vector<std::string>& names) {
  MutexLock lock(&mu_);
  for (const std::string& name : names) {
    const auto it = entries_.find(name);
    if (it == entries_.end()) continue;
    it->second.pins--;
    if (it->second.pins == 0 && !it->second.present) {  // reserved, never fetched
      stats_.bytes -= it->second.size;
      entries_.erase(it);
    }
  }
  changed_.SignalAll();
}

bool BlobCache::EvictOne() {
  auto oldest = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it) {
    if (it->second.pins == 0 && (oldest == entries_.end() || it->second.used < oldest->second.used)) oldest = it;
  }
  if (oldest == entries_.end()) return false;
  stats_.evicted_bytes += oldest->second.size;
  Erase(oldest);
  return true;
}

void BlobCache::Erase(std::map<std::string, Entry>::iterator entry) {
  const fs::path path = PathOf(entry->first);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    LOG(ERROR) << "cannot remove " << path.string() << " from the cache, errno " << errno;
  }
  stats_.bytes -= entry->second.size;
  entries_.erase(entry);
}

absl::StatusOr<fs::path> BlobCache::Fetch(const FileDigest& blob, const Downloader& download, const Stop& stop) {
  fs::path path = PathOf(blob.sha256);
  {
    MutexLock lock(&mu_);
    while (true) {
      const auto it = entries_.find(blob.sha256);
      if (it == entries_.end() || it->second.pins == 0) {
        return absl::FailedPreconditionError(absl::StrCat("blob ", blob.sha256, " was not pinned before its fetch"));
      }
      Entry& entry = it->second;
      if (entry.size != blob.size_bytes) {
        return absl::DataLossError(absl::StrCat("blob ", blob.sha256, " is wanted with ", blob.size_bytes,
                                                " bytes and with ", entry.size, ": a manifest is wrong"));
      }
      if (entry.loading) {
        if (stop && stop()) return absl::CancelledError("stopped while another job downloads the blob");
        changed_.WaitFor(&mu_, kPoll);
        continue;
      }
      // Someone may have removed or cut the file behind our back: look before handing it out.
      if (entry.present && RegularFileSize(path) == entry.size) {
        stats_.hit_bytes += entry.size;
        ::utimensat(AT_FDCWD, path.c_str(), nullptr, AT_SYMLINK_NOFOLLOW);  // lets the next run know its age
        return path;
      }
      if (entry.present) ::unlink(path.c_str());
      entry.present = false;
      entry.loading = true;
      break;
    }
  }
  const absl::Status status = Load(blob, download);
  MutexLock lock(&mu_);
  Entry& entry = entries_.at(blob.sha256);  // pinned by our caller, so still there
  entry.loading = false;
  entry.present = status.ok();
  changed_.SignalAll();
  RETURN_IF_ERROR(status);
  stats_.miss_bytes += entry.size;
  return path;
}

absl::Status BlobCache::Load(const FileDigest& blob, const Downloader& download) {
  fs::path folder;
  {
    MutexLock lock(&mu_);
    folder = root_ / "tmp" / absl::StrCat(next_download_++);
  }
  RETURN_IF_ERROR(MakeEmptyFolder(folder));
  const absl::Cleanup remove = [&] {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  };
  const fs::path file = folder / "blob";
  RETURN_IF_ERROR(download(blob, file));
  const int64_t size = RegularFileSize(file);
  if (size != blob.size_bytes) {
    return absl::DataLossError(
        absl::StrCat("the download of blob ", blob.sha256, " made ", size, " of ", blob.size_bytes, " bytes"));
  }
  fs::path path = PathOf(blob.sha256);
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) return FileError(error, "make", path.parent_path());
  if (::chmod(file.c_str(), 0444) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot chmod ", file.string()));
  if (::rename(file.c_str(), path.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot move a download to ", path.string()));
  }
  return absl::OkStatus();
}

BlobCache::Stats BlobCache::stats() const {
  MutexLock lock(&mu_);
  return stats_;
}

}  // namespace quant
