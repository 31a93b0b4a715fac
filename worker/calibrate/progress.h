// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_CALIBRATE_PROGRESS_H_
#define QUANT_WORKER_CALIBRATE_PROGRESS_H_

#include <functional>
#include <string_view>

#include "absl/status/status.h"

namespace quant {

// Called by long work with the fraction done (0 to 1) and what is being done. An error it returns (CANCELLED) ends the
// work with that error. May be empty: then nothing is told.
using ProgressFn = std::function<absl::Status(double fraction, std::string_view message)>;

inline absl::Status Tell(const ProgressFn& progress, double fraction, std::string_view message) {
  return progress ? progress(fraction, message) : absl::OkStatus();
}

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_PROGRESS_H_
