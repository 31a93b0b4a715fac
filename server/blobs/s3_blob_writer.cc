// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_blob_writer.h"

#include <algorithm>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {
absl::Status Ended() { return absl::FailedPreconditionError("the upload has ended"); }
}  // namespace

S3BlobWriter::S3BlobWriter(S3BlobStore* store, std::string key, BlobId blob, int64_t part_bytes, int64_t buffer_bytes,
                           std::optional<S3ConfirmedUpload> resumed)
    : store_(store),
      s3_(&store->s3_),
      key_(std::move(key)),
      blob_(std::move(blob)),
      blob_key_(S3BlobKey(blob_.sha256)),
      buffer_bytes_(buffer_bytes),
      part_bytes_(part_bytes) {
  if (!resumed.has_value()) return;
  part_bytes_ = resumed->state.part_bytes;
  multipart_id_ = std::move(resumed->state.multipart_id);
  parts_ = std::move(resumed->parts);
  buffer_ = std::move(resumed->state.tail);
  offset_ = committed_ = static_cast<int64_t>(parts_.size()) * part_bytes_ + std::ssize(buffer_);
  hash_ = *ResumableSha256::Restore(resumed->state.hash, offset_);  // LoadS3Upload checked it
}

S3BlobWriter::~S3BlobWriter() {
  // No state names the parts of an upload that never committed: they need not keep their room.
  if (!done_ && committed_ == 0 && !multipart_id_.empty()) {
    const absl::Status status = s3_->AbortUpload(blob_key_, multipart_id_);
    LOG_IF(WARNING, !status.ok()) << "parts of a broken upload stay until they are swept: " << status.message();
  }
  store_->CloseUpload(key_, buffer_bytes_);
}

absl::Status S3BlobWriter::Note(absl::Status status) {
  if (!status.ok()) failed_ = status;
  return status;
}

absl::Status S3BlobWriter::Drop(std::string_view why) {
  done_ = true;
  absl::Status status = s3_->Delete(key_);
  if (!multipart_id_.empty()) status.Update(s3_->AbortUpload(blob_key_, multipart_id_));
  LOG_IF(WARNING, !status.ok()) << "bytes of a wrong upload stay until they are swept: " << status.message();
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat(AbslView(why), "; the bytes were dropped: read the source again")),
      "BLOB_DIGEST_MISMATCH", {{"sha256", blob_.sha256}});
}

absl::Status S3BlobWriter::SendPart() {
  if (multipart_id_.empty()) {
    ASSIGN_OR_RETURN(multipart_id_, s3_->CreateUpload(blob_key_));
  }
  ASSIGN_OR_RETURN(S3Client::Part part,
                   s3_->PutPart(blob_key_, multipart_id_, static_cast<int>(parts_.size()) + 1, buffer_));
  parts_.push_back(std::move(part));
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status S3BlobWriter::SaveState(const std::string& tail) {
  const S3UploadState state = {.multipart_id = multipart_id_,
                               .part_bytes = part_bytes_,
                               .parts = std::ssize(parts_),
                               .hash = hash_.Save(),
                               .tail = tail};
  RETURN_IF_ERROR(s3_->Put(key_, state.Encode()));
  committed_ = offset_;
  return absl::OkStatus();
}

absl::Status S3BlobWriter::Write(absl::Span<const std::string_view> pieces) {
  for (const std::string_view piece : pieces) RETURN_IF_ERROR(Append(piece));
  return absl::OkStatus();
}

absl::Status S3BlobWriter::Append(std::string_view data) {
  if (done_) return Ended();
  RETURN_IF_ERROR(failed_);
  if (std::ssize(data) > blob_.size_bytes - offset_) {
    return Drop(absl::StrCat("upload has more than the ", blob_.size_bytes, " bytes of its digest"));
  }
  if (buffer_.capacity() == 0) buffer_.reserve(static_cast<size_t>(std::min(part_bytes_, blob_.size_bytes - offset_)));
  while (!data.empty()) {
    const auto room = static_cast<size_t>(part_bytes_) - buffer_.size();
    const std::string_view piece = data.substr(0, room);
    buffer_ += piece;
    hash_.Update(piece);
    offset_ += std::ssize(piece);
    data.remove_prefix(piece.size());
    // The last bytes go with Finish, which knows whether they are right.
    if (std::ssize(buffer_) < part_bytes_ || offset_ == blob_.size_bytes) continue;
    RETURN_IF_ERROR(Note(SendPart()));
    if (offset_ - committed_ >= store_->options_.commit_bytes) RETURN_IF_ERROR(Note(SaveState("")));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> S3BlobWriter::Commit() {
  if (done_) return Ended();
  RETURN_IF_ERROR(failed_);
  if (offset_ != committed_) RETURN_IF_ERROR(Note(SaveState(buffer_)));
  return committed_;
}

absl::Status S3BlobWriter::Publish() {
  ASSIGN_OR_RETURN(const bool there, store_->PrepareToPublish(blob_));
  if (parts_.empty()) {
    RETURN_IF_ERROR(s3_->Put(blob_key_, buffer_));
  } else {
    if (!buffer_.empty()) RETURN_IF_ERROR(SendPart());
    absl::Status status = s3_->CompleteUpload(blob_key_, multipart_id_, parts_);
    if (absl::IsNotFound(status)) {
      // An answer that was lost on the way and asked for again: done, if the blob is there.
      ASSIGN_OR_RETURN(const auto size, s3_->Head(blob_key_));
      if (size != blob_.size_bytes) return status;
    } else {
      RETURN_IF_ERROR(status);
    }
  }
  store_->Published(blob_, there);
  return absl::OkStatus();
}

absl::Status S3BlobWriter::Finish() {
  if (done_) return Ended();
  RETURN_IF_ERROR(failed_);
  if (offset_ != blob_.size_bytes) {
    return Drop(absl::StrCat("upload ended after ", offset_, " of ", blob_.size_bytes, " bytes"));
  }
  const std::string found = hash_.Hex();
  if (found != blob_.sha256) return Drop(absl::StrCat("upload hashes to ", found, ", not to ", blob_.sha256));
  RETURN_IF_ERROR(Note(Publish()));
  done_ = true;
  // The blob is there: a state that stays is only swept later.
  if (committed_ > 0) {
    const absl::Status status = s3_->Delete(key_);
    LOG_IF(WARNING, !status.ok()) << "the state of a finished upload stays until it is swept: " << status.message();
  }
  return absl::OkStatus();
}

}  // namespace quant
