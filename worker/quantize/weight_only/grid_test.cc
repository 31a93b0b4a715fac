// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "worker/quantize/weight_only/quadratic.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/testing.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Layer;
using testing::MakeLayer;

GridOptions MinMax(Symmetry symmetry, int bits = 4) {
  return {.bits = bits,
          .group_size = -1,
          .symmetry = symmetry,
          .search = ScaleSearch::kMinMax,
          .scale_type = ScaleType::kFloat32};
}

TEST(Grid, KnownAnswers) {
  const std::vector<float> w = {-1, 0.5f, 2, 0};
  Grid g = FindGrid(w, {}, MinMax(Symmetry::kAsymmetric));
  EXPECT_FLOAT_EQ(g.scale, 3.0f / 15);
  EXPECT_EQ(g.zero, 5);
  g = FindGrid(w, {}, MinMax(Symmetry::kSymmetric));
  EXPECT_FLOAT_EQ(g.scale, 4.0f / 15);
  EXPECT_EQ(g.zero, 8);
  g = FindGrid(w, {}, MinMax(Symmetry::kFullRange));
  EXPECT_FLOAT_EQ(g.scale, -0.25f);  // 2 has code 0: -0.25 * (0 - 8)
  EXPECT_EQ(g.zero, 8);
  g = FindGrid(std::vector<float>{-2, 1}, {}, MinMax(Symmetry::kFullRange, 2));
  EXPECT_FLOAT_EQ(g.scale, 1);
  EXPECT_EQ(g.zero, 2);
}

TEST(Grid, RangeIsWidenedToZero) {
  Grid g = FindGrid(std::vector<float>{3, 6}, {}, MinMax(Symmetry::kAsymmetric));
  EXPECT_FLOAT_EQ(g.scale, 0.4f);
  EXPECT_EQ(g.zero, 0);
  g = FindGrid(std::vector<float>{-3, -6}, {}, MinMax(Symmetry::kAsymmetric));
  EXPECT_EQ(g.zero, 15);
  GridOptions v1 = MinMax(Symmetry::kAsymmetric);
  v1.zero_min = 1;
  EXPECT_EQ(FindGrid(std::vector<float>{3, 6}, {}, v1).zero, 1);
}

TEST(Grid, ScalesAreRoundedAndKeptInRange) {
  EXPECT_EQ(RoundScale(1.0f / 3, ScaleType::kFloat32), 1.0f / 3);
  EXPECT_EQ(RoundScale(1.0f / 3, ScaleType::kFloat16), 0.333251953125f);
  EXPECT_EQ(RoundScale(1.0f / 3, ScaleType::kBFloat16), 0.333984375f);
  EXPECT_EQ(RoundScale(1e-12f, ScaleType::kFloat16), 0x1p-24f);
  EXPECT_EQ(RoundScale(-1e-12f, ScaleType::kFloat16), -0x1p-24f);
  EXPECT_EQ(RoundScale(1e9f, ScaleType::kFloat16), 65504);
  EXPECT_EQ(RoundScale(-1e9f, ScaleType::kFloat16), -65504);
  EXPECT_TRUE(std::isfinite(RoundScale(std::numeric_limits<float>::infinity(), ScaleType::kBFloat16)));
  EXPECT_GT(RoundScale(0, ScaleType::kFloat32), 0);
}

TEST(Grid, ZeroAndConstantGroupsAreExact) {
  for (const auto symmetry : {Symmetry::kAsymmetric, Symmetry::kSymmetric, Symmetry::kFullRange}) {
    for (const auto search : {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kWeightedMse}) {
      for (const float value : {0.0f, 0.75f, -0.75f}) {
        const std::vector<float> w(70, value);
        GridOptions options{.bits = 4, .group_size = 32, .symmetry = symmetry, .search = search};
        const GroupedMatrix q = QuantizeRtn({w, 1, 70}, options).value();
        EXPECT_TRUE(Validate(q).ok());
        EXPECT_EQ(q.groups(), 3);
        std::vector<float> back(70);
        DequantizeRows(q, 0, 1, back);
        // A plain symmetric grid clips the greatest positive weight by half a step, 2 / 15 * 0.75 / 2; a float16 scale
        // is off by up to 2^-11.
        const float slack = symmetry == Symmetry::kSymmetric && search == ScaleSearch::kMinMax ? 0.0505f
                            : search == ScaleSearch::kMse                                      ? 0.0505f
                                                                                               : 0.75f * 0x1p-11f;
        for (const float v : back) EXPECT_NEAR(v, value, value == 0 ? 0 : slack);
      }
    }
  }
}

