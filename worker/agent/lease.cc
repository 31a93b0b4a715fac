// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/lease.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/log/check.h"
#include "absl/time/clock.h"
#include "worker/agent/steady.h"
#include "worker/agent/text.h"

namespace quant {

ActiveLease::ActiveLease(std::string job_id, int64_t token)
    : job_id_(std::move(job_id)), token_(token), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  CHECK(wake_.valid()) << "eventfd failed, errno " << errno << ": out of file descriptors?";
  state_.update_time = absl::Now();
}

void ActiveLease::Give(LeaseOrder order) {
  MutexLock lock(&mu_);
  if (order <= order_.load()) return;
  order_.store(order);
  ordered_.SignalAll();
  const uint64_t one = 1;
  CHECK_EQ(::write(wake_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
}

void ActiveLease::ClearWake() {
  uint64_t count = 0;
  // EAGAIN: nothing was given, which is as good.
  [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &count, sizeof(count));
}

bool ActiveLease::SleepUnless(LeaseOrder wanted, absl::Duration duration) {
  const SteadyTime end = SteadyNow() + duration;
  MutexLock lock(&mu_);
  while (order_.load() < wanted) {
    const absl::Duration left = end - SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    ordered_.WaitFor(&mu_, left);
  }
  return true;
}

void ActiveLease::SetProgress(std::string_view phase, double fraction, std::string_view message, const Count& count) {
  const absl::Time now = absl::Now();
  LeaseState state{.phase = CleanText(phase, 32, Keep::kHead),
                   .fraction = fraction > 0 ? (fraction < 1 ? fraction : 1.0) : 0.0,
                   .message = CleanText(message, 256, Keep::kHead),
                   .total = std::max<int64_t>(count.total, 0),
                   .unit = CleanText(count.unit, 16, Keep::kHead),
                   .update_time = now,
                   .phase_start_time = now};
  state.done = std::clamp<int64_t>(count.done, 0, state.total);
  MutexLock lock(&mu_);
  if (state.phase == state_.phase) {
    state.phase_start_time = state_.phase_start_time;
  } else {
    meter_.Begin();
  }
  if (!message.empty()) meter_.Report(state.fraction, state.done, state.unit, SteadyNow());
  state_ = std::move(state);
}

LeaseState ActiveLease::state() const {
  MutexLock lock(&mu_);
  LeaseState state = state_;
  state.rate = meter_.Rate();
  state.remaining = meter_.Remaining(SteadyNow());
  return state;
}

}  // namespace quant
