// SPDX-License-Identifier: Apache-2.0
// AWQ's clip search (awq.h).
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/awq.h"
#include "worker/quantize/weight_only/blas.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kRows = 128;
constexpr int kClips = 10;
constexpr int64_t kWidestGroup = 512;

// One group of up to kRows rows.
class GroupClipper {
 public:
  GroupClipper(const MatrixView& weights, const GridOptions& options, const HessianMatrix& hessian,
               std::span<const float> importance, int64_t group_size)
      : weights_(weights), options_(options), hessian_(hessian), importance_(importance) {
    const auto size = static_cast<size_t>(kRows * group_size);
    clipped_.resize(static_cast<size_t>(group_size));
    codes_.resize(static_cast<size_t>(group_size));
    d_.resize(size);
    product_.resize(size);
  }

  void Run(int64_t first, int64_t rows, int64_t begin, int64_t count, Grid* grids) {
    const auto n = static_cast<size_t>(count);
    std::vector<double> least(static_cast<size_t>(rows), std::numeric_limits<double>::infinity());
    std::vector<Grid> candidates(static_cast<size_t>(rows));
    for (int i = 0; i <= kClips; ++i) {
      for (int64_t r = 0; r < rows; ++r) {
        const std::span<const float> w(weights_.row(first + r) + begin, n);
        const Grid grid = i == kClips ? Weighted(w, begin) : Clipped(w, 1 - 0.05f * static_cast<float>(i));
        candidates[static_cast<size_t>(r)] = grid;
        vec::Encode(w.data(), n, grid.scale, grid.zero, static_cast<float>((1 << options_.bits) - 1), codes_.data());
        float* const d = d_.data() + r * count;
        for (size_t c = 0; c < n; ++c) d[c] = grid.scale * (static_cast<float>(codes_[c]) - grid.zero) - w[c];
      }
      blas::Product(rows, count, count, d_.data(), count, hessian_.h.data() + begin * hessian_.cols + begin,
                    hessian_.cols, 0, product_.data(), count);
      for (int64_t r = 0; r < rows; ++r) {
        double loss = 0;
        for (int64_t c = 0; c < count; ++c) {
          loss += static_cast<double>(d_[static_cast<size_t>(r * count + c)]) *
                  product_[static_cast<size_t>(r * count + c)];
        }
        if (!(loss < least[static_cast<size_t>(r)])) continue;
        least[static_cast<size_t>(r)] = loss;
        grids[r] = candidates[static_cast<size_t>(r)];
      }
    }
  }

 private:
  Grid Clipped(std::span<const float> w, float factor) {
    float lo = 0;
    float hi = 0;
    vec::MinMax(w.data(), w.size(), &lo, &hi);
    const float limit = std::max(-lo, hi) * factor;
    for (size_t c = 0; c < w.size(); ++c) clipped_[c] = std::clamp(w[c], -limit, limit);
    GridOptions options = options_;
    options.search = ScaleSearch::kMinMax;
    return FindGrid(std::span<const float>(clipped_).first(w.size()), {}, options);
  }

  Grid Weighted(std::span<const float> w, int64_t begin) const {
    GridOptions options = options_;
    options.search = ScaleSearch::kWeightedMse;
    return FindGrid(w, importance_.subspan(static_cast<size_t>(begin), w.size()), options);
  }

  const MatrixView& weights_;
  const GridOptions& options_;
  const HessianMatrix& hessian_;
  std::span<const float> importance_;
  std::vector<float> clipped_;
  std::vector<uint8_t> codes_;
  std::vector<float> d_;
  std::vector<float> product_;
};

}  // namespace

absl::StatusOr<GroupedMatrix> QuantizeClipped(const MatrixView& weights, const GridOptions& options,
                                              const HessianMatrix& hessian, int threads) {
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(CheckWeights(weights));
  if (hessian.cols != weights.cols || static_cast<int64_t>(hessian.h.size()) != hessian.cols * hessian.cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hessian of ", hessian.cols, " columns for weights of ", weights.cols));
  }
  if (!vec::AllFinite(hessian.h.data(), hessian.h.size())) {
    return absl::InvalidArgumentError("the Hessian is not finite: the inputs overflow float32");
  }
  const std::vector<float> importance = hessian.Diagonal();
  GridOptions weighted = options;
  weighted.search = ScaleSearch::kWeightedMse;
  const int64_t group_size = GroupColumns(options, weights.cols);
  if (group_size > kWidestGroup) return QuantizeRtn(weights, weighted, importance, threads);
  GroupedMatrix out;
  out.rows = weights.rows;
  out.cols = weights.cols;
  out.bits = options.bits;
  out.group_size = group_size;
  out.codes.resize(weights.values.size());
  out.scales.resize(static_cast<size_t>(out.rows * out.groups()));
  if (options.symmetry == Symmetry::kAsymmetric) out.zeros.resize(out.scales.size());
  const int64_t groups = out.groups();
  const ThreadScope scope(threads);
#pragma omp parallel
  {
    GroupClipper clipper(weights, options, hessian, importance, group_size);
    std::vector<Grid> grids(kRows);
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < out.rows; first += kRows) {
      const int64_t rows = std::min(kRows, out.rows - first);
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * group_size;
        const int64_t count = std::min(group_size, out.cols - begin);
        clipper.Run(first, rows, begin, count, grids.data());
        for (int64_t r = 0; r < rows; ++r) {
          const Grid& grid = grids[static_cast<size_t>(r)];
          const auto at = static_cast<size_t>((first + r) * groups + g);
          out.scales[at] = grid.scale;
          if (!out.zeros.empty()) out.zeros[at] = grid.zero;
          vec::Encode(weights.row(first + r) + begin, static_cast<size_t>(count), grid.scale, grid.zero,
                      static_cast<float>((1 << options.bits) - 1), out.codes.data() + (first + r) * out.cols + begin);
        }
      }
    }
  }
  return out;
}

}  // namespace quant::weight_only
