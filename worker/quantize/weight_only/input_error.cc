// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/input_error.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/blas.h"
#include "worker/quantize/weight_only/factor.h"
#include "worker/quantize/weight_only/threads.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kRows = 128;

absl::Status Check(const MatrixView& weights, const HessianMatrix& hessian, const CrossMomentMatrix& cross,
                   const InputErrorOptions& options) {
  RETURN_IF_ERROR(CheckWeights(weights));
  const auto square = static_cast<size_t>(weights.cols * weights.cols);
  if (hessian.cols != weights.cols || cross.cols != weights.cols || hessian.h.size() != square ||
      cross.d.size() != square || hessian.tokens != cross.tokens) {
    return absl::InvalidArgumentError(absl::StrCat("a Hessian of ", hessian.cols, " columns and ", hessian.tokens,
                                                   " tokens and a cross moment of ", cross.cols, " and ", cross.tokens,
                                                   " for weights of ", weights.cols, " columns"));
  }
  const bool share = options.share == -1 || (options.share >= 0 && options.share <= 1);
  if (!share || !(options.ridge > 0 && options.ridge <= 10)) {
    return absl::InvalidArgumentError(absl::StrCat("input error: share ", options.share, ", ridge ", options.ridge,
                                                   "; 0 to 1 (or -1) and above 0 to 10 are possible"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CompensatedWeights> CompensateInputError(const MatrixView& weights, const HessianMatrix& hessian,
                                                        const CrossMomentMatrix& cross,
                                                        const InputErrorOptions& options) {
  SharedFactor input(hessian);
  return CompensateInputError(weights, input, cross, options);
}

absl::StatusOr<CompensatedWeights> CompensateInputError(const MatrixView& weights, SharedFactor& input,
                                                        const CrossMomentMatrix& cross,
                                                        const InputErrorOptions& options) {
  const HessianMatrix& hessian = input.hessian();
  RETURN_IF_ERROR(Check(weights, hessian, cross, options));
  CompensatedWeights out;
  out.weights.assign(weights.values.begin(), weights.values.end());
  if (hessian.tokens == 0) {
    out.note = "no calibration tokens";
    return out;
  }
  if (!vec::AllFinite(hessian.h.data(), hessian.h.size()) || !vec::AllFinite(cross.d.data(), cross.d.size())) {
    out.note = "the moments of the inputs overflow float32";
    return out;
  }
  const int64_t cols = weights.cols;
  const auto n = static_cast<double>(hessian.tokens);
  const auto share = static_cast<float>(options.share < 0 ? n / (n + 4 * static_cast<double>(cols)) : options.share);
  const ThreadScope scope(options.threads);
  std::vector<int32_t> order(static_cast<size_t>(cols));
  std::iota(order.begin(), order.end(), 0);
  const std::optional<Factor<float>>& factor = input.Get(order, options.ridge);
  if (!factor.has_value()) {
    out.note = "the Hessian is not positive definite with any damping";
    return out;
  }
  const int64_t panels = (weights.rows + kRows - 1) / kRows;
#pragma omp parallel
  {
    std::vector<float> change(static_cast<size_t>(kRows * cols));
#pragma omp for schedule(dynamic)
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t first = p * kRows;
      const int64_t rows = std::min(kRows, weights.rows - first);
      blas::Product(rows, cols, cols, weights.row(first), cols, cross.d.data(), cols, 0, change.data(), cols);
      blas::SolveRightTransposed(rows, cols, factor->l.data(), cols, change.data(), cols);
      blas::SolveRight(rows, cols, factor->l.data(), cols, change.data(), cols);
      for (int64_t i = 0; i < rows * cols; ++i) {
        out.weights[static_cast<size_t>(first * cols + i)] += share * change[static_cast<size_t>(i)];
      }
    }
  }
  if (!vec::AllFinite(out.weights.data(), out.weights.size())) {
    out.weights.assign(weights.values.begin(), weights.values.end());
    out.note = "the compensated weights overflow float32";
  }
  return out;
}

}  // namespace quant::weight_only
