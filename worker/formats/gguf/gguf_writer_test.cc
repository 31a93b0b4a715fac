// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/gguf_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "absl/status/status_matchers.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/gguf/architecture.h"
#include "worker/formats/gguf/gguf_model.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::RandomGrouped;
using testing::TempDir;

constexpr char kTokenizer[] = R"({"model":{"type":"BPE","byte_fallback":true,"vocab":{"<unk>":0,"a":1,"b":2,"ab":3},
    "merges":["a b"]}})";

// A model of one block with every tensor that its type has. Hidden size 64, 4 heads of 16, 2 key-value heads,
// intermediate size 96 (or another).
struct Model {
  std::string type = "llama";
  int64_t intermediate = 96;
  bool tied = false;
  nlohmann::json more = nlohmann::json::object();
};

std::vector<NamedTensor> Tensors(const Model& m) {
  std::mt19937 random(5);
  const auto floats = [&](Shape shape, DType dtype) {
    Tensor t = *Tensor::Allocate(DType::kFloat32, std::move(shape));
    for (float& v : t.mutable_data<float>()) v = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 512;
    return *Cast(t, dtype);
  };
  const std::string b = "model.layers.0.";
  std::vector<NamedTensor> t = {{"model.embed_tokens.weight", floats({6, 64}, DType::kBFloat16)},
                                {"model.norm.weight", floats({64}, DType::kBFloat16)},
                                {b + "input_layernorm.weight", floats({64}, DType::kFloat16)},
                                {b + "post_attention_layernorm.weight", floats({64}, DType::kFloat32)},
                                {b + "self_attn.rotary_emb.inv_freq", floats({8}, DType::kFloat32)},
                                {b + "self_attn.q_proj.weight", floats({64, 64}, DType::kBFloat16)},
                                {b + "self_attn.k_proj.weight", floats({32, 64}, DType::kFloat16)},
                                {b + "self_attn.v_proj.weight", floats({32, 64}, DType::kFloat32)},
                                {b + "self_attn.o_proj.weight", floats({64, 64}, DType::kBFloat16)},
                                {b + "mlp.gate_proj.weight", floats({m.intermediate, 64}, DType::kBFloat16)},
                                {b + "mlp.up_proj.weight", floats({m.intermediate, 64}, DType::kBFloat16)},
                                {b + "mlp.down_proj.weight", floats({64, m.intermediate}, DType::kBFloat16)}};
  if (!m.tied) t.push_back({"lm_head.weight", floats({6, 64}, DType::kBFloat16)});
  if (m.type == "qwen2") {
    t.push_back({b + "self_attn.q_proj.bias", floats({64}, DType::kBFloat16)});
    t.push_back({b + "self_attn.k_proj.bias", floats({32}, DType::kBFloat16)});
    t.push_back({b + "self_attn.v_proj.bias", floats({32}, DType::kBFloat16)});
  }
  return t;
}

std::shared_ptr<const Checkpoint> Source(const TempDir& dir, const Model& m) {
  nlohmann::json config = {{"model_type", m.type},
                           {"vocab_size", 6},
                           {"hidden_size", 64},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"num_hidden_layers", 1},
                           {"intermediate_size", m.intermediate},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", 10000.0},
                           {"max_position_embeddings", 256}};
  config.update(m.more);
  (void)testing::MakeCheckpoint(dir / "in", config, Tensors(m));
  testing::WriteFile(dir / "in" / "tokenizer.json", kTokenizer);
  return *Checkpoint::Open(dir / "in");
}

