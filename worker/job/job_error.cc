// SPDX-License-Identifier: Apache-2.0
#include "worker/job/job_error.h"

#include <string>

#include "common/error_detail.h"

namespace quant {
namespace {

constexpr size_t kMaxMessage = 4096;

}  // namespace

absl::Status WithJobReason(absl::Status status, std::string_view reason) {
  if (status.ok() || !ReasonOf(status).empty()) return status;
  return WithReason(std::move(status), reason);
}

quant::v1::JobError ToJobError(const absl::Status& status, std::string_view phase) {
  quant::v1::JobError e;
  const bool retryable = absl::IsResourceExhausted(status) || absl::IsUnavailable(status) || absl::IsAborted(status);
  e.set_error_class(retryable ? quant::v1::ERROR_CLASS_RETRYABLE : quant::v1::ERROR_CLASS_FINAL);
  std::string reason = ReasonOf(status);
  if (reason.empty()) {
    reason = absl::IsResourceExhausted(status) ? "OUT_OF_MEMORY"
             : absl::IsUnimplemented(status)   ? "OPERATOR_UNSUPPORTED"
                                               : "INTERNAL";
  }
  e.set_reason(reason);
  e.set_message(std::string(status.message()).substr(0, kMaxMessage));
  e.set_phase(std::string(phase));
  return e;
}

}  // namespace quant
