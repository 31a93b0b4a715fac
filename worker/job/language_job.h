// SPDX-License-Identifier: Apache-2.0
// Quantize and benchmark jobs on language models (Hugging Face checkpoints).
#ifndef QUANT_WORKER_JOB_LANGUAGE_JOB_H_
#define QUANT_WORKER_JOB_LANGUAGE_JOB_H_

#include "absl/status/statusor.h"
#include "quant/v1/report.pb.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/job_main.h"
#include "worker/job/job_paths.h"
#include "worker/job/reporter.h"

namespace quant {

// load -> [calibrate and] quantize, block by block -> export -> verify (every layer read back and compared) -> evaluate
// (perplexity, divergence) -> benchmark (prefill and decode). Results of finished blocks are kept in resume/,
// where there is one, and a later attempt goes on from them with the same bytes as the outcome.
// Errors carry a JobError reason as those of RunQuantizeJob do.
absl::StatusOr<quant::v1::Report> RunLanguageQuantizeJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                         const JobLimits& limits, Reporter& reporter);

// evaluate and benchmark of model/ beside baseline/ (or itself).
absl::StatusOr<quant::v1::Report> RunLanguageBenchmarkJob(const quant::v1::Lease& lease, const JobPaths& paths,
                                                          const JobLimits& limits, Reporter& reporter);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_LANGUAGE_JOB_H_
