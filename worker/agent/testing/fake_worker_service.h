// SPDX-License-Identifier: Apache-2.0
// A WorkerService in memory that grants the leases it is given and remembers what it is told, for the agent's tests.
// Served by LoopbackServer of common/transfer, next to a FakeArtifactService. It outlives the server, so that a test
// can stop and start that.
#ifndef QUANT_WORKER_AGENT_TESTING_FAKE_WORKER_SERVICE_H_
#define QUANT_WORKER_AGENT_TESTING_FAKE_WORKER_SERVICE_H_

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "quant/v1/workers.grpc.pb.h"

namespace quant {

// Thread-safe.
class FakeWorkerService final : public v1::WorkerService::Service {
 public:
  explicit FakeWorkerService(absl::Duration interval) : interval_(interval) {}

  // Queues a lease for the next worker that asks.
  void Offer(v1::Lease lease);
  // From now on heartbeats answer `command` for this lease.
  void Command(int64_t token, v1::LeaseCommand command);
  void SetDrain();
  // The next CompleteJob calls answer these, then OK again.
  void RefuseComplete(absl::Status status);
  // While set, heartbeats answer UNAVAILABLE.
  void SetDeaf(bool deaf);

  // Waits up to 10 s until `done` holds, looked at after every call; false when it never did.
  bool WaitUntil(const std::function<bool(const FakeWorkerService&)>& done);

  // What was seen; for use inside WaitUntil, or once the agent has ended.
  std::vector<v1::CompleteJobRequest> completions;     // accepted
  std::vector<v1::HeartbeatRequest> heartbeats;        // answered
  std::map<int64_t, std::vector<std::string>> phases;  // by token: distinct phases in order of heartbeats
  int lease_calls = 0;
  int granted = 0;
  int waiting = 0;  // in LeaseJob now

  grpc::Status LeaseJob(grpc::ServerContext*, const v1::LeaseJobRequest*, v1::LeaseJobResponse*) override;
  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest*, v1::HeartbeatResponse*) override;
  grpc::Status CompleteJob(grpc::ServerContext*, const v1::CompleteJobRequest*, v1::CompleteJobResponse*) override;

 private:
  const absl::Duration interval_;
  Mutex mu_;  // guards everything above and below
  CondVar changed_;
  std::deque<v1::Lease> offers_;
  std::map<int64_t, v1::LeaseCommand> commands_;
  std::deque<absl::Status> refusals_;
  bool drain_ = false;
  bool deaf_ = false;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_TESTING_FAKE_WORKER_SERVICE_H_
