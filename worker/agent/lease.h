// SPDX-License-Identifier: Apache-2.0
// ActiveLease: one lease in work, shared by the slot that works it and the heartbeat thread that speaks for it.
#ifndef QUANT_WORKER_AGENT_LEASE_H_
#define QUANT_WORKER_AGENT_LEASE_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "worker/agent/phase_meter.h"

namespace quant {

// What the slot shall do with its lease. A later value overrides an earlier one, never the other way round.
enum class LeaseOrder {
  kContinue = 0,
  kRelease = 1,  // stop and hand the lease back: this worker is going away
  kCancel = 2,   // stop and complete as cancelled
  kLost = 3,     // the lease is not ours any more: stop at once, publish nothing
};

// How far the job is; as quant.v1.Progress.
struct LeaseState {
  std::string phase;
  double fraction = 0;
  std::string message;
  int64_t done = 0;
  int64_t total = 0;
  std::string unit;
  absl::Time update_time;
  // Found out here.
  absl::Time phase_start_time;
  double rate = 0;
  std::optional<absl::Duration> remaining;
};

// Thread-safe.
class ActiveLease {
 public:
  ActiveLease(std::string job_id, int64_t token);
  ActiveLease(const ActiveLease&) = delete;
  ActiveLease& operator=(const ActiveLease&) = delete;

  const std::string& job_id() const { return job_id_; }
  int64_t token() const { return token_; }

  // Raises the order and wakes the slot; an order that is not above the present one changes nothing.
  void Give(LeaseOrder order);
  LeaseOrder order() const { return order_.load(); }
  // Readable whenever an order was given since the last ClearWake(): for poll(2).
  int wake_fd() const { return wake_.get(); }
  void ClearWake();
  // Sleeps at most `duration`; returns early, true, when the order is `wanted` or above.
  bool SleepUnless(LeaseOrder wanted, absl::Duration duration);

  // Values from outside are cut to their legal range: phase to 32, message to 256 and unit to 16 bytes, fraction to
  // 0..1 (NaN: 0), done to 0..total. With an empty message nothing is measured yet: the phase only begins.
  struct Count {
    int64_t done = 0;
    int64_t total = 0;
    std::string_view unit;
  };
  void SetProgress(std::string_view phase, double fraction, std::string_view message, const Count& count);
  void SetProgress(std::string_view phase, double fraction, std::string_view message) {
    SetProgress(phase, fraction, message, {});
  }
  LeaseState state() const;

 private:
  const std::string job_id_;
  const int64_t token_;
  UniqueFd wake_;  // eventfd
  std::atomic<LeaseOrder> order_{LeaseOrder::kContinue};
  mutable Mutex mu_;
  CondVar ordered_;
  LeaseState state_ ABSL_GUARDED_BY(mu_);
  PhaseMeter meter_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_LEASE_H_
