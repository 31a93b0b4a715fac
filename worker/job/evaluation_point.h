// SPDX-License-Identifier: Apache-2.0
// EvaluationPoint: how far an evaluation has come, kept for the next attempt (phase_point.h): its sums.
#ifndef QUANT_WORKER_JOB_EVALUATION_POINT_H_
#define QUANT_WORKER_JOB_EVALUATION_POINT_H_

#include <filesystem>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "worker/evaluate/evaluate.h"
#include "worker/job/phase_point.h"

namespace quant {

class EvaluationPoint {
 public:
  // `threads`: sums of another number of threads have other rounding, so they are of another run.
  EvaluationPoint(const std::filesystem::path& folder, const std::string& fingerprint, int threads,
                  absl::Duration interval);

  // Loads what an earlier attempt kept, and keeps what `evaluation` reaches. This object must outlive the result.
  EvaluationResume Resume();

  void Clear() { point_.Clear(); }

 private:
  PhasePoint point_;
  std::optional<EvaluationState> before_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_EVALUATION_POINT_H_
