// SPDX-License-Identifier: Apache-2.0
// A GGUF file computes what its checkpoint does, when it is read as llama.cpp reads it (run_gguf.py): names, order of
// rows, keys of rotary positions, tied output.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/gguf/gguf_writer.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/language_model_testing.h"
#include "worker/graph/linear.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using testing::TempDir;

class GgufLogits : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c 'import numpy' 2>/dev/null") != 0) GTEST_SKIP() << "python3-numpy is not there";
  }

  // In floating point, or with the blocks' linear layers on a grid that Q4_0 holds.
  static void Compare(const Checkpoint& source, bool quantized, const std::string& what) {
    auto model = BuildLanguageModel(source, {});
    ASSERT_THAT(model, IsOk()) << what;
    TempDir dir;
    auto writer = CreateGgufWriter(source, dir.path(), {});
    ASSERT_THAT(writer, IsOk()) << what;
    std::map<std::string, WeightMatrix> grids;
    for (const Linear& l : FindLinears(model->graph)) {
      if (!quantized || l.name == "lm_head") continue;
      GroupedMatrix w = testing::RandomGrouped({.rows = l.rows, .cols = l.cols}, static_cast<uint32_t>(grids.size()));
      for (float& s : w.scales) s /= 4;  // weights of the size of the others
      for (float& s : w.scales) s = Float16ToFloat(FloatToFloat16(s));
      ASSERT_THAT(ReplaceLinear(&model->graph, l.name, w), IsOk());
      grids.emplace(l.name, w);
    }
    for (const auto& [name, tensor] : source.tensors()) {
      const std::string module = name.substr(0, name.rfind('.'));
      const auto grid = grids.find(module);
      if (grid == grids.end()) {
        ASSERT_THAT((*writer)->AddTensor(name, tensor), IsOk());
      } else if (name.ends_with(".weight")) {
        ASSERT_THAT((*writer)->AddLinear(module, grid->second, source.Find(module + ".bias")), IsOk());
      }
    }
    ASSERT_THAT((*writer)->Finish(), IsOk()) << what;
    const std::vector<float> want = testing::InReference(*model);
    std::string command = absl::StrCat("python3 ", QUANT_SOURCE_DIR, "/run_gguf.py ", (dir / "model.gguf").string(),
                                       " ", (dir / "out").string());
    for (const int64_t t : testing::kTokens) absl::StrAppend(&command, " ", t);
    absl::StrAppend(&command, " >", (dir / "log").string(), " 2>&1");
    ASSERT_EQ(std::system(command.c_str()), 0) << what << ": " << testing::ReadFile(dir / "log");
    const std::string bytes = testing::ReadFile(dir / "out");
    ASSERT_EQ(bytes.size(), want.size() * sizeof(float)) << what;
    std::vector<float> got(want.size());
    std::memcpy(got.data(), bytes.data(), bytes.size());
    float most = 0;
    for (const float v : want) most = std::max(most, std::abs(v));
    // float32 here, float64 there, a few layers deep.
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4 * most) << what << ", logit " << i;
  }

  static void CompareSmall(const nlohmann::json& config, const std::map<std::string, Shape>& extra,
                           const std::string& what) {
    TempDir dir;
    (void)testing::MakeLanguageModel(dir, config, extra);
    testing::WriteFile(dir / "tokenizer.json", R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})");
    const auto source = Checkpoint::Open(dir.path());
    ASSERT_THAT(source, IsOk());
    for (const bool quantized : {false, true}) Compare(**source, quantized, what + (quantized ? " as Q4_0" : ""));
  }
};

TEST_F(GgufLogits, TheSharedModel) {
  const std::filesystem::path folder = testing::SharedData("models/tinystories-656k");
  QUANT_SKIP_WITHOUT(folder);
  for (const bool quantized : {false, true}) Compare(**Checkpoint::Open(folder), quantized, "tinystories-656k");
}

TEST_F(GgufLogits, EveryArchitecture) {
  CompareSmall({{"model_type", "llama"}}, {}, "llama");
  CompareSmall({{"model_type", "mistral"}, {"rope_theta", 1e6}}, {}, "mistral");
  CompareSmall({{"model_type", "qwen2"}},
               {{"self_attn.q_proj.bias", {64}}, {"self_attn.k_proj.bias", {32}}, {"self_attn.v_proj.bias", {32}}},
               "qwen2");
  CompareSmall({{"model_type", "qwen3"}, {"head_dim", 16}},
               {{"self_attn.q_norm.weight", {16}}, {"self_attn.k_norm.weight", {16}}}, "qwen3");
}

TEST_F(GgufLogits, ScaledRotaryPositions) {
  CompareSmall({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 4.0}}}}, {}, "linear");
  CompareSmall({{"rope_scaling",
                 {{"rope_type", "llama3"},
                  {"factor", 8.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 16}}}},
               {}, "llama3");
}

}  // namespace
}  // namespace quant
