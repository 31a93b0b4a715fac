// SPDX-License-Identifier: Apache-2.0
// What GPTQ is compared with in tests: the straightforward algorithm.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_NAIVE_GPTQ_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_NAIVE_GPTQ_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "worker/quantize/weight_only/grid.h"
#include "worker/quantize/weight_only/testing.h"

namespace quant::weight_only::testing {

// GPTQ as the paper and the reference implementation have it, in double: the inverse of the damped Hessian,
// its upper Cholesky factor, columns in order, lazy blocks, min-max grids from the updated weights. Not shared with the
// code under test. The columns come in `order`; groups are runs of that order.
struct Naive {
  std::vector<int> codes;      // [rows, cols] in the original order
  std::vector<double> scales;  // [rows, groups]
  std::vector<double> zeros;
  double loss = 0;

  Naive(const Layer& layer, int bits, int64_t group, bool symmetric, double damping, int64_t block,
        const std::vector<int>& order) {
    const auto n = static_cast<size_t>(layer.cols);
    std::vector<std::vector<double>> h(n, std::vector<double>(n));
    double mean = 0;
    for (size_t i = 0; i < n; ++i) mean += layer.hessian.h[i * n + i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        h[i][j] = layer.hessian.h[static_cast<size_t>(order[i]) * n + static_cast<size_t>(order[j])];
      }
      h[i][i] += damping * mean;
    }
    const std::vector<std::vector<double>> u = UpperCholesky(Inverse(h));
    const auto groups = static_cast<size_t>((layer.cols + group - 1) / group);
    codes.resize(static_cast<size_t>(layer.rows) * n);
    scales.resize(static_cast<size_t>(layer.rows) * groups);
    zeros.resize(scales.size());
    const double top = (1 << bits) - 1;
    for (size_t r = 0; r < static_cast<size_t>(layer.rows); ++r) {
      std::vector<double> w(n);
      for (size_t j = 0; j < n; ++j) w[j] = layer.w[r * n + static_cast<size_t>(order[j])];
      for (size_t b = 0; b < n; b += static_cast<size_t>(block)) {
        const size_t end = std::min(n, b + static_cast<size_t>(block));
        std::vector<double> in_block = w;  // the reference updates a copy of the block
        std::vector<double> error(n);
        for (size_t j = b; j < end; ++j) {
          const size_t g = j / static_cast<size_t>(group);
          double& s = scales[r * groups + g];
          double& z = zeros[r * groups + g];
          if (j % static_cast<size_t>(group) == 0) {
            double lo = 0, hi = 0;
            for (size_t k = j; k < std::min(n, j + static_cast<size_t>(group)); ++k) {
              lo = std::min(lo, w[k]);
              hi = std::max(hi, w[k]);
            }
            if (symmetric) {
              hi = std::max(hi, -lo);
              lo = -hi;
            }
            // Grids are float32 there as here.
            s = static_cast<float>(static_cast<float>(hi) - static_cast<float>(lo)) / static_cast<float>(top);
            z = symmetric ? (top + 1) / 2 : std::nearbyint(-static_cast<float>(lo) / static_cast<float>(s));
          }
          const double code = std::clamp(std::nearbyint(in_block[j] / s) + z, 0.0, top);
          const double q = s * (code - z);
          codes[r * n + static_cast<size_t>(order[j])] = static_cast<int>(code);
          error[j] = (in_block[j] - q) / u[j][j];
          loss += error[j] * error[j];
          for (size_t k = j; k < end; ++k) in_block[k] -= error[j] * u[j][k];
        }
        for (size_t k = end; k < n; ++k) {
          for (size_t j = b; j < end; ++j) w[k] -= error[j] * u[j][k];
        }
      }
    }
  }

  static std::vector<std::vector<double>> Inverse(std::vector<std::vector<double>> a) {
    const size_t n = a.size();
    std::vector<std::vector<double>> inverse(n, std::vector<double>(n));
    for (size_t i = 0; i < n; ++i) inverse[i][i] = 1;
    for (size_t p = 0; p < n; ++p) {  // Gauss-Jordan; positive definite, so no pivoting
      const double pivot = a[p][p];
      for (size_t j = 0; j < n; ++j) {
        a[p][j] /= pivot;
        inverse[p][j] /= pivot;
      }
      for (size_t i = 0; i < n; ++i) {
        if (i == p) continue;
        const double f = a[i][p];
        for (size_t j = 0; j < n; ++j) {
          a[i][j] -= f * a[p][j];
          inverse[i][j] -= f * inverse[p][j];
        }
      }
    }
    return inverse;
  }

  // U upper with U^T U = a.
  static std::vector<std::vector<double>> UpperCholesky(const std::vector<std::vector<double>>& a) {
    const size_t n = a.size();
    std::vector<std::vector<double>> u(n, std::vector<double>(n));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i; j < n; ++j) {
        double sum = a[i][j];
        for (size_t k = 0; k < i; ++k) sum -= u[k][i] * u[k][j];
        u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
      }
    }
    return u;
  }
};

inline std::vector<int> Identity(int64_t n) {
  std::vector<int> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Codes that differ.
inline int64_t Different(const GroupedMatrix& have, const Naive& want) {
  int64_t count = 0;
  for (size_t i = 0; i < have.codes.size(); ++i) count += have.codes[i] != want.codes[i];
  return count;
}

}  // namespace quant::weight_only::testing

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_NAIVE_GPTQ_H_
