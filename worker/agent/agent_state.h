// SPDX-License-Identifier: Apache-2.0
// AgentState: what the slots, the heartbeat thread and the agent's owner share: the leases in work, whether the server
// hears us, and whether we are draining.
#ifndef QUANT_WORKER_AGENT_AGENT_STATE_H_
#define QUANT_WORKER_AGENT_AGENT_STATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "worker/agent/lease.h"

namespace quant {

// Thread-safe.
class AgentState {
 public:
  // The lease stays in All() until Remove. shared_ptr: the heartbeat thread may hold one while its slot removes it.
  std::shared_ptr<ActiveLease> Add(std::string job_id, int64_t token);
  void Remove(const ActiveLease& lease);
  std::vector<std::shared_ptr<ActiveLease>> All() const;
  void GiveAll(LeaseOrder order);
  // Waits until no lease is in work or `timeout` has passed; true when none is.
  bool WaitIdle(absl::Duration timeout);

  // Whether the newest heartbeat was answered, or the one before it is not yet too old. False at the start.
  void SetConnected(bool connected);
  bool connected() const;

  // No new leases from now on. Idempotent.
  void Drain();
  bool draining() const;
  void WaitForDrain();

  // For a slot: blocks until it may ask for work and counts it as asking: true. False: draining, the slot shall end.
  bool BeginClaim();
  void EndClaim();
  // Waits until no slot is asking, at most `timeout`; true when none is.
  bool WaitNoClaims(absl::Duration timeout);
  // Sleeps at most `duration`, less when draining begins.
  void SleepUnlessDraining(absl::Duration duration);

  // Ends the heartbeat thread, the last thing of a drain.
  void Stop();
  // For the heartbeat thread: sleeps until `duration` has passed, draining has begun (told once) or Stop(). False:
  // stop.
  bool SleepUntilBeat(absl::Duration duration);

 private:
  mutable Mutex mu_;
  CondVar changed_;
  std::vector<std::shared_ptr<ActiveLease>> leases_ ABSL_GUARDED_BY(mu_);
  bool connected_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool drain_beat_due_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  int claims_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_AGENT_STATE_H_
