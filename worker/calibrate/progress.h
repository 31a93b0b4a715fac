// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_CALIBRATE_PROGRESS_H_
#define QUANT_WORKER_CALIBRATE_PROGRESS_H_

#include <cstdint>
#include <functional>
#include <string_view>

#include "absl/status/status.h"

namespace quant {

// What the work counts: 412 of 1024 samples. 0 of 0: nothing.
struct Counted {
  int64_t done = 0;
  int64_t total = 0;
  const char* unit = "";  // in the plural; at most 16 bytes
};

// Called by long work with the fraction done (0 to 1), what is being done (the layer's name), and how much of what is
// done. An error it returns (CANCELLED) ends the work with that error. May be empty: then nothing is told.
using ProgressFn = std::function<absl::Status(double fraction, std::string_view message, const Counted& counted)>;

inline absl::Status Tell(const ProgressFn& progress, double fraction, std::string_view message,
                         const Counted& counted = {}) {
  return progress ? progress(fraction, message, counted) : absl::OkStatus();
}
// The fraction is that of what is counted.
inline absl::Status Tell(const ProgressFn& progress, std::string_view message, const Counted& counted) {
  const double fraction =
      counted.total > 0 ? static_cast<double>(counted.done) / static_cast<double>(counted.total) : 1.0;
  return Tell(progress, fraction, message, counted);
}

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_PROGRESS_H_
