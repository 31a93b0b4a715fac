// SPDX-License-Identifier: Apache-2.0
// GPTQ against the straightforward algorithm on layers of a real model: inputs captured while text runs through it.
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "worker/calibrate/syrk.h"
#include "worker/formats/dataset/text.h"
#include "worker/formats/huggingface/builder.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/graph/linear.h"
#include "worker/quantize/weight_only/gptq.h"
#include "worker/quantize/weight_only/naive_gptq.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using weight_only::GptqArithmetic;
using weight_only::GptqOptions;
using weight_only::GptqResult;
using weight_only::QuadraticLoss;
using weight_only::QuantizeGptq;
using weight_only::testing::Different;
using weight_only::testing::HessianOf;
using weight_only::testing::Identity;
using weight_only::testing::Layer;
using weight_only::testing::Naive;

// One layer for each input of the second block of the example model, on 32 windows of its calibration text.
std::map<std::string, Layer> CapturedLayers() {
  const fs::path stories = fs::path(QUANT_SOURCE_DIR) / "examples" / "stories";
  const auto checkpoint = Checkpoint::Open(stories / "model");
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  LanguageModel model = *BuildLanguageModel(**checkpoint, {});
  const auto tokenizer = *Tokenizer::Load(stories / "model");
  const TokenDataset text = *OpenTokenDataset(stories / "calibration", tokenizer.get(), model.vocab_size);
  std::vector<std::vector<int32_t>> windows = *MakeWindows(text, {.length = 128});
  windows.resize(std::min<size_t>(windows.size(), 32));

  const auto graph = std::make_shared<const Graph>(std::move(model.graph));
  std::map<std::string, Layer> layers;
  std::map<std::string, std::string, std::less<>> layer_of;  // the input's name to the layer's
  for (const Linear& linear : FindLinears(*graph)) {
    if (linear.name.find("layers.1.") == std::string::npos || layer_of.contains(linear.input)) continue;
    layer_of[linear.input] = linear.name;
    layers[linear.name] = {.rows = linear.rows, .cols = linear.cols, .w = *LinearWeights(*graph, linear)};
  }
  CompileOptions options{.threads = 1};
  for (const auto& [input, name] : layer_of) options.taps.push_back(input);
  options.tap = [&](std::string_view value, const Tensor& x) {
    Layer& layer = layers[layer_of.find(value)->second];
    layer.x.insert(layer.x.end(), x.data<float>().begin(), x.data<float>().end());
    layer.tokens = static_cast<int64_t>(layer.x.size()) / layer.cols;
    return absl::OkStatus();
  };
  const auto executable = *Compile(graph, options);
  for (const std::vector<int32_t>& window : windows) {
    const std::vector<int64_t> ids(window.begin(), window.end());
    const Tensor input = Tensor::Of<int64_t>({1, static_cast<int64_t>(ids.size())}, ids);
    EXPECT_TRUE(executable->Run({&input, 1}).ok());
  }
  for (auto& [name, layer] : layers) layer.hessian = HessianOf(layer.x, layer.tokens, layer.cols);
  return layers;
}

TEST(CapturedLayers, PlainGptqIsTheReferenceAlgorithm) {
  const std::map<std::string, Layer> layers = CapturedLayers();
  ASSERT_EQ(layers.size(), 4u) << "q/k/v, o, gate/up and down read four inputs";
  for (const auto& [name, layer] : layers) {
    for (const int bits : {4, 3}) {
      SCOPED_TRACE(name + ", " + std::to_string(bits) + " bits");
      GptqOptions options = GptqOptions::Plain(bits, 32);
      const Naive want(layer, bits, 32, false, options.damping, options.block_size, Identity(layer.cols));
      options.arithmetic = GptqArithmetic::kFloat64;
      const GptqResult exact = QuantizeGptq(layer.view(), layer.hessian, options).value();
      EXPECT_EQ(Different(exact.weights, want), 0);

      options.arithmetic = GptqArithmetic::kFastest;
      const GptqResult fast = QuantizeGptq(layer.view(), layer.hessian, options).value();
      const double reference = QuadraticLoss(layer.view(), exact.weights, layer.hessian).value().loss;
      const double mine = QuadraticLoss(layer.view(), fast.weights, layer.hessian).value().loss;
      // Which way a weight near the border of two codes goes is chance where the products are in bfloat16.
      EXPECT_NEAR(mine, reference, (syrk::HasBFloat16() ? 0.003 : 0.001) * reference);
    }
  }
}

}  // namespace
}  // namespace quant
