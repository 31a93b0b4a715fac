// SPDX-License-Identifier: Apache-2.0
// Qwen 3 (Yang et al. 2025, arXiv 2505.09388): RMSNorm over each head of q and k, head_dim of its own.

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildQwen3(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 32768, .head_dim = 128}));
  ASSIGN_OR_RETURN(model.windows, ReadQwenWindows(checkpoint, model.sizes.layers));
  ASSIGN_OR_RETURN(const bool attention_bias, checkpoint.Bool("attention_bias", false));
  if (attention_bias) model.qkv_bias = model.o_bias = Bias::kNeeded;
  model.qk_norm = true;
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
