// SPDX-License-Identifier: Apache-2.0
// Histogram of a stream of floats in bounded memory, whatever its range, independent of order and batching.
//
// The bins divide [-limit, limit) evenly; limit is a power of two and always the least one greater than every |x| seen.
// When a larger value arrives, limit doubles and neighbouring bins merge two by two, which is exact because 0 and every
// new edge are old edges. So the final counts depend on the multiset of values alone.
//
// Exact zeros are counted apart (and in their bin too): they quantize without error, and ReLU makes many.
//
// Thread-compatible. Memory: 8 bytes per bin.
#ifndef QUANT_WORKER_CALIBRATE_HISTOGRAM_H_
#define QUANT_WORKER_CALIBRATE_HISTOGRAM_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

class Histogram {
 public:
  // `bins` is rounded up to a multiple of 4 (both halves must merge by pairs); at least 4.
  explicit Histogram(int bins = 8192);

  // One as it was when its numbers were read off, to go on from. INVALID_ARGUMENT: numbers that no histogram has.
  struct Numbers {
    std::vector<int64_t> bins;
    double limit = 0;
    int64_t count = 0;
    int64_t zeros = 0;
    float min = 0;
    float max = 0;
  };
  static absl::StatusOr<Histogram> FromNumbers(Numbers numbers);

  // Adds values. INVALID_ARGUMENT with the index of the first NaN or infinity; nothing is added then.
  absl::Status Add(std::span<const float> values);

  // Adds another histogram's values; CHECK-fails if the bin counts differ.
  void Merge(const Histogram& other);

  int64_t count() const { return count_; }
  int64_t zeros() const { return zeros_; }
  // Extremes of the values, exact; 0 when there are none.
  float min() const { return count_ ? min_ : 0; }
  float max() const { return count_ ? max_ : 0; }
  double limit() const { return limit_; }
  double bin_width() const { return 2 * limit_ / static_cast<double>(bins_.size()); }
  // Bin i holds the values in [-limit + i * width, -limit + (i + 1) * width).
  std::span<const int64_t> bins() const { return bins_; }
  double BinCentre(size_t i) const { return -limit_ + (static_cast<double>(i) + 0.5) * bin_width(); }

 private:
  void GrowTo(double limit);

  std::vector<int64_t> bins_;
  double limit_ = 0;  // 0: nothing seen but zeros
  int64_t count_ = 0;
  int64_t zeros_ = 0;
  float min_ = 0;
  float max_ = 0;
};

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_HISTOGRAM_H_