// Writes the model with the linear layers of its block quantized by `matrix`, and compares every tensor through
// read_gguf.py. Returns what that prints.
std::string Write(const TempDir& dir, const Model& m,
                  const std::function<std::optional<WeightMatrix>(const std::string&, const Tensor&)>& matrix,
                  float tolerance = 0, std::vector<std::string>* notes = nullptr) {
  const auto source = Source(dir, m);
  auto writer = CreateGgufWriter(*source, dir / "out", {.tool_version = "1.0"});
  CHECK_OK(writer.status());
  std::string arguments;
  std::map<std::string, std::vector<float>> expected;
  for (const auto& [name, tensor] : source->tensors()) {
    const std::optional<std::string> as = GgufTensorName(name);
    CHECK(as.has_value()) << name;
    std::vector<float> values = *ToFloat(tensor);
    std::optional<WeightMatrix> w;
    if (name.find("_proj.weight") != std::string::npos) w = matrix(name, tensor);
    if (w.has_value()) {
      values = testing::Dequantized(*w);
      const std::string module = name.substr(0, name.size() - 7);
      CHECK_OK((*writer)->AddLinear(module, *w, source->Find(module + ".bias")));
    } else if (name.ends_with("_proj.bias") && matrix(name, tensor).has_value()) {
      // Given with its layer.
    } else {
      CHECK_OK((*writer)->AddTensor(name, tensor));
    }
    if (as->empty()) continue;
    expected[name] = values;
    testing::WriteFile(dir / (*as + ".f32"), {reinterpret_cast<const char*>(values.data()), values.size() * 4});
    absl::StrAppend(&arguments, " ", *as, "=", (dir / (*as + ".f32")).string(),
                    w.has_value() ? absl::StrCat(",", tolerance) : "");
  }
  CHECK_OK((*writer)->Finish());
  // Our own reader, under the names and in the rows of the checkpoint.
  const auto model = GgufModel::Open(dir / "out" / "model.gguf");
  CHECK_OK(model.status());
  for (const auto& [name, want] : expected) {
    const auto got = (*model)->Rows(name, 0, source->Find(name)->dim(0));
    CHECK_OK(got.status());
    CHECK_EQ(got->size(), want.size());
    const float limit = name.find("_proj.weight") != std::string::npos ? tolerance : 0;
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR((*got)[i], want[i], limit) << name << " " << i;
  }
  if (notes != nullptr) *notes = (*writer)->notes();
  const std::string command =
      absl::StrCat("python3 ", QUANT_SOURCE_DIR, "/read_gguf.py ", (dir / "out" / "model.gguf").string(), arguments,
                   " >", (dir / "log").string(), " 2>&1");
  EXPECT_EQ(std::system(command.c_str()), 0) << testing::ReadFile(dir / "log");
  return testing::ReadFile(dir / "log");
}

GroupedMatrix Grid(const Tensor& like, testing::RandomGrid g) {
  g.rows = like.dim(0);
  g.cols = like.dim(like.rank() - 1);
  g.group_size = std::min(g.group_size, g.cols);
  return RandomGrouped(g, static_cast<uint32_t>(g.rows + g.cols));
}

class Gguf : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c 'import numpy' 2>/dev/null") != 0) GTEST_SKIP() << "python3-numpy is not there";
  }
};

TEST_F(Gguf, LlamaOfSymmetric4BitsIsQ4AndExact) {
  TempDir dir;
  const std::string log = Write(dir, {}, [](const std::string&, const Tensor& t) {
    return t.rank() == 2 ? std::optional<WeightMatrix>(Grid(t, {})) : std::nullopt;
  });
  for (const char* part :
       {R"("general.architecture": "llama")", R"("llama.context_length": 256)", R"("llama.embedding_length": 64)",
        R"("llama.block_count": 1)", R"("llama.feed_forward_length": 96)", R"("llama.attention.head_count": 4)",
        R"("llama.attention.head_count_kv": 2)", R"("llama.rope.dimension_count": 16)", R"("llama.vocab_size": 6)",
        R"("general.file_type": 2)", R"("general.quantization_version": 2)", R"("general.quantized_by": "quantd:1.0")",
        R"("tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab", "[PAD4]", "[PAD5]"])", R"("output.weight": 30)",
        R"("blk.0.attn_q.weight": 2)", R"("blk.0.attn_norm.weight": 0)"}) {
    EXPECT_THAT(log, HasSubstr(part));
  }
}

