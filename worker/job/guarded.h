// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_JOB_GUARDED_H_
#define QUANT_WORKER_JOB_GUARDED_H_

#include <exception>
#include <new>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "quant/v1/report.pb.h"
#include "worker/job/job_error.h"

namespace quant {

// Libraries and the standard library may throw (bad_alloc above all): here at the latest it becomes a Status.
inline absl::StatusOr<quant::v1::Report> Guarded(absl::FunctionRef<absl::StatusOr<quant::v1::Report>()> run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return WithJobReason(absl::ResourceExhaustedError("the job ran out of memory; start the worker with more --memory"),
                         "OUT_OF_MEMORY");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("unexpected exception: ", e.what()));
  }
}

}  // namespace quant

#endif  // QUANT_WORKER_JOB_GUARDED_H_
