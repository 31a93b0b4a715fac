// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/heartbeat.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "common/proto_time.h"
#include "quant/v1/workers.pb.h"

namespace quant {
namespace {

constexpr int kIntervalsToLive = 3;
constexpr absl::Duration kShortestInterval = absl::Milliseconds(10);
constexpr absl::Duration kLongestInterval = absl::Minutes(1);
constexpr absl::Duration kShortestDeadline = absl::Milliseconds(100);

LeaseOrder OrderOf(v1::LeaseCommand command) {
  switch (command) {
    case v1::LEASE_COMMAND_CANCEL:
      return LeaseOrder::kCancel;
    case v1::LEASE_COMMAND_LEASE_LOST:
      return LeaseOrder::kLost;
    default:
      return LeaseOrder::kContinue;
  }
}

}  // namespace

HeartbeatLoop::HeartbeatLoop(const v1::WorkerInfo& worker, ServerLink& link, AgentState& state, AgentMetrics& metrics,
                             std::function<void()> first_answer)
    : worker_(worker), link_(link), state_(state), metrics_(metrics), first_answer_(std::move(first_answer)) {}

void HeartbeatLoop::Run() {
  bool answered = false;
  do {
    answered = Beat();
  } while (state_.SleepUntilBeat(WaitAfter(answered)));
}

bool HeartbeatLoop::Beat() {
  v1::HeartbeatRequest request;
  *request.mutable_worker() = worker_;
  request.set_draining(state_.draining());
  const std::vector<std::shared_ptr<ActiveLease>> leases = state_.All();
  for (const auto& lease : leases) {
    const LeaseState at = lease->state();
    v1::LeaseProgress& progress = *request.add_leases();
    progress.set_job_id(lease->job_id());
    progress.set_token(lease->token());
    v1::Progress& told = *progress.mutable_progress();
    told.set_phase(at.phase);
    told.set_fraction(at.fraction);
    told.set_message(at.message);
    SetProto(at.update_time, told.mutable_update_time());
    SetProto(at.phase_start_time, told.mutable_phase_start_time());
    told.set_done(at.done);
    told.set_total(at.total);
    told.set_unit(at.unit);
    told.set_rate(at.rate);
    if (at.remaining.has_value()) SetProto(*at.remaining, told.mutable_remaining());
  }
  const SteadyTime sent = SteadyNow();
  // Not longer than the leases may live, so that their end is noticed in time.
  absl::Duration deadline = interval_;
  if (state_.connected()) deadline = std::min(deadline, answered_ + kIntervalsToLive * interval_ - sent);
  v1::HeartbeatResponse response;
  const absl::Status status = link_.Heartbeat(request, std::max(deadline, kShortestDeadline), response);
  metrics_.Heartbeat(status.ok());
  if (!status.ok()) {
    Missed(status, SteadyNow());
    return false;
  }

  if (failures_ > 0) LOG(INFO) << "the server answers again";
  failures_ = 0;
  answered_ = sent;
  if (response.has_heartbeat_interval()) {
    interval_ = std::clamp(FromProto(response.heartbeat_interval()), kShortestInterval, kLongestInterval);
  }
  for (const v1::LeaseInstruction& instruction : response.instructions()) {
    for (const auto& lease : leases) {
      if (lease->token() == instruction.token() && lease->job_id() == instruction.job_id()) {
        lease->Give(OrderOf(instruction.command()));
      }
    }
  }
  state_.SetConnected(true);
  metrics_.SetConnected(true);
  if (first_answer_) std::exchange(first_answer_, nullptr)();
  if (response.drain() && !state_.draining()) {
    LOG(INFO) << "the server asks this worker to drain";
    state_.Drain();
  }
  return true;
}

void HeartbeatLoop::Missed(const absl::Status& why, SteadyTime now) {
  if (failures_++ == 0) LOG(WARNING) << "no answer to the heartbeat: " << why << "; going on trying";
  if (now - answered_ < kIntervalsToLive * interval_) return;
  if (state_.connected()) {
    LOG(ERROR) << "no answer for " << absl::FormatDuration(now - answered_)
               << ": this worker's leases are lost, and it takes no jobs until the server answers";
  }
  state_.SetConnected(false);
  metrics_.SetConnected(false);
  state_.GiveAll(LeaseOrder::kLost);
}

absl::Duration HeartbeatLoop::WaitAfter(bool answered) const {
  // A worker must not beat in step with a hundred others that were started, or lost the server, at the same moment.
  thread_local std::minstd_rand random{std::random_device{}()};
  const double jitter = std::uniform_real_distribution<double>(0.8, 1.0)(random);
  if (answered) return interval_ * jitter;
  // 50 ms, doubling up to a third of the interval: a server that restarts must hear us before our leases run out.
  const absl::Duration longest = std::min(interval_ / 3, absl::Seconds(2));
  absl::Duration wait = absl::Milliseconds(50);
  for (int i = 1; i < failures_ && wait < longest; ++i) wait *= 2;
  return std::min(wait, longest) * jitter;
}

}  // namespace quant
