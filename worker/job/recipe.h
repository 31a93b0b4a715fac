// SPDX-License-Identifier: Apache-2.0
// Between quant.v1.Recipe and the options of the methods: the one place where a default of the contract is turned into
// a value.
#ifndef QUANT_WORKER_JOB_RECIPE_H_
#define QUANT_WORKER_JOB_RECIPE_H_

#include <string>

#include "absl/status/statusor.h"
#include "quant/v1/recipe.pb.h"
#include "worker/calibrate/calibrate.h"
#include "worker/evaluate/evaluate.h"
#include "worker/quantize/int8.h"

namespace quant {

// The recipe with every default of recipe.proto filled in, as the report repeats it. UNIMPLEMENTED for a method,
// format or rule that this build does not have.
absl::StatusOr<quant::v1::Recipe> ResolveRecipe(quant::v1::Recipe recipe);

// "static", "dynamic", ...: the name on the command line.
std::string MethodName(const quant::v1::Recipe& recipe);

// From a resolved recipe.
StaticInt8Options StaticOptions(const quant::v1::Recipe& recipe, int threads);
DynamicInt8Options DynamicOptions(const quant::v1::Recipe& recipe);
CalibrateOptions CalibrationOptions(const quant::v1::Recipe& recipe, int threads);

// The measurements' defaults; also used by benchmark jobs.
quant::v1::Evaluation ResolveEvaluation(quant::v1::Evaluation evaluation);
EvaluateOptions EvaluationOptions(const quant::v1::Evaluation& evaluation, int threads);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_RECIPE_H_
