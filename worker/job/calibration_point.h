// SPDX-License-Identifier: Apache-2.0
// CalibrationPoint: how far the calibration of an ONNX model has come, on disk, so that the next attempt goes on from
// there. FOLDER/calibration/model.safetensors holds the statistics of every value and, in its metadata, the fingerprint
// of the run (resume.h): what is of another run is not used.
//
// Thread-compatible. One process at a time uses a folder (the job's lease sees to it).
#ifndef QUANT_WORKER_JOB_CALIBRATION_POINT_H_
#define QUANT_WORKER_JOB_CALIBRATION_POINT_H_

#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/calibrate/calibrate.h"

namespace quant {

class CalibrationPoint {
 public:
  // An empty `folder` keeps nothing. `interval`: what takes less to compute is not worth a write.
  CalibrationPoint(std::filesystem::path folder, std::string fingerprint, absl::Duration interval);

  // What an earlier attempt kept, or nullopt: there is nothing, it is of another run, or it is damaged (then it is
  // removed).
  std::optional<Statistics> Load();

  // Keeps `so_far`, durably, if `interval` has passed since the last time, or since this object was made. A disk that
  // cannot is logged: the job goes on without.
  void Tell(const Statistics& so_far);

  // Removes it: the job is done.
  void Clear();

 private:
  absl::Status Save(const Statistics& so_far);

  const std::filesystem::path folder_;  // .../calibration, or empty
  const std::string fingerprint_;
  const absl::Duration interval_;
  absl::Time saved_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_CALIBRATION_POINT_H_
