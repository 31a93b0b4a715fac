// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/awq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
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

// A few channels with inputs forty times as large: what AWQ was made for.
Layer Salient(int64_t rows, int64_t cols, unsigned seed) {
  Layer layer = MakeLayer(rows, cols, 600, seed);
  for (std::vector<float>* x : {&layer.x, &layer.held_out}) {
    for (int64_t t = 0; t < layer.tokens; ++t) {
      for (int64_t c = 3; c < cols; c += 41) (*x)[static_cast<size_t>(t * cols + c)] *= 40;
    }
  }
  layer.hessian = HessianOf(layer.x, layer.tokens, cols);
  return layer;
}

// Loss of quantized scaled weights as the layer's outputs see it.
double LossOf(const Layer& layer, const GroupedMatrix& q, const std::vector<float>& scales, const HessianMatrix& h) {
  std::vector<float> d(layer.w.size());
  DequantizeRows(q, 0, layer.rows, d);
  for (size_t i = 0; i < d.size(); ++i) d[i] = d[i] / scales[i % static_cast<size_t>(layer.cols)] - layer.w[i];
  const std::vector<double> loss = QuadraticForm({d, layer.rows, layer.cols}, h).value();
  return std::accumulate(loss.begin(), loss.end(), 0.0);
}

TEST(Awq, BeatsRoundToNearestWhereChannelsAreSalient) {
  for (const int64_t cols : {64, 172}) {
    const Layer layer = Salient(80, cols, 41);
    for (const int bits : {3, 4}) {
      AwqOptions options;
      options.grid.bits = bits;
      options.grid.group_size = 64;
      const std::vector<MatrixView> layers = {layer.view()};
      const AwqResult have = SearchAwqScales(layers, layer.hessian, options).value();
      const GroupedMatrix rtn = QuantizeRtn(layer.view(), options.grid).value();
      const double rtn_loss = QuadraticLoss(layer.view(), rtn, layer.hessian).value().loss;
      EXPECT_NEAR(have.identity_loss, rtn_loss, 1e-4 * rtn_loss);
      EXPECT_LT(have.loss, 0.6 * have.identity_loss);
      EXPECT_GT(have.loss, 0.01 * have.identity_loss);
      EXPECT_FALSE(have.identity());
      EXPECT_GT(have.scales[3], 2 * have.scales[4]);

      const std::vector<float> scaled = ScaleColumns(layer.view(), have.scales);
      const MatrixView view{scaled, layer.rows, cols};
      const HessianMatrix held_out = HessianOf(layer.held_out, layer.tokens, cols);
      const double awq = LossOf(layer, QuantizeRtn(view, options.grid).value(), have.scales, layer.hessian);
      EXPECT_NEAR(awq, have.loss, 1e-4 * awq);
      const HessianMatrix scaled_hessian = ScaleHessian(layer.hessian, have.scales);
      const GroupedMatrix clipped = QuantizeClipped(view, options.grid, scaled_hessian).value();
      EXPECT_TRUE(Validate(clipped).ok());
      EXPECT_LT(LossOf(layer, clipped, have.scales, held_out), awq);
      GptqOptions gptq;
      gptq.grid = options.grid;
      gptq.grid.search = ScaleSearch::kWeightedMse;
      const GroupedMatrix both = QuantizeGptq(view, scaled_hessian, gptq).value().weights;
      EXPECT_LT(LossOf(layer, both, have.scales, held_out), LossOf(layer, clipped, have.scales, held_out));
    }
  }
}

TEST(Awq, NeverLosesToTheIdentity) {
  // Uncorrelated inputs of one magnitude: nothing to gain but by chance.
  Layer layer = MakeLayer(30, 64, 50, 42);
  std::fill(layer.hessian.h.begin(), layer.hessian.h.end(), 0.0f);
  for (size_t c = 0; c < 64; ++c) layer.hessian.h[c * 65] = 2;
  layer.hessian.mean_abs.assign(64, 1.0f);
  const std::vector<MatrixView> layers = {layer.view()};
  const AwqResult have = SearchAwqScales(layers, layer.hessian, {}).value();
  EXPECT_LE(have.loss, have.identity_loss);
  if (have.identity()) {
    EXPECT_EQ(have.scales, std::vector<float>(64, 1.0f));
  }
}

