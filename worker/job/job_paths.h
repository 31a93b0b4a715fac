// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_JOB_JOB_PATHS_H_
#define QUANT_WORKER_JOB_JOB_PATHS_H_

#include <filesystem>

namespace quant {

// Where a run's files are. Of a job both are its folder (job_main.h); a candidate of a tune job reads the job's inputs
// and writes in a folder of its own. (A link would do, but a job's sandbox makes none.)
struct JobPaths {
  std::filesystem::path inputs;  // has model/ baseline/ calibration/ evaluation/
  std::filesystem::path own;     // has output/ work/ and, where later attempts may find something, resume/
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_JOB_PATHS_H_
