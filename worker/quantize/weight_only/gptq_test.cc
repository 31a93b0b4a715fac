// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/calibrate/syrk.h"
#include "worker/quantize/weight_only/naive_gptq.h"
#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/testing.h"

namespace quant::weight_only {
namespace {

using testing::Different;
using testing::HessianOf;
using testing::Identity;
using testing::Layer;
using testing::MakeLayer;
using testing::Naive;

double Relative(const Layer& layer, const GroupedMatrix& q) {
  return QuadraticLoss(layer.view(), q, layer.hessian).value().relative;
}
double HeldOut(const Layer& layer, const GroupedMatrix& q) {
  return QuadraticLoss(layer.view(), q, HessianOf(layer.held_out, layer.tokens, layer.cols)).value().relative;
}

struct Shape {
  int64_t rows, cols, group, block;
  int bits;
  Symmetry symmetry;
};

class PlainGptq : public ::testing::TestWithParam<Shape> {};

TEST_P(PlainGptq, HasTheCodesOfTheReferenceAlgorithm) {
  const Shape s = GetParam();
  const Layer layer = MakeLayer(s.rows, s.cols, 600, 21);
  GptqOptions options = GptqOptions::Plain(s.bits, s.group, s.symmetry);
  options.block_size = static_cast<int>(s.block);
  const int64_t group = s.group == -1 ? s.cols : s.group;
  const Naive want(layer, s.bits, group, s.symmetry == Symmetry::kSymmetric, options.damping, s.block,
                   Identity(s.cols));

  options.arithmetic = GptqArithmetic::kFloat64;
  const GptqResult exact = QuantizeGptq(layer.view(), layer.hessian, options).value();
  EXPECT_EQ(Different(exact.weights, want), 0);
  for (size_t i = 0; i < want.scales.size(); ++i) {
    // The grids are float32 in both; the updated weights they come from differ by the rounding of double.
    EXPECT_NEAR(exact.weights.scales[i], want.scales[i], 1e-6 * want.scales[i]) << i;
    EXPECT_EQ(exact.weights.zero(static_cast<int64_t>(i) / exact.weights.groups(),
                                 static_cast<int64_t>(i) % exact.weights.groups()),
              want.zeros[i])
        << i;
  }

  // In float32 a weight within about 1e-5 of a step of the border between two codes may fall to the other side, and
  // what comes after it in its row differs; the loss does not.
  options.arithmetic = GptqArithmetic::kFastest;
  const GptqResult fast = QuantizeGptq(layer.view(), layer.hessian, options).value();
  EXPECT_LT(Different(fast.weights, want), std::max<int64_t>(s.cols, s.rows * s.cols / 20));
  const double mine = QuadraticLoss(layer.view(), fast.weights, layer.hessian).value().loss;
  const double reference = QuadraticLoss(layer.view(), exact.weights, layer.hessian).value().loss;
  EXPECT_NEAR(mine, reference, 0.01 * reference);  // few rows here: one different path shows
}

INSTANTIATE_TEST_SUITE_P(Shapes, PlainGptq,
                         ::testing::Values(Shape{5, 64, 32, 128, 4, Symmetry::kAsymmetric},
                                           Shape{1, 172, 64, 128, 4, Symmetry::kAsymmetric},
                                           Shape{5, 172, 128, 128, 3, Symmetry::kAsymmetric},
                                           Shape{140, 160, 32, 64, 4, Symmetry::kAsymmetric},
                                           Shape{6, 172, 96, 64, 2, Symmetry::kAsymmetric},
                                           Shape{33, 192, 128, 48, 4, Symmetry::kSymmetric},
                                           Shape{9, 130, -1, 128, 8, Symmetry::kSymmetric},
                                           Shape{9, 130, -1, 32, 4, Symmetry::kAsymmetric}));

TEST(Gptq, DynamicGroupsAreThoseOfTheReferenceAlgorithm) {
  const Layer layer = MakeLayer(20, 172, 600, 22);
  GptqOptions options = GptqOptions::Plain(4, 64);
  options.act_order = ActOrder::kDynamicGroups;
  options.arithmetic = GptqArithmetic::kFloat64;
  const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, options).value();
  std::vector<int> order = Identity(172);
  const std::vector<float> diagonal = layer.hessian.Diagonal();
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)]; });
  const Naive want(layer, 4, 64, false, options.damping, 128, order);
  EXPECT_EQ(Different(have.weights, want), 0);
  ASSERT_EQ(have.weights.group_of.size(), 172u);
  for (size_t p = 0; p < order.size(); ++p) {
    EXPECT_EQ(have.weights.group_of[static_cast<size_t>(order[p])], static_cast<int>(p / 64));
  }
  EXPECT_TRUE(Validate(have.weights).ok());
  // The loss reported by the sweep is the one of the quadratic form without damping.
  const QuadraticError error = QuadraticLoss(layer.view(), have.weights, layer.hessian).value();
  EXPECT_NEAR(have.loss, error.loss, 1e-4 * error.loss);
}

