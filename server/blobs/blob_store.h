// SPDX-License-Identifier: Apache-2.0
// BlobStore: bytes by content. A seam: FileBlobStore keeps them in a folder, S3BlobStore in a bucket; all pass the same
// contract test (blob_store_test.cc).
//
// A blob is named by the SHA-256 and the size of its bytes and never changes. It is written by an upload, which has a
// name of the client's choice so that it can go on after a broken connection or a crash of either side. Nothing of a
// blob can be seen before all its bytes are verified and durable.
#ifndef QUANT_SERVER_BLOBS_BLOB_STORE_H_
#define QUANT_SERVER_BLOBS_BLOB_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace quant {

struct BlobId {
  std::string sha256;      // 64 lower-case hex digits
  int64_t size_bytes = 0;  // >= 0
  bool operator==(const BlobId&) const = default;
};

// INVALID_ARGUMENT unless `blob` has that form, and `upload_id` is 1 to 64 of [A-Za-z0-9_-].
absl::Status CheckBlobId(const BlobId& blob);
absl::Status CheckUploadId(std::string_view upload_id);

// One stream of bytes into an upload. At most one exists per upload. Destroying it ends the stream; what was committed
// stays for the next. Thread-compatible.
class BlobWriter {
 public:
  virtual ~BlobWriter() = default;

  // Bytes taken so far, of this and earlier streams: where the next Write goes.
  virtual int64_t offset() const = 0;
  // Appends the pieces in their order; commits now and then, perhaps a little later.
  //   INVALID_ARGUMENT, reason BLOB_DIGEST_MISMATCH: more bytes than the blob has; they are dropped.
  //   RESOURCE_EXHAUSTED, reason DISK_FULL.  UNAVAILABLE: I/O error.  After these only Commit may follow.
  virtual absl::Status Write(absl::Span<const std::string_view> pieces) = 0;
  absl::Status Write(std::string_view data) { return Write(absl::MakeConstSpan(&data, 1)); }
  // Makes all bytes so far durable and returns their number. After an error the writer is good for nothing more.
  virtual absl::StatusOr<int64_t> Commit() = 0;
  // Verifies and publishes: when OK, the blob is durable and visible. The writer may only be destroyed afterwards.
  //   INVALID_ARGUMENT, reason BLOB_DIGEST_MISMATCH: the upload's bytes are dropped.
  virtual absl::Status Finish() = 0;
};

// A stored blob, open; reading is a use of it. Removed all the same, it can be read on, or (S3) fails with NOT_FOUND.
// Thread-safe.
class BlobReader {
 public:
  virtual ~BlobReader() = default;
  // Bytes [offset, offset + size), fewer at the end of the blob.  DATA_LOSS: the file is shorter than its name says.
  virtual absl::StatusOr<std::string> Read(int64_t offset, int64_t size) = 0;
};

// Thread-safe. Malformed names are INVALID_ARGUMENT everywhere.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  // Whether the blob is stored. A yes counts as a use: the blob is young again for Stale and Remove.
  virtual absl::StatusOr<bool> Touch(const BlobId& blob) = 0;
  // Durable bytes of an upload; 0 when nobody began it.
  virtual absl::StatusOr<int64_t> CommittedSize(std::string_view upload_id, const BlobId& blob) = 0;
  // Goes on with an upload, or begins it. In a folder the bytes that are there are read once to rebuild the hash.
  //   ABORTED, reason UPLOAD_BUSY: another writer is open.
  //   OUT_OF_RANGE, reason UPLOAD_OFFSET_MISMATCH (metadata "committed"): write_offset is not the committed size.
  //   RESOURCE_EXHAUSTED, reason DISK_FULL or BLOB_TOO_LARGE: no room for the declared size; nothing is written.
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> OpenWriter(std::string_view upload_id, const BlobId& blob,
                                                                 int64_t write_offset) = 0;
  //   NOT_FOUND: no such blob.
  virtual absl::StatusOr<std::unique_ptr<BlobReader>> OpenReader(const BlobId& blob) = 0;

  // ---- housekeeping
  // Blobs not stored, asked for or read since `before`.
  virtual absl::StatusOr<std::vector<BlobId>> Stale(absl::Time before) = 0;
  // Removes a blob if it is still that stale; true when it did.
  virtual absl::StatusOr<bool> Remove(const BlobId& blob, absl::Time before) = 0;
  // Drops uploads without a writer whose last commit was before `before`; returns their bytes.
  virtual absl::StatusOr<int64_t> DropUploads(absl::Time before) = 0;

  struct Stats {
    int64_t blobs = 0;
    int64_t bytes = 0;
  };
  virtual Stats stats() const = 0;
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_BLOB_STORE_H_
