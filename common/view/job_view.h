// SPDX-License-Identifier: Apache-2.0
// Parts of a job as people read them, in lists, on pages and while watching.
#ifndef QUANT_COMMON_VIEW_JOB_VIEW_H_
#define QUANT_COMMON_VIEW_JOB_VIEW_H_

#include <string>

#include "absl/time/time.h"

namespace quant {

namespace v1 {
class Job;
class JobError;
class Progress;
}  // namespace v1

// "quantize static", "benchmark": what the job does.
std::string JobTitle(const v1::Job& job);
// "RETRY_WAIT".
std::string StateName(const v1::Job& job);
// Final, or DEAD: nothing more happens by itself.
bool IsSettled(const v1::Job& job);
// Time from the newest start to the end, or to now; "-" when it has not started.
std::string RunTime(const v1::Job& job, absl::Time now);
// "DATA_MISMATCH in calibrate: …".
std::string ErrorText(const v1::JobError& error);
// "calibrate 42%", "tries again in 12 s"; "" where a job neither runs nor waits for a retry.
std::string ProgressText(const v1::Job& job, absl::Time now);
// "412 of 1024 samples, 35.2 samples/s, 17 s left": what of it is known; "" when nothing is.
std::string ProgressFigures(const v1::Progress& progress);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_JOB_VIEW_H_
