// SPDX-License-Identifier: Apache-2.0
// JobService: quant.v1.JobService over JobQueue. Thin: checks that a request is well-formed and converts statuses; the
// queue decides. gRPC's callback API: no thread per call, and none per watcher.
#ifndef QUANT_SERVER_API_JOB_SERVICE_H_
#define QUANT_SERVER_API_JOB_SERVICE_H_

#include <memory>

namespace grpc {
class Service;
}

namespace quant {

class JobQueue;

// Thread-safe. Must outlive the grpc::Server it is registered with; `queue` must outlive it.
class JobService {
 public:
  explicit JobService(JobQueue* queue);
  ~JobService();
  JobService(const JobService&) = delete;
  JobService& operator=(const JobService&) = delete;

  // To register with a grpc::ServerBuilder; owned by this object.
  grpc::Service* service();

  // Ends all WatchJob streams with UNAVAILABLE, and each that is begun from now on; other calls go on. Call it before
  // grpc::Server::Shutdown, which waits for open streams. Idempotent.
  void Shutdown();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_API_JOB_SERVICE_H_
