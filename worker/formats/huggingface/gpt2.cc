// SPDX-License-Identifier: Apache-2.0
// GPT-2 (Radford et al. 2019): learned positions, LayerNorm, weights stored [inputs, outputs], q, k and v in one.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/huggingface/decoder.h"
#include "worker/formats/huggingface/families.h"

namespace quant::huggingface {
namespace {

struct Gpt2 {
  Sizes sizes;
  int64_t inner = 0;
  double eps = 0;
  std::string act;
  bool scale = true, scale_by_layer = false;
};

absl::StatusOr<Gpt2> Read(const Checkpoint& checkpoint) {
  Gpt2 m;
  ASSIGN_OR_RETURN(m.sizes.vocab, Size(checkpoint, "vocab_size", kMaxVocab));
  ASSIGN_OR_RETURN(m.sizes.hidden, Size(checkpoint, "n_embd", kMaxHidden));
  ASSIGN_OR_RETURN(m.sizes.layers, Size(checkpoint, "n_layer", kMaxLayers));
  ASSIGN_OR_RETURN(m.sizes.heads, Size(checkpoint, "n_head", kMaxHeads));
  if (m.sizes.hidden % m.sizes.heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: n_head, ", m.sizes.heads, ", does not divide n_embd, ", m.sizes.hidden));
  }
  m.sizes.kv_heads = m.sizes.heads;
  m.sizes.head_dim = m.sizes.hidden / m.sizes.heads;
  ASSIGN_OR_RETURN(m.sizes.max_positions, checkpoint.Int("n_positions", 1024, 1, kMaxPositions));
  ASSIGN_OR_RETURN(m.inner, checkpoint.Int("n_inner", 4 * m.sizes.hidden, 1, kMaxIntermediate));
  ASSIGN_OR_RETURN(m.eps, NonNegative(checkpoint, "layer_norm_epsilon", 1e-5));
  ASSIGN_OR_RETURN(m.act, checkpoint.String("activation_function", "gelu_new"));
  ASSIGN_OR_RETURN(m.scale, checkpoint.Bool("scale_attn_weights", true));
  ASSIGN_OR_RETURN(m.scale_by_layer, checkpoint.Bool("scale_attn_by_inverse_layer_idx", false));
  return m;
}

absl::StatusOr<std::string> Block(Decoder& d, const Gpt2& m, int64_t layer, const std::string& x) {
  const int64_t hidden = m.sizes.hidden;
  const std::string block = absl::StrCat(d.prefix(), "h.", layer);
  const auto linear = [&](const char* name, const std::string& v, int64_t rows, int64_t cols) {
    return d.Linear(absl::StrCat(block, name), v, rows, cols, Bias::kNeeded, /*conv1d=*/true);
  };
  AttentionOptions attention{.scale = m.scale ? 1 / std::sqrt(static_cast<double>(m.sizes.head_dim)) : 1.0};
  if (m.scale_by_layer) attention.scale /= static_cast<double>(layer + 1);

  ASSIGN_OR_RETURN(const std::string normed, d.Norm(absl::StrCat(block, ".ln_1"), x, hidden, NormKind::kLayer, m.eps));
  ASSIGN_OR_RETURN(const std::string fused, linear(".attn.c_attn", normed, 3 * hidden, hidden));
  const auto qkv = d.Split(absl::StrCat(block, ".attn.c_attn.split"), fused, {hidden, hidden, hidden});
  const std::string mixed = d.Attention(layer, absl::StrCat(block, ".attn"), qkv[0], qkv[1], qkv[2], attention);
  ASSIGN_OR_RETURN(const std::string projected, linear(".attn.c_proj", mixed, hidden, hidden));
  const std::string middle = d.Add(absl::StrCat(block, ".middle"), "Add", {x, projected});

  ASSIGN_OR_RETURN(const std::string u, d.Norm(absl::StrCat(block, ".ln_2"), middle, hidden, NormKind::kLayer, m.eps));
  ASSIGN_OR_RETURN(const std::string wide, linear(".mlp.c_fc", u, m.inner, hidden));
  ASSIGN_OR_RETURN(const std::string active, d.Activation(absl::StrCat(block, ".mlp.act"), m.act, wide));
  ASSIGN_OR_RETURN(const std::string narrow, linear(".mlp.c_proj", active, hidden, m.inner));
  return d.Add(block, "Add", {middle, narrow});
}

}  // namespace

absl::StatusOr<LanguageModel> BuildGpt2(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(const Gpt2 m, Read(checkpoint));
  ASSIGN_OR_RETURN(const bool tied, checkpoint.Bool("tie_word_embeddings", true));
  ASSIGN_OR_RETURN(Decoder d, Decoder::Create(checkpoint, options, m.sizes, {"transformer.", ""}, "wte.weight"));
  const std::string embedding = absl::StrCat(d.prefix(), "wte");
  ASSIGN_OR_RETURN(const std::string tokens, d.Embed(embedding, m.sizes.hidden));
  ASSIGN_OR_RETURN(const std::string positions,
                   d.LearnedPositions(absl::StrCat(d.prefix(), "wpe"), m.sizes.max_positions, 0));
  std::string x = d.Add("embedded", "Add", {tokens, positions});
  d.Cut(x);
  for (int64_t layer = 0; layer < m.sizes.layers; ++layer) {
    ASSIGN_OR_RETURN(x, Block(d, m, layer, x));
    d.Cut(x);
  }
  RETURN_IF_ERROR(d.CheckAllRead(absl::StrCat(d.prefix(), "h.")));
  ASSIGN_OR_RETURN(x, d.Norm(absl::StrCat(d.prefix(), "ln_f"), x, m.sizes.hidden, NormKind::kLayer, m.eps));
  return std::move(d).Finish(x, embedding, m.sizes.hidden, tied);
}

}  // namespace quant::huggingface