// Greatest error of a grid over the whole range of a group is half a step, beyond float16's rounding of the scale.
TEST(Rtn, ErrorIsAtMostHalfAStep) {
  for (const int64_t cols : {64, 172}) {
    for (const int64_t group : {int64_t{64}, int64_t{128}, int64_t{-1}}) {
      for (const int bits : {2, 3, 4, 8}) {
        const Layer layer = MakeLayer(5, cols, 10, 3);
        const GridOptions options{.bits = bits, .group_size = group, .search = ScaleSearch::kMinMax};
        const GroupedMatrix q = QuantizeRtn(layer.view(), options).value();
        ASSERT_TRUE(Validate(q).ok());
        EXPECT_EQ(q.groups(), group == -1 ? 1 : (cols + group - 1) / group);
        std::vector<float> back(static_cast<size_t>(5 * cols));
        DequantizeRows(q, 0, 5, back);
        double worst = 0;
        for (int64_t r = 0; r < 5; ++r) {
          for (int64_t c = 0; c < cols; ++c) {
            const float step = q.scales[static_cast<size_t>(r * q.groups() + q.group(c))];
            const auto at = static_cast<size_t>(r * cols + c);
            worst = std::max<double>(worst, std::fabs(back[at] - layer.w[at]) / step);
          }
        }
        // The zero point's rounding shifts the range by up to half a step: at its end up to one step is lost.
        EXPECT_LE(worst, 1.0 + (1 << bits) * 0x1p-11);
        EXPECT_GE(worst, 0.4);
      }
    }
  }
}

TEST(Rtn, SearchesLowerTheirOwnMeasure) {
  const Layer layer = MakeLayer(40, 172, 400, 4);
  const std::vector<float> importance = layer.hessian.Diagonal();
  const auto weighted = [&](const GroupedMatrix& q) {
    std::vector<float> back(layer.w.size());
    DequantizeRows(q, 0, layer.rows, back);
    double sum = 0;
    for (size_t i = 0; i < back.size(); ++i) {
      sum += importance[i % 172] * std::pow(static_cast<double>(back[i]) - layer.w[i], 2);
    }
    return sum;
  };
  for (const auto symmetry : {Symmetry::kAsymmetric, Symmetry::kSymmetric, Symmetry::kFullRange}) {
    for (const int bits : {2, 3, 4}) {
      GridOptions options{.bits = bits, .group_size = 64, .symmetry = symmetry, .search = ScaleSearch::kMinMax};
      const double plain = weighted(QuantizeRtn(layer.view(), options).value());
      options.search = ScaleSearch::kMse;
      const double mse = weighted(QuantizeRtn(layer.view(), options).value());
      options.search = ScaleSearch::kWeightedMse;
      const double best = weighted(QuantizeRtn(layer.view(), options, importance).value());
      EXPECT_LT(best, mse) << bits;
      EXPECT_LT(best, 0.9 * plain) << bits;
      EXPECT_GT(best, 0.1 * plain) << bits;  // the grid has no more levels than it had
      // Without importance the search is uniform; with all of it in one place still finite.
      std::vector<float> odd(172, 0.0f);
      EXPECT_EQ(QuantizeRtn(layer.view(), options, odd).value().codes,
                QuantizeRtn(layer.view(), options).value().codes);
      odd[3] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_EQ(QuantizeRtn(layer.view(), options, odd).value().scales,
                QuantizeRtn(layer.view(), options).value().scales);
    }
  }
}

TEST(Rtn, ThreadsDoNotChangeBits) {
  const Layer layer = MakeLayer(50, 172, 50, 5);
  const GroupedMatrix one = QuantizeRtn(layer.view(), {}, layer.hessian.Diagonal(), 1).value();
  const GroupedMatrix three = QuantizeRtn(layer.view(), {}, layer.hessian.Diagonal(), 3).value();
  EXPECT_EQ(one.codes, three.codes);
  EXPECT_EQ(one.scales, three.scales);
  EXPECT_EQ(one.zeros, three.zeros);
}

TEST(Rtn, RefusesBadInput) {
  std::vector<float> w(64, 1.0f);
  EXPECT_THAT(std::string(QuantizeRtn({w, 2, 33}, {}).status().message()), HasSubstr("2 x 33 with 64"));
  EXPECT_THAT(std::string(QuantizeRtn({w, 1, 64}, {.bits = 6}).status().message()), HasSubstr("6 bits"));
  EXPECT_THAT(std::string(QuantizeRtn({w, 1, 64}, {}, std::vector<float>(3)).status().message()),
              HasSubstr("3 columns"));
  w[40] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(std::string(QuantizeRtn({w, 2, 32}, {}).status().message()), HasSubstr("row 1, column 8 is inf"));
}

