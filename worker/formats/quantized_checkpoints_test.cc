// SPDX-License-Identifier: Apache-2.0
// What every checkpoint format must do alike: random matrices of odd sizes come back as they were, through our readers
// and through an independent one in Python, and half-written or damaged folders are refused.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/checkpoint_testing.h"
#include "worker/formats/huggingface/quantized.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::RandomCodebook;
using testing::RandomGrid;
using testing::RandomGrouped;
using testing::TempDir;
using testing::TestLayer;
using F = CheckpointFormat;

// Layers of shapes that are awkward for the format.
std::vector<TestLayer> Layers(F format) {
  std::vector<TestLayer> layers;
  uint32_t seed = 1;
  const auto grid = [&](RandomGrid g) {
    layers.push_back({absl::StrCat("model.layers.", layers.size(), ".mlp.up_proj"), RandomGrouped(g, seed++),
                      layers.size() % 2 == 1});
  };
  const auto book = [&](int64_t rows, int64_t cols, int64_t block) {
    layers.push_back({absl::StrCat("model.layers.", layers.size(), ".mlp.up_proj"),
                      RandomCodebook(rows, cols, block, false, false, seed++), layers.size() % 2 == 1});
  };
  switch (format) {
    case F::kGptq:
    case F::kGptqV2:
      for (const int bits : {2, 3, 4, 8}) {
        for (const bool symmetric : {true, false}) {
          for (const bool order : {true, false}) {
            grid({.rows = 96,
                  .cols = 160,
                  .bits = bits,
                  .group_size = 32,
                  .symmetric = symmetric,
                  .dynamic_order = order,
                  .least_zero = LeastZeroPoint(format)});
          }
          grid({.rows = 32,
                .cols = 64,
                .bits = bits,
                .group_size = 64,
                .symmetric = symmetric,
                .least_zero = LeastZeroPoint(format)});
          grid({.rows = 32,
                .cols = 96,
                .bits = bits,
                .group_size = 24,
                .symmetric = symmetric,
                .least_zero = LeastZeroPoint(format)});
        }
      }
      break;
    case F::kAwq:
      grid({.rows = 8, .cols = 172, .group_size = 43});
      grid({.rows = 40, .cols = 43, .group_size = 43, .symmetric = false});
      grid({.rows = 64, .cols = 430, .group_size = 43, .symmetric = false});
      break;
    case F::kCompressedTensors:
      for (const int bits : {4, 8}) {
        for (const bool symmetric : {true, false}) {
          grid({.rows = 172, .cols = 64, .bits = bits, .group_size = 16, .symmetric = symmetric});
          grid({.rows = 13, .cols = 172, .bits = bits, .group_size = 172, .symmetric = symmetric});
          grid({.rows = 9, .cols = 172, .bits = bits, .group_size = 43, .symmetric = symmetric, .dynamic_order = true});
          grid({.rows = 1, .cols = 5, .bits = bits, .group_size = 5, .symmetric = symmetric});
        }
      }
      break;
    case F::kBitsandbytes:
      book(172, 64, 64);
      book(3, 5, 32);
      book(1, 1, 64);
      book(64, 172, 4096);
      break;
    case F::kGguf:
    case F::kOnnx:
      break;
  }
  return layers;
}

void ExpectSame(const WeightMatrix& want, const WeightMatrix& got, const std::string& name) {
  ASSERT_EQ(want.index(), got.index()) << name;
  EXPECT_EQ(testing::Dequantized(want), testing::Dequantized(got)) << name;
  if (const auto* w = std::get_if<GroupedMatrix>(&want)) {
    const auto& g = std::get<GroupedMatrix>(got);
    EXPECT_EQ(std::tie(w->rows, w->cols, w->bits, w->group_size), std::tie(g.rows, g.cols, g.bits, g.group_size));
    EXPECT_EQ(w->codes, g.codes) << name;
    EXPECT_EQ(w->scales, g.scales) << name;
    EXPECT_EQ(w->zeros, g.zeros) << name;
    EXPECT_EQ(w->group_of, g.group_of) << name;
    return;
  }
  const auto& w = std::get<CodebookMatrix>(want);
  const auto& g = std::get<CodebookMatrix>(got);
  EXPECT_EQ(std::tie(w.rows, w.cols, w.block_size, w.fp4, w.codes, w.codebook, w.absmax, w.nested_codes,
                     w.nested_absmax, w.nested_map, w.nested_offset, w.nested_block),
            std::tie(g.rows, g.cols, g.block_size, g.fp4, g.codes, g.codebook, g.absmax, g.nested_codes,
                     g.nested_absmax, g.nested_map, g.nested_offset, g.nested_block))
      << name;
}

