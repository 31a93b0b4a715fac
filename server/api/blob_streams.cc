// SPDX-License-Identifier: Apache-2.0
#include "server/api/blob_streams.h"

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
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/auth/gate.h"

namespace quant {
namespace {

constexpr size_t kMaxData = size_t{2} << 20;          // WriteBlobRequest.data
constexpr int64_t kReadPiece = int64_t{1} << 20;      // ReadBlobResponse.data
constexpr int64_t kLookInterval = int64_t{64} << 20;  // bytes between looks whether somebody else finished the blob
constexpr absl::Duration kLongestPause = absl::Seconds(2);  // of an upload that is too fast

absl::Status Stopping() {
  return WithReason(absl::UnavailableError("the server is stopping; go on with another or when it is back"),
                    "SERVER_STOPPING", {}, absl::Seconds(1));
}

// Counts a stream for as long as it lives.
class Slot {
 public:
  explicit Slot(BlobStreams* streams) : streams_(streams), admitted_(++streams->open <= streams->max_streams) {}
  ~Slot() { --streams_->open; }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  // Whether there was room.
  bool admitted() const { return admitted_; }

 private:
  BlobStreams* const streams_;
  const bool admitted_;
};

// Tells a stream that its caller's token or certificate is good no more, unless it is gone.
template <typename Reactor>
class Refusal {
 public:
  explicit Refusal(Reactor* reactor) : link_(std::make_shared<Link>(reactor)) {}
  // `link_` outlives both, since OpenCalls may call after a Remove.
  void Watch(grpc::CallbackServerContext* context) {
    still_good_ = WhileOpen(context, [link = link_](const absl::Status& why) {
      MutexLock lock(&link->mu);
      if (link->reactor != nullptr) link->reactor->Refuse(why);
    });
  }
  // Before the reactor is destroyed.
  void Leave() {
    MutexLock lock(&link_->mu);
    link_->reactor = nullptr;
  }

