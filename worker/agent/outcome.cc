// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/outcome.h"

#include <signal.h>
#include <sys/wait.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "quant/v1/workers.pb.h"
#include "worker/agent/text.h"

namespace quant {
namespace {

constexpr size_t kMaxMessage = 4096;     // JobError.message
constexpr size_t kTailInMessage = 2048;  // of that for the child's output; all of it is in the log

// Those of JobError.reason that may appear in a metric.
constexpr const char* kReasons[] = {"MODEL_INVALID", "OPERATOR_UNSUPPORTED", "DATA_MISMATCH", "DATA_NOT_FINITE",
                                    "OUT_OF_MEMORY", "CHILD_CRASHED",        "CHILD_HUNG",    "TIMEOUT",
                                    "LEASE_LOST",    "VERIFY_FAILED",        "INTERNAL"};

bool IsReason(std::string_view s) {
  if (s.empty() || s.size() > 63) return false;
  for (char c : s) {
    if (!(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '_') return false;
  }
  return true;
}

void Fill(v1::ErrorClass error_class, std::string_view reason, std::string_view message, std::string_view phase,
          v1::CompleteJobRequest& done) {
  v1::JobError& error = *done.mutable_failure();
  error.set_error_class(error_class);
  error.set_reason(std::string(reason));
  error.set_message(CleanText(message, kMaxMessage, Keep::kHead));
  error.set_phase(CleanText(phase, 32, Keep::kHead));
}

// `head` and the end of what the child printed.
std::string WithTail(std::string head, std::string_view tail) {
  const std::string clean = CleanText(tail, kTailInMessage, Keep::kTail);
  if (clean.find_first_not_of(" \t\n") == std::string::npos) return head;
  return absl::StrCat(head, "\nIts output ends with:\n", clean);
}

void Crashed(const ChildVerdictInput& in, v1::CompleteJobRequest& done) {
  const int status = in.child.exit.wait_status;
  std::string text = absl::StrCat("the job's process died: ", DescribeExit(status));
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
    absl::StrAppend(&text, ", not sent by this worker: by the kernel if the machine ran out of memory, or by hand");
  }
  if (in.child.stopped == StopCause::kProtocol) {
    text = absl::StrCat("the job's process sent malformed progress and was killed: ", in.child.stop_detail);
  } else if (in.child.stopped == StopCause::kThreads) {
    text = absl::StrCat("the job's process was killed: ", in.child.stop_detail);
  } else if (!absl::IsNotFound(in.outcome_status)) {
    absl::StrAppend(&text, "; ", in.outcome_status.message());
  } else if (WIFEXITED(status)) {
    absl::StrAppend(&text, " without an outcome");
  }
  Fill(v1::ERROR_CLASS_POISON, "CHILD_CRASHED", WithTail(text, in.child.output_tail), in.phase, done);
}

}  // namespace

void JudgeChild(const ChildVerdictInput& in, v1::CompleteJobRequest& done) {
  const bool told = in.outcome_status.ok();
  if (told && in.outcome.has_success()) {
    *done.mutable_success() = in.outcome.success();
    return;
  }
  if (in.order == LeaseOrder::kCancel) {
    done.mutable_cancelled();
    return;
  }
  if (in.order == LeaseOrder::kRelease || in.order == LeaseOrder::kLost) {
    done.mutable_released();
    return;
  }
  if (told && in.outcome.has_failure()) {
    const v1::JobError& error = in.outcome.failure();
    const bool known =
        v1::ErrorClass_IsValid(error.error_class()) && error.error_class() != v1::ERROR_CLASS_UNSPECIFIED;
    Fill(known ? error.error_class() : v1::ERROR_CLASS_FINAL, IsReason(error.reason()) ? error.reason() : "INTERNAL",
         error.message().empty() ? "the job failed without saying why" : error.message(),
         error.phase().empty() ? in.phase : error.phase(), done);
    return;
  }
  const ChildResult& child = in.child;
  switch (child.stopped) {
    case StopCause::kMemory:
      Fill(v1::ERROR_CLASS_FINAL, "OUT_OF_MEMORY",
           absl::StrCat(child.stop_detail,
                        " (--memory of this worker). Start the worker with a larger --memory, or use a "
                        "smaller calibration batch; peak ",
                        child.exit.peak_rss_bytes >> 20, " MiB"),
           in.phase, done);
      return;
    case StopCause::kHang:
      Fill(v1::ERROR_CLASS_POISON, "CHILD_HUNG",
           WithTail(absl::StrCat(child.stop_detail,
                                 " (--hang-timeout or --phase-timeout of this worker) and was killed in phase ",
                                 Quoted(in.phase)),
                    child.output_tail),
           in.phase, done);
      return;
    case StopCause::kTimeout:
      Fill(v1::ERROR_CLASS_RETRYABLE, "TIMEOUT",
           absl::StrCat("the attempt did not end within its ", absl::FormatDuration(in.attempt_timeout), "; phase ",
                        Quoted(in.phase),
                        ". Submit the job with a longer attempt_timeout, or give the worker more "
                        "--threads"),
           in.phase, done);
      return;
    default:
      break;
  }
  const int status = child.exit.wait_status;
  const bool terminated = WIFSIGNALED(status) && (WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGINT);
  if (terminated || told) {  // told: "cancelled" or "released", which nobody had asked for
    Fill(v1::ERROR_CLASS_RETRYABLE, "INTERNAL",
         absl::StrCat("the job's process was stopped from outside (", DescribeExit(status), ")"), in.phase, done);
    return;
  }
  Crashed(in, done);
}

void SetFailure(Blame blame, std::string_view reason, std::string_view message, std::string_view phase,
                v1::CompleteJobRequest& done) {
  Fill(blame == Blame::kInput ? v1::ERROR_CLASS_FINAL : v1::ERROR_CLASS_RETRYABLE, reason, message, phase, done);
}

std::string DescribeExit(int wait_status) {
  if (WIFEXITED(wait_status)) return absl::StrCat("exit status ", WEXITSTATUS(wait_status));
  if (!WIFSIGNALED(wait_status)) return absl::StrCat("wait status ", wait_status);
  const int signal = WTERMSIG(wait_status);
  const char* name = ::sigabbrev_np(signal);
  const char* words = ::sigdescr_np(signal);
  return absl::StrCat("SIG", name != nullptr ? name : std::to_string(signal).c_str(), " (",
                      words != nullptr ? words : "unknown signal", ")");
}

std::string OutcomeLabel(const v1::CompleteJobRequest& done) {
  switch (done.outcome_case()) {
    case v1::CompleteJobRequest::kSuccess:
      return "succeeded";
    case v1::CompleteJobRequest::kFailure:
      return "failed";
    case v1::CompleteJobRequest::kCancelled:
      return "cancelled";
    case v1::CompleteJobRequest::kReleased:
      return "released";
    case v1::CompleteJobRequest::OUTCOME_NOT_SET:
      break;
  }
  return "lost";
}

std::string ReasonLabel(const v1::CompleteJobRequest& done) {
  if (!done.has_failure()) return "";
  for (const char* reason : kReasons) {
    if (done.failure().reason() == reason) return reason;
  }
  return "other";
}

}  // namespace quant
