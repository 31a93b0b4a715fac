// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/architecture.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 24;

absl::StatusOr<int64_t> Size(const Checkpoint& c, std::string_view key) {
  if (!c.Has(key)) return absl::InvalidArgumentError(absl::StrCat("config.json has no ", AbslView(key)));
  return c.Int(key, 0, 1, kMaxSize);
}

// Keys and factors of rope_scaling (Hugging Face transformers modeling_rope_utils.py).
absl::Status ReadRopeScaling(const Checkpoint& c, double base, GgufArchitecture* out) {
  if (!c.Has("rope_scaling")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string older, c.String("rope_scaling/type", "default"));
  ASSIGN_OR_RETURN(const std::string type, c.String("rope_scaling/rope_type", older));
  if (type == "default") return absl::OkStatus();
  ASSIGN_OR_RETURN(const double factor, c.Float("rope_scaling/factor", 1));
  if (!(factor > 0)) return absl::InvalidArgumentError(absl::StrCat("config.json: rope_scaling/factor is ", factor));
  ASSIGN_OR_RETURN(const int64_t original, c.Int("rope_scaling/original_max_position_embeddings", 8192, 1, kMaxSize));
  if (type == "linear" || type == "yarn") {
    out->keys.emplace_back(out->name + ".rope.scaling.type", type);
    out->keys.emplace_back(out->name + ".rope.scaling.factor", static_cast<float>(factor));
    if (type == "yarn") {
      out->keys.emplace_back(out->name + ".rope.scaling.original_context_length", static_cast<uint32_t>(original));
    }
    return absl::OkStatus();
  }
  if (type != "llama3") {
    return absl::UnimplementedError(absl::StrCat("config.json: rope_scaling of type ", Quoted(type),
                                                 " is not written to GGUF; linear, yarn and llama3 are"));
  }
  ASSIGN_OR_RETURN(const double low, c.Float("rope_scaling/low_freq_factor", 1));
  ASSIGN_OR_RETURN(const double high, c.Float("rope_scaling/high_freq_factor", 4));
  if (!(low > 0) || !(high > low)) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: rope_scaling has low_freq_factor ", low, " and high_freq_factor ", high));
  }
  const auto context = static_cast<double>(original);
  for (int64_t i = 0; i < out->head_dim; i += 2) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(base, static_cast<double>(i) / static_cast<double>(out->head_dim));
    double divide = 1;
    if (wavelength > context / low) {
      divide = factor;
    } else if (wavelength >= context / high) {
      const double smooth = (context / wavelength - low) / (high - low);
      divide = 1 / ((1 - smooth) / factor + smooth);
    }
    out->rope_factors.push_back(static_cast<float>(divide));
  }
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
  ASSIGN_OR_RETURN(const int64_t context, c.Int("max_position_embeddings", 2048, 1, int64_t{1} << 31));
  ASSIGN_OR_RETURN(out.head_dim, c.Int("head_dim", hidden / out.heads, 1, kMaxSize));
  ASSIGN_OR_RETURN(const double eps, c.Float("rms_norm_eps", 1e-6));
  ASSIGN_OR_RETURN(const double base, c.Float("rope_theta", 10000));
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
  out.keys.emplace_back(out.name + ".rope.freq_base", static_cast<float>(base));
  RETURN_IF_ERROR(ReadRopeScaling(c, base, &out));
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
  for (const auto& [from, to] : {std::pair("model.embed_tokens", "token_embd"), std::pair("model.norm", "output_norm"),
                                 std::pair("lm_head", "output")}) {
    if (auto found = renamed(from, to); found.has_value()) return found;
  }
  constexpr std::string_view kLayers = "model.layers.";
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