TEST_F(Gguf, OtherGridsGoWhereTheyFitAndNotesSayWhy) {
  TempDir dir;
  std::vector<std::string> notes;
  Model m{.intermediate = 172};
  // Scales up to 0.1 and codes to 15: values below 1.6, and 2^-11 of that for F16 and offsets of Q4_1, half a step of
  // 1/127 for Q8_0.
  Write(
      dir, m,
      [](const std::string& name, const Tensor& t) -> std::optional<WeightMatrix> {
        if (t.rank() != 2) return std::nullopt;
        if (name.find("q_proj") != std::string::npos) return Grid(t, {.symmetric = false});
        if (name.find("k_proj") != std::string::npos) return Grid(t, {.bits = 8});
        if (name.find("v_proj") != std::string::npos) return Grid(t, {.bits = 3, .symmetric = false});
        if (name.find("o_proj") != std::string::npos) {
          return testing::RandomCodebook(t.dim(0), t.dim(1), 64, false, false, 1);
        }
        return Grid(t, {});
      },
      1.7f * (0.5f / 127 + 0x1p-11f), &notes);
  std::string all;
  for (const std::string& n : notes) all += n + "\n";
  EXPECT_THAT(all, HasSubstr("1 layer (model.layers.0.self_attn.q_proj) as Q4_1 with the same codes: its offsets are "
                             "rounded to float16"));
  EXPECT_THAT(all, HasSubstr("1 layer (model.layers.0.self_attn.o_proj) requantized from their values as Q8_0: a "
                             "codebook (NF4, FP4)"));
  EXPECT_THAT(all,
              HasSubstr("1 layer (model.layers.0.mlp.down_proj) requantized from their values as F16: its inputs are "
                        "no multiple of 32"));
}

TEST_F(Gguf, Qwen2HasBiasesAndItsRowsStay) {
  TempDir dir;
  const std::string log = Write(dir, {.type = "qwen2", .tied = true}, [](const std::string&, const Tensor& t) {
    return std::optional<WeightMatrix>(Grid(t, {}));
  });
  EXPECT_THAT(log, HasSubstr(R"("qwen2.attention.head_count_kv": 2)"));
  EXPECT_THAT(log, HasSubstr(R"("blk.0.attn_q.bias": 0)"));
  EXPECT_THAT(log, ::testing::Not(HasSubstr("\"output.weight\"")));
}

TEST_F(Gguf, FloatModelsAreWrittenToo) {
  TempDir dir;
  const std::string log =
      Write(dir, {.type = "mistral"}, [](const std::string&, const Tensor&) { return std::nullopt; });
  EXPECT_THAT(log, HasSubstr(R"("general.architecture": "llama")"));
}

TEST(GgufArchitecture, RowsOfQueriesAndKeysArePermutedInEachHead) {
  GgufArchitecture a{.name = "llama", .heads = 2, .head_dim = 8, .permutes = true};
  const int64_t want[] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (int64_t r = 0; r < 16; ++r) {
    EXPECT_EQ(GgufSourceRow(a, "model.layers.0.self_attn.q_proj.weight", r), r / 8 * 8 + want[r % 8]);
    EXPECT_EQ(GgufSourceRow(a, "model.layers.0.self_attn.k_proj.bias", r), r / 8 * 8 + want[r % 8]);
    EXPECT_EQ(GgufSourceRow(a, "model.layers.0.self_attn.v_proj.weight", r), r);
    EXPECT_EQ(GgufRowOf(a, "model.layers.0.self_attn.k_proj.bias", r / 8 * 8 + want[r % 8]), r);
  }
}

