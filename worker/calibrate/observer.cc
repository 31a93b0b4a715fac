// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/observer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace quant {
namespace {

constexpr float kSmallestScale = 1e-30f;  // far above float's subnormals, far below any range worth keeping

// Prefix sums over the bins of count, sum and sum of squares of the values, taken as uniform inside a bin: the squared
// error of clipping at any edge is then a closed form.
class Moments {
 public:
  explicit Moments(const Histogram& h) : h_(h), n_(h.bins().size()), s0_(n_ + 1), s1_(n_ + 1), s2_(n_ + 1) {
    const double w2 = h.bin_width() * h.bin_width() / 12;
    for (size_t i = 0; i < n_; ++i) {
      const double c = static_cast<double>(h.bins()[i]);
      const double x = h.BinCentre(i);
      s0_[i + 1] = s0_[i] + c;
      s1_[i + 1] = s1_[i] + c * x;
      s2_[i + 1] = s2_[i] + c * (x * x + w2);
    }
  }

  // Sum over the values above (below) `edge` of (x - edge)^2, and how many they are. A bin that the edge cuts counts as
  // wholly on the side of its centre.
  double Above(double edge, double* count) const { return Side(Index(edge), n_, edge, count); }
  double Below(double edge, double* count) const { return Side(0, Index(edge), edge, count); }

 private:
  size_t Index(double edge) const {
    const double i = std::round((edge + h_.limit()) / h_.bin_width());
    return static_cast<size_t>(std::clamp(i, 0.0, static_cast<double>(n_)));
  }
  double Side(size_t from, size_t to, double edge, double* count) const {
    const double s0 = s0_[to] - s0_[from];
    *count = s0;
    return std::max(0.0, s2_[to] - s2_[from] - 2 * edge * (s1_[to] - s1_[from]) + edge * edge * s0);
  }

  const Histogram& h_;
  size_t n_;
  std::vector<double> s0_, s1_, s2_;
};

double SquaredError(const Histogram& h, const Moments& m, Range r, int steps) {
  double above, below;
  // An edge at or past the extreme clips nothing, whatever bin the extreme stands in.
  double error = 0;
  if (r.hi < h.max()) {
    error += m.Above(r.hi, &above);
  } else {
    above = 0;
  }
  if (r.lo > h.min()) {
    error += m.Below(r.lo, &below);
  } else {
    below = 0;
  }
  const double inside = std::max(0.0, static_cast<double>(h.count() - h.zeros()) - above - below);
  const double step = (r.hi - r.lo) / steps;
  return error + inside * step * step / 12;
}

// Least squared error over fractions of the full range: a coarse grid of pairs, then ever finer grids about the best.
Range LeastSquares(const Histogram& h, const ObserverOptions& o) {
  const Moments moments(h);
  const double full_lo = std::min(0.0, static_cast<double>(h.min()));
  const double full_hi = std::max(0.0, static_cast<double>(h.max()));
  const double a = std::max(-full_lo, full_hi);
  const auto at = [&](double l, double u) {
    return o.symmetric ? Range{-a * u, a * u} : Range{full_lo * l, full_hi * u};
  };
  double best_l = 1, best_u = 1, radius = 0.5;
  double best = SquaredError(h, moments, at(1, 1), o.steps);
  constexpr int kPoints = 50;
  for (int round = 0; round < 4; ++round, radius /= 12) {
    const double l0 = best_l, u0 = best_u;
    const double mid_l = round == 0 ? 0.5 : l0, mid_u = round == 0 ? 0.5 : u0;
    const bool one_sided = o.symmetric || full_lo == 0;
    for (int i = one_sided ? kPoints : 0; i <= kPoints; ++i) {
      const double l = one_sided ? 1 : std::clamp(mid_l + radius * (2.0 * i / kPoints - 1), 0.0, 1.0);
      for (int j = full_hi == 0 && !o.symmetric ? kPoints : 0; j <= kPoints; ++j) {
        const double u = std::clamp(mid_u + radius * (2.0 * j / kPoints - 1), 0.0, 1.0);
        const Range r = at(l, u);
        if (r.hi - r.lo <= 0) continue;
        const double e = SquaredError(h, moments, r, o.steps);
        if (e < best) best = e, best_l = l, best_u = u;
      }
    }
  }
  return at(best_l, best_u);
}

// The value below which a fraction `q` of the values lies, linear inside a bin.
double Quantile(const Histogram& h, double q) {
  const double target = q * static_cast<double>(h.count());
  double seen = 0;
  for (size_t i = 0; i < h.bins().size(); ++i) {
    const double c = static_cast<double>(h.bins()[i]);
    if (c > 0 && seen + c >= target) {
      return h.BinCentre(i) + h.bin_width() * ((target - seen) / c - 0.5);
    }
    seen += c;
  }
  return h.max();
}

// Counts of |x| in half as many bins, bin i holding [i, i + 1) * width.
std::vector<double> Magnitudes(const Histogram& h) {
  const size_t half = h.bins().size() / 2;
  std::vector<double> m(half);
  for (size_t i = 0; i < half; ++i) {
    m[i] = static_cast<double>(h.bins()[half + i] + h.bins()[half - 1 - i]);
  }
  return m;
}

double MagnitudeQuantile(const Histogram& h, double q) {
  const std::vector<double> m = Magnitudes(h);
  const double target = q * static_cast<double>(h.count());
  double seen = 0;
  for (size_t i = 0; i < m.size(); ++i) {
    if (m[i] > 0 && seen + m[i] >= target) return h.bin_width() * (static_cast<double>(i) + (target - seen) / m[i]);
    seen += m[i];
  }
  return h.limit();
}

// KL(P || Q) for the first n bins of `m`, the tail folded into the last bin of P; Q spreads each of `levels` merged
// groups evenly over its non-empty bins. Zero Q under non-zero P counts as 1e-4 of a sample (smoothing).
double Divergence(const std::vector<double>& m, size_t n, size_t levels, double tail) {
  double total_p = tail, total_q = 0;
  for (size_t i = 0; i < n; ++i) total_p += m[i], total_q += m[i];
  if (total_q <= 0) return std::numeric_limits<double>::infinity();
  double kl = 0;
  for (size_t g = 0; g < levels; ++g) {
    const size_t from = g * n / levels;
    const size_t to = (g + 1) * n / levels;
    double sum = 0;
    size_t filled = 0;
    for (size_t i = from; i < to; ++i) sum += m[i], filled += m[i] > 0;
    for (size_t i = from; i < to; ++i) {
      const double p = (m[i] + (i + 1 == n ? tail : 0)) / total_p;
      if (p <= 0) continue;
      const double q = m[i] > 0 ? sum / static_cast<double>(filled) : 1e-4;
      kl += p * std::log(p / (q / total_q));
    }
  }
  return kl;
}

Range LeastDivergence(const Histogram& h, const ObserverOptions& o) {
  std::vector<double> m = Magnitudes(h);
  m[0] = std::max(0.0, m[0] - static_cast<double>(h.zeros()));  // exact at any threshold
  const double largest = std::max(std::fabs(h.min()), std::fabs(h.max()));
  const size_t used = std::min(m.size(), static_cast<size_t>(largest / h.bin_width()) + 1);
  // One side of the grid: all steps for a one-sided tensor, half of them otherwise.
  const bool one_sided = !o.symmetric && (h.min() >= 0 || h.max() <= 0);
  const size_t levels = static_cast<size_t>(one_sided ? o.steps : (o.steps + 1) / 2);
  if (used <= levels) return {h.min(), h.max()};
  double tail = 0;
  double best = std::numeric_limits<double>::infinity();
  size_t best_n = used;
  std::vector<double> tails(used + 1, 0);
  for (size_t i = used; i-- > 0;) tails[i] = tail += m[i];
  const size_t stride = std::max<size_t>(1, (used - levels) / 512);
  for (size_t n = used; n >= levels && n <= used; n -= std::min(n, stride)) {
    const double kl = Divergence(m, n, levels, tails[n]);
    if (kl < best) best = kl, best_n = n;
  }
  const double t = best_n == used ? largest : static_cast<double>(best_n) * h.bin_width();
  return {std::max<double>(h.min(), -t), std::min<double>(h.max(), t)};
}

}  // namespace