TEST(Rtn, HugeAndTinyWeights) {
  for (const float magnitude : {3e38f, 1e-38f}) {
    std::vector<float> w = {magnitude, -magnitude, magnitude / 2, 0};
    for (const auto search : {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kWeightedMse}) {
      for (const auto type : {ScaleType::kFloat32, ScaleType::kFloat16, ScaleType::kBFloat16}) {
        const auto q = QuantizeRtn({w, 1, 4}, {.search = search, .scale_type = type});
        ASSERT_TRUE(q.ok());
        EXPECT_TRUE(Validate(*q).ok());
      }
    }
  }
}

TEST(Quadratic, KnownAnswer) {
  // d = (1, -1), H = [2 1; 1 3]: 2 - 2 + 3 = 3.
  const HessianMatrix h{.cols = 2, .tokens = 1, .h = {2, 1, 1, 3}};
  const std::vector<float> d = {1, -1, 0, 2};
  EXPECT_THAT(QuadraticForm({d, 2, 2}, h).value(), ElementsAre(3, 12));
  EXPECT_FALSE(QuadraticForm({d, 1, 4}, h).ok());
}

TEST(Quadratic, IsTwiceTheMeanSquaredErrorOfTheOutputs) {
  const Layer layer = MakeLayer(5, 300, 350, 6);
  const GroupedMatrix q = QuantizeRtn(layer.view(), {}).value();
  std::vector<float> back(layer.w.size());
  DequantizeRows(q, 0, 5, back);
  double error = 0;
  double whole = 0;
  for (int64_t t = 0; t < layer.tokens; ++t) {
    for (int64_t r = 0; r < 5; ++r) {
      double e = 0;
      double y = 0;
      for (int64_t c = 0; c < 300; ++c) {
        const auto at = static_cast<size_t>(r * 300 + c);
        const double x = layer.x[static_cast<size_t>(t * 300 + c)];
        e += x * (static_cast<double>(back[at]) - layer.w[at]);
        y += x * layer.w[at];
      }
      error += 2 * e * e / static_cast<double>(layer.tokens);
      whole += 2 * y * y / static_cast<double>(layer.tokens);
    }
  }
  const QuadraticError have = QuadraticLoss(layer.view(), q, layer.hessian).value();
  EXPECT_NEAR(have.loss, error, 1e-4 * error);  // float32 products of up to 300 terms that partly cancel
  EXPECT_NEAR(have.relative, error / whole, 1e-4 * error / whole);
  EXPECT_EQ(have.row_loss, QuadraticLoss(layer.view(), q, layer.hessian, 1).value().row_loss);
}

TEST(Vec, TailsAgreeWithPlainLoops) {
  for (size_t n = 1; n < 40; ++n) {
    const Layer layer = MakeLayer(1, static_cast<int64_t>(n), 3, static_cast<unsigned>(n));
    float lo = 0, hi = 0;
    vec::MinMax(layer.w.data(), n, &lo, &hi);
    EXPECT_EQ(lo, *std::ranges::min_element(layer.w));
    EXPECT_EQ(hi, *std::ranges::max_element(layer.w));
    std::vector<uint8_t> codes(n + 1, 77);
    vec::Encode(layer.w.data(), n, 0.01f, 7, 15, codes.data());
    double two = 0, odd = 0;
    for (size_t i = 0; i < n; ++i) {
      const float code = std::clamp(std::nearbyint(layer.w[i] / 0.01f) + 7, 0.0f, 15.0f);
      EXPECT_EQ(codes[i], static_cast<int>(code));
      const double e = std::fabs(0.01f * (code - 7) - layer.w[i]);
      two += e * e;
      odd += std::pow(e, 2.4);
    }
    EXPECT_EQ(codes[n], 77);
    EXPECT_NEAR(vec::GridError(layer.w.data(), nullptr, n, 0.01f, 7, 15, 2), two, 1e-4 * two + 1e-12);
    EXPECT_NEAR(vec::GridError(layer.w.data(), nullptr, n, 0.01f, 7, 15, 2.4f), odd, 1e-4 * odd + 1e-12);
    std::vector<float> with_nan = layer.w;
    EXPECT_TRUE(vec::AllFinite(with_nan.data(), n));
    with_nan[n - 1] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FALSE(vec::AllFinite(with_nan.data(), n));
  }
}

}  // namespace
}  // namespace quant::weight_only
