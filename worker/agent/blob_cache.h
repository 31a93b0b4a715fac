// SPDX-License-Identifier: Apache-2.0
// BlobCache: blobs on the worker's disk, so that a model used by ten jobs is downloaded once.
//
//   ROOT/lock              held by flock: one process per folder
//   ROOT/blobs/ab/ab12…    a blob under its SHA-256, mode 0444; its mtime is when it was last used
//   ROOT/tmp/N/            a download on its way; gone when it ends
//   ROOT/jobs/             the folders of running jobs (job_folder.h); their files are not counted
//
// A job first pins all its blobs at once, which reserves the room for them, and then fetches each. A pinned blob is
// never evicted; others go least recently used first. Since pinning is all or nothing, jobs that wait for room hold
// none and cannot block each other for ever.
#ifndef QUANT_WORKER_AGENT_BLOB_CACHE_H_
#define QUANT_WORKER_AGENT_BLOB_CACHE_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/digest.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace quant {

// Thread-safe.
class BlobCache {
 public:
  // Puts the blob's bytes, verified against its digest, into the new file `dst`, or fails. Called without our lock.
  using Downloader = std::function<absl::Status(const FileDigest& blob, const std::filesystem::path& dst)>;
  // Polled every 50 ms while waiting; true ends the wait with CANCELLED.
  using Stop = std::function<bool()>;

  struct Stats {
    int64_t bytes = 0;          // present or reserved now
    int64_t hit_bytes = 0;      // fetched without a download, since Open
    int64_t miss_bytes = 0;     // downloaded
    int64_t evicted_bytes = 0;  // removed to make room
  };

  // Keeps blobs from eviction for its lifetime; the cache must outlive it. Movable.
  class Pins {
   public:
    Pins() = default;
    Pins(Pins&& other) noexcept { *this = std::move(other); }
    Pins& operator=(Pins&& other) noexcept;
    ~Pins() { Drop(); }

   private:
    friend class BlobCache;
    void Drop();
    BlobCache* cache_ = nullptr;
    std::vector<std::string> names_;
  };

  // Opens or makes the folder, removes what a killed worker left in tmp/ and jobs/ and files that are no blobs, and
  // evicts down to `max_bytes`.
  //   FAILED_PRECONDITION: another process holds the folder.  INVALID_ARGUMENT: max_bytes is not positive.
  //   Others: the folder cannot be made or read.
  static absl::StatusOr<std::unique_ptr<BlobCache>> Open(const std::filesystem::path& root, int64_t max_bytes);

  // Reserves room for `blobs` (repeats are counted once) and pins them, waiting while other jobs' pins leave no room.
  //   RESOURCE_EXHAUSTED: together they exceed max_bytes; the message names --cache-bytes.
  //   INVALID_ARGUMENT: a malformed digest.  CANCELLED: `stop` said so.
  absl::StatusOr<Pins> Pin(const std::vector<FileDigest>& blobs, const Stop& stop);

  // The file of a pinned blob, downloaded if it is not there. Several callers for one blob download it once.
  //   FAILED_PRECONDITION: not pinned.  DATA_LOSS: `download` made a file of another size.  CANCELLED: `stop` said so.
  //   Others: from `download`.
  absl::StatusOr<std::filesystem::path> Fetch(const FileDigest& blob, const Downloader& download, const Stop& stop);

  Stats stats() const;
  int64_t max_bytes() const { return max_bytes_; }
  std::filesystem::path jobs_folder() const { return root_ / "jobs"; }
  // Where jobs keep what later attempts can go on from (job_folder.h). What nobody touched for a week goes at start.
  std::filesystem::path resume_folder() const { return root_ / "resume"; }

 private:
  struct Entry {
    int64_t size = 0;
    int pins = 0;
    int64_t used = 0;  // the larger, the more recent
    bool loading = false;
    bool present = false;
  };

  BlobCache(std::filesystem::path root, int64_t max_bytes, UniqueFd lock)
      : root_(std::move(root)), max_bytes_(max_bytes), lock_(std::move(lock)) {}
  std::filesystem::path PathOf(const std::string& sha256) const {
    return root_ / "blobs" / sha256.substr(0, 2) / sha256;
  }
  absl::Status Sweep();
  absl::Status Load(const FileDigest& blob, const Downloader& download);
  void Unpin(const std::vector<std::string>& names);
  // True when `blobs`, all distinct, were pinned.
  bool TryPin(const std::vector<FileDigest>& blobs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Removes the least recently used unpinned blob; false when there is none.
  bool EvictOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Erase(std::map<std::string, Entry>::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::filesystem::path root_;
  const int64_t max_bytes_;
  const UniqueFd lock_;
  mutable Mutex mu_;
  CondVar changed_;                                            // a pin was dropped or a download ended
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by SHA-256; present, or pinned
  Stats stats_ ABSL_GUARDED_BY(mu_);                           // stats_.bytes = sum of the entries' sizes
  int64_t next_use_ ABSL_GUARDED_BY(mu_) = 1;
  int64_t next_download_ ABSL_GUARDED_BY(mu_) = 1;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_BLOB_CACHE_H_
