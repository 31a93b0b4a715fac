// SPDX-License-Identifier: Apache-2.0
// The sums behind the fidelity metrics, apart from any graph so that they can be tested on numbers.
#ifndef QUANT_WORKER_EVALUATE_FIDELITY_H_
#define QUANT_WORKER_EVALUATE_FIDELITY_H_

#include <cstdint>
#include <span>

namespace quant {

// Sums of an original signal x and its quantized form y, in double. Pairs in which y is NaN or infinite are counted
// in `broken` and left out; x must be finite.
struct ErrorSums {
  double signal = 0;    // sum x^2
  double squared = 0;   // sum (x - y)^2
  double absolute = 0;  // sum |x - y|
  double dot = 0;       // sum x y
  double energy = 0;    // sum y^2
  int64_t count = 0;
  int64_t broken = 0;

  void Add(std::span<const float> x, std::span<const float> y);
  void Add(const ErrorSums& other);
  double Mse() const;
  double Mae() const;
  double RelativeError() const;  // sqrt(squared / signal); 0 without error, capped at 1e10
  double SqnrDb() const;         // 10 log10(signal / squared), within [-200, 200]; 200 without error
  double Cosine() const;         // 1 when both are all zero, 0 when one is
};

// Index of the largest element, the lowest on ties; NaN never wins. -1 when all are NaN.
int64_t ArgMax(std::span<const float> scores);

// How many scores beat that of `label`: greater, or equal with a lower index. A NaN score of the label counts as beaten
// by all. top-k is right when this is below k.
int64_t RankOf(std::span<const float> scores, int64_t label);

// 95 % interval of the mean of `n` paired differences with sum `sum` and sum of squares `squares`:
// mean +- 1.96 s / sqrt(n), s with n - 1. For right/wrong differences in {-1, 0, 1} this is the usual interval of a
// paired difference of proportions (the statistic behind McNemar's test). With no discordant pair the upper and lower
// end are +-3 / n (rule of three) instead of a claim of certainty.
struct Interval {
  double low = 0;
  double high = 0;
};
Interval PairedInterval(double sum, double squares, int64_t n);

}  // namespace quant

#endif  // QUANT_WORKER_EVALUATE_FIDELITY_H_
