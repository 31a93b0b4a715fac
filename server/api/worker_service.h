// SPDX-License-Identifier: Apache-2.0
// WorkerService: quant.v1.WorkerService over JobQueue, as JobService. A parked LeaseJob call costs no thread.
#ifndef QUANT_SERVER_API_WORKER_SERVICE_H_
#define QUANT_SERVER_API_WORKER_SERVICE_H_

#include <memory>

namespace grpc {
class Service;
}

namespace quant {

class JobQueue;

// Thread-safe. Must outlive the grpc::Server it is registered with; `queue` must outlive it.
class WorkerService {
 public:
  explicit WorkerService(JobQueue* queue);
  ~WorkerService();
  WorkerService(const WorkerService&) = delete;
  WorkerService& operator=(const WorkerService&) = delete;

  // To register with a grpc::ServerBuilder; owned by this object.
  grpc::Service* service();

  // Answers all parked LeaseJob calls with UNAVAILABLE, and each that comes from now on; heartbeats and completions go
  // on. Call it before grpc::Server::Shutdown, which waits for open calls. Idempotent.
  void Shutdown();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_API_WORKER_SERVICE_H_