struct Case {
  const char* name;
  F format;
  std::function<std::vector<TestLayer>()> layers;
  ExportOptions options;
};

std::vector<TestLayer> Books(bool fp4, bool nested) {
  return {{"a", RandomCodebook(172, 64, 64, fp4, nested, 1)},
          {"b", RandomCodebook(7, 43, 32, fp4, nested, 2), true},
          {"c", RandomCodebook(300, 64, 64, fp4, nested, 3)}};  // more than one nested block
}

std::vector<TestLayer> Int8() {
  std::vector<TestLayer> layers = {{"a", RandomGrouped({.rows = 172, .cols = 64, .bits = 8, .group_size = 64}, 1)},
                                   {"b", RandomGrouped({.rows = 5, .cols = 43, .bits = 8, .group_size = 43}, 2), true}};
  for (TestLayer& l : layers) {
    // As LLM.int8 has them: magnitudes of rows over 127.
    for (float& s : std::get<GroupedMatrix>(l.weights).scales) s = s * 100 / 127;
  }
  return layers;
}

class Formats : public ::testing::TestWithParam<Case> {};

TEST_P(Formats, WhatIsWrittenIsRead) {
  const std::vector<TestLayer> layers = GetParam().layers();
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  for (const char* folder : {"out", "again"}) {
    auto writer = CreateCheckpointWriter(GetParam().format, *source, dir / folder, GetParam().options);
    ASSERT_THAT(writer, IsOk());
    ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  }
  auto out = Checkpoint::Open(dir / "out");
  ASSERT_THAT(out, IsOk());
  for (const TestLayer& l : layers) {
    const auto read = ReadQuantizedLinear(**out, l.module);
    ASSERT_THAT(read, IsOk());
    ASSERT_TRUE(read->has_value()) << l.module;
    ExpectSame(l.weights, **read, l.module);
    const auto bias = ReadLinearBias(**out, l.module, Rows(l.weights));
    ASSERT_THAT(bias, IsOk());
    EXPECT_EQ(bias->has_value(), l.bias);
  }
  const auto float_layer = ReadQuantizedLinear(**out, "head.out");
  ASSERT_THAT(float_layer, IsOk());
  EXPECT_FALSE(float_layer->has_value());
  EXPECT_EQ((*out)->Find("model.norm.weight")->dtype(), DType::kBFloat16);
  EXPECT_EQ(testing::ReadFile(dir / "out" / "tokenizer.json"), "{}");
  EXPECT_EQ((*out)->config()["rms_norm_eps"], 1e-6);
  std::vector<std::string> names = FloatTensorNames(**out), wanted = FloatTensorNames(*source);
  EXPECT_EQ(names, wanted);
  for (const auto& entry : std::filesystem::directory_iterator(dir / "out")) {
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(testing::ReadFile(entry.path()), testing::ReadFile(dir / "again" / name)) << "deterministic: " << name;
  }
}