TEST(Awq, SeveralLayersShareOneScale) {
  const Layer a = Salient(40, 128, 43);
  Layer b = Salient(700, 128, 44);  // more than search_rows
  const std::vector<MatrixView> layers = {a.view(), b.view()};
  AwqOptions options;
  options.threads = 1;
  const AwqResult one = SearchAwqScales(layers, a.hessian, options).value();
  options.threads = 3;
  const AwqResult three = SearchAwqScales(layers, a.hessian, options).value();
  EXPECT_EQ(one.scales, three.scales);
  EXPECT_EQ(one.loss, three.loss);
  EXPECT_LT(one.loss, one.identity_loss);
  for (const float s : one.scales) {
    EXPECT_GE(s, 0x1p-10f);
    EXPECT_LE(s, 0x1p10f);
  }
}

TEST(Awq, SilentChannelsKeepScaleOne) {
  Layer layer = Salient(20, 64, 45);
  for (int64_t t = 0; t < layer.tokens; ++t) layer.x[static_cast<size_t>(t * 64 + 9)] = 0;
  layer.hessian = HessianOf(layer.x, layer.tokens, 64);
  const std::vector<MatrixView> layers = {layer.view()};
  const AwqResult have = SearchAwqScales(layers, layer.hessian, {}).value();
  EXPECT_EQ(have.scales[9], 1);
  EXPECT_LT(have.loss, have.identity_loss);
}

TEST(Awq, ScaledHessianIsTheHessianOfScaledInputs) {
  const Layer layer = MakeLayer(1, 40, 200, 46);
  std::vector<float> scales(40);
  for (size_t c = 0; c < 40; ++c) scales[c] = 0.5f + 0.1f * static_cast<float>(c);
  std::vector<float> x = layer.x;
  for (size_t i = 0; i < x.size(); ++i) x[i] /= scales[i % 40];
  const HessianMatrix want = HessianOf(x, 200, 40);
  const HessianMatrix have = ScaleHessian(layer.hessian, scales);
  for (size_t i = 0; i < want.h.size(); ++i) {
    const double size = std::sqrt(want.h[i / 40 * 41] * want.h[i % 40 * 41]);
    EXPECT_NEAR(have.h[i], want.h[i], 1e-5 * size);
  }
  for (size_t c = 0; c < 40; ++c) EXPECT_NEAR(have.mean_abs[c], want.mean_abs[c], 1e-5 * want.mean_abs[c]);
}

TEST(Clip, LowersTheLossOfItsGroups) {
  for (const auto symmetry : {Symmetry::kAsymmetric, Symmetry::kSymmetric, Symmetry::kFullRange}) {
    const Layer layer = MakeLayer(140, 172, 400, 47);
    GridOptions options{.bits = 3, .group_size = 64, .symmetry = symmetry, .search = ScaleSearch::kMinMax};
    const double rtn =
        QuadraticLoss(layer.view(), QuantizeRtn(layer.view(), options).value(), layer.hessian).value().loss;
    const GroupedMatrix clipped = QuantizeClipped(layer.view(), options, layer.hessian, 1).value();
    EXPECT_TRUE(Validate(clipped).ok());
    EXPECT_LT(QuadraticLoss(layer.view(), clipped, layer.hessian).value().loss, 0.95 * rtn);
    EXPECT_EQ(clipped.codes, QuantizeClipped(layer.view(), options, layer.hessian, 3).value().codes);
  }
}

TEST(Awq, RefusesBadInput) {
  Layer layer = MakeLayer(4, 64, 50, 48);
  std::vector<MatrixView> layers;
  const auto message = [&](const AwqOptions& options) {
    return std::string(SearchAwqScales(layers, layer.hessian, options).status().message());
  };
  EXPECT_THAT(message({}), HasSubstr("no layer"));
  layers = {layer.view()};
  EXPECT_THAT(message({.steps = 0}), HasSubstr("0 steps"));
  EXPECT_THAT(message({.grid = {.bits = 7}}), HasSubstr("7 bits"));
  layer.hessian.h[5] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(message({}), HasSubstr("not finite"));
  EXPECT_FALSE(QuantizeClipped(layer.view(), {}, layer.hessian).ok());
  layer.hessian = MakeLayer(1, 32, 50, 1).hessian;
  EXPECT_THAT(message({}), HasSubstr("32 columns for weights of 64"));
}

}  // namespace
}  // namespace quant::weight_only
