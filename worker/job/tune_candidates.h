// SPDX-License-Identifier: Apache-2.0
#ifndef QUANT_WORKER_JOB_TUNE_CANDIDATES_H_
#define QUANT_WORKER_JOB_TUNE_CANDIDATES_H_

#include <filesystem>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/v1/recipe.pb.h"

namespace quant {

// What a tune job tries when it is told no candidates; docs/methods/tune.md lists them.
//   ONNX        dynamic; static; static with entropy ranges; static with bias correction and cross-layer equalization;
//               static with the first and last layer in floating point
//   checkpoint  gptq with 3 and 4 bits, awq with 4, nf4, rtn with 8; groups of 128, or the largest of 64 and 32 that
//               divides the inputs of all layers, or else one group per row
// Reads the header of a checkpoint, not its weights. Reason of errors: MODEL_INVALID or OPERATOR_UNSUPPORTED.
absl::StatusOr<std::vector<quant::v1::Recipe>> StandardCandidates(const std::filesystem::path& model);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_TUNE_CANDIDATES_H_