TEST(Gptq, ReportsTheLossOfEachRow) {
  const Layer layer = MakeLayer(130, 256, 900, 23);
  for (const int passes : {0, 2}) {
    GptqOptions options;
    options.grid.group_size = 64;
    options.descent_passes = passes;
    const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, options).value();
    EXPECT_EQ(have.outcome, GptqOutcome::kSwept);
    EXPECT_EQ(have.note, "");
    const QuadraticError error = QuadraticLoss(layer.view(), have.weights, layer.hessian).value();
    ASSERT_EQ(have.row_loss.size(), 130u);
    // Sums of 256 terms, and the damped loss less its damping, which is of the same size.
    const double tolerance = syrk::HasBFloat16() ? 5e-3 : 1e-3;
    for (size_t r = 0; r < have.row_loss.size(); ++r) {
      EXPECT_NEAR(have.row_loss[r], error.row_loss[r], tolerance * error.row_loss[r]) << r;
    }
    EXPECT_NEAR(have.loss, error.loss, 0.1 * tolerance * error.loss);
  }
}

TEST(Gptq, BeatsRoundToNearestAndTheDefaultsBeatThePlainSetting) {
  const Layer layer = MakeLayer(96, 256, 1500, 24);
  for (const int bits : {2, 3, 4}) {
    for (const int64_t group : {int64_t{32}, int64_t{128}, int64_t{-1}}) {
      const GridOptions grid{.bits = bits, .group_size = group, .search = ScaleSearch::kMinMax};
      const GroupedMatrix rtn = QuantizeRtn(layer.view(), grid).value();
      const GroupedMatrix plain =
          QuantizeGptq(layer.view(), layer.hessian, GptqOptions::Plain(bits, group)).value().weights;
      GptqOptions options;
      options.grid.bits = bits;
      options.grid.group_size = group;
      const GroupedMatrix best = QuantizeGptq(layer.view(), layer.hessian, options).value().weights;
      EXPECT_TRUE(Validate(best).ok());
      EXPECT_LT(HeldOut(layer, plain), HeldOut(layer, rtn) * 0.8) << bits << " bits, groups of " << group;
      EXPECT_LT(HeldOut(layer, best), HeldOut(layer, plain) * 0.8) << bits << " bits, groups of " << group;
      EXPECT_GT(HeldOut(layer, best), HeldOut(layer, plain) * 0.05) << bits << " bits, groups of " << group;
    }
  }
}

