// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/input_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
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

// Inputs as a quantized model might have them: each channel leaks into the next, and some noise.
std::vector<float> Disturb(const std::vector<float>& x, int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t neighbour = i % static_cast<size_t>(cols) == 0 ? i + static_cast<size_t>(cols) - 1 : i - 1;
    y[i] = 0.97f * x[i] + 0.05f * x[neighbour] + 0.01f * normal(random);
  }
  return y;
}

CrossMomentMatrix CrossOf(const std::vector<float>& x, const std::vector<float>& y, int64_t tokens, int64_t cols) {
  CrossMoment moment = CrossMoment::Create(cols).value();
  EXPECT_TRUE(moment.Add(x, y, tokens).ok());
  return std::move(moment).Finish();
}

// sum over tokens and rows of (W x - V y)^2.
double Error(const Layer& layer, const std::vector<float>& x, const std::vector<float>& v,
             const std::vector<float>& y) {
  double sum = 0;
  for (int64_t t = 0; t < layer.tokens; ++t) {
    for (int64_t r = 0; r < layer.rows; ++r) {
      double e = 0;
      for (int64_t c = 0; c < layer.cols; ++c) {
        const auto w = static_cast<size_t>(r * layer.cols + c);
        const auto at = static_cast<size_t>(t * layer.cols + c);
        e += static_cast<double>(layer.w[w]) * x[at] - static_cast<double>(v[w]) * y[at];
      }
      sum += e * e;
    }
  }
  return sum;
}

