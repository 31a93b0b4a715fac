// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weights.h"

#include <cmath>
#include <limits>
#include <random>

#include "gtest/gtest.h"
#include "worker/quantize/equalize.h"
#include "worker/quantize/saturation.h"
#include "worker/quantize/testing_graphs.h"

namespace quant {
namespace {

TEST(QuantizeWeights, PerChannelScalesFollowTheChosenAxis) {
  const Tensor w = Tensor::Of<float>({2, 3}, std::vector<float>{1, 2, -4, 127, 0, 0.5f});
  const QuantizedWeights rows = *QuantizeWeights(w, 0, {});
  EXPECT_FLOAT_EQ(rows.scales[0], 4.0f / 127);
  EXPECT_FLOAT_EQ(rows.scales[1], 1.0f);
  const std::span<const int8_t> q = rows.codes.data<int8_t>();
  // 1 / (4/127) = 31.75, 2 / (4/127) = 63.5 to even 64, 0.5 to even 0.
  EXPECT_EQ(std::vector<int>(q.begin(), q.end()), (std::vector<int>{32, 64, -127, 127, 0, 0}));
  const QuantizedWeights columns = *QuantizeWeights(w, 1, {});
  ASSERT_EQ(columns.scales.size(), 3u);
  EXPECT_FLOAT_EQ(columns.scales[0], 1.0f);
}

TEST(QuantizeWeights, SevenBitsStayWithinSixtyThree) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  std::vector<float> v(64 * 9);
  for (float& x : v) x = normal(rng);
  const QuantizedWeights q = *QuantizeWeights(Tensor::Of<float>({64, 9}, v), 0, {.bits = 7});
  int largest = 0;
  for (const int8_t c : q.codes.data<int8_t>()) largest = std::max(largest, std::abs(int{c}));
  EXPECT_EQ(largest, 63);
}

TEST(QuantizeWeights, ErrorIsAtMostHalfAStepAndAsymmetricUsesTheWholeGrid) {
  std::mt19937 rng(5);
  std::uniform_real_distribution<float> uniform(-0.2f, 1.0f);
  std::vector<float> v(512);
  for (float& x : v) x = uniform(rng);
  const Tensor w = Tensor::Of<float>({4, 128}, v);
  for (const bool symmetric : {true, false}) {
    const QuantizedWeights q = *QuantizeWeights(w, 0, {.symmetric = symmetric});
    const Tensor back = DequantizeWeights(q);
    for (size_t i = 0; i < v.size(); ++i) {
      EXPECT_LE(std::fabs(back.data<float>()[i] - v[i]), q.scales[i / 128] * 0.5001f) << symmetric << " " << i;
    }
  }
  EXPECT_LT(QuantizeWeights(w, 0, {.symmetric = false})->scales[0], 0.65f * QuantizeWeights(w, 0, {})->scales[0]);
}

TEST(QuantizeWeights, ZeroChannelsGetAUsableScaleAndNanIsNamed) {
  const QuantizedWeights q = *QuantizeWeights(Tensor::Of<float>({2, 1}, std::vector<float>{0, 12.7f}), 0, {});
  EXPECT_FLOAT_EQ(q.scales[0], 0.1f);
  EXPECT_EQ(QuantizeWeights(Tensor::Of<float>({2, 1}, std::vector<float>{0, 0}), 0, {})->scales[0], 1.0f);
  const absl::Status s = QuantizeWeights(Tensor::Of<float>({2, 1}, std::vector<float>{1, NAN}), 0, {}).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(s.message().find("weight 1"), std::string::npos);
}

TEST(QuantizeBias, AFloorOnTheWeightScaleKeepsItInInt32) {
  const float input_scale = 1e-4f;
  const float bias = 50.0f;
  const float floor = BiasScaleFloor(bias, input_scale);
  const QuantizedWeights q =
      *QuantizeWeights(Tensor::Of<float>({1, 2}, std::vector<float>{1e-9f, -1e-9f}), 0, {}, std::vector<float>{floor});
  const std::vector<int32_t> code = QuantizeBias(std::vector<float>{bias}, input_scale, q.scales);
  EXPECT_LE(std::abs(int64_t{code[0]}), (int64_t{1} << 30) + 256);  // 2^30 up to a few roundings of float
  EXPECT_NEAR(static_cast<double>(code[0]) * input_scale * q.scales[0], bias, 1e-3);
}

TEST(EqualizeAcrossLayers, MakesRangesEqualAndKeepsTheProductOfScales) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "a", 3, 4).Op("Relu", {"a"}, "r").Conv("r", "y", 4, 2);
  Graph g = m.Output("y");
  // One channel a hundred times larger than its neighbours.
  std::vector<float> w = *ToFloat(g.initializers["a.w"]);
  for (size_t i = 0; i < 27; ++i) w[i] *= 100;
  g.initializers["a.w"] = Tensor::Of<float>({4, 3, 3, 3}, w);
  const std::vector<float> before_a = w, before_y = *ToFloat(g.initializers["y.w"]);
  ASSERT_EQ(*EqualizeAcrossLayers(&g), 1);
  const std::vector<float> a = *ToFloat(g.initializers["a.w"]), y = *ToFloat(g.initializers["y.w"]);
  for (size_t c = 0; c < 4; ++c) {
    float r1 = 0, r2 = 0;
    for (size_t i = 0; i < 27; ++i) r1 = std::max(r1, std::fabs(a[c * 27 + i]));
    for (size_t o = 0; o < 2; ++o) {
      for (size_t k = 0; k < 9; ++k) r2 = std::max(r2, std::fabs(y[(o * 4 + c) * 9 + k]));
    }
    EXPECT_NEAR(r1 / r2, 1, 0.01) << c;
    // (W1 / s)(W2 s): the product of any pair of weights through the channel is unchanged.
    EXPECT_NEAR(a[c * 27] * y[c * 9], before_a[c * 27] * before_y[c * 9], 1e-4 * std::fabs(before_a[c * 27])) << c;
  }
}

