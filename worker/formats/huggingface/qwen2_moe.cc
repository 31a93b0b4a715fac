// SPDX-License-Identifier: Apache-2.0
// Qwen 1.5 and 2 MoE (Yang et al. 2024, arXiv 2407.10671, section 2.2.2): many small experts and one for all tokens,
// which has a gate of its own. Some blocks may have an ordinary MLP.
#include <set>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/huggingface/families.h"
#include "worker/formats/huggingface/moe.h"
#include "worker/formats/huggingface/prenorm.h"

namespace quant::huggingface {
namespace {

absl::StatusOr<std::string> SparseMlp(Decoder& d, const std::string& module, const std::string& x,
                                      const Experts& experts, int64_t shared_intermediate) {
  ASSIGN_OR_RETURN(const std::string routed, MixtureOfExperts(d, module, x, experts));
  ASSIGN_OR_RETURN(const std::string shared,
                   GatedMlp(d, absl::StrCat(module, ".shared_expert"), x, shared_intermediate, experts.act));
  const std::string gate = absl::StrCat(module, ".shared_expert_gate");
  ASSIGN_OR_RETURN(const std::string product, d.Linear(gate, x, 1, d.sizes().hidden));
  const std::string open = d.Add(absl::StrCat(gate, ".sigmoid"), "Sigmoid", {product});
  const std::string gated = d.Add(absl::StrCat(module, ".shared"), "Mul", {shared, open});
  return d.Add(absl::StrCat(module, ".sum"), "Add", {routed, gated});
}

}  // namespace

absl::StatusOr<LanguageModel> BuildQwen2Moe(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(PreNorm model, ReadPreNorm(checkpoint, {.max_positions = 32768}));
  ASSIGN_OR_RETURN(model.windows, ReadQwenWindows(checkpoint, model.sizes.layers));
  if (!model.windows.empty() && !checkpoint.Has("layer_types")) {
    return absl::UnimplementedError(
        "config.json: use_sliding_window is true without layer_types; which blocks slide has differed between versions "
        "of Transformers, so layer_types must say it");
  }
  ASSIGN_OR_RETURN(const bool qkv_bias, checkpoint.Bool("qkv_bias", true));
  if (qkv_bias) model.qkv_bias = Bias::kNeeded;
  Experts experts{.act = model.act};
  ASSIGN_OR_RETURN(experts.count, checkpoint.Int("num_experts", 60, 1, kMaxExperts));
  ASSIGN_OR_RETURN(experts.per_token, checkpoint.Int("num_experts_per_tok", 4, 1, experts.count));
  ASSIGN_OR_RETURN(experts.normalize, checkpoint.Bool("norm_topk_prob", false));
  ASSIGN_OR_RETURN(experts.intermediate, Size(checkpoint, "moe_intermediate_size", kMaxIntermediate));
  ASSIGN_OR_RETURN(const int64_t shared, Size(checkpoint, "shared_expert_intermediate_size", kMaxIntermediate));
  ASSIGN_OR_RETURN(const int64_t step, checkpoint.Int("decoder_sparse_step", 1, 1, kMaxLayers));
  std::set<int64_t> dense;
  if (checkpoint.Has("mlp_only_layers")) {
    const nlohmann::json& list = *checkpoint.config().find("mlp_only_layers");
    if (!list.is_array()) return absl::InvalidArgumentError("config.json: mlp_only_layers is not a list");
    for (const nlohmann::json& layer : list) {
      if (!layer.is_number_integer()) {
        return absl::InvalidArgumentError("config.json: mlp_only_layers holds something that is not an integer");
      }
      dense.insert(layer.get<int64_t>());
    }
  }
  model.mlp = [=, act = model.act, intermediate = model.intermediate](Decoder& d, int64_t layer,
                                                                      const std::string& block, const std::string& x) {
    const std::string module = absl::StrCat(block, ".mlp");
    if (dense.contains(layer) || (layer + 1) % step != 0) return GatedMlp(d, module, x, intermediate, act);
    return SparseMlp(d, module, x, experts, shared);
  };
  return BuildPreNorm(checkpoint, options, model);
}

}  // namespace quant::huggingface
