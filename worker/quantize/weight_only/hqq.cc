// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/hqq.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

// value = scale * (code - zero) with a zero point that need not be an integer; code = clamp(rint(w / scale + zero)).
Grid Optimise(std::span<const float> w, const GridOptions& options, const HqqOptions& hqq, float qmax) {
  float lo = 0;
  float hi = 0;
  vec::MinMax(w.data(), w.size(), &lo, &hi);
  if (lo == hi) {  // one value: code 0 or qmax is exact
    return FindGrid(w, {}, options);
  }
  const float range = hi / qmax - lo / qmax;  // the difference itself may overflow
  Grid grid{RoundScale(range, options.scale_type), 0};
  grid.zero = -lo / grid.scale;
  Grid best = grid;
  float least = INFINITY;
  float beta = 10;
  for (int i = 0; i < hqq.iterations; ++i) {
    float error = 0;
    float zero_sum = 0;
    vec::HalfQuadratic(w.data(), w.size(), grid.scale, grid.zero, qmax, beta, hqq.p, &error, &zero_sum);
    if (!(error < least)) break;
    least = error;
    best = grid;
    grid.zero = zero_sum / static_cast<float>(w.size());
    beta *= 1.01f;
    if (!std::isfinite(grid.zero)) break;
  }
  return best;
}

float RoundZero(float zero, ScaleType type) { return zero == 0 ? 0 : RoundScale(zero, type); }

// The best integer grid near `start` by sum |r|^p.
Grid Integer(std::span<const float> w, const Grid& start, const GridOptions& options, float p, float qmax) {
  const auto error = [&](const Grid& g) {
    return vec::GridError(w.data(), nullptr, w.size(), g.scale, g.zero, qmax, p);
  };
  Grid best = FindGrid(w, {}, options);
  float least = error(best);
  const auto attempt = [&](const Grid& g) {
    const float e = error(g);
    if (e < least) {
      least = e;
      best = g;
    }
  };
  const float nearest = std::nearbyint(start.zero);
  for (const float zero : {nearest, nearest - 1, nearest + 1}) {
    Grid grid{start.scale, std::clamp(zero, static_cast<float>(options.zero_min), qmax)};
    attempt(grid);
    for (int round = 0; round < 2; ++round) {
      float num = 0;
      float den = 0;
      vec::GridFit(w.data(), nullptr, w.size(), grid.scale, grid.zero, qmax, &num, &den);
      if (!(den > 0) || !(num > 0)) break;
      grid.scale = RoundScale(num / den, options.scale_type);
      attempt(grid);
    }
  }
  return best;
}

void EncodeFloatZero(std::span<const float> w, const Grid& grid, float qmax, uint8_t* codes) {
  for (size_t i = 0; i < w.size(); ++i) {
    codes[i] = static_cast<uint8_t>(std::clamp(std::nearbyint(w[i] / grid.scale + grid.zero), 0.0f, qmax));
  }
}

}  // namespace

absl::StatusOr<GroupedMatrix> QuantizeHqq(const MatrixView& weights, const HqqOptions& options, int threads) {
  const GridOptions grid_options{.bits = options.bits,
                                 .group_size = options.group_size,
                                 .search = ScaleSearch::kMinMax,
                                 .scale_type = options.scale_type,
                                 .zero_min = options.zero_min};
  RETURN_IF_ERROR(CheckOptions(grid_options));
  RETURN_IF_ERROR(CheckWeights(weights));
  if (!(options.p > 0 && options.p <= 1) || options.iterations < 1 || options.iterations > 1000) {
    return absl::InvalidArgumentError(absl::StrCat("p is ", options.p, " and iterations ", options.iterations,
                                                   "; p is above 0 and at most 1, iterations from 1 to 1000"));
  }
  GroupedMatrix out;
  out.rows = weights.rows;
  out.cols = weights.cols;
  out.bits = options.bits;
  out.group_size = GroupColumns(grid_options, weights.cols);
  const int64_t groups = out.groups();
  out.codes.resize(weights.values.size());
  out.scales.resize(static_cast<size_t>(out.rows * groups));
  out.zeros.resize(out.scales.size());
  const auto qmax = static_cast<float>((1 << options.bits) - 1);
  const ThreadScope scope(threads);
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < out.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * out.group_size;
      const std::span<const float> w(weights.row(r) + begin,
                                     static_cast<size_t>(std::min(out.group_size, out.cols - begin)));
      uint8_t* const codes = out.codes.data() + r * out.cols + begin;
      Grid grid = Optimise(w, grid_options, options, qmax);
      if (options.zero_points == ZeroPoints::kInteger) {
        grid = Integer(w, grid, grid_options, options.p, qmax);
        vec::Encode(w.data(), w.size(), grid.scale, grid.zero, qmax, codes);
      } else {
        grid.zero = RoundZero(grid.zero, options.scale_type);
        EncodeFloatZero(w, grid, qmax, codes);
      }
      out.scales[static_cast<size_t>(r * groups + g)] = grid.scale;
      out.zeros[static_cast<size_t>(r * groups + g)] = grid.zero;
    }
  }
  return out;
}

}  // namespace quant::weight_only