TEST(OutputLoss, IsTheErrorAgainstTheOriginalButForAConstant) {
  const Layer layer = MakeLayer(20, 96, 700, 62);
  const std::vector<float> y = Disturb(layer.x, 96, 3);
  const HessianMatrix h = HessianOf(y, layer.tokens, 96);
  const CrossMomentMatrix cross = CrossOf(layer.x, y, layer.tokens, 96);
  const double own = Error(layer, layer.x, layer.w, y);
  for (const int bits : {2, 4, 8}) {
    const WeightMatrix q = QuantizeRtn(layer.view(), {.bits = bits, .group_size = 32}).value();
    std::vector<float> values(layer.w.size());
    DequantizeRows(q, 0, layer.rows, values);
    const double n = static_cast<double>(layer.tokens);
    const double wanted = 2 / n * (Error(layer, layer.x, values, y) - own);
    EXPECT_NEAR(OutputLoss(layer.view(), q, h, cross).value(), wanted, 1e-4 * 2 / n * own + 1e-4 * std::fabs(wanted));
  }
  EXPECT_EQ(OutputLoss(layer.view(), GroupedMatrix{}, h, cross).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SharedFactor, GivesTheSameBitsAndIsMadeOnce) {
  const Layer layer = MakeLayer(20, 96, 700, 63);
  SharedFactor shared(layer.hessian);
  const GptqOptions options{.grid = {.group_size = 32}};
  const GptqResult alone = QuantizeGptq(layer.view(), layer.hessian, options).value();
  for (int i = 0; i < 2; ++i) {
    const GptqResult result = QuantizeGptq(layer.view(), shared, options).value();
    EXPECT_EQ(result.weights.codes, alone.weights.codes);
    EXPECT_EQ(result.row_loss, alone.row_loss);
  }
  std::vector<int32_t> order(96);
  std::iota(order.begin(), order.end(), 0);
  const float* const first = shared.Get(order, 0.01)->l.data();
  EXPECT_EQ(shared.Get(order, 0.01)->l.data(), first);
  const double lambda = shared.Get(order, 0.01)->lambda;
  EXPECT_NEAR(shared.Get(order, 0.02)->lambda, 2 * lambda, 1e-6 * lambda);
  std::swap(order[0], order[95]);
  const float before = shared.Get(order, 0.02)->l[0];
  std::swap(order[0], order[95]);
  EXPECT_NE(shared.Get(order, 0.02)->l[0], before);
}

TEST(InputError, HeldOutOutputsComeCloserToTheOriginal) {
  const Layer layer = MakeLayer(20, 96, 1500, 61);
  const std::vector<float> y = Disturb(layer.x, 96, 1);
  const std::vector<float> held_out = Disturb(layer.held_out, 96, 2);
  const HessianMatrix h = HessianOf(y, layer.tokens, 96);
  const CompensatedWeights have = CompensateInputError(layer.view(), h, CrossOf(layer.x, y, layer.tokens, 96)).value();
  EXPECT_EQ(have.note, "");
  const double before = Error(layer, layer.held_out, layer.w, held_out);
  EXPECT_LT(Error(layer, layer.held_out, have.weights, held_out), 0.5 * before);
  // Quantized, it still is: that is what it is for.
  const auto quantized = [&](const std::vector<float>& w) {
    const GroupedMatrix q = QuantizeGptq({w, 20, 96}, h, {.grid = {.group_size = 32}}).value().weights;
    std::vector<float> back(w.size());
    DequantizeRows(q, 0, 20, back);
    return Error(layer, layer.held_out, back, held_out);
  };
  EXPECT_LT(quantized(have.weights), 0.8 * quantized(layer.w));
}

TEST(InputError, SolvesTheNormalEquations) {
  // share 1: (W' - W) (H + ridge) = W D.
  const Layer layer = MakeLayer(3, 40, 300, 62);
  const std::vector<float> y = Disturb(layer.x, 40, 1);
  const HessianMatrix h = HessianOf(y, layer.tokens, 40);
  const CrossMomentMatrix d = CrossOf(layer.x, y, layer.tokens, 40);
  const CompensatedWeights have = CompensateInputError(layer.view(), h, d, {.share = 1, .ridge = 0.05}).value();
  double mean = 0;
  for (const float v : h.Diagonal()) mean += v / 40;
  for (size_t r = 0; r < 3; ++r) {
    for (size_t j = 0; j < 40; ++j) {
      double left = 0, right = 0, size = 0;
      for (size_t i = 0; i < 40; ++i) {
        const double hij = h.h[i * 40 + j] + (i == j ? 0.05 * mean : 0);
        const double change = static_cast<double>(have.weights[r * 40 + i]) - layer.w[r * 40 + i];
        left += change * hij;
        size += std::fabs(change * hij);
        right += static_cast<double>(layer.w[r * 40 + i]) * d.d[i * 40 + j];
      }
      EXPECT_NEAR(left, right, 1e-4 * size + 1e-6);
    }
  }
}

TEST(InputError, EqualInputsChangeNothingAndThreadsNeither) {
  const Layer layer = MakeLayer(150, 64, 200, 63);
  const HessianMatrix h = HessianOf(layer.x, layer.tokens, 64);
  EXPECT_EQ(CompensateInputError(layer.view(), h, CrossOf(layer.x, layer.x, layer.tokens, 64)).value().weights,
            layer.w);
  const std::vector<float> y = Disturb(layer.x, 64, 3);
  const HessianMatrix hy = HessianOf(y, layer.tokens, 64);
  const CrossMomentMatrix d = CrossOf(layer.x, y, layer.tokens, 64);
  EXPECT_EQ(CompensateInputError(layer.view(), hy, d, {.threads = 1}).value().weights,
            CompensateInputError(layer.view(), hy, d, {.threads = 3}).value().weights);
}

TEST(InputError, WhatCannotBeDoneIsSaid) {
  const Layer layer = MakeLayer(4, 32, 100, 64);
  const std::vector<float> y = Disturb(layer.x, 32, 3);
  HessianMatrix h = HessianOf(y, layer.tokens, 32);
  CrossMomentMatrix d = CrossOf(layer.x, y, layer.tokens, 32);
  EXPECT_FALSE(CompensateInputError(layer.view(), h, d, {.share = 2}).ok());
  EXPECT_FALSE(CompensateInputError(layer.view(), h, d, {.ridge = 0}).ok());
  d.tokens = 99;
  EXPECT_THAT(std::string(CompensateInputError(layer.view(), h, d).status().message()), HasSubstr("99"));
  d.tokens = 100;
  d.d[5] = std::numeric_limits<float>::infinity();
  const CompensatedWeights have = CompensateInputError(layer.view(), h, d).value();
  EXPECT_EQ(have.weights, layer.w);
  EXPECT_THAT(have.note, HasSubstr("overflow"));
}

}  // namespace
}  // namespace quant::weight_only
