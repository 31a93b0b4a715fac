// SPDX-License-Identifier: Apache-2.0
// The reactors of WriteBlob and ReadBlob. Internal to server/api.
//
// Each is a chain of steps on the pool, one at a time, while gRPC receives the next message or sends the one before.
// The step that calls Finish is the last; OnDone deletes the reactor.
#ifndef QUANT_SERVER_API_BLOB_STREAMS_H_
#define QUANT_SERVER_API_BLOB_STREAMS_H_

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <string_view>

#include "absl/status/status.h"
#include "quant/v1/artifacts.pb.h"
#include "server/api/thread_pool.h"
#include "server/blobs/blob_store.h"
#include "server/metrics/server_metrics.h"

namespace quant {

// What all streams share.
struct BlobStreams {
  BlobStore* blobs;
  ServerMetrics* metrics;  // may be null
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

inline BlobId ToBlobId(const v1::Digest& digest) { return {digest.sha256(), digest.size_bytes()}; }

// UNAVAILABLE, reason SERVER_BUSY, with a time to wait.
absl::Status TooBusy(std::string_view why);

}  // namespace quant

#endif  // QUANT_SERVER_API_BLOB_STREAMS_H_
