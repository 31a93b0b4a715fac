// SPDX-License-Identifier: Apache-2.0
#include "server/queue/job_state.h"

namespace quant {
namespace {

using S = JobState;

std::optional<JobState> FromLeased(JobState state, JobState if_running, JobState if_cancelling) {
  if (state == S::kRunning) return if_running;
  if (state == S::kCancelling) return if_cancelling;
  return std::nullopt;
}

std::optional<JobState> AfterCancel(JobState state) {
  switch (state) {
    case S::kQueued:
    case S::kRetryWait:
    case S::kDead:
    case S::kCancelled:
      return S::kCancelled;
    case S::kRunning:
    case S::kCancelling:
      return S::kCancelling;
    case S::kSucceeded:
    case S::kFailed:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

std::optional<JobState> NextState(JobState state, JobEvent event) {
  switch (event) {
    case JobEvent::kLease:
      return state == S::kQueued ? std::optional(S::kRunning) : std::nullopt;
    case JobEvent::kCached:
      return state == S::kQueued ? std::optional(S::kSucceeded) : std::nullopt;
    case JobEvent::kSucceed:
      return FromLeased(state, S::kSucceeded, S::kSucceeded);
    case JobEvent::kFail:
      return FromLeased(state, S::kFailed, S::kFailed);
    case JobEvent::kAttemptLost:
      return FromLeased(state, S::kRetryWait, S::kCancelled);
    case JobEvent::kLastAttemptLost:
      return FromLeased(state, S::kDead, S::kCancelled);
    case JobEvent::kRelease:
      return FromLeased(state, S::kQueued, S::kCancelled);
    case JobEvent::kWorkerCancelled:
    case JobEvent::kCutOff:
      return state == S::kCancelling ? std::optional(S::kCancelled) : std::nullopt;
    case JobEvent::kRetryDue:
      return state == S::kRetryWait ? std::optional(S::kQueued) : std::nullopt;
    case JobEvent::kCancel:
      return AfterCancel(state);
    case JobEvent::kRetry:
      if (state == S::kFailed || state == S::kCancelled || state == S::kDead) return S::kQueued;
      return std::nullopt;
  }
  return std::nullopt;
}

JobEvent AttemptLostEvent(int attempt, int max_attempts) {
  return attempt < max_attempts ? JobEvent::kAttemptLost : JobEvent::kLastAttemptLost;
}

bool IsLeased(JobState state) { return state == S::kRunning || state == S::kCancelling; }
bool IsUnfinished(JobState state) { return state == S::kQueued || state == S::kRetryWait || IsLeased(state); }
bool IsFinal(JobState state) { return state == S::kSucceeded || state == S::kFailed || state == S::kCancelled; }
bool IsDeletable(JobState state) { return !IsLeased(state); }

std::string_view JobStateName(JobState state) {
  switch (state) {
    case S::kQueued:
      return "QUEUED";
    case S::kRunning:
      return "RUNNING";
    case S::kRetryWait:
      return "RETRY_WAIT";
    case S::kCancelling:
      return "CANCELLING";
    case S::kSucceeded:
      return "SUCCEEDED";
    case S::kFailed:
      return "FAILED";
    case S::kCancelled:
      return "CANCELLED";
    case S::kDead:
      return "DEAD";
  }
  return "UNKNOWN";
}

std::string_view JobStateLabel(JobState state) {
  switch (state) {
    case S::kQueued:
      return "queued";
    case S::kRunning:
      return "running";
    case S::kRetryWait:
      return "retry_wait";
    case S::kCancelling:
      return "cancelling";
    case S::kSucceeded:
      return "succeeded";
    case S::kFailed:
      return "failed";
    case S::kCancelled:
      return "cancelled";
    case S::kDead:
      return "dead";
  }
  return "unknown";
}

std::string_view JobEventName(JobEvent event) {
  switch (event) {
    case JobEvent::kLease:
      return "lease";
    case JobEvent::kCached:
      return "answering from an earlier result";
    case JobEvent::kSucceed:
      return "succeed";
    case JobEvent::kFail:
      return "fail";
    case JobEvent::kAttemptLost:
      return "attempt lost";
    case JobEvent::kLastAttemptLost:
      return "last attempt lost";
    case JobEvent::kRelease:
      return "release";
    case JobEvent::kWorkerCancelled:
      return "cancelled by worker";
    case JobEvent::kCutOff:
      return "cut off";
    case JobEvent::kRetryDue:
      return "retry due";
    case JobEvent::kCancel:
      return "cancel";
    case JobEvent::kRetry:
      return "retry";
  }
  return "unknown";
}

}  // namespace quant
