// SPDX-License-Identifier: Apache-2.0
// WriteBlob: a stream of messages into a BlobWriter, which hashes what comes and keeps what a cut leaves.
#include <grpcpp/alarm.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/blob_message.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "server/api/blob_streams.h"

namespace quant {
namespace {

constexpr int64_t kMaxData = int64_t{2} << 20;        // WriteBlobRequest.data
constexpr int64_t kLookInterval = int64_t{64} << 20;  // bytes between looks whether somebody else finished the blob
constexpr absl::Duration kLongestPause = absl::Seconds(2);  // of an upload that is too fast

class WriteBlobReactor : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  WriteBlobReactor(BlobStreams* streams, grpc::CallbackServerContext* context, grpc::ByteBuffer* response)
      : streams_(streams), context_(context), response_(response), slot_(streams), caller_(CallerOf(context)) {
    if (streams_->metrics != nullptr) streams_->metrics->UploadStarted();
    if (const absl::Status status = Admit(caller_, *streams_, slot_); !status.ok()) {
      Finish(ToGrpc(status));
    } else {
      refusal_.Watch(context);
      StartRead(&arriving_);
    }
  }

  // Ends the stream at once, also when nothing arrives; what arrived is kept. On any thread.
  void Refuse(const absl::Status& why) {
    {
      MutexLock lock(&mu_);
      refused_ = why;
      if (ended_ || working_) return;
      working_ = true;
    }
    streams_->pool->PostNext([this] { EndRefused(); });
  }

  // The next message arrives while the pool works on the one before: at most one of each.
  void OnReadDone(bool ok) override {
    {
      MutexLock lock(&mu_);
      if (ended_) return;
      if (working_) {
        arrived_ = ok;
        return;
      }
      working_ = true;
    }
    streams_->pool->PostNext([this, ok] { Step(ok); });
  }

  void OnDone() override {
    if (streams_->metrics != nullptr) streams_->metrics->UploadEnded();
    refusal_.Leave();
    delete this;
  }

 private:
  // A message came, or (not ok) the client ended its side: on purpose, or because the connection broke.
  void Step(bool ok) {
    if (!ok) return End(Suspend());
    if (!Refused().ok()) return EndRefused();
    grpc::ByteBuffer message;
    message.Swap(&arriving_);
    StartRead(&arriving_);
    if (streams_->stopping) {
      const absl::Status committed = Suspend();
      return End(committed.ok() ? Stopping() : committed);
    }
    absl::StatusOr<bool> complete = Take(&message);
    if (!complete.ok()) {
      const std::string reason = ReasonOf(complete.status());
      if (streams_->metrics != nullptr && reason == "DISK_FULL")
        streams_->metrics->QuotaRejected(caller_->tenant, "disk");
      if (streams_->metrics != nullptr && reason == "BLOB_TOO_LARGE")
        streams_->metrics->QuotaRejected(caller_->tenant, "blob_size");
      // What the disk took before the error stays, unless the bytes themselves were wrong.
      if (writer_ != nullptr && reason != "BLOB_DIGEST_MISMATCH") {
        if (const auto committed = writer_->Commit(); !committed.ok()) {
          const LogScope scope(LogFieldsOf(context_));
          LOG(WARNING) << "upload ended by an error, and so did its commit: " << committed.status();
        }
      } else if (writer_ != nullptr && streams_->metrics != nullptr) {
        streams_->metrics->UploadDigestMismatch();
      }
      return End(complete.status());
    }
    if (*complete) {
      answer_.set_committed_size(blob_.size_bytes);
      answer_.set_complete(true);
      return End(absl::OkStatus());
    }
    absl::Duration pause;
    if (streams_->limiter != nullptr && caller_->role == Role::kUser) {
      pause = std::min(streams_->limiter->AfterUpload(caller_->tenant, data_.size()), kLongestPause);
    }
    if (pause <= absl::ZeroDuration()) return GoOn();
    // Not reading is what slows a sender: HTTP/2's window fills up.
    pause_.Set(absl::ToChronoTime(absl::Now() + pause), [this](bool) { GoOn(); });
  }

  // With the message that came meanwhile, if one did.
  void GoOn() {
    bool ok = false;
    {
      MutexLock lock(&mu_);
      working_ = arrived_.has_value() || !refused_.ok();
      if (!working_) return;
      ok = arrived_.value_or(true);
      arrived_.reset();
    }
    streams_->pool->PostNext([this, ok] { Step(ok); });
  }

  absl::Status Refused() {
    MutexLock lock(&mu_);
    return refused_;
  }

