// SPDX-License-Identifier: Apache-2.0
// Qwen 2 and 2.5 (Yang et al. 2024, arXiv 2407.10671): biases on q, k and v; the upper blocks may slide.

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildQwen2(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 32768}));
  ASSIGN_OR_RETURN(model.windows, ReadQwenWindows(checkpoint, model.sizes.layers));
  model.qkv_bias = Bias::kNeeded;
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