TEST(GgufArchitecture, RopeScaling) {
  TempDir dir;
  const auto of = [&](const char* type, const nlohmann::json& more) {
    return ReadGgufArchitecture(*Source(dir, {.type = type, .more = more}));
  };
  const auto read = [&](const nlohmann::json& scaling) {
    return of("llama", {{"rope_scaling", scaling}, {"rope_theta", 500000.0}});
  };
  const auto key = [](const GgufArchitecture& a, const std::string& name) {
    for (const auto& [n, value] : a.keys) {
      if (n == name) return std::get<float>(value);
    }
    return 0.0f;
  };
  auto llama3 = read({{"rope_type", "llama3"},
                      {"factor", 8.0},
                      {"low_freq_factor", 1.0},
                      {"high_freq_factor", 4.0},
                      {"original_max_position_embeddings", 128}});
  ASSERT_THAT(llama3, IsOk());
  ASSERT_EQ(llama3->rope_factors.size(), 8u);
  EXPECT_EQ(llama3->rope_factors[0], 1.0f);  // wavelength 6.3 of 128 / 4
  EXPECT_EQ(llama3->rope_factors[7], 8.0f);  // wavelength 6e5 of 128
  // i = 1: wavelength 2 pi 500000^(1/8) = 32.3997, smooth (128 / 32.3997 - 1) / 3 = 0.98357.
  EXPECT_NEAR(llama3->rope_factors[1], 1 / ((1 - 0.98357) / 8 + 0.98357), 1e-4);
  EXPECT_EQ(key(*read({{"type", "linear"}, {"factor", 2.0}}), "llama.rope.scaling.factor"), 2);
  const std::vector<double> list(8, 1.5);
  EXPECT_THAT(read({{"type", "longrope"}, {"short_factor", list}, {"long_factor", list}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"longrope\"")));
  EXPECT_THAT(read({{"type", "dynamic"}, {"factor", 2.0}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"dynamic\"")));
  // Where newer files keep it.
  EXPECT_EQ(
      key(*of("llama", {{"rope_parameters", {{"rope_theta", 1e6}}}, {"rope_theta", nullptr}}), "llama.rope.freq_base"),
      1e6f);
  nlohmann::json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  const auto as_factors = read(yarn);
  ASSERT_THAT(as_factors, IsOk());
  ASSERT_EQ(as_factors->rope_factors.size(), 8u);
  EXPECT_EQ(as_factors->rope_factors[0], 1.0f);
  EXPECT_NEAR(as_factors->rope_factors[7], 4.0f, 1e-6);
  EXPECT_NEAR(key(*as_factors, "llama.rope.scaling.attn_factor"), 0.1 * std::log(4.0) + 1, 1e-6);
  const auto as_keys = of("qwen2", {{"rope_scaling", yarn}});
  ASSERT_THAT(as_keys, IsOk());
  EXPECT_TRUE(as_keys->rope_factors.empty());
  EXPECT_EQ(key(*as_keys, "qwen2.rope.scaling.factor"), 4);
  EXPECT_EQ(key(*as_keys, "qwen2.rope.scaling.attn_factor"), 0);  // llama.cpp's own
  yarn["attention_factor"] = 1.0;
  EXPECT_NEAR(key(*of("qwen2", {{"rope_scaling", yarn}}), "qwen2.rope.scaling.attn_factor"),
              1 / (0.1 * std::log(4.0) + 1), 1e-6);
  yarn["beta_fast"] = 16;
  EXPECT_THAT(read(yarn), IsOk());
  EXPECT_THAT(of("qwen2", {{"rope_scaling", yarn}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("beta_fast")));
  EXPECT_THAT(of("llama", {{"partial_rotary_factor", 0.5}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("8 of a head's 16")));
  EXPECT_THAT(of("llama", {{"hidden_act", "gelu"}}), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"gelu\"")));
  EXPECT_THAT(read({{"type", "linear"}, {"factor", 0.0}}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(GgufWriter, RefusesWhatLlamaCppDoesNotKnow) {
  TempDir a, b, c, d;
  EXPECT_THAT(CreateGgufWriter(*Source(a, {.type = "gpt_neox"}), a / "out", {}).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("llama, mistral, qwen2 and qwen3")));
  const auto source = Source(b, {});
  auto writer = CreateGgufWriter(*source, b / "out", {});
  ASSERT_THAT(writer, IsOk());
  EXPECT_THAT((*writer)->AddTensor("model.layers.0.mlp.router.weight", Tensor::Scalar(1.0f)),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("mlp.router")));
  EXPECT_THAT((*writer)->Finish(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("never written")));
  (void)Source(c, {});
  std::filesystem::remove(c / "in/tokenizer.json");
  EXPECT_THAT(CreateGgufWriter(**Checkpoint::Open(c / "in"), c / "out", {}).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("tokenizer")));
  EXPECT_THAT(CreateGgufWriter(*Source(d, {.more = {{"num_attention_heads", 0}}}), d / "out", {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("num_attention_heads")));
}

}  // namespace
}  // namespace quant
