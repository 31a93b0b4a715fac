// SPDX-License-Identifier: Apache-2.0
// Gemma (Gemma Team 2024, arXiv 2403.08295): norms by 1 + weight, scaled embeddings, GELU gates.
#include <cmath>

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildGemma(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 8192, .head_dim = 256, .tied = true}));
  ASSIGN_OR_RETURN(const bool attention_bias, checkpoint.Bool("attention_bias", false));
  if (attention_bias) model.qkv_bias = model.o_bias = Bias::kNeeded;
  // The first checkpoints say hidden_act "gelu" and were trained with the tanh form.
  ASSIGN_OR_RETURN(const std::string act, checkpoint.String("hidden_act", "gelu"));
  ASSIGN_OR_RETURN(model.act, checkpoint.String("hidden_activation", act == "gelu" ? "gelu_pytorch_tanh" : act));
  RETURN_IF_ERROR(RefuseBidirectional(checkpoint));
  model.norm = NormKind::kRmsPlusOne;
  model.embedding_scale = std::sqrt(static_cast<double>(model.sizes.hidden));
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
