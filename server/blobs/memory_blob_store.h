// SPDX-License-Identifier: Apache-2.0
// MemoryBlobStore: the fake of the BlobStore seam, for tests of what stands on it. "Durable" means as long as the
// object lives. It has room for everything.
#ifndef QUANT_SERVER_BLOBS_MEMORY_BLOB_STORE_H_
#define QUANT_SERVER_BLOBS_MEMORY_BLOB_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/blobs/blob_store.h"

namespace quant {

class MemoryBlobStore : public BlobStore {
 public:
  // Uploads commit by themselves every `commit_bytes`.
  explicit MemoryBlobStore(Clock* clock = &SystemClock(), int64_t commit_bytes = int64_t{8} << 20)
      : clock_(clock), commit_bytes_(commit_bytes) {}

  absl::StatusOr<bool> Touch(const BlobId& blob) override;
  absl::StatusOr<int64_t> CommittedSize(std::string_view upload_id, const BlobId& blob) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> OpenWriter(std::string_view upload_id, const BlobId& blob,
                                                         int64_t write_offset) override;
  absl::StatusOr<std::unique_ptr<BlobReader>> OpenReader(const BlobId& blob) override;
  absl::StatusOr<std::vector<BlobId>> Stale(absl::Time before) override;
  absl::StatusOr<bool> Remove(const BlobId& blob, absl::Time before) override;
  absl::StatusOr<int64_t> DropUploads(absl::Time before) override;
  Stats stats() const override;

 private:
  friend class MemoryBlobWriter;
  struct Blob {
    std::shared_ptr<const std::string> bytes;  // shared with open readers
    absl::Time used;
  };
  struct Upload {
    std::string bytes;  // committed
    absl::Time used;
    bool open = false;
  };
  using Key = std::pair<std::string, std::string>;  // upload_id, sha256

  Clock* const clock_;
  const int64_t commit_bytes_;
  mutable Mutex mu_;
  std::map<std::string, Blob, std::less<>> blobs_ ABSL_GUARDED_BY(mu_);
  std::map<Key, Upload> uploads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_MEMORY_BLOB_STORE_H_
