// SPDX-License-Identifier: Apache-2.0
// Observers: from what was seen of a tensor to the range [lo, hi] its quantized form shall represent. Values outside
// are clipped. All observers read one Histogram (histogram.h), so one pass over the data serves every one of them.
//
// Every range returned holds 0 (so that padding and ReLU zeros are exact), is finite, and has hi > lo unless the tensor
// is all zero, which gives [0, 0].
#ifndef QUANT_WORKER_CALIBRATE_OBSERVER_H_
#define QUANT_WORKER_CALIBRATE_OBSERVER_H_

#include <cstdint>

#include "worker/calibrate/histogram.h"

namespace quant {

enum class Observer { kMinMax, kMovingAverage, kPercentile, kHistogramMse, kEntropy };

struct ObserverOptions {
  Observer observer = Observer::kHistogramMse;
  double percentile = 99.99;  // kPercentile: this much of the values is kept
  bool symmetric = false;     // the grid is symmetric about 0: the range will be [-a, a]
  int steps = 255;            // quantization steps from lo to hi (254 for the symmetric grid -127..127)
};

struct Range {
  double lo = 0;
  double hi = 0;
};

// What is kept of one tensor: the histogram and the moving average of the batches' extremes.
struct TensorStatistics {
  Histogram histogram;
  double average_min = 0;
  double average_max = 0;
  int64_t batches = 0;

  explicit TensorStatistics(int bins = 8192) : histogram(bins) {}

  // Adds a batch; `c` is the weight of the newest batch in the moving average m <- m + c (x - m).
  absl::Status Add(std::span<const float> values, double c);
};

// kMinMax: the extremes.
// kMovingAverage: the averaged extremes.
// kPercentile: cuts (100 - percentile) % of the values: half from each tail; all of it from the upper tail where no
//   value is negative, and from |x| for a symmetric grid. Linear within a bin.
// kHistogramMse: the range with the least expected squared error
//     sum over clipped x of (x - edge)^2  +  (number of unclipped non-zero x) * step^2 / 12,   step = (hi - lo) /
//     steps;
//   every pair (lo, hi) of a coarse grid is tried, then the best is refined. Non-zero because zeros are exact.
// kEntropy: the threshold t on |x| with the least Kullback-Leibler divergence of the clipped distribution from its
//   quantized form (as TensorRT's calibrator, with at least 2048 bins and exact zeros left out), giving
//   [max(min, -t), min(max, t)].
Range FindRange(const TensorStatistics& statistics, const ObserverOptions& options);

// Expected squared error per value of quantizing to `range` as kHistogramMse counts it: for tests and reports.
double ExpectedSquaredError(const Histogram& histogram, Range range, int steps);

// An integer grid: x is stored as q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax).
struct Grid {
  float scale = 1;
  int32_t zero_point = 0;
  int32_t qmin = 0;
  int32_t qmax = 255;
};

// Asymmetric, e.g. uint8 (qmin 0, qmax 255): scale = (hi - lo) / (qmax - qmin), zero_point = round(qmin - lo / scale).
// Symmetric signed (qmin = -qmax): scale = max(|lo|, |hi|) / qmax, zero_point 0. Symmetric on an unsigned type: the
// same scale with zero_point in the middle (128).
// The range is widened to hold 0; the scale is at least 2^-126 / 255-ish (never subnormal) and 1 for the range [0, 0].
Grid GridForRange(Range range, int32_t qmin, int32_t qmax, bool symmetric);

}  // namespace quant

#endif  // QUANT_WORKER_CALIBRATE_OBSERVER_H_