absl::Status TensorStatistics::Add(std::span<const float> values, double c) {
  if (values.empty()) return absl::OkStatus();
  if (absl::Status s = histogram.Add(values); !s.ok()) return s;
  const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
  average_min = batches == 0 ? *lo : average_min + c * (*lo - average_min);
  average_max = batches == 0 ? *hi : average_max + c * (*hi - average_max);
  ++batches;
  return absl::OkStatus();
}

Range FindRange(const TensorStatistics& statistics, const ObserverOptions& o) {
  const Histogram& h = statistics.histogram;
  Range r{h.min(), h.max()};
  if (h.count() > h.zeros()) {
    switch (o.observer) {
      case Observer::kMinMax:
        break;
      case Observer::kMovingAverage:
        r = {statistics.average_min, statistics.average_max};
        break;
      case Observer::kPercentile: {
        const double cut = std::clamp(1 - o.percentile / 100, 0.0, 1.0);
        if (o.symmetric) {
          const double t = MagnitudeQuantile(h, 1 - cut);
          r = {-t, t};
        } else if (h.min() >= 0) {
          r = {0, Quantile(h, 1 - cut)};
        } else {
          r = {Quantile(h, cut / 2), Quantile(h, 1 - cut / 2)};
        }
        r = {std::max<double>(r.lo, h.min()), std::min<double>(r.hi, h.max())};
        break;
      }
      case Observer::kHistogramMse:
        r = LeastSquares(h, o);
        break;
      case Observer::kEntropy:
        r = LeastDivergence(h, o);
        break;
    }
  }
  r = {std::min(r.lo, 0.0), std::max(r.hi, 0.0)};
  if (r.hi == r.lo && h.count() > h.zeros()) r = {std::min<double>(h.min(), 0), std::max<double>(h.max(), 0)};
  if (o.symmetric) r.hi = std::max(r.hi, -r.lo), r.lo = -r.hi;
  return r;
}

double ExpectedSquaredError(const Histogram& h, Range range, int steps) {
  if (h.count() == 0) return 0;
  return SquaredError(h, Moments(h), range, steps) / static_cast<double>(h.count());
}

Grid GridForRange(Range range, int32_t qmin, int32_t qmax, bool symmetric) {
  const double lo = std::min(range.lo, 0.0);
  const double hi = std::max(range.hi, 0.0);
  Grid g{.scale = 1, .zero_point = 0, .qmin = qmin, .qmax = qmax};
  const bool is_unsigned = qmin >= 0;
  if (symmetric) {
    const int32_t middle = is_unsigned ? (qmin + qmax + 1) / 2 : 0;
    g.zero_point = middle;
    const double a = std::max(-lo, hi);
    if (a > 0) g.scale = std::max(static_cast<float>(a / (qmax - middle)), kSmallestScale);
    return g;
  }
  if (hi > lo) g.scale = std::max(static_cast<float>((hi - lo) / (qmax - qmin)), kSmallestScale);
  g.zero_point = static_cast<int32_t>(
      std::clamp(std::nearbyint(qmin - lo / g.scale), static_cast<double>(qmin), static_cast<double>(qmax)));
  return g;
}

}  // namespace quant
