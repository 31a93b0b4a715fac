// SPDX-License-Identifier: Apache-2.0
// FileBlobStore: blobs in a folder of a local file system.
//
//   blobs/sha256/ab/<hash>                 a blob, read-only; its mtime is its last use
//   uploads/<upload_id>-<hash>             the bytes of an upload so far
//   uploads/<upload_id>-<hash>.committed   how many of them are durable: a decimal number
//
// A blob appears by: write, fsync(file), rename, fsync(folder). An upload is committed about every 16 MiB, while it
// goes on, and at the end of a stream: fsync(file), then the number, then fsync of that. A crash in between leaves
// bytes past the number; the next stream cuts them off. The state of the hash is not kept: the next stream reads the
// committed bytes once.
//
// One store per folder and process: the caller locks the folder.
#ifndef QUANT_SERVER_BLOBS_FILE_BLOB_STORE_H_
#define QUANT_SERVER_BLOBS_FILE_BLOB_STORE_H_

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/thread_pool.h"
#include "server/blobs/blob_store.h"

namespace quant {

struct FileBlobStoreOptions {
  int64_t reserve_bytes = int64_t{512} << 20;   // free space that uploads leave
  int64_t max_blob_bytes = int64_t{256} << 30;  // larger ones are refused
  int64_t commit_bytes = int64_t{16} << 20;     // bytes between commits of an upload
  Clock* clock = &SystemClock();
  // Other processes use the folder too: what looks half-done at Open may be theirs, and is left to DropUploads.
  bool shared = false;
  // Bytes free for us on the file system of the folder; for tests. Default: statvfs.
  std::function<absl::StatusOr<int64_t>(const std::filesystem::path&)> free_bytes;
};

class FileBlobStore : public BlobStore {
 public:
  // Makes the folders, removes what a crash left half-done, and counts what is there.
  //   PERMISSION_DENIED, UNAVAILABLE, …: the folder cannot be used.
  static absl::StatusOr<std::unique_ptr<FileBlobStore>> Open(const std::filesystem::path& folder,
                                                             FileBlobStoreOptions options);

  absl::StatusOr<bool> Touch(const BlobId& blob) override;
  absl::StatusOr<int64_t> CommittedSize(std::string_view upload_id, const BlobId& blob) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> OpenWriter(std::string_view upload_id, const BlobId& blob,
                                                         int64_t write_offset) override;
  absl::StatusOr<std::unique_ptr<BlobReader>> OpenReader(const BlobId& blob) override;
  absl::StatusOr<std::vector<BlobId>> Stale(absl::Time before) override;
  absl::StatusOr<bool> Remove(const BlobId& blob, absl::Time before) override;
  absl::StatusOr<int64_t> DropUploads(absl::Time before) override;
  Stats stats() const override { return {blobs_.load(), bytes_.load()}; }

 private:
  friend class FileBlobWriter;
  FileBlobStore(std::filesystem::path folder, FileBlobStoreOptions options);

  std::filesystem::path PathOf(const BlobId& blob) const;
  absl::Status Scan();
  absl::Status SweepOrphans();
  // Room for `more` bytes beside the reserve and what open uploads may still write.
  absl::Status Admit(int64_t more) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A verified and durable file becomes the blob.
  absl::Status Publish(const std::filesystem::path& partial, const BlobId& blob);
  void CloseUpload(const std::string& key);
  void NoteWritten(const std::string& key, int64_t bytes);

  static constexpr int kHelpers = 4;

  const std::filesystem::path folder_;
  const FileBlobStoreOptions options_;
  std::atomic<int64_t> blobs_{0};
  std::atomic<int64_t> bytes_{0};

  Mutex mu_;
  // Open writers by file name in uploads/, with the bytes they may still write.
  std::map<std::string, int64_t, std::less<>> open_ ABSL_GUARDED_BY(mu_);
  Mutex publish_mu_;  // held over "is it there, then rename", over a use being noted, and over Remove
  ThreadPool helpers_{kHelpers, /*max_waiting=*/2 * kHelpers};  // of writers
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_FILE_BLOB_STORE_H_
