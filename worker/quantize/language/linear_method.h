// SPDX-License-Identifier: Apache-2.0
// One linear layer, one method: what the recipe asks for a layer, and carrying it out beside round to nearest.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_LINEAR_METHOD_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_LINEAR_METHOD_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/calibrate/cross_moment.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/awq.h"
#include "worker/quantize/weight_only/factor.h"
#include "worker/quantize/weight_only/gptq.h"
#include "worker/quantize/weight_only/grid.h"
#include "worker/quantize/weight_only/hqq.h"
#include "worker/quantize/weight_only/nf4.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

struct LinearMethod {
  enum class Kind { kKeep, kRtn, kGptq, kNf4, kHqq };
  Kind kind = Kind::kKeep;
  std::string reason;                     // kKeep: why
  std::string name;                       // for the report: "rtn", "gptq", "awq", ...
  weight_only::GridOptions grid;          // the integer grid of all but kNf4
  weight_only::GptqOptions gptq;          // of kGptq; its grid is the one above
  weight_only::CodebookOptions codebook;  // of kNf4
  weight_only::HqqOptions hqq;            // of kHqq
  bool scaled = false;                    // AWQ: equivalent scales are searched first, on the same grid
  weight_only::AwqOptions awq;            // then
  bool clip = false;                      // kRtn: AWQ's clip search; needs the Hessian
};

// Whether it learns from samples: GPTQ, AWQ, and whatever weighs errors with E[x^2].
bool NeedsData(const LinearMethod& method);

struct LinearResult {
  WeightMatrix weights;
  std::string fallback;  // why the method's own result is not what is returned, or was reached by a detour; "": it is
  std::string method;    // what made `weights`
  std::string note;      // what else there is to say, for the report; ""
  // What rounding costs: tr(D H D^T) on the judging Hessian (quadratic.h), D against the weights that were rounded (the
  // compensated ones where they are), and its square root relative to tr(W H W^T).
  double loss = 0;
  double relative_error = 0;
};

// What is known of the inputs of the layers that read one value, from two sets of samples (or one twice): `fit` to
// learn from, `judge` to compare on. The cross moments are those with the inputs in the original model, null where they
// are the same. All outlive this; the factors are made when a layer first needs them, and kept for the next.
struct LayerInputs {
  LayerInputs(const HessianMatrix& fit_moments, const HessianMatrix& judge_moments)
      : fit(fit_moments), ridge(fit_moments), judge(judge_moments) {}

  weight_only::SharedFactor fit;    // as GPTQ damps it
  weight_only::SharedFactor ridge;  // as the compensation of input errors does
  const HessianMatrix& judge;
  const CrossMomentMatrix* fit_cross = nullptr;
  const CrossMomentMatrix* judge_cross = nullptr;
  size_t layers_left = 1;  // how many are still to be quantized: with the last the factors' memory is given back early
};

// Quantizes weights[rows, cols]. With cross moments kGptq quantizes the weights that make good what earlier layers have
// done to the inputs (input_error.h). The result is compared with round to nearest of `weights` by the error of the
// layer's outputs on `judge`, against the outputs of the original model where there is a cross moment, and the better
// is returned. `inputs` may be null for methods that need no data (kRtn, kNf4, kHqq): then nothing is compared and loss
// is 0. INVALID_ARGUMENT: kGptq without `inputs`; NaN or infinite weights; what the methods refuse.
absl::StatusOr<LinearResult> QuantizeLinear(const LinearMethod& method, const weight_only::MatrixView& weights,
                                            LayerInputs* inputs, int threads);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_LINEAR_METHOD_H_
