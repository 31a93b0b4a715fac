// SPDX-License-Identifier: Apache-2.0
// Gemma 2 (Gemma Team 2024, arXiv 2408.00118): Gemma with norms on both sides, soft caps, every other block sliding.
#include <cmath>

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildGemma2(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 8192, .head_dim = 256, .tied = true}));
  ASSIGN_OR_RETURN(model.windows,
                   ReadWindows(checkpoint, model.sizes.layers, /*absent=*/4096, [](int64_t i) { return i % 2 == 0; }));
  ASSIGN_OR_RETURN(const bool attention_bias, checkpoint.Bool("attention_bias", false));
  if (attention_bias) model.qkv_bias = model.o_bias = Bias::kNeeded;
  ASSIGN_OR_RETURN(model.act, checkpoint.String("hidden_activation", "gelu_pytorch_tanh"));
  RETURN_IF_ERROR(RefuseBidirectional(checkpoint));
  ASSIGN_OR_RETURN(const double per_head, NonNegative(checkpoint, "query_pre_attn_scalar", 256));
  if (per_head == 0) return absl::InvalidArgumentError("config.json: query_pre_attn_scalar is 0");
  model.attention.scale = 1 / std::sqrt(per_head);
  // Absent is the published value; null is none.
  const auto cap = [&](const char* key, double absent) {
    return NonNegative(checkpoint, key, checkpoint.config().contains(key) ? 0 : absent);
  };
  ASSIGN_OR_RETURN(model.attention.softcap, cap("attn_logit_softcapping", 50));
  ASSIGN_OR_RETURN(model.logit_softcap, cap("final_logit_softcapping", 30));
  model.norm = NormKind::kRmsPlusOne;
  model.post_norms = true;
  model.embedding_scale = std::sqrt(static_cast<double>(model.sizes.hidden));
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
