// SPDX-License-Identifier: Apache-2.0
// Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama with a sliding window in every block.

#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {

absl::StatusOr<LanguageModel> BuildMistral(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 131072}));
  ASSIGN_OR_RETURN(model.windows,
                   ReadWindows(checkpoint, model.sizes.layers, /*absent=*/4096, [](int64_t) { return true; }));
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
