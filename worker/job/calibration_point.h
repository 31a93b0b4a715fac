// SPDX-License-Identifier: Apache-2.0
// CalibrationPoint: how far the calibration of an ONNX model has come, kept for the next attempt (phase_point.h): the
// statistics of every value.
#ifndef QUANT_WORKER_JOB_CALIBRATION_POINT_H_
#define QUANT_WORKER_JOB_CALIBRATION_POINT_H_

#include <filesystem>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "worker/calibrate/calibrate.h"
#include "worker/job/phase_point.h"

namespace quant {

class CalibrationPoint {
 public:
  CalibrationPoint(const std::filesystem::path& folder, std::string fingerprint, absl::Duration interval);

  // As PhasePoint.
  std::optional<Statistics> Load();
  void Tell(const Statistics& so_far);
  void Clear() { point_.Clear(); }

 private:
  PhasePoint point_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_CALIBRATION_POINT_H_
