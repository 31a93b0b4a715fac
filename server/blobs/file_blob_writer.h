// SPDX-License-Identifier: Apache-2.0
// FileBlobWriter: a stream into an upload of FileBlobStore; see there for the files and their order on disk.
//
// Bytes are hashed while they are written, and committed while the next ones come: a stream is as fast as the slowest
// of these and not as their sum. All of it ends in Write, but for the commit, which the next Commit or Finish, the
// destructor, and a Write that has run far ahead wait for.
#ifndef QUANT_SERVER_BLOBS_FILE_BLOB_WRITER_H_
#define QUANT_SERVER_BLOBS_FILE_BLOB_WRITER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "common/background_task.h"
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
  absl::Status Write(absl::Span<const std::string_view> pieces) override;
  absl::StatusOr<int64_t> Commit() override;
  absl::Status Finish() override;

 private:
  FileBlobWriter(FileBlobStore* store, std::string key, std::filesystem::path partial, BlobId blob)
      : store_(store), key_(std::move(key)), partial_(std::move(partial)), blob_(std::move(blob)) {}
  absl::Status Load();
  // Makes the first `size` bytes durable, then the number that says so.
  absl::Status CommitTo(int64_t size);
  // Waits for the commit that is under way, if one is; its error is every later one's too.
  absl::Status EndCommit();
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
  int64_t begun_ = 0;  // bytes that are committed or being so
  bool done_ = false;
  // The commit's until EndCommit.
  int64_t committed_ = 0;
  absl::Status sync_error_;
  BackgroundTask commit_;  // the last member: it ends before what it uses goes
};

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_FILE_BLOB_WRITER_H_
