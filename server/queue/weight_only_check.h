// SPDX-License-Identifier: Apache-2.0
// Checks of the weight-only methods' options (quant/v1/recipe.proto). Internal to server/queue.
#ifndef QUANT_SERVER_QUEUE_WEIGHT_ONLY_CHECK_H_
#define QUANT_SERVER_QUEUE_WEIGHT_ONLY_CHECK_H_

#include <string>

#include "absl/status/status.h"
#include "quant/v1/recipe.pb.h"

namespace quant {

// A grid, each of whose fields may be 0 for its default. INVALID_ARGUMENT naming field, value and what is allowed.
absl::Status CheckGrid(const std::string& at, const v1::WeightGrid& grid);

// The options of rtn, gptq, awq, nf4 and hqq; OK for any other method.
absl::Status CheckWeightOnly(const std::string& at, const v1::Recipe& recipe);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_WEIGHT_ONLY_CHECK_H_
