// SPDX-License-Identifier: Apache-2.0
// Time that never jumps: what leases, grace periods and guards are measured with.
#ifndef QUANT_WORKER_AGENT_STEADY_H_
#define QUANT_WORKER_AGENT_STEADY_H_

#include <chrono>

#include "absl/time/time.h"

namespace quant {

// A point on the machine's monotonic clock, as the time since its (arbitrary) start.
using SteadyTime = absl::Duration;

inline SteadyTime SteadyNow() { return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()); }

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_STEADY_H_
