// SPDX-License-Identifier: Apache-2.0
// Phi 3, 3.5 and 4-mini (Abdin et al. 2024, arXiv 2404.14219): one product for q, k and v, one for gate and up.

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildPhi3(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 4096, .norm_eps = 1e-5}));
  ASSIGN_OR_RETURN(model.windows,
                   ReadWindows(checkpoint, model.sizes.layers, /*absent=*/0, [](int64_t) { return true; }));
  model.fused = true;
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
