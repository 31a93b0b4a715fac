// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/fidelity.h"

#include <algorithm>
#include <cmath>

namespace quant {

void ErrorSums::Add(std::span<const float> x, std::span<const float> y) {
  const size_t n = std::min(x.size(), y.size());
  for (size_t i = 0; i < n; ++i) {
    const double a = x[i];
    const double b = y[i];
    if (!std::isfinite(b)) {
      ++broken;
      continue;
    }
    signal += a * a;
    squared += (a - b) * (a - b);
    absolute += std::fabs(a - b);
    dot += a * b;
    energy += b * b;
    ++count;
  }
}

void ErrorSums::Add(const ErrorSums& o) {
  signal += o.signal;
  squared += o.squared;
  absolute += o.absolute;
  dot += o.dot;
  energy += o.energy;
  count += o.count;
  broken += o.broken;
}

double ErrorSums::Mse() const { return count ? squared / static_cast<double>(count) : 0; }
double ErrorSums::Mae() const { return count ? absolute / static_cast<double>(count) : 0; }

double ErrorSums::RelativeError() const {
  if (squared == 0) return 0;
  return signal > 0 ? std::min(std::sqrt(squared / signal), 1e10) : 1e10;
}

double ErrorSums::SqnrDb() const {
  if (squared == 0) return 200;
  if (signal == 0) return -200;
  return std::clamp(10 * std::log10(signal / squared), -200.0, 200.0);
}

double ErrorSums::Cosine() const {
  if (signal == 0 && energy == 0) return 1;
  if (signal == 0 || energy == 0) return 0;
  return dot / std::sqrt(signal * energy);
}

int64_t ArgMax(std::span<const float> scores) {
  int64_t best = -1;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (std::isnan(scores[i])) continue;
    if (best < 0 || scores[i] > scores[static_cast<size_t>(best)]) best = static_cast<int64_t>(i);
  }
  return best;
}

int64_t RankOf(std::span<const float> scores, int64_t label) {
  const float own = scores[static_cast<size_t>(label)];
  if (std::isnan(own)) return static_cast<int64_t>(scores.size());
  int64_t rank = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    rank += scores[i] > own || (scores[i] == own && static_cast<int64_t>(i) < label);
  }
  return rank;
}

Interval PairedInterval(double sum, double squares, int64_t n) {
  if (n <= 0) return {};
  const double count = static_cast<double>(n);
  const double mean = sum / count;
  if (squares == 0 || n == 1) return {mean - 3 / count, mean + 3 / count};
  const double variance = std::max(0.0, (squares - count * mean * mean) / (count - 1));
  const double half = 1.96 * std::sqrt(variance / count);
  return {mean - half, mean + half};
}

}  // namespace quant
