// SPDX-License-Identifier: Apache-2.0
// Turns what a job's child did into the outcome that is reported to the server. All of the rules are here:
//
//   the child wrote...   and the lease's order is...   outcome
//   success              any but lost                  success (a finished result may win over a cancel)
//   anything else        cancel                        cancelled
//   anything else        release                       released
//   failure              continue                      that failure, made fit to send
//   no (good) outcome, stopped for memory              failure OUT_OF_MEMORY  FINAL
//                      stopped as silent               failure CHILD_HUNG     POISON
//                      stopped at the time limit       failure TIMEOUT        RETRYABLE (as the server's own deadline)
//                      died, left nonsense, or was
//                      stopped for its threads          failure CHILD_CRASHED  POISON
//                      ended by SIGTERM not from here  failure INTERNAL       RETRYABLE
#ifndef QUANT_WORKER_AGENT_OUTCOME_H_
#define QUANT_WORKER_AGENT_OUTCOME_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/agent/lease.h"
#include "worker/agent/supervisor.h"

namespace quant {

namespace v1 {
class CompleteJobRequest;
}

struct ChildVerdictInput {
  const ChildResult& child;
  // What JobFolder::ReadOutcome said: OK and the message, NOT_FOUND, or what is wrong with it.
  absl::Status outcome_status;
  const v1::CompleteJobRequest& outcome;
  LeaseOrder order = LeaseOrder::kContinue;
  std::string phase;               // the newest the child told
  absl::Duration attempt_timeout;  // for the text of TIMEOUT
};

// Sets the outcome of `done`, and nothing else of it.
void JudgeChild(const ChildVerdictInput& input, v1::CompleteJobRequest& done);

// A failure that the agent itself reports.
enum class Blame { kEnvironment, kInput };  // RETRYABLE, FINAL
void SetFailure(Blame blame, std::string_view reason, std::string_view message, std::string_view phase,
                v1::CompleteJobRequest& done);

// "SIGSEGV (segmentation fault)", "exit status 3".
std::string DescribeExit(int wait_status);

// The `outcome` and `reason` labels of quant_worker_jobs_total: closed sets. Reason is "" but for failures.
std::string OutcomeLabel(const v1::CompleteJobRequest& done);
std::string ReasonLabel(const v1::CompleteJobRequest& done);

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_OUTCOME_H_
