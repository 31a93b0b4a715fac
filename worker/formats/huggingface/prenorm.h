// SPDX-License-Identifier: Apache-2.0
// The decoder of Llama (Touvron et al. 2023, arXiv 2302.13971) with the options that later families added to it. Block:
//
//   a = x + [norm](attention(norm(x)))
//   y = a + [norm](mlp(norm(a)))          mlp(u) = down(act(gate(u)) * up(u))
//
// Norms are RMSNorm, positions rotary, q/k/v separate or fused, attention grouped-query.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_PRENORM_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_PRENORM_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/huggingface/decoder.h"
#include "worker/formats/huggingface/rope.h"

namespace quant::huggingface {

struct PreNorm {
  Sizes sizes;
  Rope rope;
  std::string act;
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  int64_t intermediate = 0;
  Bias qkv_bias = Bias::kWhereStored;
  Bias o_bias = Bias::kWhereStored;
  Bias mlp_bias = Bias::kWhereStored;
  bool fused = false;            // self_attn.qkv_proj and mlp.gate_up_proj: Phi 3
  bool qk_norm = false;          // per head, before the rotation: Qwen 3
  bool post_norms = false;       // the norms in brackets: Gemma 2
  AttentionOptions attention;    // its window is set by `windows`
  std::vector<int64_t> windows;  // per block, 0 for full attention; empty: all full
  double embedding_scale = 1;
  double logit_softcap = 0;
  bool tied = false;
  // Replaces the gated MLP of block `layer`: (decoder, layer, name of the block, x) -> mlp(x).
  std::function<absl::StatusOr<std::string>(Decoder&, int64_t, const std::string&, const std::string&)> mlp;
};

// The keys these families share: ReadSizes, ReadRope, rms_norm_eps, intermediate_size, hidden_act, tie_word_embeddings.
struct PreNormDefaults {
  int64_t max_positions = 2048;
  double norm_eps = 1e-6;
  int64_t head_dim = 0;  // 0: hidden / heads
  bool tied = false;
};
absl::StatusOr<PreNorm> ReadPreNorm(const Checkpoint& checkpoint, const PreNormDefaults& defaults);

// The sliding window of each block: config.json's sliding_window (absent: `absent`; null or 0: none) where layer_types
// says "sliding_attention", or without layer_types where `slides` does. INVALID_ARGUMENT: layer_types is not a list of
// one known type per layer.
absl::StatusOr<std::vector<int64_t>> ReadWindows(const Checkpoint& checkpoint, int64_t layers, int64_t absent,
                                                 const std::function<bool(int64_t layer)>& slides);
// The same by Qwen's keys: use_sliding_window turns windows on, for blocks from max_window_layers up.
absl::StatusOr<std::vector<int64_t>> ReadQwenWindows(const Checkpoint& checkpoint, int64_t layers);

// UNIMPLEMENTED when use_bidirectional_attention is true (Gemma's embedding models).
absl::Status RefuseBidirectional(const Checkpoint& checkpoint);

// down(act(gate(x)) * up(x)) of module `name`, whose layers are called so.
struct GatedNames {
  const char* gate = "gate_proj";
  const char* up = "up_proj";
  const char* down = "down_proj";
};
absl::StatusOr<std::string> GatedMlp(Decoder& decoder, const std::string& name, const std::string& x,
                                     int64_t intermediate, const std::string& act, Bias bias = Bias::kWhereStored,
                                     const GatedNames& names = {});

absl::StatusOr<LanguageModel> BuildPreNorm(const Checkpoint& checkpoint, const BuildOptions& options,
                                           const PreNorm& model);

}  // namespace quant::huggingface

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_PRENORM_H_
