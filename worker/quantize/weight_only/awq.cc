// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/awq.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/blas.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

constexpr float kLeastScale = 0x1p-10f;
constexpr float kGreatestScale = 0x1p10f;

absl::Status Check(std::span<const MatrixView> layers, const HessianMatrix& hessian) {
  if (layers.empty()) return absl::InvalidArgumentError("no layer to scale for");
  const auto cols = static_cast<size_t>(hessian.cols);
  if (hessian.h.size() != cols * cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hessian of ", hessian.cols, " columns with ", hessian.h.size(), " values"));
  }
  if (!vec::AllFinite(hessian.h.data(), hessian.h.size())) {
    return absl::InvalidArgumentError("the Hessian is not finite: the inputs overflow float32");
  }
  for (const MatrixView& w : layers) {
    RETURN_IF_ERROR(CheckWeights(w));
    if (w.cols != hessian.cols) {
      return absl::InvalidArgumentError(
          absl::StrCat("a Hessian of ", hessian.cols, " columns for weights of ", w.cols));
    }
  }
  return absl::OkStatus();
}

// Mean of |w| / largest of its group, per column over all rows of all layers.
std::vector<double> WeightMagnitudes(std::span<const MatrixView> layers, int64_t group_size) {
  const int64_t cols = layers[0].cols;
  std::vector<double> sum(static_cast<size_t>(cols));
  int64_t rows = 0;
  for (const MatrixView& w : layers) {
    rows += w.rows;
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t begin = 0; begin < cols; begin += group_size) {
        const int64_t end = std::min(begin + group_size, cols);
        float lo = 0;
        float hi = 0;
        vec::MinMax(w.row(r) + begin, static_cast<size_t>(end - begin), &lo, &hi);
        const double largest = std::max(-lo, hi);
        if (largest == 0) continue;
        for (int64_t c = begin; c < end; ++c) sum[static_cast<size_t>(c)] += std::fabs(w.row(r)[c]) / largest;
      }
    }
  }
  for (double& s : sum) s /= static_cast<double>(rows);
  return sum;
}

class Search {
 public:
  Search(std::span<const MatrixView> layers, const HessianMatrix& hessian, const AwqOptions& options)
      : layers_(layers),
        hessian_(hessian),
        options_(options),
        w_mean_(WeightMagnitudes(layers, GroupColumns(options.grid, hessian.cols))) {
    for (const MatrixView& w : layers) {
      const int64_t rows = std::min(w.rows, options.search_rows);
      std::vector<float> sample(static_cast<size_t>(rows * w.cols));
      for (int64_t i = 0; i < rows; ++i) std::copy_n(w.row(i * w.rows / rows), w.cols, sample.data() + i * w.cols);
      samples_.push_back(std::move(sample));
    }
    for (size_t i = 0; i < layers.size(); ++i) {
      views_.push_back({samples_[i], static_cast<int64_t>(samples_[i].size()) / hessian.cols, hessian.cols});
    }
  }

  std::vector<float> Scales(double r, bool uses_weights) const {
    const auto cols = static_cast<size_t>(hessian_.cols);
    std::vector<double> s(cols, 1.0);
    double least = INFINITY;
    double most = 0;
    for (size_t c = 0; c < cols; ++c) {
      if (!(hessian_.mean_abs[c] > 0)) continue;
      double v = std::pow(static_cast<double>(hessian_.mean_abs[c]), r);
      if (uses_weights) v /= std::pow(w_mean_[c], 1 - r) + 1e-4;
      v = std::isfinite(v) ? std::max(v, 1e-4) : 1.0;
      least = std::min(least, v);
      most = std::max(most, v);
      s[c] = v;
    }
    std::vector<float> out(cols, 1.0f);
    const double centre = most > 0 ? std::sqrt(least * most) : 1;
    for (size_t c = 0; c < cols; ++c) {
      if (hessian_.mean_abs[c] > 0) {
        out[c] = std::clamp(static_cast<float>(s[c] / centre), kLeastScale, kGreatestScale);
      }
    }
    return out;
  }

  absl::StatusOr<double> SampledLoss(std::span<const float> scales) const { return Loss(views_, scales); }
  absl::StatusOr<double> FullLoss(std::span<const float> scales) const { return Loss(layers_, scales); }