 private:
  struct Link {
    explicit Link(Reactor* to) : reactor(to) {}
    Mutex mu;
    Reactor* reactor ABSL_GUARDED_BY(mu);
  };
  const std::shared_ptr<Link> link_;
  StillGood still_good_;
};

class WriteBlobReactor : public grpc::ServerReadReactor<v1::WriteBlobRequest> {
 public:
  WriteBlobReactor(BlobStreams* streams, grpc::CallbackServerContext* context, v1::WriteBlobResponse* response)
      : streams_(streams), context_(context), response_(response), slot_(streams), caller_(CallerOf(context)) {
    if (streams_->metrics != nullptr) streams_->metrics->UploadStarted();
    if (!caller_.ok()) {
      Finish(ToGrpc(caller_.status()));
    } else if (streams_->stopping) {
      Finish(ToGrpc(Stopping()));
    } else if (!slot_.admitted()) {
      Finish(ToGrpc(TooBusy("streams are open")));
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
    std::swap(request_, arriving_);
    arriving_.Clear();
    StartRead(&arriving_);
    if (streams_->stopping) {
      const absl::Status committed = Suspend();
      return End(committed.ok() ? Stopping() : committed);
    }
    absl::StatusOr<bool> complete = Take();
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
      response_->set_committed_size(blob_.size_bytes);
      response_->set_complete(true);
      return End(absl::OkStatus());
    }
    absl::Duration pause;
    if (streams_->limiter != nullptr && caller_->role == Role::kUser) {
      const auto took = static_cast<int64_t>(request_.data().size());
      pause = std::min(streams_->limiter->AfterUpload(caller_->tenant, took), kLongestPause);
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
  absl::StatusOr<bool> Take() {
    if (request_.data().size() > kMaxData) {
      return absl::InvalidArgumentError(
          absl::StrCat("data has ", request_.data().size(), " bytes; the limit of a message is ", kMaxData));
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
    RETURN_IF_ERROR(writer_->Write(request_.data()));
    if (streams_->metrics != nullptr) streams_->metrics->UploadBytes(static_cast<int64_t>(request_.data().size()));
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
    response_->set_committed_size(committed);
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
    Finish(ToGrpc(status));
  }

  BlobStreams* const streams_;
  grpc::CallbackServerContext* const context_;
  v1::WriteBlobResponse* const response_;
  const Slot slot_;
  const absl::StatusOr<Principal> caller_;
  grpc::Alarm pause_;
  ArtifactStore::Reservation reserved_;  // of the tenant's quota, until the upload ends
  v1::WriteBlobRequest arriving_;
  v1::WriteBlobRequest request_;
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

class ReadBlobReactor : public grpc::ServerWriteReactor<v1::ReadBlobResponse> {
 public:
  ReadBlobReactor(BlobStreams* streams, grpc::CallbackServerContext* context, const v1::ReadBlobRequest& request)
      : streams_(streams),
        slot_(streams),
        caller_(CallerOf(context)),
        blob_(ToBlobId(request.digest())),
        offset_(request.read_offset()),
        limit_(request.read_limit()) {
    SetObject(context, blob_.sha256);
    if (!caller_.ok()) {
      Finish(ToGrpc(caller_.status()));
    } else if (streams_->stopping) {
      Finish(ToGrpc(Stopping()));
    } else if (!slot_.admitted()) {
      Finish(ToGrpc(TooBusy("streams are open")));
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
      if (!status.ok() || next_->data().empty()) return Finish(ToGrpc(status));
      std::swap(response_, *next_);
      next_.reset();
      {
        MutexLock lock(&mu_);
        writing_ = true;
      }
      // With the hint a write is done once its bytes are in line (GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE), so that the
      // connection never waits for the next piece; Finish sends the rest.
      StartWrite(&response_, grpc::WriteOptions().set_buffer_hint());
    }
  }

  // An empty piece is the end.
  absl::Status ReadNext() {
    if (reader_ == nullptr) RETURN_IF_ERROR(Open());
    v1::ReadBlobResponse piece;
    if (offset_ < end_) {
      ASSIGN_OR_RETURN(std::string data, reader_->Read(offset_, std::min(kReadPiece, end_ - offset_)));
      const int64_t size = static_cast<int64_t>(data.size());
      offset_ += size;
      if (streams_->metrics != nullptr) streams_->metrics->DownloadBytes(size);
      piece.set_data(std::move(data));
    }
    next_ = std::move(piece);
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
  const Slot slot_;
  const absl::StatusOr<Principal> caller_;
  const BlobId blob_;
  int64_t offset_;
  const int64_t limit_;
  int64_t end_ = 0;
  std::unique_ptr<BlobReader> reader_;
  v1::ReadBlobResponse response_;             // being sent
  std::optional<v1::ReadBlobResponse> next_;  // read ahead
  absl::Status failed_;                       // of reading ahead
  Mutex mu_;
  bool working_ ABSL_GUARDED_BY(mu_) = true;  // a Step runs or is posted
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status refused_ ABSL_GUARDED_BY(mu_);
  Refusal<ReadBlobReactor> refusal_{this};
};

}  // namespace

absl::StatusOr<bool> IsThereFor(const Principal& caller, const BlobStreams& streams, const BlobId& blob) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  ASSIGN_OR_RETURN(const bool held, streams.artifacts->HoldsBlob(caller, blob.sha256));
  if (!held) return false;
  return streams.blobs->Touch(blob);
}

std::string StoredUploadId(const Principal& caller, std::string_view upload_id) {
  const char* const owner = caller.role == Role::kWorker ? "worker" : "tenant";
  return Sha256Hex(absl::StrCat(owner, "/", caller.tenant, "/", AbslView(upload_id)));
}

absl::Status TooBusy(std::string_view why) {
  return WithReason(absl::UnavailableError(absl::StrCat("too many ", AbslView(why), "; try again")), "SERVER_BUSY", {},
                    absl::Seconds(1));
}

grpc::ServerReadReactor<v1::WriteBlobRequest>* StartWriteBlob(BlobStreams* streams,
                                                              grpc::CallbackServerContext* context,
                                                              v1::WriteBlobResponse* response) {
  return new WriteBlobReactor(streams, context, response);
}

grpc::ServerWriteReactor<v1::ReadBlobResponse>* StartReadBlob(BlobStreams* streams,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::ReadBlobRequest& request) {
  return new ReadBlobReactor(streams, context, request);
}

}  // namespace quant
