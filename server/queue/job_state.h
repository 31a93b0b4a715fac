// SPDX-License-Identifier: Apache-2.0
// The life of a job in one place: which event moves a job from which state to which. Pure functions; every other file
// of the server asks here, and job_state_test.cc has the whole table.
//
//   event \ state      QUEUED     RUNNING     RETRY_WAIT  CANCELLING  SUCCEEDED  FAILED     CANCELLED  DEAD
//   kLease             RUNNING    -           -           -           -          -          -          -
//   kCached            SUCCEEDED  -           -           -           -          -          -          -
//   kSucceed           -          SUCCEEDED   -           SUCCEEDED   -          -          -          -
//   kFail              -          FAILED      -           FAILED      -          -          -          -
//   kAttemptLost       -          RETRY_WAIT  -           CANCELLED   -          -          -          -
//   kLastAttemptLost   -          DEAD        -           CANCELLED   -          -          -          -
//   kRelease           -          QUEUED      -           CANCELLED   -          -          -          -
//   kWorkerCancelled   -          -           -           CANCELLED   -          -          -          -
//   kCutOff            -          -           -           CANCELLED   -          -          -          -
//   kRetryDue          -          -           QUEUED      -           -          -          -          -
//   kCancel            CANCELLED  CANCELLING  CANCELLED   CANCELLING  -          -          CANCELLED  CANCELLED
//   kRetry             -          -           -           -           -          QUEUED     QUEUED     QUEUED
#ifndef QUANT_SERVER_QUEUE_JOB_STATE_H_
#define QUANT_SERVER_QUEUE_JOB_STATE_H_

#include <optional>
#include <string_view>

namespace quant {

// The numbers are those of quant.v1.JobState, on the wire and in the store.
enum class JobState {
  kQueued = 1,      // waiting for a worker
  kRunning = 2,     // leased by a worker
  kRetryWait = 3,   // waiting out the backoff after a failed attempt
  kCancelling = 4,  // leased, cancellation asked for
  kSucceeded = 5,   // done; final
  kFailed = 6,      // ended by an error that another run would repeat; final unless retried by hand
  kCancelled = 7,   // stopped as asked; final unless retried by hand
  kDead = 8,        // attempts used up; parked
};

enum class JobEvent {
  kLease,            // a worker takes the job
  kCached,           // the same work was done before: its result is this job's
  kSucceed,          // its worker delivered a result
  kFail,             // its worker reported an error that another run would repeat
  kAttemptLost,      // a retryable or poison error, a lost worker or an attempt out of time; attempts are left
  kLastAttemptLost,  // the same, and no attempt is left
  kRelease,          // a draining worker hands the job back
  kWorkerCancelled,  // its worker stopped it, as asked
  kCutOff,           // its worker has ignored the cancellation for too long
  kRetryDue,         // the backoff is over
  kCancel,           // a client asks that it stop
  kRetry,            // a client asks that it run again
};

inline constexpr JobState kAllJobStates[] = {JobState::kQueued,     JobState::kRunning,   JobState::kRetryWait,
                                             JobState::kCancelling, JobState::kSucceeded, JobState::kFailed,
                                             JobState::kCancelled,  JobState::kDead};
inline constexpr JobEvent kAllJobEvents[] = {
    JobEvent::kLease,       JobEvent::kCached,          JobEvent::kSucceed, JobEvent::kFail,
    JobEvent::kAttemptLost, JobEvent::kLastAttemptLost, JobEvent::kRelease, JobEvent::kWorkerCancelled,
    JobEvent::kCutOff,      JobEvent::kRetryDue,        JobEvent::kCancel,  JobEvent::kRetry};

// Where `event` takes a job that is in `state`; the same state when the event is a repeat without effect (kCancel in
// CANCELLING or CANCELLED); nothing when it is refused.
std::optional<JobState> NextState(JobState state, JobEvent event);

// kAttemptLost or kLastAttemptLost: whether a job whose attempt number `attempt` (from 1) just ended has another.
JobEvent AttemptLostEvent(int attempt, int max_attempts);

// A worker holds a lease on the job.
bool IsLeased(JobState state);
// The job counts against the queue's bound and keeps its inputs from deletion: not final and not DEAD.
bool IsUnfinished(JobState state);
// SUCCEEDED, FAILED, CANCELLED: the job ended.
bool IsFinal(JobState state);
// DeleteJob is allowed: no worker holds it.
bool IsDeletable(JobState state);

// "QUEUED", "RETRY_WAIT", …: for messages.
std::string_view JobStateName(JobState state);
// "queued", "retry_wait", …: for metric labels.
std::string_view JobStateLabel(JobState state);
std::string_view JobEventName(JobEvent event);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_JOB_STATE_H_
