// SPDX-License-Identifier: Apache-2.0
// S3BlobStore: blobs in a bucket. Several quantd may use one bucket, and one prefix if they share their models (the
// same owner).
//
//   OWNER                            S3BlobStoreOptions::owner
//   sha256/ab/<hash>                 a blob
//   used/<hash>/<unix seconds>       an empty object: the blob was stored, asked for or read then
//   used/<hash>/doomed-<seconds>     an empty object: somebody is removing the blob
//   uploads/<upload_id>-<hash>       how far an upload is (s3_upload_state.h)
//
// A blob of one part appears by a PUT, a larger one by the completion of a multipart upload on its key: both only once
// the SHA-256 of what was sent is right, and the server has checked that of each body on the way. Parts have one size
// for the upload's life. The state of an upload is written every `commit_bytes` and at the end of a stream; it has the
// number of parts, the state of the hash after them, and the bytes that did not fill a part, so that nothing is read
// back to go on. (S3 lets nobody read the parts of an unfinished upload.) ListParts must confirm the parts: a state
// that it does not confirm counts for nothing.
//
// Uses are recorded at most every `touch_interval` per blob and process. S3 cannot remove an object on a condition, so
// Remove and a use meet by leaving marks: Remove writes `doomed` and then looks for uses; a use is written and then
// looks for `doomed`. Whichever comes second sees the other. A `doomed` older than ten minutes was left by a crash.
//
// An S3 server that lists with a delay weakens only that; the grace period of the sweep stays.
#ifndef QUANT_SERVER_BLOBS_S3_BLOB_STORE_H_
#define QUANT_SERVER_BLOBS_S3_BLOB_STORE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/blobs/blob_store.h"
#include "server/blobs/s3_client.h"

namespace quant {

struct S3BlobStoreOptions {
  S3Options s3;
  // Whose models and datasets say which blobs are needed: of two owners each would sweep the other's. Empty: not asked.
  std::string owner;
  int64_t part_bytes = int64_t{8} << 20;          // S3 wants 5 MiB or more; larger for blobs that would need too many
  int64_t max_parts = 10'000;                     // S3's limit
  int64_t commit_bytes = int64_t{32} << 20;       // between writes of an upload's state
  int64_t read_bytes = int64_t{4} << 20;          // of one request at most
  int64_t max_blob_bytes = int64_t{256} << 30;    // larger ones are refused
  int64_t max_buffer_bytes = int64_t{768} << 20;  // parts of open uploads in memory; beyond it UNAVAILABLE, SERVER_BUSY
  absl::Duration touch_interval = absl::Minutes(10);
  Clock* clock = &SystemClock();
};

// Unlike in a folder, a blob removed while a reader is open cannot be read on (NOT_FOUND); but reading is a use.
class S3BlobStore : public BlobStore {
 public:
  // Lists what is there once, also to see that bucket and credentials are right.
  //   FAILED_PRECONDITION: the prefix belongs to another owner.  Errors of S3Client.
  static absl::StatusOr<std::unique_ptr<S3BlobStore>> Open(S3BlobStoreOptions options);

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
  friend class S3BlobWriter;
  friend class S3BlobReader;
  explicit S3BlobStore(S3BlobStoreOptions options);
  absl::Status ClaimPrefix();

  // What used/<hash>/ says.
  struct Uses {
    absl::Time newest = absl::InfinitePast();
    bool doomed = false;
    std::vector<std::string> keys;
  };
  static void AddUse(const std::string& key, std::string_view name, absl::Time now, Uses* uses);
  absl::StatusOr<Uses> ReadUses(const std::string& sha256);
  // Records a use now; false when the blob is being removed.
  absl::StatusOr<bool> MarkUsed(const std::string& sha256);
  // Stored blobs whose use was recorded by this process within touch_interval: nobody removes those.
  bool UsedLately(const BlobId& blob);
  void Remember(const BlobId& blob, absl::Time used);
  void Forget(const std::string& sha256);

  // For the writer. Its blob is about to be published: UNAVAILABLE while somebody removes it. True: it is there
  // already.
  absl::StatusOr<bool> PrepareToPublish(const BlobId& blob);
  void Published(const BlobId& blob, bool was_there);
  void CloseUpload(const std::string& key, int64_t buffer_bytes);

  const S3BlobStoreOptions options_;
  S3Client s3_;
  std::atomic<int64_t> blobs_{0};
  std::atomic<int64_t> bytes_{0};

  Mutex mu_;
  std::set<std::string, std::less<>> open_ ABSL_GUARDED_BY(mu_);  // uploads with a writer in this process
  int64_t buffer_bytes_ ABSL_GUARDED_BY(mu_) = 0;                 // what these may hold
  struct Use {
    absl::Time time;
    int64_t size = 0;  // of the blob
  };
  std::map<std::string, Use> used_
      ABSL_GUARDED_BY(mu_);  // stored blobs by hash, with their newest use that we recorded
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_S3_BLOB_STORE_H_
