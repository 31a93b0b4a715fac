// SPDX-License-Identifier: Apache-2.0
// Tells the agent how far the job is, and times its phases.
#ifndef QUANT_WORKER_JOB_REPORTER_H_
#define QUANT_WORKER_JOB_REPORTER_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "worker/calibrate/progress.h"

namespace quant {

// Thread-compatible.
class Reporter {
 public:
  // Frames go to `fd`; -1: nowhere. `part`: what every message begins with, for one of several runs of a job.
  explicit Reporter(int fd, std::string part = "") : fd_(fd), part_(std::move(part)) {}

  // Ends the phase before and begins this one.
  void BeginPhase(std::string_view name);

  // A ProgressFn for the present phase, covering [from, to] of it. Never fails: cancelling kills the process.
  ProgressFn Progress(double from = 0, double to = 1);

  // A reporter for one of several runs of this job, told to the same agent.
  Reporter Part(std::string part) const { return Reporter(fd_, std::move(part)); }
  // Takes over the present phase of a part, for an error that ends the job in it.
  void EndedIn(const Reporter& part) { phase_ = part.phase_; }

  // Phases so far with their seconds, the present one included.
  std::vector<std::pair<std::string, double>> Phases() const;
  const std::string& phase() const { return phase_; }

 private:
  void Send(double fraction, std::string_view message, const Counted& counted, bool always);

  int fd_;
  std::string part_;
  std::string phase_;
  absl::Time phase_begin_ = absl::InfinitePast();
  absl::Time last_sent_ = absl::InfinitePast();
  std::vector<std::pair<std::string, double>> done_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_REPORTER_H_
