// SPDX-License-Identifier: Apache-2.0
// RunChild: runs one child process to its end, whatever it does. Reads its output and progress, obeys the lease's
// orders, and ends it when it eats too much memory, falls silent, or runs out of time.
#ifndef QUANT_WORKER_AGENT_SUPERVISOR_H_
#define QUANT_WORKER_AGENT_SUPERVISOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/agent/child_process.h"
#include "worker/agent/lease.h"
#include "worker/agent/steady.h"

namespace quant {

// Why the supervisor ended a child.
enum class StopCause {
  kNone,      // it did not
  kRelease,   // LeaseOrder::kRelease
  kCancel,    // LeaseOrder::kCancel
  kLost,      // LeaseOrder::kLost
  kMemory,    // above ChildLimits::memory_bytes
  kThreads,   // above ChildLimits::threads
  kHang,      // no progress for ChildLimits::hang_timeout, or that of the phase
  kTimeout,   // past ChildLimits::end
  kProtocol,  // malformed progress
};
// "memory", "hang", …: the `cause` label of quant_worker_children_killed_total.
const char* StopCauseName(StopCause cause);

struct ChildLimits {
  int64_t memory_bytes = 0;  // 0: no limit
  int64_t threads = 0;       // 0: no limit
  // How long a job's progress may stand still, in which phase: from the newest frame that differs from the one before.
  // Neither the queue nor the fetch counts: the clock begins with the process.
  absl::Duration hang_timeout = absl::Minutes(10);
  std::map<std::string, absl::Duration> phase_timeouts;  // in place of hang_timeout, by the phase the lease is in
  SteadyTime end = absl::InfiniteDuration();             // when the attempt must be over
  absl::Duration cancel_grace = absl::Seconds(5);        // SIGTERM to SIGKILL
  absl::Duration release_grace = absl::Seconds(2);       // the same when the worker is going away
  absl::Duration usage_poll = absl::Milliseconds(200);   // memory and threads
};

struct ChildResult {
  StopCause stopped = StopCause::kNone;
  std::string stop_detail;  // for kMemory, kThreads, kHang and kProtocol: a sentence with the values
  ChildExit exit;
  std::string output_tail;  // last 16 KiB of stdout and stderr, as written
};

// Hooks of a running child, called on the thread that runs it.
struct ChildEvents {
  // A frame from the progress pipe. An error ends the child (kProtocol).
  std::function<absl::Status(std::string_view payload)> progress;
  // Resident bytes at each poll, and 0 at the end.
  std::function<void(int64_t rss)> memory;
};

// Blocks until the child and its process group are gone. Orders given to `lease` take effect at once:
// kRelease and kCancel send SIGTERM to the group and SIGKILL after the grace, kLost sends SIGKILL.
// An error means that the child could not be started; everything else is in the result.
absl::StatusOr<ChildResult> RunChild(const ChildProcess::Command& command, const ChildLimits& limits,
                                     ActiveLease& lease, const ChildEvents& events);

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_SUPERVISOR_H_
