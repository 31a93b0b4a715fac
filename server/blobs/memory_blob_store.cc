// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/memory_blob_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/status_macros.h"

namespace quant {

class MemoryBlobWriter : public BlobWriter {
 public:
  MemoryBlobWriter(MemoryBlobStore* store, MemoryBlobStore::Key key, BlobId blob, std::string bytes)
      : store_(store), key_(std::move(key)), blob_(std::move(blob)), bytes_(std::move(bytes)), committed_(offset()) {}
  ~MemoryBlobWriter() override {
    MutexLock lock(&store_->mu_);
    const auto it = store_->uploads_.find(key_);
    if (it == store_->uploads_.end()) return;
    it->second.open = false;
    if (it->second.bytes.empty()) store_->uploads_.erase(it);
  }

  int64_t offset() const override { return static_cast<int64_t>(bytes_.size()); }

  absl::Status Write(absl::Span<const std::string_view> pieces) override {
    for (const std::string_view piece : pieces) {
      if (static_cast<int64_t>(piece.size()) > blob_.size_bytes - offset()) return Drop("too many bytes");
      bytes_ += piece;
    }
    return offset() - committed_ >= store_->commit_bytes_ ? Commit().status() : absl::OkStatus();
  }

  absl::StatusOr<int64_t> Commit() override {
    MutexLock lock(&store_->mu_);
    MemoryBlobStore::Upload& upload = store_->uploads_[key_];
    upload.bytes = bytes_;
    upload.used = store_->clock_->Now();
    return committed_ = offset();
  }

  absl::Status Finish() override {
    if (offset() != blob_.size_bytes) return Drop("too few bytes");
    if (Sha256Hex(bytes_) != blob_.sha256) return Drop("another digest");
    MutexLock lock(&store_->mu_);
    store_->blobs_[blob_.sha256] = {std::make_shared<const std::string>(std::move(bytes_)), store_->clock_->Now()};
    store_->uploads_.erase(key_);
    return absl::OkStatus();
  }

 private:
  absl::Status Drop(std::string_view why) {
    MutexLock lock(&store_->mu_);
    store_->uploads_.erase(key_);
    return WithReason(absl::InvalidArgumentError(absl::StrCat("upload has ", std::string(why))),
                      "BLOB_DIGEST_MISMATCH");
  }

  MemoryBlobStore* const store_;
  const MemoryBlobStore::Key key_;
  const BlobId blob_;
  std::string bytes_;
  int64_t committed_;
};

namespace {

class MemoryBlobReader : public BlobReader {
 public:
  explicit MemoryBlobReader(std::shared_ptr<const std::string> bytes) : bytes_(std::move(bytes)) {}
  absl::StatusOr<std::string> Read(int64_t offset, int64_t size) override {
    if (offset < 0 || size <= 0 || offset >= std::ssize(*bytes_)) return std::string();
    return bytes_->substr(static_cast<size_t>(offset), static_cast<size_t>(size));
  }

 private:
  const std::shared_ptr<const std::string> bytes_;
};

}  // namespace

absl::StatusOr<bool> MemoryBlobStore::Touch(const BlobId& blob) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  MutexLock lock(&mu_);
  const auto it = blobs_.find(blob.sha256);
  if (it == blobs_.end() || std::ssize(*it->second.bytes) != blob.size_bytes) return false;
  it->second.used = clock_->Now();
  return true;
}

absl::StatusOr<int64_t> MemoryBlobStore::CommittedSize(std::string_view upload_id, const BlobId& blob) {
  RETURN_IF_ERROR(CheckUploadId(upload_id));
  RETURN_IF_ERROR(CheckBlobId(blob));
  MutexLock lock(&mu_);
  const auto it = uploads_.find({std::string(upload_id), blob.sha256});
  return it == uploads_.end() ? 0 : std::ssize(it->second.bytes);
}

absl::StatusOr<std::unique_ptr<BlobWriter>> MemoryBlobStore::OpenWriter(std::string_view upload_id, const BlobId& blob,
                                                                        int64_t write_offset) {
  ASSIGN_OR_RETURN(const int64_t committed, CommittedSize(upload_id, blob));
  Key key = {std::string(upload_id), blob.sha256};
  MutexLock lock(&mu_);
  Upload& upload = uploads_[key];
  if (upload.open) return WithReason(absl::AbortedError("another stream is writing"), "UPLOAD_BUSY");
  if (write_offset != committed) {
    if (upload.bytes.empty()) uploads_.erase(key);
    return WithReason(absl::OutOfRangeError("write_offset is not the committed size"), "UPLOAD_OFFSET_MISMATCH",
                      {{"committed", absl::StrCat(committed)}});
  }
  upload.open = true;
  upload.used = clock_->Now();
  return std::make_unique<MemoryBlobWriter>(this, std::move(key), blob, upload.bytes);
}

absl::StatusOr<std::unique_ptr<BlobReader>> MemoryBlobStore::OpenReader(const BlobId& blob) {
  ASSIGN_OR_RETURN(const bool stored, Touch(blob));
  MutexLock lock(&mu_);
  const auto it = blobs_.find(blob.sha256);
  if (!stored || it == blobs_.end()) return absl::NotFoundError(absl::StrCat("no blob ", blob.sha256));
  return std::make_unique<MemoryBlobReader>(it->second.bytes);
}

absl::StatusOr<std::vector<BlobId>> MemoryBlobStore::Stale(absl::Time before) {
  std::vector<BlobId> stale;
  MutexLock lock(&mu_);
  for (const auto& [sha256, blob] : blobs_) {
    if (blob.used < before) stale.push_back({sha256, std::ssize(*blob.bytes)});
  }
  return stale;
}

absl::StatusOr<bool> MemoryBlobStore::Remove(const BlobId& blob, absl::Time before) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  MutexLock lock(&mu_);
  const auto it = blobs_.find(blob.sha256);
  if (it == blobs_.end() || it->second.used >= before) return false;
  blobs_.erase(it);
  return true;
}

absl::StatusOr<int64_t> MemoryBlobStore::DropUploads(absl::Time before) {
  MutexLock lock(&mu_);
  int64_t bytes = 0;
  for (auto it = uploads_.begin(); it != uploads_.end();) {
    const bool drop = !it->second.open && it->second.used < before;
    if (drop) bytes += std::ssize(it->second.bytes);
    it = drop ? uploads_.erase(it) : std::next(it);
  }
  return bytes;
}

BlobStore::Stats MemoryBlobStore::stats() const {
  MutexLock lock(&mu_);
  Stats stats;
  for (const auto& [sha256, blob] : blobs_) {
    ++stats.blobs;
    stats.bytes += std::ssize(*blob.bytes);
  }
  return stats;
}

}  // namespace quant
