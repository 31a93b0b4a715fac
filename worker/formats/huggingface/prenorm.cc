// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/prenorm.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant::huggingface {
namespace {

absl::StatusOr<std::string> AttentionLayer(Decoder& d, const PreNorm& model, int64_t layer, const std::string& module,
                                           const std::string& x) {
  const Sizes& s = d.sizes();
  const int64_t q_size = s.heads * s.head_dim, kv_size = s.kv_heads * s.head_dim;
  std::vector<std::string> qkv;
  if (model.fused) {
    const std::string fused = absl::StrCat(module, ".qkv_proj");
    ASSIGN_OR_RETURN(const std::string all, d.Linear(fused, x, q_size + 2 * kv_size, s.hidden, model.qkv_bias));
    qkv = d.Split(absl::StrCat(fused, ".split"), all, {q_size, kv_size, kv_size});
  } else {
    for (const char* name : {".q_proj", ".k_proj", ".v_proj"}) {
      const int64_t rows = qkv.empty() ? q_size : kv_size;
      ASSIGN_OR_RETURN(std::string y, d.Linear(absl::StrCat(module, name), x, rows, s.hidden, model.qkv_bias));
      qkv.push_back(std::move(y));
    }
  }
  for (size_t i = 0; i < 2; ++i) {
    const int64_t heads = i == 0 ? s.heads : s.kv_heads;
    const std::string which = absl::StrCat(module, i == 0 ? ".q" : ".k");
    if (model.qk_norm) {
      const std::string split = d.Reshape(absl::StrCat(which, ".heads"), qkv[i], {heads, s.head_dim});
      ASSIGN_OR_RETURN(const std::string normed,
                       d.Norm(absl::StrCat(which, "_norm"), split, s.head_dim, model.norm, model.norm_eps));
      qkv[i] = d.Reshape(absl::StrCat(which, ".normed"), normed, {heads * s.head_dim});
    }
    qkv[i] = d.Rotate(absl::StrCat(which, ".rotated"), model.rope, qkv[i], heads);
  }
  AttentionOptions options = model.attention;
  options.window = model.windows.empty() ? 0 : model.windows[static_cast<size_t>(layer)];
  const std::string mixed = d.Attention(layer, module, qkv[0], qkv[1], qkv[2], options);
  return d.Linear(absl::StrCat(module, ".o_proj"), mixed, s.hidden, q_size, model.o_bias);
}

absl::StatusOr<std::string> MlpLayer(Decoder& d, const PreNorm& model, int64_t layer, const std::string& block,
                                     const std::string& x) {
  if (model.mlp) return model.mlp(d, layer, block, x);
  const std::string module = absl::StrCat(block, ".mlp");
  if (!model.fused) return GatedMlp(d, module, x, model.intermediate, model.act, model.mlp_bias);
  const int64_t hidden = d.sizes().hidden;
  const std::string fused = absl::StrCat(module, ".gate_up_proj");
  ASSIGN_OR_RETURN(const std::string both, d.Linear(fused, x, 2 * model.intermediate, hidden, model.mlp_bias));
  const auto halves = d.Split(absl::StrCat(fused, ".split"), both, {model.intermediate, model.intermediate});
  ASSIGN_OR_RETURN(const std::string gate, d.Activation(absl::StrCat(module, ".act"), model.act, halves[0]));
  const std::string product = d.Add(absl::StrCat(module, ".gated"), "Mul", {gate, halves[1]});
  return d.Linear(absl::StrCat(module, ".down_proj"), product, hidden, model.intermediate, model.mlp_bias);
}

absl::StatusOr<std::string> Block(Decoder& d, const PreNorm& model, int64_t layer, const std::string& x) {
  const std::string block = absl::StrCat(d.prefix(), "layers.", layer);
  const auto norm = [&](const char* name, const std::string& v) {
    return d.Norm(absl::StrCat(block, name), v, d.sizes().hidden, model.norm, model.norm_eps);
  };
  ASSIGN_OR_RETURN(const std::string normed, norm(".input_layernorm", x));
  ASSIGN_OR_RETURN(std::string attention, AttentionLayer(d, model, layer, absl::StrCat(block, ".self_attn"), normed));
  if (model.post_norms) {
    ASSIGN_OR_RETURN(attention, norm(".post_attention_layernorm", attention));
  }
  const std::string middle = d.Add(absl::StrCat(block, ".middle"), "Add", {x, attention});
  ASSIGN_OR_RETURN(const std::string u,
                   norm(model.post_norms ? ".pre_feedforward_layernorm" : ".post_attention_layernorm", middle));
  ASSIGN_OR_RETURN(std::string mlp, MlpLayer(d, model, layer, block, u));
  if (model.post_norms) {
    ASSIGN_OR_RETURN(mlp, norm(".post_feedforward_layernorm", mlp));
  }
  return d.Add(block, "Add", {middle, mlp});
}

}  // namespace

