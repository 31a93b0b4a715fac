// SPDX-License-Identifier: Apache-2.0
// Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral whose MLPs are mixtures of experts.

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/moe.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildMixtral(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 131072, .norm_eps = 1e-5}));
  ASSIGN_OR_RETURN(model.windows,
                   ReadWindows(checkpoint, model.sizes.layers, /*absent=*/0, [](int64_t) { return true; }));
  Experts experts{.intermediate = model.intermediate, .normalize = true, .act = model.act, .names = {"w1", "w3", "w2"}};
  ASSIGN_OR_RETURN(experts.count, checkpoint.Int("num_local_experts", 8, 1, kMaxExperts));
  ASSIGN_OR_RETURN(experts.per_token, checkpoint.Int("num_experts_per_tok", 2, 1, experts.count));
  model.mlp = [experts](Decoder& d, int64_t, const std::string& block, const std::string& x) {
    return MixtureOfExperts(d, absl::StrCat(block, ".block_sparse_moe"), x, experts);
  };
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
