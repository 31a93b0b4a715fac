// SPDX-License-Identifier: Apache-2.0
// Small helpers shared by the queue_*.cc files. Not for other folders.
#ifndef QUANT_SERVER_QUEUE_QUEUE_INTERNAL_H_
#define QUANT_SERVER_QUEUE_QUEUE_INTERNAL_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/error_detail.h"
#include "common/logging.h"
#include "common/strings.h"
#include "quant/v1/jobs.pb.h"
#include "server/queue/job_state.h"
#include "server/store/job_store.h"

namespace quant {

inline JobState StateOf(const v1::Job& job) { return static_cast<JobState>(job.state()); }
inline JobState StateOf(const JobRow& row) { return StateOf(row.job); }

inline bool IsHeldBy(const JobRow& row, int64_t token, std::string_view worker_id) {
  return IsLeased(StateOf(row)) && token > 0 && row.token == token && row.job.worker_id() == worker_id;
}

// No attempt waits longer for the next.
inline constexpr absl::Duration kRetryCap = absl::Minutes(5);

// A watch of the job has nothing more to wait for.
inline bool EndsWatch(JobState state) { return IsFinal(state) || state == JobState::kDead; }

inline absl::Status StateForbids(const v1::Job& job, std::string_view what) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "job ", job.id(), " is ", AbslView(JobStateName(StateOf(job))), ": ", AbslView(what))),
                    "JOB_STATE_FORBIDS", {{"state", std::string(JobStateName(StateOf(job)))}});
}

// Whether to look at the job again: another server changed it between our look and our change.
inline bool ChangedMeanwhile(const absl::Status& status, int* tries) { return absl::IsAborted(status) && ++*tries < 3; }

// For log lines about a job.
inline LogFields LogFieldsOf(const v1::Job& job) { return {.job = job.id(), .traceparent = job.traceparent()}; }

inline absl::Status Stopping() {
  return WithReason(absl::UnavailableError("the server is stopping: reconnect and repeat the call"), "SERVER_STOPPING",
                    {}, absl::Seconds(1));
}

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_QUEUE_INTERNAL_H_