// unpack_checkpoint.py was written from formats.md and knows nothing of our code.
TEST_P(Formats, AnIndependentReaderFindsTheSameNumbers) {
  if (std::system("python3 -c 'import numpy, safetensors' 2>/dev/null") != 0) {
    GTEST_SKIP() << "python3-numpy and python3-safetensors are not there";
  }
  const std::vector<TestLayer> layers = GetParam().layers();
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateCheckpointWriter(GetParam().format, *source, dir / "out", GetParam().options);
  ASSERT_THAT(writer, IsOk());
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  std::string arguments;
  for (const TestLayer& l : layers) {
    const std::vector<float> values = testing::Dequantized(l.weights);
    testing::WriteFile(dir / (l.module + ".f32"),
                       {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
    absl::StrAppend(&arguments, " ", l.module, "=", (dir / (l.module + ".f32")).string());
  }
  const std::string command = absl::StrCat("python3 ", QUANT_SOURCE_DIR, "/unpack_checkpoint.py ",
                                           (dir / "out").string(), arguments, " >", (dir / "log").string(), " 2>&1");
  EXPECT_EQ(std::system(command.c_str()), 0) << testing::ReadFile(dir / "log");
}

INSTANTIATE_TEST_SUITE_P(
    , Formats,
    ::testing::Values(Case{"Gptq", F::kGptq, [] { return Layers(F::kGptq); }, {}},
                      Case{"GptqV2", F::kGptqV2, [] { return Layers(F::kGptqV2); }, {}},
                      Case{"Awq", F::kAwq, [] { return Layers(F::kAwq); }, {}},
                      Case{
                          "CompressedTensors", F::kCompressedTensors, [] { return Layers(F::kCompressedTensors); }, {}},
                      Case{"CompressedTensorsInt8", F::kCompressedTensors, Int8, {.int8_activations = true}},
                      Case{"Nf4", F::kBitsandbytes, [] { return Layers(F::kBitsandbytes); }, {}},
                      Case{"Nf4Double", F::kBitsandbytes, [] { return Books(false, true); }, {}},
                      Case{"Fp4", F::kBitsandbytes, [] { return Books(true, false); }, {}},
                      Case{"Fp4Double", F::kBitsandbytes, [] { return Books(true, true); }, {}},
                      Case{"LlmInt8", F::kBitsandbytes, Int8, {}}),
    [](const auto& test) { return test.param.name; });

TEST(CheckpointWriter, RefusesLayersTheFormatCannotHoldAndTensorsGivenTwice) {
  const std::vector<TestLayer> layers = {{"m", RandomGrouped({.rows = 172, .cols = 64}, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateCheckpointWriter(F::kGptq, *source, dir / "out", {});
  EXPECT_THAT(testing::WriteAll(**writer, *source, layers),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layer \"m\": the gptq format cannot hold")));
  writer = CreateCheckpointWriter(F::kCompressedTensors, *source, dir / "out", {});
  ASSERT_THAT((*writer)->AddLinear("m", layers[0].weights, nullptr), IsOk());
  EXPECT_THAT((*writer)->AddTensor("m.weight", *source->Find("m.weight")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"m.weight\" is given twice")));
  const Tensor bias = Tensor::Of<float>({3}, std::vector<float>{1, 2, 3});
  writer = CreateCheckpointWriter(F::kCompressedTensors, *source, dir / "out", {});
  EXPECT_THAT((*writer)->AddLinear("m", layers[0].weights, &bias),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bias is float32[3], not floats of [172]")));
}

TEST(CheckpointWriter, RefusesLayersThatTheSourceDoesNotHave) {
  const std::vector<TestLayer> layers = {{"m", RandomGrouped({.rows = 32, .cols = 64}, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateCheckpointWriter(F::kGptq, *source, dir / "out", {});
  EXPECT_THAT((*writer)->AddLinear("lm_head", layers[0].weights, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no tensor \"lm_head.weight\"")));
  const Tensor bias = Tensor::Of<float>({32}, std::vector<float>(32, 1e6f));
  EXPECT_THAT((*writer)->AddLinear("m", layers[0].weights, &bias),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("exceeds float16")));
}

TEST(CheckpointWriter, FinishNamesWhatWasNeverGiven) {
  const std::vector<TestLayer> layers = {{"m", RandomGrouped({.rows = 32, .cols = 64}, 1), true}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateCheckpointWriter(F::kGptq, *source, dir / "out", {});
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "head.out.weight"}) {
    ASSERT_THAT((*writer)->AddTensor(name, *source->Find(name)), IsOk());
  }
  ASSERT_THAT((*writer)->AddLinear("m", layers[0].weights, nullptr), IsOk());
  EXPECT_THAT((*writer)->Finish(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("\"m.bias\"")));
  EXPECT_FALSE(std::filesystem::exists(dir / "out" / "config.json"));
}

TEST(CheckpointWriter, RefusesTheSourcesFolderAndReplacesAnEarlierAttempt) {
  const std::vector<TestLayer> layers = {{"m", RandomGrouped({.rows = 32, .cols = 64}, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  for (const char* folder : {"in", "in/sub"}) {
    EXPECT_THAT(CreateCheckpointWriter(F::kGptq, *source, dir / folder, {}).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("source checkpoint's")));
  }
  std::filesystem::create_directories(dir / "out");
  for (const char* stale :
       {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "model-00001.safetensors.tmp.77"}) {
    testing::WriteFile(dir / "out" / stale, "x");
  }
  auto writer = CreateCheckpointWriter(F::kGptq, *source, dir / "out", {});
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  EXPECT_THAT(Checkpoint::Open(dir / "out"), IsOk());
}

TEST(ReadQuantizedLinear, NamesTheMethodsItKnows) {
  TempDir dir;
  const auto plain =
      testing::MakeCheckpoint(dir / "a", {{"model_type", "llama"}}, {{"m.weight", Tensor::Scalar(1.0f)}});
  const auto float_layer = ReadQuantizedLinear(*plain, "m");
  ASSERT_THAT(float_layer, IsOk());
  EXPECT_FALSE(float_layer->has_value());
  const auto other = testing::MakeCheckpoint(dir / "b", {{"quantization_config", {{"quant_method", "exl2"}}}},
                                             {{"m.weight", Tensor::Scalar(1.0f)}});
  EXPECT_THAT(ReadQuantizedLinear(*other, "m").status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"exl2\" is not read; gptq, awq, bitsandbytes")));
  const auto bias = testing::MakeCheckpoint(dir / "c", nlohmann::json::object(),
                                            {{"m.bias", Tensor::Of<int32_t>({2}, std::vector<int32_t>{1, 2})},
                                             {"n.bias", Tensor::Of<float>({2}, std::vector<float>{1, 2})}});
  EXPECT_THAT(ReadLinearBias(*bias, "m").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("int32")));
  EXPECT_THAT(ReadLinearBias(*bias, "n", 3).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[2]")));
}

// A truncated or bit-flipped file gives an error, never a crash; run under ASan it checks every read.
TEST(ReadQuantizedLinear, SurvivesDamage) {
  for (const F format : {F::kGptq, F::kAwq, F::kBitsandbytes, F::kCompressedTensors}) {
    std::vector<TestLayer> layers = Layers(format);
    layers.resize(1);
    TempDir dir;
    const auto source = testing::MakeSource(dir / "in", layers);
    auto writer = CreateCheckpointWriter(format, *source, dir / "out", {});
    ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
    const std::string good = testing::ReadFile(dir / "out" / "model.safetensors");
    const size_t header = 8 + static_cast<unsigned char>(good[0]) + 256u * static_cast<unsigned char>(good[1]);
    std::mt19937 random(7);
    for (int round = 0; round < 80; ++round) {
      std::string bad = good;
      if (round % 5 == 0) {
        bad.resize(random() % bad.size());
      } else {
        // Half of the damage in the header: names, types, shapes and offsets.
        const size_t at = round % 2 == 0 ? 8 + random() % (header - 8) : random() % bad.size();
        bad[at] = round % 3 == 0 ? static_cast<char>('0' + random() % 10) : static_cast<char>(random());
      }
      testing::WriteFile(dir / "out" / "model.safetensors", bad);
      const auto out = Checkpoint::Open(dir / "out");
      if (!out.ok()) continue;
      const auto read = ReadQuantizedLinear(**out, layers[0].module);
      if (read.ok() && read->has_value()) {
        EXPECT_THAT(Validate(**read), IsOk());
      }
    }
  }
}

}  // namespace
}  // namespace quant