TEST(EqualizeAcrossLayers, IsBlockedByClipAndBySecondReaders) {
  GraphMaker clip({1, 3, 8, 8});
  clip.Conv("x", "a", 3, 4).Op("Clip", {"a"}, "r").Conv("r", "y", 4, 2);
  Graph g = clip.Output("y");
  EXPECT_EQ(*EqualizeAcrossLayers(&g), 0);
  GraphMaker two({1, 3, 8, 8});
  two.Conv("x", "a", 3, 4).Conv("a", "b", 4, 4).Op("Add", {"a", "b"}, "y");
  Graph h = two.Output("y");
  EXPECT_EQ(*EqualizeAcrossLayers(&h), 0);
}

TEST(SaturationCensus, CountsPairSumsPastSixteenBits) {
  const Grid grid{.scale = 1, .zero_point = 0, .qmin = 0, .qmax = 255};
  const Node matmul{.name = "m", .op_type = "MatMul", .inputs = {"x", "w"}, .outputs = {"y"}};
  const auto share = [&](std::vector<float> w, float x) {
    SaturationCensus census;
    census.AddForTest("x", Tensor::Of<float>({1, 4}, std::vector<float>(4, x)));
    const QuantizedWeights q = *QuantizeWeights(Tensor::Of<float>({4, 1}, w), 1, {});
    return *census.Share(matmul, q, grid);
  };
  EXPECT_EQ(share({127, 127, 127, 127}, 255), 1.0);    // 64770 in every pair
  EXPECT_EQ(share({127, -127, 127, -127}, 255), 0.0);  // they cancel
  EXPECT_EQ(share({127, 127, 1, 1}, 255), 0.5);
  EXPECT_EQ(share({127, 127, 127, 127}, 128), 0.0);  // 32512 fits
  EXPECT_EQ(share({127, 127, 127, 127}, 130), 1.0);  // 33020 does not
}

}  // namespace
}  // namespace quant
