// SPDX-License-Identifier: Apache-2.0
// One linear layer, one method: what the recipe asks for a layer, and carrying it out beside round to nearest.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_LINEAR_METHOD_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_LINEAR_METHOD_H_

#include <string>

#include "absl/status/statusor.h"
#include "worker/calibrate/hessian.h"
#include "worker/quantize/weight_only/awq.h"
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
  double loss = 0;       // tr(D H D^T) on the judging Hessian (quadratic.h)
  double relative_error = 0;  // its square root relative to tr(W H W^T)
};

// Quantizes weights[rows, cols]. `fit` is the Hessian of the layer's inputs that methods learn from, `judge` another
// one (or the same) on which the result and round to nearest are compared; both may be null for methods that need no
// data (kRtn, kNf4, kHqq): then nothing is compared and loss is 0. INVALID_ARGUMENT: kGptq without `fit`; NaN or
// infinite weights; what the methods refuse.
absl::StatusOr<LinearResult> QuantizeLinear(const LinearMethod& method, const weight_only::MatrixView& weights,
                                            const HessianMatrix* fit, const HessianMatrix* judge, int threads);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_LINEAR_METHOD_H_
