// SPDX-License-Identifier: Apache-2.0
// Entry point of a job's child process. The agent (worker/agent) made `folder`:
//   lease.pb       binary quant.v1.Lease: the job, its token, the manifests
//   model/  baseline/  calibration/  evaluation/    input files at their manifest paths, read-only
//   output/        empty: the files of the result go here
//   work/          empty: scratch space
// and reads progress frames from file descriptor 3 (u32 little-endian length, binary quant.v1.Progress). Before exiting
// the job writes work/outcome.pb: binary quant.v1.CompleteJobRequest with only `outcome` set.
#ifndef QUANT_WORKER_JOB_JOB_MAIN_H_
#define QUANT_WORKER_JOB_JOB_MAIN_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quant {

struct JobLimits {
  int threads = 0;           // 0: all cores
  int64_t memory_bytes = 0;  // what the agent grants; 0: unlimited
  // How often a long calibration is kept in resume/: less work than this is not worth a write.
  absl::Duration resume_interval = absl::Seconds(15);
};

// Runs the job and returns the exit status: 0 when work/outcome.pb was written, whatever the outcome; 1 when it could
// not be.
int RunJobMain(const std::filesystem::path& folder, const JobLimits& limits);

// Writes work/outcome.pb with the failure `status` instead, and returns the same.
int FailJobMain(const std::filesystem::path& folder, const absl::Status& status);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_JOB_MAIN_H_
