// SPDX-License-Identifier: Apache-2.0
#include "server/queue/job_state.h"

#include <map>
#include <set>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace quant {
namespace {

using E = JobEvent;
using S = JobState;

// Every allowed (state, event); all others are refused. Written from the diagram of jobs.proto, not from the code.
const std::map<std::pair<S, E>, S> kEdges = {
    {{S::kQueued, E::kLease}, S::kRunning},
    {{S::kQueued, E::kCancel}, S::kCancelled},
    {{S::kQueued, E::kCached}, S::kSucceeded},
    {{S::kRunning, E::kSucceed}, S::kSucceeded},
    {{S::kRunning, E::kFail}, S::kFailed},
    {{S::kRunning, E::kAttemptLost}, S::kRetryWait},
    {{S::kRunning, E::kLastAttemptLost}, S::kDead},
    {{S::kRunning, E::kRelease}, S::kQueued},
    {{S::kRunning, E::kCancel}, S::kCancelling},
    {{S::kRetryWait, E::kRetryDue}, S::kQueued},
    {{S::kRetryWait, E::kCancel}, S::kCancelled},
    {{S::kCancelling, E::kSucceed}, S::kSucceeded},
    {{S::kCancelling, E::kFail}, S::kFailed},
    {{S::kCancelling, E::kAttemptLost}, S::kCancelled},
    {{S::kCancelling, E::kLastAttemptLost}, S::kCancelled},
    {{S::kCancelling, E::kRelease}, S::kCancelled},
    {{S::kCancelling, E::kWorkerCancelled}, S::kCancelled},
    {{S::kCancelling, E::kCutOff}, S::kCancelled},
    {{S::kCancelling, E::kCancel}, S::kCancelling},
    {{S::kCancelled, E::kCancel}, S::kCancelled},
    {{S::kDead, E::kCancel}, S::kCancelled},
    {{S::kFailed, E::kRetry}, S::kQueued},
    {{S::kCancelled, E::kRetry}, S::kQueued},
    {{S::kDead, E::kRetry}, S::kQueued},
};

TEST(JobState, EveryPairOfStateAndEventIsAsInTheDiagram) {
  int pairs = 0;
  for (const S state : kAllJobStates) {
    for (const E event : kAllJobEvents) {
      const auto edge = kEdges.find({state, event});
      const std::optional<S> expected = edge == kEdges.end() ? std::nullopt : std::optional(edge->second);
      EXPECT_EQ(NextState(state, event), expected) << JobStateName(state) << " on " << JobEventName(event);
      ++pairs;
    }
  }
  EXPECT_EQ(pairs, 8 * 12);
}

TEST(JobState, SucceededIsForEver) {
  for (const E event : kAllJobEvents) EXPECT_FALSE(NextState(S::kSucceeded, event)) << JobEventName(event);
}

TEST(JobState, AFinalJobMovesOnlyByRetry) {
  for (const S state : kAllJobStates) {
    if (!IsFinal(state)) continue;
    for (const E event : kAllJobEvents) {
      if (event == E::kRetry) continue;
      EXPECT_EQ(NextState(state, event).value_or(state), state) << JobStateName(state) << " " << JobEventName(event);
    }
  }
}

TEST(JobState, CancellingEndsOnlyInCancelledSucceededOrFailed) {
  for (const E event : kAllJobEvents) {
    const S next = NextState(S::kCancelling, event).value_or(S::kCancelling);
    EXPECT_TRUE(next == S::kCancelling || IsFinal(next)) << JobEventName(event);
  }
}

TEST(JobState, OnlyALeaseLeadsToRunning) {
  for (const S state : kAllJobStates) {
    for (const E event : kAllJobEvents) {
      if (NextState(state, event) == S::kRunning) {
        EXPECT_EQ(event, E::kLease) << JobStateName(state);
      }
    }
  }
}

TEST(JobState, TheLastAttemptIsTheOneWithTheGreatestNumber) {
  EXPECT_EQ(AttemptLostEvent(1, 3), E::kAttemptLost);
  EXPECT_EQ(AttemptLostEvent(2, 3), E::kAttemptLost);
  EXPECT_EQ(AttemptLostEvent(3, 3), E::kLastAttemptLost);
  EXPECT_EQ(AttemptLostEvent(1, 1), E::kLastAttemptLost);
}

TEST(JobState, EachStateIsUnfinishedFinalOrDead) {
  for (const S state : kAllJobStates) {
    EXPECT_EQ(IsUnfinished(state) + IsFinal(state) + (state == S::kDead), 1) << JobStateName(state);
    EXPECT_NE(IsLeased(state), IsDeletable(state));
  }
}

TEST(JobState, NamesDiffer) {
  std::set<std::string_view> names, labels, events;
  for (const S state : kAllJobStates) {
    names.insert(JobStateName(state));
    labels.insert(JobStateLabel(state));
  }
  for (const E event : kAllJobEvents) events.insert(JobEventName(event));
  EXPECT_EQ(names.size(), 8u);
  EXPECT_EQ(labels.size(), 8u);
  EXPECT_EQ(events.size(), 12u);
}

}  // namespace
}  // namespace quant
