// SPDX-License-Identifier: Apache-2.0
// The reactors of WriteBlob and ReadBlob. Internal to server/api.
//
// Each is a chain of steps on the pool, one at a time, while gRPC receives the next message or sends the one before.
// The step that calls Finish is the last; OnDone deletes the reactor.
#ifndef QUANT_SERVER_API_BLOB_STREAMS_H_
#define QUANT_SERVER_API_BLOB_STREAMS_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "quant/v1/artifacts.pb.h"
#include "server/api/thread_pool.h"
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

grpc::ServerReadReactor<v1::WriteBlobRequest>* StartWriteBlob(BlobStreams* streams,
                                                              grpc::CallbackServerContext* context,
                                                              v1::WriteBlobResponse* response);
grpc::ServerWriteReactor<v1::ReadBlobResponse>* StartReadBlob(BlobStreams* streams,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::ReadBlobRequest& request);

// Whether the blob is stored, and `caller` may know: see ArtifactStore::HoldsBlob. A yes counts as a use of the blob.
absl::StatusOr<bool> IsThereFor(const Principal& caller, const BlobStreams& streams, const BlobId& blob);

// The name under which the store knows the caller's upload: each tenant has names of its own, so that nobody can go on
// with, or look at, an upload of another tenant.
std::string StoredUploadId(const Principal& caller, std::string_view upload_id);

inline BlobId ToBlobId(const v1::Digest& digest) { return {digest.sha256(), digest.size_bytes()}; }

// UNAVAILABLE, reason SERVER_BUSY, with a time to wait.
absl::Status TooBusy(std::string_view why);

}  // namespace quant

#endif  // QUANT_SERVER_API_BLOB_STREAMS_H_
