// SPDX-License-Identifier: Apache-2.0
// A quantized checkpoint of each format, as our writers make it, becomes a graph of quantized layers that computes what
// a float checkpoint with the same numbers does.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/checkpoint_writer.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/graph/linear.h"
#include "worker/runtime/reference_backend.h"

namespace quant {
namespace {

using ::testing::HasSubstr;
using testing::MakeCheckpoint;
using testing::RandomCodebook;
using testing::RandomGrouped;
using testing::TempDir;

struct Layer {
  std::string module;
  int64_t rows, cols;
};

nlohmann::json Config() {
  return {{"model_type", "llama"},  {"vocab_size", 32},         {"hidden_size", 64},
          {"num_hidden_layers", 1}, {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"rms_norm_eps", 1e-5},   {"intermediate_size", 96},  {"tie_word_embeddings", true}};
}

std::vector<Layer> Layers() {
  const std::string a = "model.layers.0.self_attn.", m = "model.layers.0.mlp.";
  return {{a + "q_proj", 64, 64},    {a + "k_proj", 32, 64},  {a + "v_proj", 32, 64},   {a + "o_proj", 64, 64},
          {m + "gate_proj", 96, 64}, {m + "up_proj", 96, 64}, {m + "down_proj", 64, 96}};
}

Tensor Ramp(Shape shape) {
  std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
  return Tensor::Of<float>(std::move(shape), values);
}

std::vector<NamedTensor> OtherTensors() {
  return {{"model.embed_tokens.weight", Ramp({32, 64})},
          {"model.norm.weight", Ramp({64})},
          {"model.layers.0.input_layernorm.weight", Ramp({64})},
          {"model.layers.0.post_attention_layernorm.weight", Ramp({64})},
          {"model.layers.0.self_attn.q_proj.bias", Ramp({64})}};
}

absl::StatusOr<std::vector<float>> Logits(const LanguageModel& model) {
  const auto graph = std::make_shared<const Graph>(model.graph);
  absl::StatusOr<std::unique_ptr<Executable>> exe = CompileReference(graph, {});
  if (!exe.ok()) return exe.status();
  const auto out = (*exe)->Run({{Tensor::Of<int64_t>({1, 5}, std::vector<int64_t>{3, 1, 31, 0, 3})}});
  if (!out.ok()) return out.status();
  return ToFloat((*out)[0]);
}

class QuantizedModel : public ::testing::TestWithParam<CheckpointFormat> {};

TEST_P(QuantizedModel, ComputesWhatItsDequantizedWeightsDo) {
  const CheckpointFormat format = GetParam();
  TempDir dir;
  std::vector<NamedTensor> floats = OtherTensors();
  std::vector<WeightMatrix> weights;
  uint32_t seed = 1;
  for (const Layer& l : Layers()) {
    if (format == CheckpointFormat::kBitsandbytes) {
      weights.push_back(RandomCodebook(l.rows, l.cols, 64, /*fp4=*/false, /*nested=*/true, seed++));
    } else {
      weights.push_back(RandomGrouped({.rows = l.rows,
                                       .cols = l.cols,
                                       .symmetric = false,
                                       .dynamic_order = format == CheckpointFormat::kGptqV2,
                                       .least_zero = LeastZeroPoint(format)},
                                      seed++));
    }
    floats.push_back(
        {absl::StrCat(l.module, ".weight"), Tensor::Of<float>({l.rows, l.cols}, testing::Dequantized(weights.back()))});
  }
  const auto source = MakeCheckpoint(dir / "float", Config(), floats);
  const auto plain = BuildLanguageModel(*source, {});
  ASSERT_TRUE(plain.ok()) << plain.status();
  const auto want = Logits(*plain);
  ASSERT_TRUE(want.ok()) << want.status();

  auto writer = CreateCheckpointWriter(format, *source, dir / "quantized", {.group_size = 32, .symmetric = false});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const NamedTensor& t : OtherTensors()) {
    if (!t.name.ends_with(".bias")) ASSERT_TRUE((*writer)->AddTensor(t.name, t.tensor).ok());
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string module = Layers()[i].module;
    const absl::Status s = (*writer)->AddLinear(module, weights[i], source->Find(absl::StrCat(module, ".bias")));
    ASSERT_TRUE(s.ok()) << s;
  }
  const absl::Status finished = (*writer)->Finish();
  ASSERT_TRUE(finished.ok()) << finished;
  const auto stored = Checkpoint::Open(dir / "quantized");
  ASSERT_TRUE(stored.ok()) << stored.status();
  const auto model = BuildLanguageModel(**stored, {});
  ASSERT_TRUE(model.ok()) << model.status();

  size_t found = 0;
  for (const Node& n : model->graph.nodes) {
    if (n.domain.empty()) continue;
    const auto w = QuantizedWeightsOf(model->graph, n);
    ASSERT_TRUE(w.ok()) << w.status();
    EXPECT_EQ(n.name, Layers()[found].module);
    ++found;
  }
  EXPECT_EQ(found, weights.size());
  const std::vector<Linear> linears = FindLinears(model->graph);
  ASSERT_EQ(linears.size(), 1u);
  EXPECT_EQ(linears[0].name, "lm_head");

  const auto got = Logits(*model);
  ASSERT_TRUE(got.ok()) << got.status();
  ASSERT_EQ(got->size(), want->size());
  // The same weights, summed in another order where columns were permuted; the bias rounded to 16 bits by formats that
  // store it so: 2^-11 of values up to 1 on one input of many.
  for (size_t i = 0; i < want->size(); ++i) EXPECT_NEAR((*got)[i], (*want)[i], 0.02 + 1e-3 * std::abs((*want)[i])) << i;

  nlohmann::json wrong = (*stored)->config();
  wrong["intermediate_size"] = 64;
  testing::WriteFile(dir / "quantized" / "config.json", wrong.dump());
  const absl::Status refused = BuildLanguageModel(**Checkpoint::Open(dir / "quantized"), {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("gate_proj holds quantized weights [96,64]"));
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedModel,
                         ::testing::Values(CheckpointFormat::kGptq, CheckpointFormat::kGptqV2, CheckpointFormat::kAwq,
                                           CheckpointFormat::kBitsandbytes, CheckpointFormat::kCompressedTensors),
                         [](const auto& param_info) {
                           std::string name = CheckpointFormatName(param_info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace quant
