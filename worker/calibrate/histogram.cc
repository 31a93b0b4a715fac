// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/histogram.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"

namespace quant {
namespace {

// The least power of two greater than `magnitude`.
double LimitFor(double magnitude) {
  int exponent;
  std::frexp(magnitude, &exponent);  // magnitude = f * 2^exponent with 0.5 <= f < 1
  return std::ldexp(1.0, exponent);
}

}  // namespace

Histogram::Histogram(int bins) : bins_(static_cast<size_t>((std::max(bins, 4) + 3) / 4 * 4), 0) {}

absl::StatusOr<Histogram> Histogram::FromNumbers(Numbers n) {
  const bool finite = std::isfinite(n.limit) && std::isfinite(n.min) && std::isfinite(n.max);
  const double magnitude = std::max(std::fabs(static_cast<double>(n.min)), std::fabs(static_cast<double>(n.max)));
  int64_t sum = 0;
  bool negative = n.count < 0 || n.zeros < 0;
  for (const int64_t bin : n.bins) {
    negative = negative || bin < 0;
    sum += std::clamp<int64_t>(bin, 0, INT64_MAX - sum);
  }
  if (n.bins.empty() || n.bins.size() % 4 != 0 || negative || sum != n.count || n.zeros > n.count || !finite ||
      n.min > n.max || n.limit != (magnitude > 0 ? LimitFor(magnitude) : 0)) {
    return absl::InvalidArgumentError("these numbers are not those of a histogram");
  }
  Histogram h(static_cast<int>(n.bins.size()));
  h.bins_ = std::move(n.bins);
  h.limit_ = n.limit;
  h.count_ = n.count;
  h.zeros_ = n.zeros;
  h.min_ = n.min;
  h.max_ = n.max;
  return h;
}

absl::Status Histogram::Add(std::span<const float> values) {
  if (values.empty()) return absl::OkStatus();
  float lo = values[0];
  float hi = values[0];
  bool finite = true;
  for (const float v : values) {
    finite = finite && std::isfinite(v);
    lo = v < lo ? v : lo;
    hi = v > hi ? v : hi;
  }
  if (!finite) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
    return absl::InvalidArgumentError(absl::StrCat("element ", bad - values.begin(), " is ", *bad));
  }
  min_ = count_ ? std::min(min_, lo) : lo;
  max_ = count_ ? std::max(max_, hi) : hi;
  const double magnitude = std::max(std::fabs(static_cast<double>(lo)), std::fabs(static_cast<double>(hi)));
  if (magnitude > 0) GrowTo(LimitFor(magnitude));
  count_ += static_cast<int64_t>(values.size());
  const size_t middle = bins_.size() / 2;
  if (limit_ == 0) {
    zeros_ += static_cast<int64_t>(values.size());
    bins_[middle] += static_cast<int64_t>(values.size());
    return absl::OkStatus();
  }
  // Scaling by bins / (2 limit) is a multiplication by a power of two times the bin count: the product is exact in
  // double, so the bin of a value does not depend on when it came.
  const double scale = static_cast<double>(bins_.size()) / (2 * limit_);
  const double offset = static_cast<double>(middle);
  for (const float v : values) {
    zeros_ += v == 0.0f;
    ++bins_[static_cast<size_t>(static_cast<double>(v) * scale + offset)];  // truncation: the sum is not negative
  }
  return absl::OkStatus();
}

void Histogram::GrowTo(double limit) {
  if (limit <= limit_) return;
  if (limit_ == 0) {
    limit_ = limit;  // only zeros so far: they stand in the middle bin at any limit
    return;
  }
  const size_t n = bins_.size();
  while (limit_ < limit) {
    std::vector<int64_t> merged(n, 0);
    for (size_t i = 0; i < n; ++i) merged[(n / 2 + i) / 2] += bins_[i];
    bins_ = std::move(merged);
    limit_ *= 2;
  }
}

void Histogram::Merge(const Histogram& other) {
  CHECK_EQ(bins_.size(), other.bins_.size());
  if (other.count_ == 0) return;
  Histogram grown = other;
  grown.GrowTo(limit_);
  GrowTo(grown.limit_);
  for (size_t i = 0; i < bins_.size(); ++i) bins_[i] += grown.bins_[i];
  min_ = count_ ? std::min(min_, other.min_) : other.min_;
  max_ = count_ ? std::max(max_, other.max_) : other.max_;
  count_ += other.count_;
  zeros_ += other.zeros_;
}

}  // namespace quant
