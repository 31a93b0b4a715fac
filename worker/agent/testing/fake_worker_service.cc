// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/testing/fake_worker_service.h"

#include <utility>

#include "common/grpc_status.h"
#include "common/proto_time.h"
#include "worker/agent/steady.h"

namespace quant {

void FakeWorkerService::Offer(v1::Lease lease) {
  MutexLock lock(&mu_);
  offers_.push_back(std::move(lease));
  changed_.SignalAll();
}

void FakeWorkerService::Command(int64_t token, v1::LeaseCommand command) {
  MutexLock lock(&mu_);
  commands_[token] = command;
}

void FakeWorkerService::SetDrain() {
  MutexLock lock(&mu_);
  drain_ = true;
}

void FakeWorkerService::RefuseComplete(absl::Status status) {
  MutexLock lock(&mu_);
  refusals_.push_back(std::move(status));
}

void FakeWorkerService::SetDeaf(bool deaf) {
  MutexLock lock(&mu_);
  deaf_ = deaf;
}

bool FakeWorkerService::WaitUntil(const std::function<bool(const FakeWorkerService&)>& done) {
  const SteadyTime end = SteadyNow() + absl::Seconds(10);
  MutexLock lock(&mu_);
  while (!done(*this)) {
    if (SteadyNow() >= end) return false;
    changed_.WaitFor(&mu_, absl::Milliseconds(100));
  }
  return true;
}

grpc::Status FakeWorkerService::LeaseJob(grpc::ServerContext* context, const v1::LeaseJobRequest* request,
                                         v1::LeaseJobResponse* response) {
  const SteadyTime end = SteadyNow() + FromProto(request->wait());
  MutexLock lock(&mu_);
  ++lease_calls;
  ++waiting;
  changed_.SignalAll();
  // A synchronous handler cannot be woken by a cancel: look every 5 ms.
  while (offers_.empty() && !context->IsCancelled() && SteadyNow() < end) {
    changed_.WaitFor(&mu_, absl::Milliseconds(5));
  }
  --waiting;
  changed_.SignalAll();
  if (context->IsCancelled()) return grpc::Status(grpc::StatusCode::CANCELLED, "gone");
  SetProto(interval_, response->mutable_heartbeat_interval());
  if (offers_.empty()) return grpc::Status::OK;
  *response->mutable_lease() = offers_.front();
  offers_.pop_front();
  ++granted;
  return grpc::Status::OK;
}

grpc::Status FakeWorkerService::Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                                          v1::HeartbeatResponse* response) {
  MutexLock lock(&mu_);
  if (deaf_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "deaf");
  heartbeats.push_back(*request);
  for (const v1::LeaseProgress& lease : request->leases()) {
    std::vector<std::string>& seen = phases[lease.token()];
    if (seen.empty() || seen.back() != lease.progress().phase()) seen.push_back(lease.progress().phase());
    v1::LeaseInstruction& instruction = *response->add_instructions();
    instruction.set_job_id(lease.job_id());
    instruction.set_token(lease.token());
    const auto command = commands_.find(lease.token());
    instruction.set_command(command == commands_.end() ? v1::LEASE_COMMAND_CONTINUE : command->second);
  }
  response->set_drain(drain_);
  SetProto(interval_, response->mutable_heartbeat_interval());
  changed_.SignalAll();
  return grpc::Status::OK;
}

grpc::Status FakeWorkerService::CompleteJob(grpc::ServerContext*, const v1::CompleteJobRequest* request,
                                            v1::CompleteJobResponse*) {
  MutexLock lock(&mu_);
  if (!refusals_.empty()) {
    const absl::Status status = refusals_.front();
    refusals_.pop_front();
    return ToGrpc(status);
  }
  completions.push_back(*request);
  changed_.SignalAll();
  return grpc::Status::OK;
}

}  // namespace quant
