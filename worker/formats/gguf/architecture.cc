// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/architecture.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/huggingface/rope.h"

namespace quant {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 24;

absl::StatusOr<int64_t> Size(const Checkpoint& c, std::string_view key) {
  if (!c.Has(key)) return absl::InvalidArgumentError(absl::StrCat("config.json has no ", AbslView(key)));
  return c.Int(key, 0, 1, kMaxSize);
}

// Rotary positions. Of scaled ones, llama.cpp's "llama" can be given each frequency's divisor (rope_freqs.weight),
// which says all that does not depend on the length of the text; its qwen2 and qwen3 know what their keys say.
absl::Status SetRope(const Checkpoint& c, const huggingface::Rope& rope, GgufArchitecture* out) {
  if (rope.rotary_dim != out->head_dim) {
    return absl::UnimplementedError(absl::StrCat("config.json: ", rope.rotary_dim, " of a head's ", out->head_dim,
                                                 " dimensions turn; in llama.cpp all of them do in ", out->name));
  }
  const auto key = [&](const char* name, GgufValue value) {
    out->keys.emplace_back(absl::StrCat(out->name, ".rope.", name), std::move(value));
  };
  const auto unimplemented = [&](std::string_view what) {
    return absl::UnimplementedError(absl::StrCat("config.json: ", rope.block, " of type ", Quoted(rope.type),
                                                 AbslView(what), " is not written to GGUF files of ", out->name));
  };
  key("freq_base", static_cast<float>(rope.theta));
  double attention = rope.attention_factor;
  if (rope.type == "linear") {
    key("scaling.type", rope.type);
    key("scaling.factor", 1 / rope.inv_freq[0]);  // theta^0 over it
  } else if (out->name == "llama" && (rope.type == "llama3" || rope.type == "yarn")) {
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
      const double plain = std::pow(rope.theta, -2 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim));
      out->rope_factors.push_back(static_cast<float>(plain / rope.inv_freq[i]));
    }
  } else if (rope.type == "yarn") {
    ASSIGN_OR_RETURN(const double fast, c.Float(rope.block + "/beta_fast", 32));
    ASSIGN_OR_RETURN(const double slow, c.Float(rope.block + "/beta_slow", 1));
    ASSIGN_OR_RETURN(const bool truncate, c.Bool(rope.block + "/truncate", true));
    if (fast != 32 || slow != 1 || !truncate) {
      return unimplemented(" with other values than beta_fast 32, beta_slow 1 and truncate");
    }
    ASSIGN_OR_RETURN(const double factor, c.Float(rope.block + "/factor", 1));
    ASSIGN_OR_RETURN(int64_t original, c.Int("max_position_embeddings", 2048, 1, huggingface::kMaxPositions));
    ASSIGN_OR_RETURN(original,
                     c.Int(rope.block + "/original_max_position_embeddings", original, 1, huggingface::kMaxPositions));
    key("scaling.type", rope.type);
    key("scaling.factor", static_cast<float>(factor));
    key("scaling.original_context_length", static_cast<uint32_t>(original));
    attention /= 1 + 0.1 * std::log(factor);  // which llama.cpp multiplies with by itself
  } else if (rope.type != "default") {
    return unimplemented("");
  }
  if (std::abs(attention - 1) > 1e-6) key("scaling.attn_factor", static_cast<float>(attention));
  return absl::OkStatus();
}

bool IsPermuted(const GgufArchitecture& architecture, std::string_view name) {
  return architecture.permutes && (name.find(".self_attn.q_proj.") != std::string_view::npos ||
                                   name.find(".self_attn.k_proj.") != std::string_view::npos);
}

}  // namespace