TEST(Gptq, DescentAndRefitNeverRaiseTheLoss) {
  const Layer layer = MakeLayer(140, 172, 500, 25);
  for (const auto symmetry : {Symmetry::kAsymmetric, Symmetry::kSymmetric, Symmetry::kFullRange}) {
    for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}}) {
      std::vector<double> before;
      for (const int passes : {0, 1, 2, 5}) {
        GptqOptions options;
        options.grid = {.bits = 3, .group_size = group, .symmetry = symmetry, .scale_type = ScaleType::kBFloat16};
        options.damping = 1e-6;  // so that the loss reported is the loss descended on
        options.descent_passes = passes;
        const GptqResult have = QuantizeGptq(layer.view(), layer.hessian, options).value();
        for (size_t r = 0; r < before.size(); ++r) EXPECT_LE(have.row_loss[r], before[r] * 1.0001) << r;
        if (!before.empty()) {
          EXPECT_LT(have.loss, std::accumulate(before.begin(), before.end(), 0.0) * 0.9999);
        }
        const QuadraticError error = QuadraticLoss(layer.view(), have.weights, layer.hessian).value();
        EXPECT_NEAR(have.loss, error.loss, 1e-3 * error.loss);
        for (const float s : have.weights.scales) EXPECT_EQ(s, RoundScale(s, ScaleType::kBFloat16));
        before = have.row_loss;
      }
    }
  }
}

TEST(Gptq, WithUncorrelatedInputsItIsRoundToNearest) {
  // H diagonal: no error can be made good elsewhere (the paper's section 3.1).
  Layer layer = MakeLayer(7, 96, 200, 26);
  for (int64_t i = 0; i < 96; ++i) {
    for (int64_t j = 0; j < 96; ++j) {
      if (i != j) layer.hessian.h[static_cast<size_t>(i * 96 + j)] = 0;
    }
  }
  for (const auto order : {ActOrder::kOff, ActOrder::kStaticGroups, ActOrder::kGroupAware}) {
    GptqOptions options = GptqOptions::Plain(4, 32);
    options.act_order = order;
    const GroupedMatrix rtn = QuantizeRtn(layer.view(), options.grid).value();
    const GroupedMatrix have = QuantizeGptq(layer.view(), layer.hessian, options).value().weights;
    EXPECT_EQ(have.codes, rtn.codes);
    EXPECT_EQ(have.scales, rtn.scales);
    EXPECT_EQ(have.zeros, rtn.zeros);
  }
}

TEST(Gptq, SameBitsForAnyNumberOfThreads) {
  const Layer layer = MakeLayer(300, 260, 700, 27);
  for (const auto order : {ActOrder::kOff, ActOrder::kDynamicGroups, ActOrder::kStaticGroups, ActOrder::kGroupAware}) {
    GptqOptions options;
    options.grid.group_size = 64;
    options.act_order = order;
    options.grid_source = GridSource::kUpdated;
    options.threads = 1;
    const GptqResult one = QuantizeGptq(layer.view(), layer.hessian, options).value();
    options.threads = 3;
    const GptqResult three = QuantizeGptq(layer.view(), layer.hessian, options).value();
    EXPECT_EQ(one.weights.codes, three.weights.codes);
    EXPECT_EQ(one.weights.scales, three.weights.scales);
    EXPECT_EQ(one.weights.zeros, three.weights.zeros);
    EXPECT_EQ(one.row_loss, three.row_loss);
    EXPECT_LT(Relative(layer, one.weights), 0.02);
  }
}

TEST(Gptq, LeavesOutZeroPointZeroWhenAsked) {
  const Layer layer = MakeLayer(40, 128, 300, 28);
  Layer positive = layer;
  for (float& w : positive.w) w = std::fabs(w);  // would have zero point 0
  for (const auto source : {GridSource::kOriginal, GridSource::kUpdated}) {
    GptqOptions options;
    options.act_order = ActOrder::kOff;
    options.grid_source = source;
    options.grid.group_size = 32;
    for (const int least : {0, 1}) {
      options.grid.zero_min = least;
      const GptqResult have = QuantizeGptq(positive.view(), layer.hessian, options).value();
      EXPECT_EQ(*std::min_element(have.weights.zeros.begin(), have.weights.zeros.end()), least);
    }
  }
}

}  // namespace
}  // namespace quant::weight_only
