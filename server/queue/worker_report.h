// SPDX-License-Identifier: Apache-2.0
// What a worker says of a job, brought inside the limits of the contract: it comes from outside.
#ifndef QUANT_SERVER_QUEUE_WORKER_REPORT_H_
#define QUANT_SERVER_QUEUE_WORKER_REPORT_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"

namespace quant {

// `text` cut to at most `max` bytes between two UTF-8 characters.
std::string Cut(std::string_view text, size_t max);

// Texts cut (phase 32, message 256, unit 16 bytes), fraction in 0..1 (NaN: 0), done in 0..total, a rate that is finite
// and positive or 0, a remaining time of 0 to 366 days or none; update_time is `now` where none is told.
v1::Progress CleanProgress(const v1::Progress& in, absl::Time now);

// Nothing that happened: the rate and the remaining time alone change with every second of standing still.
bool SameProgress(const v1::Progress& a, const v1::Progress& b);

// An error as the contract promises it: reason in UPPER_CASE (else INTERNAL), message at most 4096 bytes, the phase
// that `progress` names where the error names none. A class that is missing counts as retryable: another attempt can do
// no harm, and the attempts are bounded.
v1::JobError CleanError(const v1::JobError& in, const v1::Progress& progress);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_WORKER_REPORT_H_
