// SPDX-License-Identifier: Apache-2.0
// Llama 1 to 3 (Touvron et al. 2023; Grattafiori et al. 2024), and whatever names itself so.

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildLlama(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {}));
  ASSIGN_OR_RETURN(const bool attention_bias, checkpoint.Bool("attention_bias", false));
  ASSIGN_OR_RETURN(const bool mlp_bias, checkpoint.Bool("mlp_bias", false));
  if (attention_bias) model.qkv_bias = model.o_bias = Bias::kNeeded;
  if (mlp_bias) model.mlp_bias = Bias::kNeeded;
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
