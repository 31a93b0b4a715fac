// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/linear_method.h"

#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/input_error.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"

namespace quant {
namespace {

namespace wo = weight_only;

struct Attempt {
  WeightMatrix weights;
  std::string note;
};

absl::StatusOr<Attempt> Carry(const LinearMethod& method, const wo::MatrixView& weights, LayerInputs* inputs,
                              std::span<const float> importance, int threads) {
  Attempt a;
  switch (method.kind) {
    case LinearMethod::Kind::kRtn: {
      if (method.clip && inputs != nullptr) {
        ASSIGN_OR_RETURN(a.weights, wo::QuantizeClipped(weights, method.grid, inputs->fit.hessian(), threads));
        return a;
      }
      ASSIGN_OR_RETURN(a.weights, wo::QuantizeRtn(weights, method.grid, importance, threads));
      return a;
    }
    case LinearMethod::Kind::kGptq: {
      if (inputs == nullptr) return absl::InvalidArgumentError("GPTQ needs the Hessian of the layer's inputs");
      wo::GptqOptions options = method.gptq;
      options.grid = method.grid;
      options.threads = threads;
      ASSIGN_OR_RETURN(wo::GptqResult result, wo::QuantizeGptq(weights, inputs->fit, options));
      a.weights = std::move(result.weights);
      a.note = std::move(result.note);
      return a;
    }
    case LinearMethod::Kind::kNf4: {
      ASSIGN_OR_RETURN(a.weights, wo::QuantizeCodebook(weights, method.codebook, importance, threads));
      return a;
    }
    case LinearMethod::Kind::kHqq: {
      wo::HqqOptions options = method.hqq;
      options.bits = method.grid.bits;
      options.group_size = method.grid.group_size;
      options.scale_type = method.grid.scale_type;
      options.zero_min = method.grid.zero_min;
      ASSIGN_OR_RETURN(a.weights, wo::QuantizeHqq(weights, options, threads));
      return a;
    }
    case LinearMethod::Kind::kKeep:
      break;
  }
  return absl::InternalError("a layer that stays in floating point has no method");
}

}  // namespace

bool NeedsData(const LinearMethod& method) {
  if (method.kind == LinearMethod::Kind::kKeep) return false;
  if (method.kind == LinearMethod::Kind::kNf4) return method.codebook.search;
  return method.kind == LinearMethod::Kind::kGptq || method.scaled ||
         (method.kind == LinearMethod::Kind::kRtn && method.grid.search == wo::ScaleSearch::kWeightedMse);
}

absl::StatusOr<LinearResult> QuantizeLinear(const LinearMethod& method, const wo::MatrixView& weights,
                                            LayerInputs* inputs, int threads) {
  const std::vector<float> importance = inputs != nullptr ? inputs->fit.hessian().Diagonal() : std::vector<float>();
  LinearResult result{.weights = {}, .fallback = {}, .method = method.name, .note = {}};
  wo::MatrixView target = weights;
  std::vector<float> compensated;
  if (method.kind == LinearMethod::Kind::kGptq && inputs != nullptr && inputs->fit_cross != nullptr) {
    ASSIGN_OR_RETURN(wo::CompensatedWeights made,
                     wo::CompensateInputError(weights, inputs->ridge, *inputs->fit_cross, {.threads = threads}));
    compensated = std::move(made.weights);
    target.values = compensated;
    if (inputs->layers_left <= 1) inputs->ridge.Release();
    result.note = std::move(made.note);
  }
  ASSIGN_OR_RETURN(Attempt attempt, Carry(method, target, inputs, importance, threads));
  result.weights = std::move(attempt.weights);
  result.fallback = std::move(attempt.note);
  if (inputs == nullptr) return result;
  if (inputs->layers_left <= 1) inputs->fit.Release();
  if (inputs->layers_left > 0) --inputs->layers_left;
  const HessianMatrix& judge = inputs->judge;
  ASSIGN_OR_RETURN(wo::QuadraticError error, wo::QuadraticLoss(target, result.weights, judge, threads));
  // The baseline on the same grid, unless the method is that itself or its files hold no grid.
  const bool baseline =
      method.kind == LinearMethod::Kind::kGptq || method.kind == LinearMethod::Kind::kHqq || method.clip;
  if (baseline) {
    ASSIGN_OR_RETURN(GroupedMatrix nearest, wo::QuantizeRtn(weights, method.grid, importance, threads));
    WeightMatrix plain = std::move(nearest);
    ASSIGN_OR_RETURN(const wo::QuadraticError other, wo::QuadraticLoss(weights, plain, judge, threads));
    double ours = error.loss;
    double theirs = other.loss;
    if (inputs->judge_cross != nullptr) {
      ASSIGN_OR_RETURN(ours, wo::OutputLoss(weights, result.weights, judge, *inputs->judge_cross, threads));
      ASSIGN_OR_RETURN(theirs, wo::OutputLoss(weights, plain, judge, *inputs->judge_cross, threads));
    }
    if (!(ours < theirs)) {
      result.fallback =
          absl::StrFormat("round to nearest kept: %s's error on held-out samples is %.3g, its %.3g%s", method.name,
                          std::sqrt(error.relative), std::sqrt(other.relative),
                          inputs->judge_cross != nullptr ? ", and it is nearer to the original's outputs" : "");
      result.method = "rtn";
      result.weights = std::move(plain);
      error = other;
    }
  }
  result.loss = error.loss;
  result.relative_error = std::sqrt(error.relative);
  return result;
}

}  // namespace quant