absl::StatusOr<GgufArchitecture> ReadGgufArchitecture(const Checkpoint& c) {
  ASSIGN_OR_RETURN(const std::string type, c.String("model_type", ""));
  GgufArchitecture out;
  out.name = type == "mistral" ? "llama" : type;
  if (out.name != "llama" && out.name != "qwen2" && out.name != "qwen3") {
    return absl::UnimplementedError(
        absl::StrCat("models of type ", Quoted(type), " are not written to GGUF; llama, mistral, qwen2 and qwen3 are"));
  }
  out.permutes = out.name == "llama";
  ASSIGN_OR_RETURN(out.vocab_size, Size(c, "vocab_size"));
  ASSIGN_OR_RETURN(out.heads, Size(c, "num_attention_heads"));
  ASSIGN_OR_RETURN(out.kv_heads, c.Int("num_key_value_heads", out.heads, 1, kMaxSize));
  ASSIGN_OR_RETURN(const int64_t hidden, Size(c, "hidden_size"));
  ASSIGN_OR_RETURN(const int64_t layers, Size(c, "num_hidden_layers"));
  ASSIGN_OR_RETURN(const int64_t intermediate, Size(c, "intermediate_size"));
  ASSIGN_OR_RETURN(const int64_t context, c.Int("max_position_embeddings", 2048, 1, huggingface::kMaxPositions));
  ASSIGN_OR_RETURN(out.head_dim, c.Int("head_dim", hidden / out.heads, 1, kMaxSize));
  ASSIGN_OR_RETURN(const std::string act, c.String("hidden_act", "silu"));
  if (act != "silu" && act != "swish") {
    return absl::UnimplementedError(
        absl::StrCat("config.json: hidden_act is ", Quoted(act), ", but llama.cpp's ", out.name, " computes silu"));
  }
  ASSIGN_OR_RETURN(const double eps, c.Float("rms_norm_eps", 1e-6));
  if (out.head_dim % 2 != 0 || out.heads % out.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", out.heads, " heads of ", out.head_dim, " and ",
                                                   out.kv_heads, " key-value heads make no attention"));
  }
  const auto u32 = [&](const char* key, int64_t value) {
    out.keys.emplace_back(absl::StrCat(out.name, ".", key), static_cast<uint32_t>(value));
  };
  out.keys.emplace_back("general.architecture", out.name);
  u32("vocab_size", out.vocab_size);
  u32("context_length", context);
  u32("embedding_length", hidden);
  u32("block_count", layers);
  u32("feed_forward_length", intermediate);
  u32("attention.head_count", out.heads);
  u32("attention.head_count_kv", out.kv_heads);
  u32("rope.dimension_count", out.head_dim);
  if (out.head_dim != hidden / out.heads) {
    u32("attention.key_length", out.head_dim);
    u32("attention.value_length", out.head_dim);
  }
  out.keys.emplace_back(out.name + ".attention.layer_norm_rms_epsilon", static_cast<float>(eps));
  ASSIGN_OR_RETURN(const huggingface::Rope rope, huggingface::ReadRope(c, out.head_dim, context));
  RETURN_IF_ERROR(SetRope(c, rope, &out));
  ASSIGN_OR_RETURN(const bool windowed, c.Bool("use_sliding_window", type == "mistral"));
  if (windowed && c.Has("sliding_window")) {
    ASSIGN_OR_RETURN(const int64_t window, c.Int("sliding_window", 0, 0, int64_t{1} << 40));
    if (window > 0 && window < context) {
      out.notes.push_back(
          absl::StrCat("gguf: the model attends to the last ", window,
                       " tokens; llama.cpp has no such window for this architecture and differs beyond"));
    }
  }
  return out;
}

std::optional<std::string> GgufTensorName(std::string_view name) {
  if (name.ends_with("rotary_emb.inv_freq")) return "";
  const auto renamed = [&](std::string_view from, std::string_view to) -> std::optional<std::string> {
    if (!name.starts_with(from)) return std::nullopt;
    const std::string_view ending = name.substr(from.size());
    if (ending != ".weight" && ending != ".bias") return std::nullopt;
    return absl::StrCat(AbslView(to), AbslView(ending));
  };
  // Checkpoints of a base model have no "model.".
  if (constexpr std::string_view kBase = "model."; name.starts_with(kBase)) name.remove_prefix(kBase.size());
  for (const auto& [from, to] :
       {std::pair("embed_tokens", "token_embd"), std::pair("norm", "output_norm"), std::pair("lm_head", "output")}) {
    if (auto found = renamed(from, to); found.has_value()) return found;
  }
  constexpr std::string_view kLayers = "layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  const size_t dot = name.find('.', kLayers.size());
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string block = absl::StrCat("blk.", AbslView(name.substr(kLayers.size(), dot - kLayers.size())), ".");
  name = name.substr(dot + 1);
  static constexpr std::pair<std::string_view, std::string_view> kParts[] = {
      {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},       {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"}};
  for (const auto& [from, to] : kParts) {
    if (auto found = renamed(from, to); found.has_value()) return block + *found;
  }
  return std::nullopt;
}

int64_t GgufSourceRow(const GgufArchitecture& architecture, std::string_view name, int64_t row) {
  if (!IsPermuted(architecture, name)) return row;
  const int64_t head = row / architecture.head_dim, at = row % architecture.head_dim;
  return head * architecture.head_dim + at % 2 * (architecture.head_dim / 2) + at / 2;
}

int64_t GgufRowOf(const GgufArchitecture& architecture, std::string_view name, int64_t row) {
  if (!IsPermuted(architecture, name)) return row;
  const int64_t head = row / architecture.head_dim, at = row % architecture.head_dim, half = architecture.head_dim / 2;
  return head * architecture.head_dim + 2 * (at % half) + at / half;
}

}  // namespace quant