absl::StatusOr<PreNorm> ReadPreNorm(const Checkpoint& checkpoint, const PreNormDefaults& defaults) {
  PreNorm m;
  ASSIGN_OR_RETURN(m.sizes, ReadSizes(checkpoint, defaults.max_positions, defaults.head_dim));
  ASSIGN_OR_RETURN(m.rope, ReadRope(checkpoint, m.sizes.head_dim, m.sizes.max_positions));
  ASSIGN_OR_RETURN(m.norm_eps, NonNegative(checkpoint, "rms_norm_eps", defaults.norm_eps));
  ASSIGN_OR_RETURN(m.intermediate, Size(checkpoint, "intermediate_size", kMaxIntermediate));
  ASSIGN_OR_RETURN(m.act, checkpoint.String("hidden_act", "silu"));
  ASSIGN_OR_RETURN(m.tied, checkpoint.Bool("tie_word_embeddings", defaults.tied));
  return m;
}

absl::StatusOr<std::vector<int64_t>> ReadWindows(const Checkpoint& checkpoint, int64_t layers, int64_t absent,
                                                 const std::function<bool(int64_t layer)>& slides) {
  const bool is_given = checkpoint.config().contains("sliding_window");
  ASSIGN_OR_RETURN(const int64_t window, checkpoint.Int("sliding_window", is_given ? 0 : absent, 0, kMaxPositions));
  std::vector<int64_t> windows(static_cast<size_t>(layers), 0);
  const auto types = checkpoint.config().find("layer_types");
  const bool has_types = types != checkpoint.config().end() && !types->is_null();
  if (has_types && (!types->is_array() || types->size() != windows.size())) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: layer_types is not a list of ", layers, " types"));
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    bool is_sliding = slides(static_cast<int64_t>(i));
    if (has_types) {
      const nlohmann::json& type = (*types)[i];
      is_sliding = type == "sliding_attention";
      if (!is_sliding && type != "full_attention") {
        return absl::InvalidArgumentError(absl::StrCat("config.json: layer_types[", i, "] is ", Quoted(type.dump()),
                                                       "; known are full_attention and sliding_attention"));
      }
    }
    if (is_sliding) windows[i] = window;
  }
  return windows;
}

absl::StatusOr<std::vector<int64_t>> ReadQwenWindows(const Checkpoint& checkpoint, int64_t layers) {
  ASSIGN_OR_RETURN(const bool use_window, checkpoint.Bool("use_sliding_window", false));
  if (!use_window) return std::vector<int64_t>();
  ASSIGN_OR_RETURN(const int64_t first, checkpoint.Int("max_window_layers", 28, 0, kMaxPositions));
  return ReadWindows(checkpoint, layers, /*absent=*/4096, [first](int64_t layer) { return layer >= first; });
}

absl::Status RefuseBidirectional(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const bool is_on, checkpoint.Bool("use_bidirectional_attention", false));
  if (!is_on) return absl::OkStatus();
  return absl::UnimplementedError("config.json: use_bidirectional_attention is true; only causal models are built");
}

absl::StatusOr<std::string> GatedMlp(Decoder& d, const std::string& name, const std::string& x, int64_t intermediate,
                                     const std::string& act, Bias bias, const GatedNames& names) {
  const int64_t hidden = d.sizes().hidden;
  ASSIGN_OR_RETURN(const std::string gate,
                   d.Linear(absl::StrCat(name, ".", names.gate), x, intermediate, hidden, bias));
  ASSIGN_OR_RETURN(const std::string up, d.Linear(absl::StrCat(name, ".", names.up), x, intermediate, hidden, bias));
  ASSIGN_OR_RETURN(const std::string active, d.Activation(absl::StrCat(name, ".act"), act, gate));
  const std::string product = d.Add(absl::StrCat(name, ".gated"), "Mul", {active, up});
  return d.Linear(absl::StrCat(name, ".", names.down), product, hidden, intermediate, bias);
}

absl::StatusOr<LanguageModel> BuildPreNorm(const Checkpoint& checkpoint, const BuildOptions& options,
                                           const PreNorm& model) {
  ASSIGN_OR_RETURN(Decoder d, Decoder::Create(checkpoint, options, model.sizes, {"model.", ""}, "embed_tokens.weight"));
  const std::string embedding = absl::StrCat(d.prefix(), "embed_tokens");
  ASSIGN_OR_RETURN(std::string x, d.Embed(embedding, model.sizes.hidden));
  if (model.embedding_scale != 1) {
    const std::string scale = d.Scalar(static_cast<float>(model.embedding_scale));
    x = d.Add(absl::StrCat(embedding, ".scaled"), "Mul", {x, scale});
  }
  d.Cut(x);
  for (int64_t layer = 0; layer < model.sizes.layers; ++layer) {
    ASSIGN_OR_RETURN(x, Block(d, model, layer, x));
    d.Cut(x);
  }
  RETURN_IF_ERROR(d.CheckAllRead(absl::StrCat(d.prefix(), "layers.")));
  ASSIGN_OR_RETURN(x, d.Norm(absl::StrCat(d.prefix(), "norm"), x, model.sizes.hidden, model.norm, model.norm_eps));
  return std::move(d).Finish(x, embedding, model.sizes.hidden, model.tied, model.logit_softcap);
}

}  // namespace quant::huggingface
