// SPDX-License-Identifier: Apache-2.0
// GPTQ on Hessians and weights that make trouble.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "worker/quantize/weight_only/gptq.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/testing.h"

namespace quant::weight_only {
namespace {

using ::testing::HasSubstr;
using testing::HessianOf;
using testing::Layer;
using testing::MakeLayer;

double Relative(const Layer& layer, const GroupedMatrix& q) {
  return QuadraticLoss(layer.view(), q, layer.hessian).value().relative;
}

TEST(Gptq, DeadInputsCountAsWeightZero) {
  Layer layer = MakeLayer(6, 64, 300, 29);
  for (int64_t t = 0; t < layer.tokens; ++t) {
    layer.x[static_cast<size_t>(t * 64 + 5)] = 0;
    layer.x[static_cast<size_t>(t * 64 + 40)] = 0;
  }
  for (int64_t r = 0; r < 6; ++r) layer.w[static_cast<size_t>(r * 64 + 5)] = 100;  // would ruin its group's grid
  layer.hessian = HessianOf(layer.x, layer.tokens, 64);
  GptqOptions options;
  options.grid.group_size = 32;
  const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, options).value();
  std::vector<float> w(static_cast<size_t>(6 * 64));
  DequantizeRows(have.weights, 0, 6, w);
  for (size_t r = 0; r < 6; ++r) {
    EXPECT_EQ(w[r * 64 + 5], 0);
    EXPECT_EQ(w[r * 64 + 40], 0);
    EXPECT_LT(have.weights.scales[r * 2], 0.1f);
  }
  EXPECT_LT(Relative(layer, have.weights), 0.02);
  EXPECT_EQ(have.outcome, GptqOutcome::kSwept);
}

TEST(Gptq, SingularHessianIsSweptWithDamping) {
  // Ten tokens for 64 inputs: rank 10.
  const Layer layer = MakeLayer(6, 64, 10, 30);
  GptqOptions options;
  options.grid.group_size = 32;
  const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, options).value();
  EXPECT_EQ(have.outcome, GptqOutcome::kSwept);
  const GroupedMatrix rtn = QuantizeRtn(layer.view(), options.grid, layer.hessian.Diagonal()).value();
  EXPECT_LT(Relative(layer, have.weights), 0.5 * Relative(layer, rtn));
}

TEST(Gptq, IndefiniteHessianRaisesTheDampingAndSaysSo) {
  Layer layer = MakeLayer(6, 64, 300, 31);
  float mean = 0;
  for (const float d : layer.hessian.Diagonal()) mean += d / 64;
  // Eigenvalue -0.3 mean or so in one plane: damping 0.01 does not reach it, 0.64 does.
  layer.hessian.h[0] = layer.hessian.h[65] = 0.5f * mean;
  layer.hessian.h[1] = layer.hessian.h[64] = 0.8f * mean;
  const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, {}).value();
  EXPECT_EQ(have.outcome, GptqOutcome::kSwept);
  EXPECT_THAT(have.note, HasSubstr("damping raised from 0.01 to"));
  EXPECT_GT(have.lambda, 0.1 * mean);
}

TEST(Gptq, VeryIndefiniteHessianFloorsTheDiagonalThenDescends) {
  Layer layer = MakeLayer(6, 64, 300, 32);
  float greatest = 0;
  float mean = 0;
  for (const float d : layer.hessian.Diagonal()) greatest = std::max(greatest, d), mean += d / 64;
  Layer floor = layer;
  floor.hessian.h[1] = floor.hessian.h[64] =
      std::sqrt(layer.hessian.h[0] * layer.hessian.h[65]) + mean + 0.05f * greatest;
  const GptqResult floored = QuantizeGptq(layer.view(), floor.hessian, {}).value();
  EXPECT_EQ(floored.outcome, GptqOutcome::kSwept);
  EXPECT_THAT(floored.note, HasSubstr("added to the diagonal"));

  layer.hessian.h[1] = layer.hessian.h[64] = 100 * greatest;
  for (const auto order : {ActOrder::kStaticGroups, ActOrder::kDynamicGroups}) {
    const GptqResult hopeless = QuantizeGptq(layer.view(), layer.hessian, {.act_order = order}).value();
    EXPECT_EQ(hopeless.outcome, GptqOutcome::kDescentOnly);
    EXPECT_THAT(hopeless.note, HasSubstr("coordinate descent"));
    EXPECT_TRUE(Validate(hopeless.weights).ok());
  }
}

