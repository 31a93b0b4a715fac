// SPDX-License-Identifier: Apache-2.0
// Structure and refusals. That the graphs compute the right numbers is shown by tests/integration/huggingface_test.py.
#include "worker/formats/huggingface/builder.h"

#include <functional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/huggingface/rope.h"
#include "worker/formats/huggingface/testing.h"
#include "worker/graph/linear.h"

namespace quant {
namespace {

using ::quant::testing::Shapes;
using ::quant::testing::TempDir;
using ::quant::testing::WriteCheckpoint;
using ::quant::testing::WriteFile;
using ::quant::testing::ZeroTensors;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

nlohmann::json LlamaConfig() {
  return {{"model_type", "llama"},      {"vocab_size", 32},         {"hidden_size", 8},
          {"num_hidden_layers", 2},     {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"intermediate_size", 12},    {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 128},
          {"tie_word_embeddings", true}};
}

Shapes LlamaShapes() {
  Shapes s = {{"model.embed_tokens.weight", {32, 8}}, {"model.norm.weight", {8}}};
  for (int i = 0; i < 2; ++i) {
    const std::string p = absl::StrCat("model.layers.", i, ".");
    s[p + "input_layernorm.weight"] = s[p + "post_attention_layernorm.weight"] = {8};
    s[p + "self_attn.q_proj.weight"] = s[p + "self_attn.o_proj.weight"] = {8, 8};
    s[p + "self_attn.k_proj.weight"] = s[p + "self_attn.v_proj.weight"] = {4, 8};
    s[p + "mlp.gate_proj.weight"] = s[p + "mlp.up_proj.weight"] = {12, 8};
    s[p + "mlp.down_proj.weight"] = {8, 12};
  }
  return s;
}

absl::StatusOr<LanguageModel> Build(const nlohmann::json& config, const Shapes& shapes,
                                    const BuildOptions& options = {}) {
  TempDir dir;
  WriteCheckpoint(dir.path(), config, shapes);
  absl::StatusOr<std::shared_ptr<const Checkpoint>> c = Checkpoint::Open(dir.path());
  if (!c.ok()) return c.status();
  return BuildLanguageModel(**c, options);
}

void ExpectRefused(const nlohmann::json& config, const Shapes& shapes, absl::StatusCode code, const std::string& says) {
  const auto m = Build(config, shapes);
  ASSERT_FALSE(m.ok()) << says;
  EXPECT_EQ(m.status().code(), code) << m.status();
  EXPECT_THAT(std::string(m.status().message()), HasSubstr(says));
}

void ExpectInvalid(const nlohmann::json& config, const Shapes& shapes, const std::string& says) {
  ExpectRefused(config, shapes, absl::StatusCode::kInvalidArgument, says);
}

nlohmann::json With(const std::string& key, const nlohmann::json& value) {
  nlohmann::json c = LlamaConfig();
  c[key] = value;
  return c;
}

nlohmann::json Without(const std::string& key) {
  nlohmann::json c = LlamaConfig();
  c.erase(key);
  return c;
}

TEST(BuildLanguageModel, LinearLayersHaveTheirModulesNamesAndCheckpointsShapes) {
  const auto m = Build(LlamaConfig(), LlamaShapes());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_TRUE(m->graph.Validate().ok());
  EXPECT_EQ(m->graph.opset, 23);
  EXPECT_EQ(m->vocab_size, 32);
  EXPECT_EQ(m->hidden_size, 8);
  EXPECT_EQ(m->layers, 2);
  EXPECT_EQ(m->max_positions, 128);
  std::vector<std::string> names;
  for (const Linear& l : FindLinears(m->graph)) {
    names.push_back(l.name);
    EXPECT_TRUE(l.transposed) << l.name;
    EXPECT_EQ(l.weight, l.name == "lm_head" ? "model.embed_tokens.weight" : l.name + ".weight");
    EXPECT_EQ(m->graph.Initializer(l.weight)->shape(), Shape({l.rows, l.cols}));
  }
  EXPECT_EQ(names.size(), 15u);
  EXPECT_EQ(names[0], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(names[13], "model.layers.1.mlp.down_proj");
  EXPECT_EQ(names[14], "lm_head");
  ASSERT_EQ(m->graph.inputs.size(), 1u);
  EXPECT_EQ(m->graph.inputs[0].name, "input_ids");
  ASSERT_EQ(m->graph.outputs.size(), 1u);
  EXPECT_EQ(m->graph.outputs[0].name, "logits");
}

TEST(BuildLanguageModel, WeightsAreTheMappedBytes) {
  TempDir dir;
  WriteCheckpoint(dir.path(), LlamaConfig(), LlamaShapes());
  const auto c = Checkpoint::Open(dir.path());
  ASSERT_TRUE(c.ok()) << c.status();
  const auto m = BuildLanguageModel(**c, {});
  ASSERT_TRUE(m.ok()) << m.status();
  for (const auto& [name, tensor] : (*c)->tensors()) {
    const Tensor* stored = m->graph.Initializer(name);
    ASSERT_NE(stored, nullptr) << name;
    EXPECT_EQ(stored->bytes().data(), tensor.bytes().data()) << name;
    EXPECT_EQ(stored->dtype(), DType::kBFloat16) << name;
  }
}

// What crosses a cut beside it follows from inputs and constants, so that a block can be run by itself.
TEST(BuildLanguageModel, CutsSeparateTheBlocks) {
  for (const bool kv_cache : {false, true}) {
    const auto m = Build(LlamaConfig(), LlamaShapes(), {.kv_cache = kv_cache});
    ASSERT_TRUE(m.ok()) << m.status();
    EXPECT_THAT(m->cuts, ElementsAre("model.embed_tokens", "model.layers.0", "model.layers.1"));
    const Shapes shapes = LlamaShapes();
    const GraphIndex index(m->graph);
    for (const std::string& cut : m->cuts) {
      const int at = index.Producer(cut);
      ASSERT_GE(at, 0) << cut;
      std::set<std::string> weighty;  // values that depend on the checkpoint's tensors, made before or at the cut
      for (int i = 0; i < static_cast<int>(m->graph.nodes.size()); ++i) {
        const Node& n = m->graph.nodes[static_cast<size_t>(i)];
        for (const std::string& in : n.inputs) {
          EXPECT_TRUE(i <= at || in == cut || !weighty.contains(in)) << n.name << " reads " << in << " across " << cut;
          if (i <= at && (shapes.contains(in) || weighty.contains(in)))
            weighty.insert(n.outputs.begin(), n.outputs.end());
        }
      }
      EXPECT_TRUE(weighty.contains(cut));
    }
  }
}

TEST(BuildLanguageModel, ACacheAddsInputsAndOutputsInOrder) {
  const auto m = Build(LlamaConfig(), LlamaShapes(), {.kv_cache = true});
  ASSERT_TRUE(m.ok()) << m.status();
  std::vector<std::string> inputs, outputs;
  for (const ValueInfo& v : m->graph.inputs) inputs.push_back(v.name);
  for (const ValueInfo& v : m->graph.outputs) outputs.push_back(v.name);
  EXPECT_THAT(inputs, ElementsAre("input_ids", "past_key.0", "past_value.0", "past_key.1", "past_value.1"));
  EXPECT_THAT(outputs, ElementsAre("logits", "present_key.0", "present_value.0", "present_key.1", "present_value.1"));
  EXPECT_EQ(m->graph.inputs[1].shape[1].value, 2);
  EXPECT_EQ(m->graph.inputs[1].shape[3].value, 2);
}

TEST(BuildLanguageModel, BiasesAreNeededByConfigAndUsedWhereStored) {
  ExpectInvalid(With("attention_bias", true), LlamaShapes(), "no tensor model.layers.0.self_attn.q_proj.bias");
  Shapes shapes = LlamaShapes();
  shapes["model.layers.1.mlp.up_proj.bias"] = {12};
  const auto m = Build(LlamaConfig(), shapes);
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_NE(m->graph.Initializer("model.layers.1.mlp.up_proj.bias"), nullptr);
  shapes["model.layers.1.mlp.up_proj.bias"] = {13};
  ExpectInvalid(LlamaConfig(), shapes, "has the shape [13]; by config.json it should be [12]");
}

TEST(BuildLanguageModel, MissingAndOddTensorsAreNamed) {
  for (const auto& [name, shape] : LlamaShapes()) {
    Shapes without = LlamaShapes();
    without.erase(name);
    ExpectInvalid(LlamaConfig(), without, absl::StrCat("no tensor ", name));
    Shapes odd = LlamaShapes();
    odd[name].push_back(1);
    ExpectInvalid(LlamaConfig(), odd, absl::StrCat("tensor ", name, " has the shape "));
    odd[name] = {0};
    ExpectInvalid(LlamaConfig(), odd, absl::StrCat("tensor ", name, " has the shape [0]"));
  }
  ExpectInvalid(With("tie_word_embeddings", false), LlamaShapes(),
                "no tensor lm_head.weight; it should have the shape [32,8]");
  TempDir dir;
  WriteFile(dir / "config.json", LlamaConfig().dump());
  WriteFile(dir / "model.safetensors", ZeroTensors(LlamaShapes(), "U8"));
  const auto c = Checkpoint::Open(dir.path());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_THAT(std::string(BuildLanguageModel(**c, {}).status().message()), HasSubstr("is uint8"));
}

TEST(BuildLanguageModel, TensorsOfABlockThatNobodyReadsAreRefused) {
  Shapes shapes = LlamaShapes();
  shapes["model.layers.0.self_attn.rotary_emb.inv_freq"] = {1};
  shapes["lm_head.weight"] = {32, 8};
  shapes["score.weight"] = {2, 8};
  EXPECT_TRUE(Build(LlamaConfig(), shapes).ok());
  shapes["model.layers.0.self_attn.q_norm.weight"] = {2};
  ExpectInvalid(LlamaConfig(), shapes, "\"model.layers.0.self_attn.q_norm.weight\"");
  ExpectInvalid(With("num_hidden_layers", 1), LlamaShapes(), "with 1 layers does not have: \"model.layers.1.");
}

TEST(BuildLanguageModel, UnknownTypesAndValuesListTheKnownOnes) {
  const auto unimplemented = absl::StatusCode::kUnimplemented;
  ExpectRefused(
      With("model_type", "mamba\n"), {{"a", {1}}}, unimplemented,
      "\"mamba\\x0a\" is not known; known are gemma, gemma2, gpt2, llama, mistral, mixtral, opt, phi3, qwen2, "
      "qwen2_moe, qwen3");
  ExpectInvalid(Without("model_type"), {{"a", {1}}}, "no model_type");
  ExpectInvalid(With("model_type", 7), {{"a", {1}}}, "model_type is not a string");
  ExpectRefused(With("hidden_act", "selu"), LlamaShapes(), unimplemented, "known are silu");
  ExpectRefused(With("rope_scaling", {{"type", "mrope"}}), LlamaShapes(), unimplemented, "known are default, linear");
  ExpectRefused(With("rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}), LlamaShapes(), unimplemented,
                "differs by layer type");
  ExpectRefused(With("quantization_config", {{"quant_method", "aqlm"}}), LlamaShapes(), unimplemented, "\"aqlm\"");
}

TEST(BuildLanguageModel, AbsurdSizesAreRefused) {
  const struct {
    const char* key;
    nlohmann::json value;
    const char* says;
  } cases[] = {
      {"vocab_size", int64_t{1} << 62, "vocab_size is 4611686018427387904; it must be from 1 to 4194304"},
      {"vocab_size", 18446744073709551615u, "vocab_size is not an integer"},
      {"vocab_size", 31, "by config.json it should be [31,8]"},
      {"hidden_size", 0, "hidden_size is 0"},
      {"hidden_size", -8, "hidden_size is -8"},
      {"hidden_size", 1 << 17, "hidden_size is 131072"},
      {"hidden_size", "8", "hidden_size is not an integer"},
      {"hidden_size", 10, "does not divide hidden_size"},
      {"num_hidden_layers", 1000000, "num_hidden_layers is 1000000"},
      {"num_attention_heads", 0, "num_attention_heads is 0"},
      {"num_key_value_heads", 3, "does not divide num_attention_heads"},
      {"head_dim", 3, "takes an even number"},
      {"head_dim", 1 << 20, "head_dim is 1048576"},
      {"intermediate_size", int64_t{1} << 40, "intermediate_size is"},
      {"max_position_embeddings", -1, "max_position_embeddings is -1"},
      {"rms_norm_eps", -1, "rms_norm_eps is -1"},
      {"rms_norm_eps", "small", "not a finite number"},
      {"rope_theta", 0, "rope_theta is 0"},
      {"partial_rotary_factor", 1.5, "partial_rotary_factor is 1.5"},
      {"partial_rotary_factor", 0.1, "takes an even number"},
      {"rope_scaling", 7, "rope_scaling is not an object"},
      {"rope_scaling", {{"type", "linear"}}, "rope_scaling/factor is missing"},
      {"rope_scaling", {{"type", "linear"}, {"factor", -2}}, "rope_scaling/factor is missing or not positive"},
      {"rope_scaling", {{"type", "longrope"}, {"short_factor", {1, 2}}}, "short_factor is not a list of 1 numbers"},
      {"rope_scaling", {{"type", "longrope"}, {"short_factor", {0}}}, "not a positive number"},
      {"rope_scaling",
       {{"type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}},
       "not above low_freq_factor"},
      {"tie_word_embeddings", "yes", "tie_word_embeddings is not true or false"},
  };
  for (const auto& c : cases) ExpectInvalid(With(c.key, c.value), LlamaShapes(), c.says);
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}) {
    ExpectInvalid(Without(key), LlamaShapes(), absl::StrCat("config.json has no ", key));
  }
}

// Every key that any family reads, with values no writer would write: an answer, never a crash.
TEST(BuildLanguageModel, HostileValuesOfEveryKeyAreAnswered) {
  nlohmann::json base = LlamaConfig();
  base.update({{"n_embd", 8},
               {"n_layer", 2},
               {"n_head", 4},
               {"n_positions", 16},
               {"n_inner", 12},
               {"layer_norm_epsilon", 1e-5},
               {"activation_function", "relu"},
               {"scale_attn_weights", true},
               {"scale_attn_by_inverse_layer_idx", false},
               {"ffn_dim", 12},
               {"word_embed_proj_dim", 8},
               {"do_layer_norm_before", true},
               {"_remove_final_layer_norm", false},
               {"enable_bias", true},
               {"layer_norm_elementwise_affine", true},
               {"head_dim", 2},
               {"hidden_act", "silu"},
               {"hidden_activation", "gelu"},
               {"attention_bias", false},
               {"mlp_bias", false},
               {"rope_theta", 1e4},
               {"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
               {"rope_parameters", nullptr},
               {"partial_rotary_factor", 1},
               {"original_max_position_embeddings", 64},
               {"sliding_window", 4},
               {"use_sliding_window", true},
               {"max_window_layers", 1},
               {"layer_types", {"full_attention", "sliding_attention"}},
               {"query_pre_attn_scalar", 4},
               {"attn_logit_softcapping", 5},
               {"final_logit_softcapping", 5},
               {"num_local_experts", 2},
               {"num_experts", 2},
               {"num_experts_per_tok", 1},
               {"norm_topk_prob", true},
               {"moe_intermediate_size", 4},
               {"shared_expert_intermediate_size", 4},
               {"decoder_sparse_step", 1},
               {"mlp_only_layers", {0}},
               {"qkv_bias", false},
               {"quantization_config", nullptr},
               {"use_bidirectional_attention", false}});
  const nlohmann::json hostile[] = {nullptr,
                                    true,
                                    0,
                                    -1,
                                    1,
                                    3,
                                    INT64_MAX,
                                    INT64_MIN,
                                    UINT64_MAX,
                                    1e308,
                                    -1e308,
                                    1e-320,
                                    "",
                                    "gelu",
                                    std::string(1000, 'x'),
                                    nlohmann::json::array(),
                                    {1, "a", nullptr},
                                    nlohmann::json::object(),
                                    {{"type", "yarn"}, {"factor", 1e308}, {"beta_fast", 1e-308}},
                                    {{"type", "longrope"}, {"short_factor", {1e-308}}, {"long_factor", {1e308}}},
                                    {{"type", "dynamic"}, {"factor", 1e-308}},
                                    {{"rope_theta", 1.0000001}},
                                    {{"quant_method", nullptr}}};
  TempDir dir;
  WriteCheckpoint(dir.path(), base, LlamaShapes());
  int built = 0;
  size_t turn = 0;
  for (const std::string& type : KnownModelTypes()) {
    for (const auto& [key, usual] : base.items()) {
      for (int i = 0; i < 2; ++i) {  // all values would take half a minute; two in turn reach most
        const nlohmann::json& value = hostile[turn++ % std::size(hostile)];
        nlohmann::json config = base;
        config["model_type"] = type;
        config[key] = value;
        WriteFile(dir / "config.json", config.dump());
        const auto c = Checkpoint::Open(dir.path());
        ASSERT_TRUE(c.ok()) << c.status();
        const auto m = BuildLanguageModel(**c, {});
        if (m.ok()) ++built;
        EXPECT_TRUE(m.ok() || !m.status().message().empty()) << type << " " << key << " " << value;
      }
    }
  }
  EXPECT_GT(built, 50);  // llama and mistral, where the value does not matter
}

TEST(BuildLanguageModel, LayerTypesAreOnePerLayerAndKnown) {
  nlohmann::json c = With("model_type", "mistral");
  c["sliding_window"] = 4;
  const auto masks = [](const LanguageModel& m) {
    std::vector<std::string> found;
    for (const Node& n : m.graph.nodes) {
      if (n.op_type == "Attention") found.push_back(n.input(3));
    }
    return found;
  };
  auto m = Build(c, LlamaShapes());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_THAT(masks(*m), ElementsAre("mask.window.4", "mask.window.4"));
  c["layer_types"] = {"full_attention", "sliding_attention"};
  m = Build(c, LlamaShapes());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_THAT(masks(*m), ElementsAre("", "mask.window.4"));
  c["sliding_window"] = nullptr;
  m = Build(c, LlamaShapes());
  ASSERT_TRUE(m.ok()) << m.status();
  EXPECT_THAT(masks(*m), ElementsAre("", ""));
  c["layer_types"] = {"full_attention"};
  ExpectInvalid(c, LlamaShapes(), "layer_types is not a list of 2 types");
  c["layer_types"] = {"full_attention", "linear_attention"};
  ExpectInvalid(c, LlamaShapes(), "layer_types[1] is");
}

TEST(BuildLanguageModel, FrequenciesOfRopeScaling) {
  // By hand: theta 16, four dimensions, so that the frequencies are 1 and 1/4.
  const auto rope = [](const nlohmann::json& scaling) {
    TempDir dir;
    WriteCheckpoint(dir.path(), {{"rope_theta", 16}, {"rope_scaling", scaling}}, {{"a", {1}}});
    return huggingface::ReadRope(**Checkpoint::Open(dir.path()), /*head_dim=*/4, /*max_positions=*/64);
  };
  EXPECT_THAT(rope(nullptr)->inv_freq, ElementsAre(1, 0.25f));
  EXPECT_THAT(rope({{"type", "linear"}, {"factor", 2}})->inv_freq, ElementsAre(0.5f, 0.125f));
  EXPECT_EQ(rope({{"rope_type", "dynamic"}, {"factor", 2}})->original_positions, 64);
  // 32 positions turn 5.09 times at 1 (kept: above 4) and 1.27 times at 1/4: kept to (1.273 - 1) / (4 - 1) = 0.0911.
  const auto llama3 = rope({{"rope_type", "llama3"},
                            {"factor", 8},
                            {"low_freq_factor", 1},
                            {"high_freq_factor", 4},
                            {"original_max_position_embeddings", 32}});
  EXPECT_FLOAT_EQ(llama3->inv_freq[0], 1);
  EXPECT_NEAR(llama3->inv_freq[1], 0.25 * (0.0910799 + 0.9089201 / 8), 1e-6);
  const auto yarn = rope({{"rope_type", "yarn"}, {"factor", 4}, {"attention_factor", 1.25}});
  EXPECT_EQ(yarn->attention_factor, 1.25);
  EXPECT_NEAR(rope({{"rope_type", "yarn"}, {"factor", 4}})->attention_factor, 0.1 * std::log(4.0) + 1, 1e-12);
}

}  // namespace
}  // namespace quant
