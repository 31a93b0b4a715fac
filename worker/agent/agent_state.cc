// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/agent_state.h"

#include <utility>

#include "worker/agent/steady.h"

namespace quant {

std::shared_ptr<ActiveLease> AgentState::Add(std::string job_id, int64_t token) {
  auto lease = std::make_shared<ActiveLease>(std::move(job_id), token);
  MutexLock lock(&mu_);
  leases_.push_back(lease);
  return lease;
}

void AgentState::Remove(const ActiveLease& lease) {
  MutexLock lock(&mu_);
  std::erase_if(leases_, [&](const auto& l) { return l.get() == &lease; });
  changed_.SignalAll();
}

std::vector<std::shared_ptr<ActiveLease>> AgentState::All() const {
  MutexLock lock(&mu_);
  return leases_;
}

void AgentState::GiveAll(LeaseOrder order) {
  for (const auto& lease : All()) lease->Give(order);
}

bool AgentState::WaitIdle(absl::Duration timeout) {
  const SteadyTime end = SteadyNow() + timeout;
  MutexLock lock(&mu_);
  while (!leases_.empty()) {
    const absl::Duration left = end - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitFor(&mu_, left);
  }
  return true;
}

void AgentState::SetConnected(bool connected) {
  MutexLock lock(&mu_);
  connected_ = connected;
  changed_.SignalAll();
}

bool AgentState::connected() const {
  MutexLock lock(&mu_);
  return connected_;
}

void AgentState::Drain() {
  MutexLock lock(&mu_);
  if (std::exchange(draining_, true)) return;
  drain_beat_due_ = true;
  changed_.SignalAll();
}

bool AgentState::draining() const {
  MutexLock lock(&mu_);
  return draining_;
}

void AgentState::WaitForDrain() {
  MutexLock lock(&mu_);
  while (!draining_) changed_.Wait(&mu_);
}

bool AgentState::BeginClaim() {
  MutexLock lock(&mu_);
  while (!connected_ && !draining_) changed_.Wait(&mu_);
  if (draining_) return false;
  ++claims_;
  return true;
}

void AgentState::EndClaim() {
  MutexLock lock(&mu_);
  --claims_;
  changed_.SignalAll();
}

bool AgentState::WaitNoClaims(absl::Duration timeout) {
  const SteadyTime end = SteadyNow() + timeout;
  MutexLock lock(&mu_);
  while (claims_ > 0) {
    const absl::Duration left = end - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitFor(&mu_, left);
  }
  return true;
}

void AgentState::SleepUnlessDraining(absl::Duration duration) {
  const SteadyTime end = SteadyNow() + duration;
  MutexLock lock(&mu_);
  while (!draining_) {
    const absl::Duration left = end - SteadyNow();
    if (left <= absl::ZeroDuration()) return;
    changed_.WaitFor(&mu_, left);
  }
}

void AgentState::Stop() {
  MutexLock lock(&mu_);
  stopped_ = true;
  changed_.SignalAll();
}

bool AgentState::SleepUntilBeat(absl::Duration duration) {
  const SteadyTime end = SteadyNow() + duration;
  MutexLock lock(&mu_);
  while (!stopped_) {
    if (std::exchange(drain_beat_due_, false)) return true;
    const absl::Duration left = end - SteadyNow();
    if (left <= absl::ZeroDuration()) return true;
    changed_.WaitFor(&mu_, left);
  }
  return false;
}

}  // namespace quant
