// SPDX-License-Identifier: Apache-2.0
// Errors of a job: a Status whose reason (jobs.proto, JobError.reason) rides along.
#ifndef QUANT_WORKER_JOB_JOB_ERROR_H_
#define QUANT_WORKER_JOB_JOB_ERROR_H_

#include <string_view>

#include "absl/status/status.h"
#include "quant/v1/jobs.pb.h"

namespace quant {

// `status` with a JobError reason, unless it has one already; OK stays OK.
absl::Status WithJobReason(absl::Status status, std::string_view reason);

// The JobError of a failed status. Its reason: the attached one, else by code: RESOURCE_EXHAUSTED is OUT_OF_MEMORY,
// UNIMPLEMENTED is OPERATOR_UNSUPPORTED, all else INTERNAL. RESOURCE_EXHAUSTED, UNAVAILABLE and ABORTED are retryable
// (another machine may have what this one lacks); the rest is final: the same input would end the same way.
quant::v1::JobError ToJobError(const absl::Status& status, std::string_view phase);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_JOB_ERROR_H_
