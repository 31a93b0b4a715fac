// SPDX-License-Identifier: Apache-2.0
// When and how long to try a call again: shared by the transfer library, the client and the worker's agent.
#ifndef QUANT_COMMON_TRANSFER_RETRY_H_
#define QUANT_COMMON_TRANSFER_RETRY_H_

#include <chrono>
#include <functional>
#include <random>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quant {

struct RetryOptions {
  absl::Duration first_wait = absl::Milliseconds(100);  // doubles from here, with +-25 % jitter,
  absl::Duration longest_wait = absl::Seconds(5);       // to here
  // How long to go on without any progress. Counted from the first failure after the newest progress, so a server that
  // comes back within this time costs nothing but the wait.
  absl::Duration give_up_after = absl::Seconds(60);
  // Replaces the real sleep, for tests.
  std::function<void(absl::Duration)> sleep;
  // Polled every 50 ms while waiting and between messages of a transfer; true ends the work with CANCELLED.
  std::function<bool()> cancelled;
};

// A unary call is repeated for UNAVAILABLE (the server is starting, stopping, or not reachable) and for a
// RESOURCE_EXHAUSTED that says when to come again (a rate limit, a full queue); nothing was done in either case.
bool IsWorthRepeating(const absl::Status& status);

// True when a stream broke and asking how far it got may mend it: UNAVAILABLE, the stream's own deadline, a
// cancellation we did not ask for (the server is stopping), or a transport reset that gRPC reports as INTERNAL or
// UNKNOWN.
bool IsBrokenStream(const absl::Status& status);

// The waits between the attempts of one piece of work. Not thread-safe: one per piece of work.
class Backoff {
 public:
  explicit Backoff(RetryOptions options);

  // The work got further: the next failure starts from the first wait again.
  void Progress();

  // Call after a failed attempt. Waits and returns OK when it should be tried again. Otherwise returns why not: `last`
  // with "gave up after …" added once give_up_after has passed, or CANCELLED. Waits at least as long as the server
  // asked for (ErrorDetail.retry_after, up to 30 s).
  absl::Status Wait(const absl::Status& last);

  // Attempts that failed since the newest progress.
  int failures() const { return failures_; }

 private:
  RetryOptions options_;
  int failures_ = 0;
  std::chrono::steady_clock::time_point first_failure_;
  std::minstd_rand random_;
};

}  // namespace quant

#endif  // QUANT_COMMON_TRANSFER_RETRY_H_
