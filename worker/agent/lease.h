// SPDX-License-Identifier: Apache-2.0
// ActiveLease: one lease in work, shared by the slot that works it and the heartbeat thread that speaks for it.
#ifndef QUANT_WORKER_AGENT_LEASE_H_
#define QUANT_WORKER_AGENT_LEASE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

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
  absl::Time update_time;
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

  // Values from outside are cut to their legal range: phase to 32 and message to 256 bytes, fraction to 0..1 (NaN: 0).
  void SetProgress(std::string_view phase, double fraction, std::string_view message);
  LeaseState state() const;

 private:
  const std::string job_id_;
  const int64_t token_;
  UniqueFd wake_;  // eventfd
  std::atomic<LeaseOrder> order_{LeaseOrder::kContinue};
  mutable Mutex mu_;
  CondVar ordered_;
  LeaseState state_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_LEASE_H_
