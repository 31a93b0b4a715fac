// SPDX-License-Identifier: Apache-2.0
// Small language models for the tests of formats that are run elsewhere, and what our reference backend makes of them.
#ifndef QUANT_WORKER_FORMATS_LANGUAGE_MODEL_TESTING_H_
#define QUANT_WORKER_FORMATS_LANGUAGE_MODEL_TESTING_H_

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/runtime/reference_backend.h"

namespace quant::testing {

inline const std::vector<int64_t> kTokens = {1, 5, 3, 2, 7, 30, 9, 11, 4, 8, 1, 6, 0};

// The logits of kTokens.
inline std::vector<float> InReference(const LanguageModel& model) {
  auto executable = CompileReference(std::make_shared<const Graph>(model.graph), {});
  CHECK_OK(executable.status());
  const auto out = (*executable)->Run({{Tensor::Of<int64_t>({1, static_cast<int64_t>(kTokens.size())}, kTokens)}});
  CHECK_OK(out.status());
  return *ToFloat((*out)[0]);
}

// A checkpoint of two blocks with random weights: a llama with other keys and tensors.
inline std::shared_ptr<const Checkpoint> MakeLanguageModel(const TempDir& dir, const nlohmann::json& more,
                                                           const std::map<std::string, Shape>& extra) {
  nlohmann::json config = {{"model_type", "llama"},      {"vocab_size", 32},         {"hidden_size", 64},
                           {"num_hidden_layers", 2},     {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                           {"intermediate_size", 96},    {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 64},
                           {"tie_word_embeddings", true}};
  config.update(more);
  std::mt19937 random(3);
  const auto floats = [&](Shape shape) {
    Tensor t = *Tensor::Allocate(DType::kFloat32, std::move(shape));
    for (float& v : t.mutable_data<float>()) v = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 4000;
    return *Cast(t, DType::kBFloat16);
  };
  std::vector<NamedTensor> tensors = {{"model.embed_tokens.weight", floats({32, 64})},
                                      {"model.norm.weight", floats({64})}};
  for (int i = 0; i < 2; ++i) {
    std::map<std::string, Shape> shapes = {
        {"input_layernorm.weight", {64}},      {"post_attention_layernorm.weight", {64}},
        {"self_attn.q_proj.weight", {64, 64}}, {"self_attn.k_proj.weight", {32, 64}},
        {"self_attn.v_proj.weight", {32, 64}}, {"self_attn.o_proj.weight", {64, 64}},
        {"mlp.gate_proj.weight", {96, 64}},    {"mlp.up_proj.weight", {96, 64}},
        {"mlp.down_proj.weight", {64, 96}}};
    shapes.insert(extra.begin(), extra.end());
    for (const auto& [name, shape] : shapes) {
      tensors.push_back({absl::StrCat("model.layers.", i, ".", name), floats(shape)});
    }
  }
  return MakeCheckpoint(dir.path(), config, tensors);
}

}  // namespace quant::testing

#endif  // QUANT_WORKER_FORMATS_LANGUAGE_MODEL_TESTING_H_
