// SPDX-License-Identifier: Apache-2.0
// ExternalScaler: tells KEDA how many workers the queue wants, so that a fleet grows with it and shrinks to none.
//
// The metric is quantd-jobs: the jobs that need a slot, running, queued or waiting to be tried again
// (JobQueue::Demand). One replica is to have slotsPerWorker * jobsPerSlot of them, so KEDA's autoscaler wants
//
//   replicas = ceil(jobs / (slotsPerWorker * jobsPerSlot))
//
// Running jobs count, else the fleet would shrink under them. Metadata of a trigger, all optional:
//
//   slotsPerWorker   1 to 1024   what quant-worker --slots says; default 1
//   jobsPerSlot      0.01 to 1000   more than 1: let jobs wait rather than start workers; default 1
//   activationJobs   0 to 1000000   there is no work (IsActive) unless there are more jobs than this; default 0
//
// KEDA sends its own metadata along (scalerAddress and the like), which is passed over; what neither knows is refused
// with INVALID_ARGUMENT, since a misspelt option would scale wrongly in silence.
#ifndef QUANT_SERVER_API_EXTERNAL_SCALER_H_
#define QUANT_SERVER_API_EXTERNAL_SCALER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace grpc {
class Service;
}

namespace quant {

class JobQueue;

struct ScalerMetadata {
  int slots_per_worker = 1;
  double jobs_per_slot = 1;
  int64_t activation_jobs = 0;
};

// INVALID_ARGUMENT: an unknown key, or a value that is no number of its range.
absl::StatusOr<ScalerMetadata> ParseScalerMetadata(const std::map<std::string, std::string>& metadata);

// Thread-safe. Must outlive the grpc::Server it is registered with; `queue` must outlive it.
class ExternalScaler {
 public:
  // `interval`: how often the queue is looked at for those who listen to StreamIsActive.
  explicit ExternalScaler(JobQueue* queue, absl::Duration interval = absl::Seconds(1));
  ~ExternalScaler();
  ExternalScaler(const ExternalScaler&) = delete;
  ExternalScaler& operator=(const ExternalScaler&) = delete;

  // To register with a grpc::ServerBuilder; owned by this object.
  grpc::Service* service();

  // Ends all streams with UNAVAILABLE, and each that is begun from now on. Call it before grpc::Server::Shutdown, which
  // waits for open streams. Idempotent.
  void Shutdown();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_API_EXTERNAL_SCALER_H_