  void EndRefused() {
    const absl::Status committed = writer_ == nullptr ? absl::OkStatus() : Suspend();
    End(committed.ok() ? Refused() : committed);
  }

  // Takes a message. True when the blob is stored, by us or by somebody else.
  absl::StatusOr<bool> Take(grpc::ByteBuffer* message) {
    RETURN_IF_ERROR(SplitMessage(message, v1::WriteBlobRequest::kDataFieldNumber, &request_, &data_));
    if (data_.size() > kMaxData) {
      return absl::InvalidArgumentError(
          absl::StrCat("data has ", data_.size(), " bytes; the limit of a message is ", kMaxData));
    }
    if (writer_ == nullptr) {
      blob_ = ToBlobId(request_.digest());
      RETURN_IF_ERROR(CheckUploadId(request_.upload_id()));
      RETURN_IF_ERROR(CheckBlobId(blob_));
      SetObject(context_, blob_.sha256);
      ASSIGN_OR_RETURN(const bool stored, IsThereFor(*caller_, *streams_, blob_));
      if (stored) return true;
      ASSIGN_OR_RETURN(reserved_, streams_->artifacts->Reserve(*caller_, blob_));
      ASSIGN_OR_RETURN(writer_, streams_->blobs->OpenWriter(StoredUploadId(*caller_, request_.upload_id()), blob_,
                                                            request_.write_offset()));
      if (streams_->metrics != nullptr && writer_->offset() > 0) streams_->metrics->UploadResumed();
      next_look_ = writer_->offset() + kLookInterval;
    } else if (!request_.upload_id().empty() || request_.has_digest()) {
      return absl::InvalidArgumentError("upload_id and digest belong to the first message only");
    }
    if (request_.write_offset() != writer_->offset()) {
      return WithReason(
          absl::OutOfRangeError(absl::StrCat("write_offset is ", request_.write_offset(), " but the stream is at ",
                                             writer_->offset(), "; messages must be contiguous")),
          "UPLOAD_OFFSET_MISMATCH", {{"committed", absl::StrCat(writer_->offset())}});
    }
    RETURN_IF_ERROR(writer_->Write(data_.pieces()));
    if (streams_->metrics != nullptr) streams_->metrics->UploadBytes(data_.size());
    if (request_.finish_write()) {
      RETURN_IF_ERROR(writer_->Finish());
      // Its bytes came and were verified: from now on the tenant holds the blob.
      RETURN_IF_ERROR(streams_->artifacts->NoteHeld(*caller_, blob_));
      return true;
    }
    if (writer_->offset() >= next_look_) {
      next_look_ += kLookInterval;
      return IsThereFor(*caller_, *streams_, blob_);
    }
    return false;
  }

  // Keeps what arrived for a later stream.
  absl::Status Suspend() {
    if (writer_ == nullptr) {
      return absl::InvalidArgumentError("the stream ended before its first message, which names upload and digest");
    }
    ASSIGN_OR_RETURN(const int64_t committed, writer_->Commit());
    answer_.set_committed_size(committed);
    return absl::OkStatus();
  }

  void End(const absl::Status& status) {
    {
      MutexLock lock(&mu_);
      ended_ = true;
    }
    writer_.reset();  // before the answer: the client may come again at once
    reserved_ = {};
    if (streams_->metrics != nullptr) {
      const BlobStore::Stats stats = streams_->blobs->stats();
      streams_->metrics->SetCas(stats.blobs, stats.bytes);
    }
    if (status.ok()) *response_ = ToByteBuffer(answer_);
    Finish(ToGrpc(status));
  }

  BlobStreams* const streams_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  const StreamSlot slot_;
  const absl::StatusOr<Principal> caller_;
  grpc::Alarm pause_;
  ArtifactStore::Reservation reserved_;  // of the tenant's quota, until the upload ends
  grpc::ByteBuffer arriving_;
  v1::WriteBlobRequest request_;  // but for its data
  BlobData data_;
  v1::WriteBlobResponse answer_;
  BlobId blob_;
  std::unique_ptr<BlobWriter> writer_;
  int64_t next_look_ = 0;
  Mutex mu_;
  bool working_ ABSL_GUARDED_BY(mu_) = false;         // a Step runs or is posted
  std::optional<bool> arrived_ ABSL_GUARDED_BY(mu_);  // what came meanwhile
  absl::Status refused_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  Refusal<WriteBlobReactor> refusal_{this};
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartWriteBlob(BlobStreams* streams, grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response) {
  return new WriteBlobReactor(streams, context, response);
}

}  // namespace quant
