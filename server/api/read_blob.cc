// SPDX-License-Identifier: Apache-2.0
// ReadBlob: a stream of pieces, the next one read while one goes out.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/blob_message.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "server/api/blob_streams.h"

namespace quant {
namespace {

constexpr int64_t kReadPiece = int64_t{1} << 20;  // ReadBlobResponse.data

class ReadBlobReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  ReadBlobReactor(BlobStreams* streams, grpc::CallbackServerContext* context, grpc::ByteBuffer message)
      : streams_(streams), slot_(streams), caller_(CallerOf(context)) {
    v1::ReadBlobRequest request;
    const absl::Status parsed = FromByteBuffer(&message, &request);
    blob_ = ToBlobId(request.digest());
    offset_ = request.read_offset();
    limit_ = request.read_limit();
    SetObject(context, blob_.sha256);
    absl::Status status = Admit(caller_, *streams_, slot_);
    if (status.ok()) status = parsed;
    if (!status.ok()) {
      Finish(ToGrpc(status));
    } else {
      refusal_.Watch(context);
      streams_->pool->PostNext([this] { Step(); });
    }
  }

  // Ends the stream before its next piece. On any thread.
  void Refuse(const absl::Status& why) {
    MutexLock lock(&mu_);
    refused_ = why;
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&mu_);
      gone_ = !ok;
      writing_ = false;
      if (working_) return;
      working_ = true;
    }
    streams_->pool->PostNext([this] { Step(); });
  }
  void OnDone() override {
    refusal_.Leave();
    delete this;
  }

 private:
  // Sends the piece that was read and reads the next one while it goes out. One Step at a time; the flags say who goes
  // on: the Step that finds its piece sent, or else OnWriteDone.
  void Step() {
    while (true) {
      absl::Status status = streams_->stopping ? Stopping() : failed_;
      if (status.ok() && !next_.has_value()) status = ReadNext();
      {
        MutexLock lock(&mu_);
        if (writing_) {
          failed_ = status;
          working_ = false;
          return;
        }
        if (gone_) status = absl::CancelledError("the client is gone");
        if (!refused_.ok()) status = refused_;
      }
      if (!status.ok() || next_->Length() == 0) return Finish(ToGrpc(status));
      response_.Swap(&*next_);
      next_.reset();
      {
        MutexLock lock(&mu_);
        writing_ = true;
      }
      // With the hint a write is done once its bytes are in line (GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE), so that the
      // connection never waits for the next piece; Finish sends the rest. Not so the first: the headers that go with it
      // would wait in line as well, and its write be done only when something else is sent on the connection, such as
      // the ping of every 30 s (gRPC 1.51, perform_stream_op_locked).
      grpc::WriteOptions options;
      if (!std::exchange(first_, false)) options.set_buffer_hint();
      StartWrite(&response_, options);
    }
  }

  // An empty piece is the end.
  absl::Status ReadNext() {
    if (reader_ == nullptr) RETURN_IF_ERROR(Open());
    grpc::ByteBuffer piece;
    if (offset_ < end_) {
      ASSIGN_OR_RETURN(std::string data, reader_->Read(offset_, std::min(kReadPiece, end_ - offset_)));
      const int64_t size = static_cast<int64_t>(data.size());
      offset_ += size;
      if (streams_->metrics != nullptr) streams_->metrics->DownloadBytes(size);
      if (size > 0) {
        piece =
            JoinMessage(v1::ReadBlobResponse(), v1::ReadBlobResponse::kDataFieldNumber, TakeString(std::move(data)));
      }
    }
    next_.emplace().Swap(&piece);
    return absl::OkStatus();
  }

  absl::Status Open() {
    if (offset_ < 0 || limit_ < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("read_offset ", offset_, " and read_limit ", limit_, " must not be negative"));
    }
    RETURN_IF_ERROR(CheckBlobId(blob_));
    ASSIGN_OR_RETURN(const bool may, streams_->artifacts->MayRead(*caller_, blob_.sha256));
    if (!may && caller_->role == Role::kWorker) {
      return WithReason(
          absl::PermissionDeniedError(absl::StrCat("no job that is leased to this token needs blob ", blob_.sha256)),
          "NOT_VISIBLE");
    }
    if (!may) return NotVisible(*caller_, "blob", blob_.sha256);
    ASSIGN_OR_RETURN(reader_, streams_->blobs->OpenReader(blob_));
    if (offset_ > blob_.size_bytes) {
      return absl::OutOfRangeError(
          absl::StrCat("read_offset ", offset_, " is past the blob's end at ", blob_.size_bytes));
    }
    end_ = limit_ == 0 ? blob_.size_bytes : offset_ + std::min(limit_, blob_.size_bytes - offset_);
    return absl::OkStatus();
  }

  BlobStreams* const streams_;
  const StreamSlot slot_;
  const absl::StatusOr<Principal> caller_;
  BlobId blob_;
  int64_t offset_ = 0;
  int64_t limit_ = 0;
  int64_t end_ = 0;
  bool first_ = true;  // piece
  std::unique_ptr<BlobReader> reader_;
  grpc::ByteBuffer response_;             // being sent
  std::optional<grpc::ByteBuffer> next_;  // read ahead
  absl::Status failed_;                   // of reading ahead
  Mutex mu_;
  bool working_ ABSL_GUARDED_BY(mu_) = true;  // a Step runs or is posted
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status refused_ ABSL_GUARDED_BY(mu_);
  Refusal<ReadBlobReactor> refusal_{this};
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartReadBlob(BlobStreams* streams, grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer& request) {
  return new ReadBlobReactor(streams, context, request);
}

}  // namespace quant
