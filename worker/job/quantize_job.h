// SPDX-License-Identifier: Apache-2.0
// The kinds of jobs, step by step. Each phase is told to the reporter; the first error ends the job.
#ifndef QUANT_WORKER_JOB_QUANTIZE_JOB_H_
#define QUANT_WORKER_JOB_QUANTIZE_JOB_H_

#include "absl/status/statusor.h"
#include "quant/v1/report.pb.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/job_main.h"
#include "worker/job/job_paths.h"
#include "worker/job/reporter.h"

namespace quant {

// load -> calibrate -> quantize -> export -> verify -> evaluate -> benchmark. Writes the result below output/ and
// returns the report. The exported file is read back by our own importer, and its outputs must equal those of the graph
// that was exported; only then the job succeeds (reason VERIFY_FAILED otherwise).
absl::StatusOr<quant::v1::Report> RunQuantizeJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                 const JobLimits& limits, Reporter& reporter);

// load -> evaluate -> benchmark of a model, beside a baseline model where the job names one.
absl::StatusOr<quant::v1::Report> RunBenchmarkJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                  const JobLimits& limits, Reporter& reporter);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_QUANTIZE_JOB_H_
