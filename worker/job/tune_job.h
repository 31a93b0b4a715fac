// SPDX-License-Identifier: Apache-2.0
// Tune jobs: every candidate recipe quantized and measured, the best one made.
#ifndef QUANT_WORKER_JOB_TUNE_JOB_H_
#define QUANT_WORKER_JOB_TUNE_JOB_H_

#include <filesystem>

#include "absl/status/statusor.h"
#include "quant/v1/report.pb.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/job_main.h"
#include "worker/job/reporter.h"

namespace quant {

// Runs each candidate as a quantize job of its own in FOLDER/resume/tune/<fingerprint>/ (FOLDER/work/ without a resume
// folder), keeps the files of the best one so far (so two checkpoints at most are on disk), and moves those of the best
// of all to FOLDER/output. The report is that of the chosen candidate, with Report.tuning, and the phases of all
// candidates summed.
//
// A later attempt takes over the candidates that are finished and goes on in the one that was in work. A candidate that
// two attempts ended in (its process died) is given up, and told as an error of its trial, as is one whose job fails
// for good or runs out of memory; the job fails when none makes a model, or with an error that a retry may cure.
absl::StatusOr<quant::v1::Report> RunTuneJob(const quant::v1::Lease& lease, const std::filesystem::path& folder,
                                             const JobLimits& limits, Reporter& reporter);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_TUNE_JOB_H_
