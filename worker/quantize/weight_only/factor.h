// SPDX-License-Identifier: Apache-2.0
// The triangular factor that GPTQ's sweep works with, and what is done when a Hessian has none.
//
// GPTQ (Frantar et al. 2023) visits columns in some order and needs the upper Cholesky factor U of the inverse of H in
// that order. Here columns are numbered the other way round, k = cols - 1 for the one visited first, and H, so
// permuted, is factored as it is: H + lambda I = L L^T. Then d H d^T = sum over k of (d L)_k^2 with
//
//   (d L)_k = d_k L_kk + sum over i > k of d_i L_ik,      d = quantized - original
//
// and the i > k are the columns already done: the weight that makes component k vanish is w_k - (sum) / L_kk, which is
// what GPTQ's updates leave in column k (GPTQ is Babai's nearest plane: Chen et al. 2025, arXiv 2507.18553), and
// L_kk = 1 / U_jj. So there is no inverse, half the arithmetic and the better conditioned half.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_FACTOR_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_FACTOR_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/panel_product.h"

namespace quant::weight_only {

// Factors the lower triangle of a[n, n] (row-major) in place; entries above the diagonal are not kept. The number of
// the pivot that is not positive, or -1. Works in tiles of fixed size on OpenMP's threads: the same bits for any
// number.
int64_t Cholesky(float* a, int64_t n);
int64_t Cholesky(double* a, int64_t n);

template <typename T>
struct Factor {
  std::vector<T> l;   // [n, n] row-major, lower triangle
  double lambda = 0;  // what was added to the diagonal of H
  std::string note;   // what had to be done besides, "" when nothing
};

// Factors H with rows and columns in the order `column` (k -> column of H). lambda = damping * mean of the diagonal
// over the columns that are not dead; a dead column (H_cc = 0) stands as that mean alone. Columns up to 4096 are
// factored in float64. When a factor fails: float64; then damping doubled up to 1; then six floors on the diagonal from
// 1e-6 to 0.1 of its greatest magnitude on top; then nullopt. Memory: sizeof(T) n^2, and 8 n^2 while in float64.
template <typename T>
std::optional<Factor<T>> FactorHessian(const HessianMatrix& hessian, std::span<const int32_t> column, double damping);

// The last factor of one Hessian in float32, kept for the next layer that reads the same input: q, k and v share one,
// gate and up share one. Thread-compatible.
class SharedFactor {
 public:
  explicit SharedFactor(const HessianMatrix& hessian) : hessian_(hessian) {}  // outlives this

  // FactorHessian<float> of these; made anew only where `column` or `damping` differ from the last call's. Valid until
  // the next call.
  const std::optional<Factor<float>>& Get(std::span<const int32_t> column, double damping);

  // Gives the memory back; what is asked for next is made anew.
  void Release();

  const HessianMatrix& hessian() const { return hessian_; }

  // The factor, numbered from the column visited first, and H itself in bfloat16; made when first asked for, null where
  // this CPU has no use for them. The factor's after a Get that gave one, and valid as long as that.
  const PackedSquare* PackedFactor();
  const PackedSquare* PackedHessian();

 private:
  const HessianMatrix& hessian_;
  std::vector<int32_t> column_;  // of factor_
  double damping_ = 0;           // of factor_; 0: none made yet
  std::optional<Factor<float>> factor_;
  std::optional<PackedSquare> packed_factor_;
  std::optional<PackedSquare> packed_hessian_;
};

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_FACTOR_H_