TEST(Gptq, UselessHessiansFallBackToNearest) {
  const Layer layer = MakeLayer(6, 64, 300, 33);
  GptqOptions options;
  options.grid.group_size = 32;
  const GroupedMatrix rtn = QuantizeRtn(layer.view(), options.grid).value();
  HessianMatrix none{.cols = 64, .h = std::vector<float>(64 * 64)};
  GptqResult have = QuantizeGptq(layer.view(), none, options).value();
  EXPECT_EQ(have.outcome, GptqOutcome::kNearest);
  EXPECT_THAT(have.note, HasSubstr("no calibration tokens"));
  EXPECT_EQ(have.weights.codes, rtn.codes);

  HessianMatrix bad = layer.hessian;
  bad.h[70] = std::numeric_limits<float>::infinity();
  have = QuantizeGptq(layer.view(), bad, options).value();
  EXPECT_EQ(have.outcome, GptqOutcome::kNearest);
  EXPECT_EQ(have.weights.codes, rtn.codes);

  bad = layer.hessian;
  bad.h[65 * 3] = -1;
  have = QuantizeGptq(layer.view(), bad, options).value();
  EXPECT_EQ(have.outcome, GptqOutcome::kNearest);
  EXPECT_THAT(have.note, HasSubstr("negative at input 3"));

  options.expected_tokens = 300 * 200 + 1;
  have = QuantizeGptq(layer.view(), layer.hessian, options).value();
  EXPECT_EQ(have.outcome, GptqOutcome::kNearest);
  EXPECT_THAT(have.note, HasSubstr("only 300 of 60001"));
  EXPECT_NEAR(have.loss, QuadraticLoss(layer.view(), have.weights, layer.hessian).value().loss, 1e-9);
  options.expected_tokens = 300 * 200;
  EXPECT_EQ(QuantizeGptq(layer.view(), layer.hessian, options).value().outcome, GptqOutcome::kSwept);
}

TEST(Gptq, RefusesWhatItCannotDo) {
  Layer layer = MakeLayer(6, 64, 100, 34);
  const auto refused = [&](GptqOptions options) {
    const auto result = QuantizeGptq(layer.view(), layer.hessian, options);
    return result.ok() ? std::string() : std::string(result.status().message());
  };
  EXPECT_THAT(refused({.damping = 0}), HasSubstr("damping 0"));
  EXPECT_THAT(refused({.damping = std::nan("")}), HasSubstr("damping"));
  EXPECT_THAT(refused({.grid = {.bits = 5}}), HasSubstr("5 bits"));
  EXPECT_THAT(refused({.grid = {.group_size = 0}}), HasSubstr("group size 0"));
  EXPECT_THAT(refused({.block_size = 0}), HasSubstr("block size 0"));
  EXPECT_THAT(refused({.descent_passes = -1}), HasSubstr("descent"));
  layer.w[64 * 2 + 7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refused({}), HasSubstr("row 2, column 7 is nan"));
  std::fill(layer.w.begin(), layer.w.end(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_THAT(refused({}), HasSubstr("row 0, column 0 is nan"));
  layer.w.assign(layer.w.size(), 1);
  layer.hessian = MakeLayer(1, 32, 50, 1).hessian;
  EXPECT_THAT(refused({}), HasSubstr("Hessian of 32 columns"));
}

TEST(Gptq, ConstantZeroAndOutlierGroups) {
  Layer layer = MakeLayer(3, 96, 400, 35);
  for (size_t c = 0; c < 32; ++c) {
    layer.w[c] = 0;  // row 0: zeros, a constant, an outlier
    layer.w[32 + c] = 0.25f;
    if (c == 3) layer.w[64 + c] = 1000;
  }
  GptqOptions options;
  options.grid.group_size = 32;
  const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, options).value();
  EXPECT_TRUE(Validate(have.weights).ok());
  std::vector<float> w(96 * 3);
  DequantizeRows(have.weights, 0, 3, w);
  // The outlier's group is visited with an error of up to half of 1000 / 15, which others may make good.
  EXPECT_NEAR(w[64 + 3], 1000, 1000.0 / 15);
  EXPECT_LT(Relative(layer, have.weights), 1e-2);
}

}  // namespace
}  // namespace quant::weight_only
