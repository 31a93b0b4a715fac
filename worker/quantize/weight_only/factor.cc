// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/factor.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/calibrate/syrk.h"
#include "worker/quantize/weight_only/blas.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kTile = 192;
// Above this many columns the first attempt is in float32, whose rounding is still far below the damping.
constexpr int64_t kDoubleFirst = 4096;
// Above this, float64 copies (1 GiB) are not made at all.
constexpr int64_t kDoubleEver = 11584;

template <typename T>
int64_t TiledCholesky(T* a, int64_t n) {
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t k = 0; k < n; k += kTile) {
    const int64_t width = std::min(kTile, n - k);
    int64_t bad = 0;
    T* const pivot = a + k * n + k;
#pragma omp parallel
    {
#pragma omp single
      bad = blas::CholeskyTile(width, pivot, n);
    }
    if (bad != 0) return k + bad - 1;
    const int64_t next = k + width;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = next; i < n; i += kTile) {
      blas::SolveRightTransposed(std::min(kTile, n - i), width, pivot, n, a + i * n + k, n);
    }
    tiles.clear();
    for (int64_t i = next; i < n; i += kTile) {
      for (int64_t j = next; j <= i; j += kTile) tiles.emplace_back(i, j);
    }
    const auto count = static_cast<int64_t>(tiles.size());
#pragma omp parallel for schedule(dynamic)
    for (int64_t t = 0; t < count; ++t) {
      const auto [i, j] = tiles[static_cast<size_t>(t)];
      blas::SubtractProductTransposed(std::min(kTile, n - i), std::min(kTile, n - j), width, a + i * n + k, n,
                                      a + j * n + k, n, a + i * n + j, n);
    }
  }
  return -1;
}

template <typename T>
void Permute(const HessianMatrix& hessian, std::span<const int32_t> column, std::span<const uint8_t> dead, double mean,
             double add, std::vector<T>& a) {
  const int64_t n = hessian.cols;
  a.resize(static_cast<size_t>(n * n));
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t i = 0; i < n; ++i) {
    const auto ci = static_cast<size_t>(column[static_cast<size_t>(i)]);
    const float* const src = hessian.h.data() + static_cast<int64_t>(ci) * n;
    T* const dst = a.data() + i * n;
    for (int64_t j = 0; j <= i; ++j) dst[j] = static_cast<T>(src[column[static_cast<size_t>(j)]]);
    if (dead[ci] != 0) {
      std::fill_n(dst, i, T{0});
      dst[i] = static_cast<T>(mean);
    }
    dst[i] = static_cast<T>(static_cast<double>(dst[i]) + add);
  }
}

// One attempt in arithmetic F; the failing pivot or -1.
template <typename F, typename T>
int64_t Attempt(const HessianMatrix& hessian, std::span<const int32_t> column, std::span<const uint8_t> dead,
                double mean, double add, std::vector<T>& l) {
  if constexpr (std::is_same_v<F, T>) {
    Permute(hessian, column, dead, mean, add, l);
    return Cholesky(l.data(), hessian.cols);
  } else {
    std::vector<F> wide;
    Permute(hessian, column, dead, mean, add, wide);
    const int64_t bad = Cholesky(wide.data(), hessian.cols);
    if (bad < 0) l.assign(wide.begin(), wide.end());
    return bad;
  }
}

}  // namespace

int64_t Cholesky(float* a, int64_t n) { return TiledCholesky(a, n); }
int64_t Cholesky(double* a, int64_t n) { return TiledCholesky(a, n); }

template <typename T>
std::optional<Factor<T>> FactorHessian(const HessianMatrix& hessian, std::span<const int32_t> column, double damping) {
  const int64_t n = hessian.cols;
  double sum = 0;
  double greatest = 0;
  int64_t live = 0;
  std::vector<uint8_t> dead(static_cast<size_t>(n));
  for (int64_t c = 0; c < n; ++c) {
    const double d = hessian.h[static_cast<size_t>(c * n + c)];
    greatest = std::max(greatest, std::fabs(d));
    dead[static_cast<size_t>(c)] = d == 0;
    if (d == 0) continue;
    sum += d;
    ++live;
  }
  const double mean = live > 0 && sum > 0 ? sum / static_cast<double>(live) : 1;
  Factor<T> factor;
  int64_t first_bad = -1;
  const auto attempt = [&](double d, double floor, bool wide) {
    factor.lambda = d * mean + floor;
    const int64_t bad = wide ? Attempt<double>(hessian, column, dead, mean, factor.lambda, factor.l)
                             : Attempt<float>(hessian, column, dead, mean, factor.lambda, factor.l);
    if (bad >= 0 && first_bad < 0) first_bad = column[static_cast<size_t>(bad)];
    return bad < 0;
  };
  const bool always_wide = std::is_same_v<T, double>;
  const bool wide_first = always_wide || n <= kDoubleFirst;
  const bool wide_later = always_wide || n <= kDoubleEver;
  if (attempt(damping, 0, wide_first)) return factor;
  const auto why = [&] { return absl::StrCat("the Hessian is not positive definite at input ", first_bad, ": "); };
  if (!wide_first && wide_later && attempt(damping, 0, true)) {
    factor.note = absl::StrCat(why(), "factored in float64");
    return factor;
  }
  double raised = damping;
  while (raised < 1) {
    raised = std::min(1.0, std::max(2 * raised, 0.01));
    if (attempt(raised, 0, wide_later)) {
      factor.note = absl::StrCat(why(), "damping raised from ", damping, " to ", raised);
      return factor;
    }
  }
  double floor = 1e-6 * greatest;
  for (int round = 0; round < 6; ++round, floor *= 10) {
    if (attempt(raised, floor, wide_later)) {
      factor.note = absl::StrCat(why(), "damping ", raised, " and ", floor, " added to the diagonal");
      return factor;
    }
  }
  return std::nullopt;
}

template std::optional<Factor<float>> FactorHessian(const HessianMatrix&, std::span<const int32_t>, double);
template std::optional<Factor<double>> FactorHessian(const HessianMatrix&, std::span<const int32_t>, double);

const std::optional<Factor<float>>& SharedFactor::Get(std::span<const int32_t> column, double damping) {
  if (damping != damping_ || !std::equal(column.begin(), column.end(), column_.begin(), column_.end())) {
    Release();  // before the next takes its memory; and nothing is kept should that throw
    factor_ = FactorHessian<float>(hessian_, column, damping);
    column_.assign(column.begin(), column.end());
    damping_ = damping;
  }
  return factor_;
}

void SharedFactor::Release() {
  packed_factor_.reset();
  packed_hessian_.reset();
  factor_.reset();
  damping_ = 0;
}

const PackedSquare* SharedFactor::PackedFactor() {
  if (!syrk::HasBFloat16() || !factor_.has_value()) return nullptr;
  if (!packed_factor_.has_value()) packed_factor_.emplace(factor_->l.data(), hessian_.cols, /*backwards=*/true);
  return &*packed_factor_;
}

const PackedSquare* SharedFactor::PackedHessian() {
  if (!syrk::HasBFloat16()) return nullptr;
  if (!packed_hessian_.has_value()) packed_hessian_.emplace(hessian_.h.data(), hessian_.cols, /*backwards=*/false);
  return &*packed_hessian_;
}

}  // namespace quant::weight_only
