// SPDX-License-Identifier: Apache-2.0
// Recipes for language models: defaults, and what becomes of each linear layer.
#ifndef QUANT_WORKER_JOB_LANGUAGE_RECIPE_H_
#define QUANT_WORKER_JOB_LANGUAGE_RECIPE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/v1/recipe.pb.h"
#include "worker/formats/checkpoint_writer.h"
#include "worker/graph/linear.h"
#include "worker/quantize/language/linear_method.h"

namespace quant {

// The recipe with every default filled in, as the report repeats it.
//   method      rtn, gptq, awq, nf4, hqq; others are for ONNX models: UNIMPLEMENTED
//   grid        4 bits; groups of 128 (hqq: 64); symmetric for rtn and gptq, else asymmetric; scale search by
//               Hessian-weighted error where there is calibration data, else by |error|^2.4
//   format      gptq for gptq; awq for awq with 4 bits; bitsandbytes for nf4; compressed-tensors for rtn and hqq with 4
//   or
//               8 bits; gptq for the rest
//   calibration 128 samples of 512 tokens
absl::StatusOr<quant::v1::Recipe> ResolveLanguageRecipe(quant::v1::Recipe recipe, bool has_calibration);

CheckpointFormat FormatOf(const quant::v1::Recipe& resolved);
ExportOptions ExportOptionsOf(const quant::v1::Recipe& resolved, std::string tool_version);

// Whether the methods in the recipe (its rules' included) learn from data.
bool NeedsCalibration(const quant::v1::Recipe& resolved);

// What becomes of each layer, by name: routers of mixtures of experts stay in floating point, as does what a rule
// skips. Rules that match nothing are told in `notes`. Everything is checked against the format before any work:
// INVALID_ARGUMENT naming layer, value, limit and the group sizes that fit (CheckFormat).
absl::StatusOr<std::map<std::string, LinearMethod>> PlanLayers(const quant::v1::Recipe& resolved,
                                                               const std::vector<Linear>& linears, bool has_calibration,
                                                               int threads, std::vector<std::string>* notes);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_LANGUAGE_RECIPE_H_
