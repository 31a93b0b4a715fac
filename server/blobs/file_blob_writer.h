// SPDX-License-Identifier: Apache-2.0
// FileBlobWriter: a stream into an upload of FileBlobStore; see there for the files and their order on disk.
#ifndef QUANT_SERVER_BLOBS_FILE_BLOB_WRITER_H_
#define QUANT_SERVER_BLOBS_FILE_BLOB_WRITER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/digest.h"
#include "common/unique_fd.h"
#include "server/blobs/file_blob_store.h"

namespace quant {

// Durable bytes of the upload whose bytes are in `partial`: the number in its .committed file, but never more than the
// bytes there are; 0 without one, or when it cannot be read.
int64_t CommittedBytes(const std::filesystem::path& partial);
// "<partial>.committed".
std::filesystem::path CommittedPath(const std::filesystem::path& partial);

class FileBlobWriter : public BlobWriter {
 public:
  // Opens the file, cuts it to its committed bytes and hashes those. The store has entered `key` as open; the writer
  // takes that back when it is destroyed, also when Open fails.
  static absl::StatusOr<std::unique_ptr<BlobWriter>> Open(FileBlobStore* store, std::string key,
                                                          const std::filesystem::path& partial, const BlobId& blob);
  ~FileBlobWriter() override;

  int64_t offset() const override { return offset_; }
  absl::Status Write(std::string_view data) override;
  absl::StatusOr<int64_t> Commit() override;
  absl::Status Finish() override;

 private:
  FileBlobWriter(FileBlobStore* store, std::string key, std::filesystem::path partial, BlobId blob)
      : store_(store), key_(std::move(key)), partial_(std::move(partial)), blob_(std::move(blob)) {}
  absl::Status Load();
  // Removes the upload's files; `why` is the error for the client.
  absl::Status Drop(std::string_view why);

  FileBlobStore* const store_;
  const std::string key_;
  const std::filesystem::path partial_;
  const BlobId blob_;
  UniqueFd fd_;
  UniqueFd committed_fd_;
  Sha256 hash_;
  int64_t offset_ = 0;
  int64_t committed_ = 0;
  bool done_ = false;
  absl::Status sync_error_;
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_FILE_BLOB_WRITER_H_
