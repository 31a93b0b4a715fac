// SPDX-License-Identifier: Apache-2.0
// S3BlobWriter: a stream into an upload of S3BlobStore; see there for the objects and their order.
#ifndef QUANT_SERVER_BLOBS_S3_BLOB_WRITER_H_
#define QUANT_SERVER_BLOBS_S3_BLOB_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/blobs/s3_blob_store.h"
#include "server/blobs/s3_upload_state.h"
#include "server/blobs/sha256_state.h"

namespace quant {

class S3BlobWriter : public BlobWriter {
 public:
  // The store has entered `key` as open and promised `buffer_bytes`; the writer takes both back when it is destroyed.
  // `resumed`: what earlier streams left, if anything.
  S3BlobWriter(S3BlobStore* store, std::string key, BlobId blob, int64_t part_bytes, int64_t buffer_bytes,
               std::optional<S3ConfirmedUpload> resumed);
  ~S3BlobWriter() override;

  int64_t offset() const override { return offset_; }
  absl::Status Write(absl::Span<const std::string_view> pieces) override;
  absl::StatusOr<int64_t> Commit() override;
  absl::Status Finish() override;

 private:
  absl::Status Append(std::string_view data);
  absl::Status SendPart();
  absl::Status SaveState(const std::string& tail);
  absl::Status Publish();
  // Removes what was sent; `why` is the error for the client.
  absl::Status Drop(std::string_view why);
  // Remembers an error: after one the writer is good for nothing more.
  absl::Status Note(absl::Status status);

  S3BlobStore* const store_;
  S3Client* const s3_;
  const std::string key_;  // of the state
  const BlobId blob_;
  const std::string blob_key_;
  const int64_t buffer_bytes_;
  int64_t part_bytes_;
  std::string multipart_id_;
  std::vector<S3Client::Part> parts_;
  std::string buffer_;  // the bytes after the parts
  ResumableSha256 hash_;
  int64_t offset_ = 0;
  int64_t committed_ = 0;
  bool done_ = false;
  absl::Status failed_;
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_S3_BLOB_WRITER_H_
