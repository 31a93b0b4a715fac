// SPDX-License-Identifier: Apache-2.0
// The reactors of WriteBlob and ReadBlob. Internal to server/api.
//
// Each is a chain of steps on the pool, one at a time, while gRPC receives the next message or sends the one before.
// The step that calls Finish is the last; OnDone deletes the reactor.
#ifndef QUANT_SERVER_API_BLOB_STREAMS_H_
#define QUANT_SERVER_API_BLOB_STREAMS_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/thread_pool.h"
#include "quant/v1/artifacts.pb.h"
#include "server/auth/gate.h"
#include "server/auth/principal.h"
#include "server/auth/rate_limiter.h"
#include "server/blobs/blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/store/artifact_store.h"

namespace quant {

// What all streams share.
struct BlobStreams {
  BlobStore* blobs;
  ArtifactStore* artifacts;  // knows who holds a blob
  RateLimiter* limiter;      // may be null
  ServerMetrics* metrics;    // may be null
  ThreadPool* pool;
  int max_streams;
  std::atomic<int> open{0};
  std::atomic<bool> stopping{false};
};

// Counts a stream for as long as it lives.
class StreamSlot {
 public:
  explicit StreamSlot(BlobStreams* streams) : streams_(streams), admitted_(++streams->open <= streams->max_streams) {}
  ~StreamSlot() { --streams_->open; }
  StreamSlot(const StreamSlot&) = delete;
  StreamSlot& operator=(const StreamSlot&) = delete;
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

// The messages are those of the proto, not parsed: common/blob_message.h.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartWriteBlob(BlobStreams* streams, grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response);
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartReadBlob(BlobStreams* streams, grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer& request);

// Whether the blob is stored, and `caller` may know: see ArtifactStore::HoldsBlob. A yes counts as a use of the blob.
absl::StatusOr<bool> IsThereFor(const Principal& caller, const BlobStreams& streams, const BlobId& blob);

// The name under which the store knows the caller's upload: each tenant has names of its own, so that nobody can go on
// with, or look at, an upload of another tenant.
std::string StoredUploadId(const Principal& caller, std::string_view upload_id);

inline BlobId ToBlobId(const v1::Digest& digest) { return {digest.sha256(), digest.size_bytes()}; }

// UNAVAILABLE, reason SERVER_BUSY, with a time to wait.
absl::Status TooBusy(std::string_view why);
// UNAVAILABLE, reason SERVER_STOPPING, likewise.
absl::Status Stopping();
// Whether a stream that begins is let in: by the gate (`caller`), by a server that is not stopping, and for want of
// room.
absl::Status Admit(const absl::StatusOr<Principal>& caller, const BlobStreams& streams, const StreamSlot& slot);

}  // namespace quant

#endif  // QUANT_SERVER_API_BLOB_STREAMS_H_
