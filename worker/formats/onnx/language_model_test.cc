// SPDX-License-Identifier: Apache-2.0
// Language models built from checkpoints, written as portable ONNX files and run in ONNX Runtime: the same logits as
// our reference backend, with and without a cache, in floating point and quantized.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/language_model_testing.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/testing.h"
#include "worker/graph/linear.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using testing::RandomCodebook;
using testing::RandomGrouped;
using testing::TempDir;

void ExpectSameInOnnxRuntime(const Graph& graph, const std::vector<float>& want, const std::string& what) {
  TempDir dir;
  ASSERT_THAT(ExportOnnx(graph, dir / "model.onnx"), IsOk()) << what;
  std::string command = absl::StrCat("python3 ", QUANT_SOURCE_DIR, "/onnx/logits_in_onnxruntime.py ",
                                     (dir / "model.onnx").string(), " ", (dir / "out").string());
  for (const int64_t t : testing::kTokens) absl::StrAppend(&command, " ", t);
  absl::StrAppend(&command, " >", (dir / "log").string(), " 2>&1");
  ASSERT_EQ(std::system(command.c_str()), 0) << what << ": " << testing::ReadFile(dir / "log");
  const std::string bytes = testing::ReadFile(dir / "out");
  ASSERT_EQ(bytes.size(), want.size() * sizeof(float)) << what;
  std::vector<float> got(want.size());
  std::memcpy(got.data(), bytes.data(), bytes.size());
  float most = 0;
  for (const float v : want) most = std::max(most, std::abs(v));
  // Two float32 evaluations of sums of some hundred terms, a few layers deep.
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4 * most) << what << ", logit " << i;
}

class LanguageModelInOnnxRuntime : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c 'import numpy, onnxruntime' 2>/dev/null") != 0) {
      GTEST_SKIP() << "python3-onnxruntime is not there";
    }
  }

  // Without and with a cache.
  static void Compare(const Checkpoint& checkpoint, const std::string& what) {
    const auto plain = BuildLanguageModel(checkpoint, {});
    ASSERT_THAT(plain, IsOk()) << what;
    const std::vector<float> want = testing::InReference(*plain);
    ExpectSameInOnnxRuntime(plain->graph, want, what);
    const auto cached = BuildLanguageModel(checkpoint, {.kv_cache = true});
    ASSERT_THAT(cached, IsOk()) << what;
    ExpectSameInOnnxRuntime(cached->graph, want, what + " with a cache");
  }
};

TEST_F(LanguageModelInOnnxRuntime, TheSharedModel) {
  const std::filesystem::path folder = testing::SharedData("models/tinystories-656k");
  QUANT_SKIP_WITHOUT(folder);
  Compare(**Checkpoint::Open(folder), "tinystories-656k");
}

TEST_F(LanguageModelInOnnxRuntime, SmallModelsOfOtherFamilies) {
  const std::map<std::string, Shape> biases = {
      {"self_attn.q_proj.bias", {64}}, {"self_attn.k_proj.bias", {32}}, {"self_attn.v_proj.bias", {32}}};
  const std::map<std::string, Shape> norms = {{"self_attn.q_norm.weight", {16}}, {"self_attn.k_norm.weight", {16}}};
  const std::map<std::string, Shape> gemma = {{"pre_feedforward_layernorm.weight", {64}},
                                              {"post_feedforward_layernorm.weight", {64}}};
  const std::tuple<nlohmann::json, std::map<std::string, Shape>> cases[] = {
      {{{"model_type", "mistral"}, {"sliding_window", 5}}, {}},
      {{{"model_type", "qwen2"}}, biases},
      {{{"model_type", "qwen3"}, {"head_dim", 16}}, norms},
      {{{"model_type", "gemma2"},
        {"head_dim", 16},
        {"query_pre_attn_scalar", 16},
        {"attn_logit_softcapping", 5.0},
        {"final_logit_softcapping", 3.0},
        {"sliding_window", 4},
        {"hidden_activation", "gelu_pytorch_tanh"}},
       gemma}};
  for (const auto& [config, extra] : cases) {
    TempDir dir;
    Compare(*testing::MakeLanguageModel(dir, config, extra), config["model_type"]);
  }
}

TEST_F(LanguageModelInOnnxRuntime, QuantizedInEveryForm) {
  TempDir dir;
  const auto checkpoint = testing::MakeLanguageModel(dir, {{"intermediate_size", 96}}, {});
  auto model = BuildLanguageModel(*checkpoint, {});
  ASSERT_THAT(model, IsOk());
  uint32_t seed = 1;
  for (const Linear& l : FindLinears(model->graph)) {
    if (l.name == "lm_head") continue;
    const bool whole = seed % 5 == 0;
    WeightMatrix w = RandomGrouped({.rows = l.rows,
                                    .cols = l.cols,
                                    .bits = std::vector<int>{2, 3, 4, 8}[seed % 4],
                                    .group_size = whole           ? l.cols
                                                  : seed % 3 == 0 ? 24
                                                                  : 32,
                                    .symmetric = seed % 2 == 0,
                                    .dynamic_order = seed == 6},
                                   seed);
    if (seed == 7) w = RandomCodebook(l.rows, l.cols, 64, false, false, seed);
    ASSERT_THAT(ReplaceLinear(&model->graph, l.name, w), IsOk());
    ++seed;
  }
  const std::vector<float> want = testing::InReference(*model);
  ExpectSameInOnnxRuntime(model->graph, want, "quantized");
  // And our own backends run what was written.
  ASSERT_THAT(ExportOnnx(model->graph, dir / "model.onnx"), IsOk());
  LanguageModel read;
  read.graph = *ImportOnnx(dir / "model.onnx");
  const std::vector<float> got = testing::InReference(read);
  ASSERT_EQ(got.size(), want.size());
  float most = 0;
  for (const float v : want) most = std::max(most, std::abs(v));
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4 * most) << i;
}

}  // namespace
}  // namespace quant
