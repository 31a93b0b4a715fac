// SPDX-License-Identifier: Apache-2.0
// The error of quantized weights as their layer's outputs see it: tr(D H D^T) with D = quantized - original is, for
// H = (2/n) sum x x^T, twice the mean squared error of the outputs, summed over them. It is what GPTQ minimises, what
// AWQ's search compares, and its quotient with tr(W H W^T) is 1 / SQNR.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_QUADRATIC_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_QUADRATIC_H_

#include <vector>

#include "absl/status/statusor.h"
#include "worker/calibrate/cross_moment.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::weight_only {

struct QuadraticError {
  std::vector<double> row_loss;  // d H d^T of each row
  double loss = 0;               // their sum
  double relative = 0;           // loss / tr(W H W^T); 0 when both are 0, infinite when only the latter is
};

// d H d^T of each row of d: [rows]. Products in float32, sums of 256 columns at a time in float64. The same bits for
// any number of threads (0: OpenMP's). Cost: rows * cols^2 multiply-adds. INVALID_ARGUMENT: sizes that do not agree.
absl::StatusOr<std::vector<double>> QuadraticForm(const MatrixView& d, const HessianMatrix& hessian, int threads = 0);

// The error of `quantized` against `weights`; twice the cost above. INVALID_ARGUMENT: sizes that do not agree.
absl::StatusOr<QuadraticError> QuadraticLoss(const MatrixView& weights, const WeightMatrix& quantized,
                                             const HessianMatrix& hessian, int threads = 0);

// How much worse the layer's outputs are than with its own weights, against those of the original model, where x
// reached it and not y: with D of x - y (cross_moment.h) the loss of Q y against W x is, but for what Q does not
// change,
//
//   tr(E H E^T) - 2 tr(W D E^T),     E = Q - W
//
// so of two Q the one with less serves the original's outputs better; below 0 is better than W itself. Cost: 2 rows
// cols^2 multiply-adds. INVALID_ARGUMENT: sizes that do not agree.
absl::StatusOr<double> OutputLoss(const MatrixView& weights, const WeightMatrix& quantized,
                                  const HessianMatrix& hessian, const CrossMomentMatrix& cross, int threads = 0);

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_QUADRATIC_H_
