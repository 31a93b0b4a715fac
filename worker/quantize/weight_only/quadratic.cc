// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/quadratic.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/blas.h"
#include "worker/quantize/weight_only/threads.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kRows = 128;
constexpr int64_t kCols = 256;

// d H d^T of up to kRows rows at `d`. By symmetry only the part of H on and above the block diagonal is used.
void Form(const float* d, int64_t rows, const HessianMatrix& hessian, float* scratch, double* out) {
  const int64_t n = hessian.cols;
  const float* const h = hessian.h.data();
  std::fill_n(out, rows, 0.0);
  for (int64_t j = 0; j < n; j += kCols) {
    const int64_t width = std::min(kCols, n - j);
    for (const bool diagonal : {false, true}) {
      if (!diagonal && j == 0) continue;
      if (diagonal) {
        blas::Product(rows, width, width, d + j, n, h + j * n + j, n, 0, scratch, kCols);
      } else {
        blas::Product(rows, width, j, d, n, h + j, n, 0, scratch, kCols);
      }
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < width; ++c) sum += static_cast<double>(scratch[r * kCols + c]) * d[r * n + j + c];
        out[r] += diagonal ? sum : 2 * sum;
      }
    }
  }
}

absl::Status Agree(int64_t rows, int64_t cols, size_t values, const HessianMatrix& hessian) {
  if (hessian.cols != cols || static_cast<int64_t>(hessian.h.size()) != cols * cols ||
      static_cast<int64_t>(values) != rows * cols) {
    return absl::InvalidArgumentError(absl::StrCat("a Hessian of ", hessian.cols, " columns for weights of ", rows,
                                                   " x ", cols, " (", values, " values)"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<double>> QuadraticForm(const MatrixView& d, const HessianMatrix& hessian, int threads) {
  RETURN_IF_ERROR(Agree(d.rows, d.cols, d.values.size(), hessian));
  std::vector<double> out(static_cast<size_t>(d.rows));
  const ThreadScope scope(threads);
#pragma omp parallel
  {
    std::vector<float> scratch(kRows * kCols);
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < d.rows; r += kRows) {
      Form(d.row(r), std::min(kRows, d.rows - r), hessian, scratch.data(), out.data() + r);
    }
  }
  return out;
}

absl::StatusOr<QuadraticError> QuadraticLoss(const MatrixView& weights, const WeightMatrix& quantized,
                                             const HessianMatrix& hessian, int threads) {
  RETURN_IF_ERROR(Agree(weights.rows, weights.cols, weights.values.size(), hessian));
  if (Rows(quantized) != weights.rows || Cols(quantized) != weights.cols) {
    return absl::InvalidArgumentError(absl::StrCat("quantized weights of ", Rows(quantized), " x ", Cols(quantized),
                                                   " for weights of ", weights.rows, " x ", weights.cols));
  }
  QuadraticError error;
  error.row_loss.resize(static_cast<size_t>(weights.rows));
  std::vector<double> whole(error.row_loss.size());
  const ThreadScope scope(threads);
#pragma omp parallel
  {
    std::vector<float> scratch(kRows * kCols);
    std::vector<float> d(static_cast<size_t>(kRows * weights.cols));
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < weights.rows; r += kRows) {
      const int64_t rows = std::min(kRows, weights.rows - r);
      const auto count = static_cast<size_t>(rows * weights.cols);
      DequantizeRows(quantized, r, r + rows, std::span<float>(d).first(count));
      const float* const w = weights.row(r);
      for (size_t i = 0; i < count; ++i) d[i] -= w[i];
      Form(d.data(), rows, hessian, scratch.data(), error.row_loss.data() + r);
      Form(w, rows, hessian, scratch.data(), whole.data() + r);
    }
  }
  error.loss = std::accumulate(error.row_loss.begin(), error.row_loss.end(), 0.0);
  const double scale = std::accumulate(whole.begin(), whole.end(), 0.0);
  error.relative = scale > 0 ? error.loss / scale : error.loss > 0 ? std::numeric_limits<double>::infinity() : 0;
  return error;
}

absl::StatusOr<double> OutputLoss(const MatrixView& weights, const WeightMatrix& quantized,
                                  const HessianMatrix& hessian, const CrossMomentMatrix& cross, int threads) {
  RETURN_IF_ERROR(Agree(weights.rows, weights.cols, weights.values.size(), hessian));
  const int64_t n = weights.cols;
  if (Rows(quantized) != weights.rows || Cols(quantized) != n || cross.cols != n) {
    return absl::InvalidArgumentError(absl::StrCat("quantized weights of ", Rows(quantized), " x ", Cols(quantized),
                                                   " and a cross moment of ", cross.cols, " columns for ", weights.rows,
                                                   " x ", n));
  }
  const ThreadScope scope(threads);
  std::vector<double> row_loss(static_cast<size_t>(weights.rows));
#pragma omp parallel
  {
    std::vector<float> scratch(static_cast<size_t>(kRows * kCols));
    std::vector<float> e(static_cast<size_t>(kRows * n));
    std::vector<float> wanted(e.size());  // W D
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < weights.rows; r += kRows) {
      const int64_t rows = std::min(kRows, weights.rows - r);
      const auto count = static_cast<size_t>(rows * n);
      DequantizeRows(quantized, r, r + rows, std::span<float>(e).first(count));
      const float* const w = weights.row(r);
      for (size_t i = 0; i < count; ++i) e[i] -= w[i];
      Form(e.data(), rows, hessian, scratch.data(), row_loss.data() + r);
      blas::Product(rows, n, n, w, n, cross.d.data(), n, 0, wanted.data(), n);
      for (int64_t i = 0; i < rows; ++i) {
        double sum = 0;
        for (int64_t c = 0; c < n; ++c)
          sum += static_cast<double>(wanted[static_cast<size_t>(i * n + c)]) * e[static_cast<size_t>(i * n + c)];
        row_loss[static_cast<size_t>(r + i)] -= 2 * sum;
      }
    }
  }
  return std::accumulate(row_loss.begin(), row_loss.end(), 0.0);
}

}  // namespace quant::weight_only