 private:
  absl::StatusOr<double> Loss(std::span<const MatrixView> layers, std::span<const float> scales) const {
    std::vector<float> importance = hessian_.Diagonal();
    for (size_t c = 0; c < importance.size(); ++c) importance[c] /= scales[c] * scales[c];
    double sum = 0;
    for (const MatrixView& w : layers) {
      const std::vector<float> scaled = ScaleColumns(w, scales);
      ASSIGN_OR_RETURN(const GroupedMatrix q, QuantizeRtn({scaled, w.rows, w.cols}, options_.grid, importance));
      std::vector<float> d(scaled.size());
      DequantizeRows(q, 0, w.rows, d);
      const int64_t cols = w.cols;
#pragma omp parallel for schedule(static)
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          float& v = d[static_cast<size_t>(r * cols + c)];
          v = v / scales[static_cast<size_t>(c)] - w.row(r)[c];
        }
      }
      ASSIGN_OR_RETURN(const std::vector<double> loss, QuadraticForm({d, w.rows, w.cols}, hessian_));
      sum += std::accumulate(loss.begin(), loss.end(), 0.0);
    }
    return sum;
  }

  std::span<const MatrixView> layers_;
  const HessianMatrix& hessian_;
  const AwqOptions& options_;
  std::vector<double> w_mean_;
  std::vector<std::vector<float>> samples_;
  std::vector<MatrixView> views_;
};

struct Best {
  double r = 0;
  bool uses_weights = false;
  double loss = 0;
};

absl::Status GoldenSection(const Search& search, double width, Best& best) {
  constexpr double kRatio = 0.6180339887498949;
  const bool form = best.uses_weights;
  double lo = std::max(0.0, best.r - width);
  double hi = std::min(1.0, best.r + width);
  const auto loss = [&](double r) -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const double l, search.SampledLoss(search.Scales(r, form)));
    if (l < best.loss) best = {r, form, l};
    return l;
  };
  double a = hi - kRatio * (hi - lo);
  double b = lo + kRatio * (hi - lo);
  ASSIGN_OR_RETURN(double at_a, loss(a));
  ASSIGN_OR_RETURN(double at_b, loss(b));
  for (int i = 0; i < 5; ++i) {
    if (at_a < at_b) {
      hi = std::exchange(b, a);
      at_b = at_a;
      a = hi - kRatio * (hi - lo);
      ASSIGN_OR_RETURN(at_a, loss(a));
    } else {
      lo = std::exchange(a, b);
      at_a = at_b;
      b = lo + kRatio * (hi - lo);
      ASSIGN_OR_RETURN(at_b, loss(b));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<float> ScaleColumns(const MatrixView& weights, std::span<const float> scales) {
  std::vector<float> out(weights.values.size());
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < weights.rows; ++r) {
    for (int64_t c = 0; c < weights.cols; ++c) {
      out[static_cast<size_t>(r * weights.cols + c)] = weights.row(r)[c] * scales[static_cast<size_t>(c)];
    }
  }
  return out;
}

HessianMatrix ScaleHessian(const HessianMatrix& hessian, std::span<const float> scales) {
  HessianMatrix out = hessian;
  const int64_t cols = hessian.cols;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      // The product first: i, j and j, i stay equal.
      out.h[static_cast<size_t>(i * cols + j)] /= scales[static_cast<size_t>(i)] * scales[static_cast<size_t>(j)];
    }
  }
  for (size_t c = 0; c < out.mean_abs.size(); ++c) out.mean_abs[c] /= scales[c];
  return out;
}

absl::StatusOr<AwqResult> SearchAwqScales(std::span<const MatrixView> layers, const HessianMatrix& hessian,
                                          const AwqOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options.grid));
  RETURN_IF_ERROR(Check(layers, hessian));
  if (static_cast<int64_t>(hessian.mean_abs.size()) != hessian.cols) {
    return absl::InvalidArgumentError("AWQ needs the mean magnitude of each input; the Hessian has none");
  }
  if (options.steps < 1 || options.steps > 100 || options.search_rows < 1) {
    return absl::InvalidArgumentError(absl::StrCat("AWQ: ", options.steps, " steps on ", options.search_rows,
                                                   " rows; 1 to 100 steps and at least 1 row are possible"));
  }
  const ThreadScope scope(options.threads);
  const Search search(layers, hessian, options);
  AwqResult result;
  result.scales.assign(static_cast<size_t>(hessian.cols), 1.0f);
  ASSIGN_OR_RETURN(result.identity_loss, search.FullLoss(result.scales));
  result.loss = result.identity_loss;
  Best best;
  ASSIGN_OR_RETURN(best.loss, search.SampledLoss(result.scales));
  for (const bool uses_weights : {false, true}) {
    for (int i = uses_weights ? 0 : 1; i <= options.steps; ++i) {
      const double r = static_cast<double>(i) / options.steps;
      ASSIGN_OR_RETURN(const double loss, search.SampledLoss(search.Scales(r, uses_weights)));
      if (loss < best.loss) best = {r, uses_weights, loss};
    }
  }
  RETURN_IF_ERROR(GoldenSection(search, 1.0 / options.steps, best));
  if (best.r == 0 && !best.uses_weights) return result;
  std::vector<float> scales = search.Scales(best.r, best.uses_weights);
  ASSIGN_OR_RETURN(const double loss, search.FullLoss(scales));
  if (!(loss < result.identity_loss)) return result;
  result.scales = std::move(scales);
  result.ratio = best.r;
  result.uses_weights = best.uses_weights;
  result.loss = loss;
  return result;
}

}  // namespace quant::weight_only
