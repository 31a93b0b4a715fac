// SPDX-License-Identifier: Apache-2.0
// OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions from row 2 on, LayerNorm before or (350m) after a layer,
// embeddings that may be narrower than the model.

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/huggingface/decoder.h"
#include "worker/formats/huggingface/families.h"

namespace quant::huggingface {
namespace {

constexpr double kEps = 1e-5;  // PyTorch's; OPT has no key for it
constexpr int64_t kPositionOffset = 2;

struct Opt {
  Sizes sizes;
  int64_t ffn = 0, embedding = 0;
  std::string act;
  bool norm_before = true, final_norm = true;
  Bias bias = Bias::kNeeded;
};

absl::StatusOr<Opt> Read(const Checkpoint& checkpoint) {
  Opt m;
  ASSIGN_OR_RETURN(m.sizes, ReadSizes(checkpoint, 2048));
  m.sizes.kv_heads = m.sizes.heads;
  ASSIGN_OR_RETURN(m.ffn, Size(checkpoint, "ffn_dim", kMaxIntermediate));
  ASSIGN_OR_RETURN(m.embedding, checkpoint.Int("word_embed_proj_dim", m.sizes.hidden, 1, kMaxHidden));
  ASSIGN_OR_RETURN(m.act, checkpoint.String("activation_function", "relu"));
  ASSIGN_OR_RETURN(m.norm_before, checkpoint.Bool("do_layer_norm_before", true));
  ASSIGN_OR_RETURN(const bool remove, checkpoint.Bool("_remove_final_layer_norm", false));
  m.final_norm = m.norm_before && !remove;
  ASSIGN_OR_RETURN(const bool enable_bias, checkpoint.Bool("enable_bias", true));
  if (!enable_bias) m.bias = Bias::kWhereStored;
  ASSIGN_OR_RETURN(const bool affine, checkpoint.Bool("layer_norm_elementwise_affine", true));
  if (!affine) {
    return absl::UnimplementedError("config.json: layer_norm_elementwise_affine is false; norms need their weights");
  }
  return m;
}

absl::StatusOr<std::string> Block(Decoder& d, const Opt& m, int64_t layer, std::string x) {
  const int64_t hidden = m.sizes.hidden;
  const std::string block = absl::StrCat(d.prefix(), "layers.", layer);
  const auto linear = [&](const char* name, const std::string& v, int64_t rows, int64_t cols) {
    return d.Linear(absl::StrCat(block, name), v, rows, cols, m.bias);
  };
  const auto norm = [&](const char* name, const std::string& v) {
    return d.Norm(absl::StrCat(block, name), v, hidden, NormKind::kLayer, kEps);
  };
  std::string u = x;
  if (m.norm_before) {
    ASSIGN_OR_RETURN(u, norm(".self_attn_layer_norm", x));
  }
  ASSIGN_OR_RETURN(const std::string q, linear(".self_attn.q_proj", u, hidden, hidden));
  ASSIGN_OR_RETURN(const std::string k, linear(".self_attn.k_proj", u, hidden, hidden));
  ASSIGN_OR_RETURN(const std::string v, linear(".self_attn.v_proj", u, hidden, hidden));
  const std::string mixed = d.Attention(layer, absl::StrCat(block, ".self_attn"), q, k, v, {});
  ASSIGN_OR_RETURN(const std::string projected, linear(".self_attn.out_proj", mixed, hidden, hidden));
  x = d.Add(absl::StrCat(block, ".middle"), "Add", {x, projected});
  if (!m.norm_before) {
    ASSIGN_OR_RETURN(x, norm(".self_attn_layer_norm", x));
  }
  u = x;
  if (m.norm_before) {
    ASSIGN_OR_RETURN(u, norm(".final_layer_norm", x));
  }
  ASSIGN_OR_RETURN(const std::string wide, linear(".fc1", u, m.ffn, hidden));
  ASSIGN_OR_RETURN(const std::string active, d.Activation(absl::StrCat(block, ".act"), m.act, wide));
  ASSIGN_OR_RETURN(const std::string narrow, linear(".fc2", active, hidden, m.ffn));
  x = d.Add(block, "Add", {x, narrow});
  if (m.norm_before) return x;
  return norm(".final_layer_norm", x);
}

}  // namespace

absl::StatusOr<LanguageModel> BuildOpt(const Checkpoint& checkpoint, const BuildOptions& options) {
  ASSIGN_OR_RETURN(const Opt m, Read(checkpoint));
  ASSIGN_OR_RETURN(const bool tied, checkpoint.Bool("tie_word_embeddings", true));
  ASSIGN_OR_RETURN(Decoder d, Decoder::Create(checkpoint, options, m.sizes, {"model.decoder.", "decoder.", ""},
                                              "embed_tokens.weight"));
  const int64_t hidden = m.sizes.hidden;
  const auto named = [&](const char* name) { return absl::StrCat(d.prefix(), name); };
  ASSIGN_OR_RETURN(std::string x, d.Embed(named("embed_tokens"), m.embedding));
  if (m.embedding != hidden) {
    ASSIGN_OR_RETURN(x, d.Linear(named("project_in"), x, hidden, m.embedding));
  }
  ASSIGN_OR_RETURN(
      const std::string positions,
      d.LearnedPositions(named("embed_positions"), m.sizes.max_positions + kPositionOffset, kPositionOffset));
  x = d.Add("embedded", "Add", {x, positions});
  d.Cut(x);
  for (int64_t layer = 0; layer < m.sizes.layers; ++layer) {
    ASSIGN_OR_RETURN(x, Block(d, m, layer, x));
    d.Cut(x);
  }
  RETURN_IF_ERROR(d.CheckAllRead(named("layers.")));
  if (m.final_norm) {
    ASSIGN_OR_RETURN(x, d.Norm(named("final_layer_norm"), x, hidden, NormKind::kLayer, kEps));
  }
  if (m.embedding != hidden) {
    ASSIGN_OR_RETURN(x, d.Linear(named("project_out"), x, m.embedding, hidden));
  }
  return std::move(d).Finish(x, named("embed_tokens"), m.embedding, tied);
}

}  // namespace quant::huggingface
