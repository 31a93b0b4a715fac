// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/grid.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "worker/quantize/weight_only/vec.h"
#include "worker/tensor/dtype.h"

namespace quant::weight_only {
namespace {

class Finder {
 public:
  Finder(std::span<const float> w, const float* importance, const GridOptions& options)
      : w_(w), importance_(importance), options_(options), qmax_(static_cast<float>((1 << options.bits) - 1)) {
    vec::MinMax(w.data(), w.size(), &lo_, &hi_);
    lo_ = std::min(lo_, 0.0f);
    hi_ = std::max(hi_, 0.0f);
    if (lo_ == 0 && hi_ == 0) {
      lo_ = -1;
      hi_ = 1;
    }
  }

  Grid Find() const {
    switch (options_.search) {
      case ScaleSearch::kMinMax:
        return At(1);
      case ScaleSearch::kMse:
        return Shrink();
      case ScaleSearch::kWeightedMse:
        return Weighted();
    }
    return At(1);
  }

 private:
  float Half() const { return static_cast<float>(1 << (options_.bits - 1)); }
  float ClampZero(float zero) const { return std::clamp(zero, static_cast<float>(options_.zero_min), qmax_); }

  // The grid of the extremes times `factor`.
  Grid At(float factor) const {
    const float lo = lo_ * factor;
    const float hi = hi_ * factor;
    if (options_.symmetry == Symmetry::kSymmetric) {
      return {RoundScale(2 * std::max(-lo, hi) / qmax_, options_.scale_type), Half()};
    }
    if (options_.symmetry == Symmetry::kFullRange) {
      return {RoundScale((hi > -lo ? -hi : -lo) / Half(), options_.scale_type), Half()};
    }
    const float scale = RoundScale((hi - lo) / qmax_, options_.scale_type);
    return {scale, ClampZero(std::nearbyint(-lo / scale))};
  }

  float Error(const Grid& grid, float p) const {
    return vec::GridError(w_.data(), importance_, w_.size(), grid.scale, grid.zero, qmax_, p);
  }

  Grid Shrink() const {
    Grid best = At(1);
    float least = Error(best, 2.4f);
    for (int i = 1; i < 80; ++i) {
      const Grid grid = At(1 - static_cast<float>(i) / 100);
      const float error = Error(grid, 2.4f);
      if (error < least) {
        least = error;
        best = grid;
      }
    }
    return best;
  }

  void Try(Grid grid, Grid& best, float& least) const {
    const float error = Error(grid, 2);
    if (error < least) {
      least = error;
      best = grid;
    }
  }

  Grid Weighted() const {
    Grid best = At(1);
    float least = Error(best, 2);
    // 1.10 to 0.30 of the range in steps of 2.5 % is a third of the distance over which the error of 15 levels changes
    // its shape; with fewer levels it is finer still.
    for (int i = 0; i <= 32; ++i) Try(At(1.1f - 0.025f * static_cast<float>(i)), best, least);
    if (options_.symmetry == Symmetry::kFullRange) {
      // Which side keeps the extra code matters little to a clipped range: the other sign too.
      for (int i = 0; i <= 16; ++i) {
        Grid grid = At(1.1f - 0.05f * static_cast<float>(i));
        grid.scale = -grid.scale;
        Try(grid, best, least);
      }
    }
    if (options_.symmetry == Symmetry::kAsymmetric) {
      const Grid centre = best;
      for (const int step : {-1, 1}) {
        for (const float factor : {0.94f, 0.97f, 1.0f, 1.03f, 1.06f}) {
          Try({RoundScale(centre.scale * factor, options_.scale_type),
               ClampZero(centre.zero + static_cast<float>(step))},
              best, least);
        }
      }
    }
    for (int round = 0; round < 3; ++round) {
      const Grid before = best;
      float num = 0;
      float den = 0;
      vec::GridFit(w_.data(), importance_, w_.size(), best.scale, best.zero, qmax_, &num, &den);
      if (!(den > 0) || num == 0 || !std::isfinite(num / den)) break;
      Try({RoundScale(num / den, options_.scale_type), best.zero}, best, least);
      if (best.scale == before.scale) break;
    }
    return best;
  }

  std::span<const float> w_;
  const float* importance_;
  const GridOptions& options_;
  float qmax_;
  float lo_ = 0;
  float hi_ = 0;
};

}  // namespace

absl::Status CheckOptions(const GridOptions& options) {
  if (options.bits != 2 && options.bits != 3 && options.bits != 4 && options.bits != 8) {
    return absl::InvalidArgumentError(absl::StrCat(options.bits, " bits per weight; 2, 3, 4 and 8 are supported"));
  }
  if (options.group_size != -1 && options.group_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("group size ", options.group_size, "; use -1 (one group per row) or a positive number"));
  }
  if (options.zero_min < 0 || options.zero_min > 1) {
    return absl::InvalidArgumentError(absl::StrCat("least zero point ", options.zero_min, "; 0 and 1 are supported"));
  }
  return absl::OkStatus();
}

absl::Status CheckWeights(const MatrixView& weights) {
  if (weights.rows < 1 || weights.cols < 1 || weights.cols > INT64_MAX / weights.rows ||
      static_cast<int64_t>(weights.values.size()) != weights.rows * weights.cols) {
    return absl::InvalidArgumentError(absl::StrCat("a weight matrix of ", weights.rows, " x ", weights.cols, " with ",
                                                   weights.values.size(), " values"));
  }
  bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
  for (int64_t r = 0; r < weights.rows; ++r) {
    finite = vec::AllFinite(weights.row(r), static_cast<size_t>(weights.cols)) && finite;
  }
  if (finite) return absl::OkStatus();
  for (int64_t r = 0; r < weights.rows; ++r) {
    for (int64_t c = 0; c < weights.cols; ++c) {
      if (!std::isfinite(weights.row(r)[c])) {
        return absl::InvalidArgumentError(
            absl::StrCat("the weight in row ", r, ", column ", c, " is ", weights.row(r)[c]));
      }
    }
  }
  return absl::OkStatus();
}

int64_t GroupColumns(const GridOptions& options, int64_t cols) {
  return options.group_size == -1 ? cols : std::min(options.group_size, cols);
}

float RoundScale(float value, ScaleType type) {
  float least = FLT_MIN;
  float greatest = FLT_MAX;
  float rounded = value;
  switch (type) {
    case ScaleType::kFloat32:
      break;
    case ScaleType::kFloat16:
      least = 0x1p-24f;
      greatest = 65504;
      rounded = Float16ToFloat(FloatToFloat16(std::clamp(value, -greatest, greatest)));
      break;
    case ScaleType::kBFloat16:
      greatest = 0x1.FEp127f;
      rounded = BFloat16ToFloat(FloatToBFloat16(std::clamp(value, -greatest, greatest)));
      break;
  }
  const float magnitude = std::clamp(std::fabs(rounded), least, greatest);
  return std::copysign(magnitude, value);
}

Grid FindGrid(std::span<const float> weights, std::span<const float> importance, const GridOptions& options) {
  const float* used = nullptr;
  if (!importance.empty() && vec::AllFinite(importance.data(), importance.size())) {
    float least = 0;
    float most = 0;
    vec::MinMax(importance.data(), importance.size(), &least, &most);
    if (least >= 0 && most > 0) used = importance.data();
  }
  if (options.search == ScaleSearch::kMse) used = nullptr;
  return Finder(weights, used, options).Find();
}

}  // namespace quant::weight_only
