// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/linear_method.h"

#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"

namespace quant {
namespace {

namespace wo = weight_only;

struct Attempt {
  WeightMatrix weights;
  std::string note;
};

absl::StatusOr<Attempt> Carry(const LinearMethod& method, const wo::MatrixView& weights, const HessianMatrix* fit,
                              std::span<const float> importance, int threads) {
  Attempt a;
  switch (method.kind) {
    case LinearMethod::Kind::kRtn: {
      if (method.clip && fit != nullptr) {
        ASSIGN_OR_RETURN(a.weights, wo::QuantizeClipped(weights, method.grid, *fit, threads));
        return a;
      }
      ASSIGN_OR_RETURN(a.weights, wo::QuantizeRtn(weights, method.grid, importance, threads));
      return a;
    }
    case LinearMethod::Kind::kGptq: {
      if (fit == nullptr) return absl::InvalidArgumentError("GPTQ needs the Hessian of the layer's inputs");
      wo::GptqOptions options = method.gptq;
      options.grid = method.grid;
      options.threads = threads;
      ASSIGN_OR_RETURN(wo::GptqResult result, wo::QuantizeGptq(weights, *fit, options));
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
                                            const HessianMatrix* fit, const HessianMatrix* judge, int threads) {
  const std::vector<float> importance = fit != nullptr ? fit->Diagonal() : std::vector<float>();
  ASSIGN_OR_RETURN(Attempt attempt, Carry(method, weights, fit, importance, threads));
  LinearResult result{
      .weights = std::move(attempt.weights), .fallback = std::move(attempt.note), .method = method.name};
  if (judge == nullptr) return result;
  ASSIGN_OR_RETURN(wo::QuadraticError error, wo::QuadraticLoss(weights, result.weights, *judge, threads));
  // The baseline on the same grid, unless the method is that itself or its files hold no grid.
  const bool baseline =
      method.kind == LinearMethod::Kind::kGptq || method.kind == LinearMethod::Kind::kHqq || method.clip;
  if (baseline) {
    ASSIGN_OR_RETURN(GroupedMatrix nearest, wo::QuantizeRtn(weights, method.grid, importance, threads));
    WeightMatrix plain = std::move(nearest);
    ASSIGN_OR_RETURN(const wo::QuadraticError other, wo::QuadraticLoss(weights, plain, *judge, threads));
    if (!(error.loss < other.loss)) {
      result.fallback = absl::StrFormat("round to nearest kept: %s's error on held-out samples is %.3g, its %.3g",
                                        method.name, std::sqrt(error.relative), std::sqrt(other.relative));
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
