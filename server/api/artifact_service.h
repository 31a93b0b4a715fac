// SPDX-License-Identifier: Apache-2.0
// ArtifactService: quant.v1.ArtifactService over BlobStore and ArtifactStore. Thin: converts messages and statuses; the
// stores check and decide. gRPC's callback API; what waits for a disk runs on a small pool of threads, one step of a
// stream at a time, so that an open stream costs memory for one message and no thread.
#ifndef QUANT_SERVER_API_ARTIFACT_SERVICE_H_
#define QUANT_SERVER_API_ARTIFACT_SERVICE_H_

#include <memory>

namespace grpc {
class Service;
}

namespace quant {

class ArtifactStore;
class BlobStore;
class RateLimiter;
class ServerMetrics;

struct ArtifactServiceOptions {
  int threads = 4;                 // of the pool
  int max_streams = 256;           // open WriteBlob and ReadBlob streams; more answer UNAVAILABLE with a time to wait
  RateLimiter* limiter = nullptr;  // of uploaded bytes; null: none
  int max_waiting = 10'000;        // calls waiting for a thread; more answer UNAVAILABLE
};

// Thread-safe. Must outlive the grpc::Server it is registered with; `blobs`, `artifacts` and `metrics` (may be null)
// must outlive it.
class ArtifactService {
 public:
  ArtifactService(BlobStore* blobs, ArtifactStore* artifacts, ServerMetrics* metrics,
                  ArtifactServiceOptions options = {});
  ~ArtifactService();
  ArtifactService(const ArtifactService&) = delete;
  ArtifactService& operator=(const ArtifactService&) = delete;

  // To register with a grpc::ServerBuilder; owned by this object.
  grpc::Service* service();

  // Ends open streams with UNAVAILABLE at their next step (an upload commits what it has), and each that is begun from
  // now on. Call it before grpc::Server::Shutdown, which waits for open streams. Idempotent.
  void Shutdown();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_API_ARTIFACT_SERVICE_H_
