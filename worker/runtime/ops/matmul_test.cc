// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

using ::testing::ElementsAre;

TEST(MatMul, MatricesVectorsAndBroadcastBatches) {
  const Tensor a = F({2, 3}, {1, 2, 3, 4, 5, 6}), v = F({3}, {1, 10, 100});
  EXPECT_THAT(AsFloats(Evaluate("MatMul", {a, F({3, 1}, {1, 10, 100})})), ElementsAre(321, 654));
  const Tensor mv = Evaluate("MatMul", {a, v});
  EXPECT_EQ(mv.shape(), Shape({2}));
  EXPECT_THAT(AsFloats(mv), ElementsAre(321, 654));
  EXPECT_EQ(Evaluate("MatMul", {v, v}).shape(), Shape({}));
  EXPECT_THAT(AsFloats(Evaluate("MatMul", {v, v})), ElementsAre(10101));
  EXPECT_THAT(AsFloats(Evaluate("MatMul", {F({2}, {1, 2}), a})), ElementsAre(9, 12, 15));
  const Tensor batched = Evaluate("MatMul", {Ramp({2, 1, 1, 2}), Ramp({3, 2, 1})});
  EXPECT_EQ(batched.shape(), Shape({2, 3, 1, 1}));
  EXPECT_THAT(AsFloats(batched), ElementsAre(1, 3, 5, 3, 13, 23));
}

TEST(MatMul, InnerDimensionOfZeroGivesZeros) {
  const Tensor y = Evaluate("MatMul", {F({2, 0}, {}), F({0, 3}, {})});
  EXPECT_EQ(y.shape(), Shape({2, 3}));
  EXPECT_THAT(AsFloats(y), ::testing::Each(0));
}

TEST(MatMul, IntegersWrap) {
  const Tensor y = Evaluate("MatMul", {Of<int32_t>({1, 2}, {2147483647, 1}), Of<int32_t>({2, 1}, {2, 3})});
  EXPECT_THAT(Integers(y), ElementsAre(1));  // 2^32 - 2 + 3
}

TEST(MatMul, MoreColumnsThanOneBlock) {
  const Tensor y = Evaluate("MatMul", {F({1, 2}, {1, 1}), Ramp({2, 700})});
  const Floats values = AsFloats(y);
  for (size_t i = 0; i < 700; ++i) ASSERT_EQ(values[i], static_cast<float>(2 * i + 700)) << i;
}

TEST(Gemm, TransposesScalesAndBroadcastsC) {
  const Tensor a = F({2, 1}, {1, 2}), b = F({3, 2}, {1, 2, 3, 4, 5, 6});
  // A' = [1 2], B' = [[1 3 5], [2 4 6]]: A'B' = [5 11 17].
  EXPECT_THAT(AsFloats(Evaluate("Gemm", {a, b, F({1}, {100})},
                                {{"transA", int64_t{1}}, {"transB", int64_t{1}}, {"alpha", 2.0f}, {"beta", 0.5f}})),
              ElementsAre(60, 72, 84));
  EXPECT_THAT(AsFloats(Evaluate("Gemm", {F({1, 2}, {1, 2}), F({2, 2}, {1, 2, 3, 4}), F({1, 2}, {10, 20})})),
              ElementsAre(17, 30));
}

TEST(MatMulInteger, ZeroPointsPerRowAndColumn) {
  const Tensor a = Of<uint8_t>({2, 2}, {1, 2, 3, 4}), b = Of<int8_t>({2, 2}, {-1, 2, 3, -4});
  EXPECT_THAT(Integers(Evaluate("MatMulInteger", {a, b})), ElementsAre(5, -6, 9, -10));
  // A - [1 3] by row: [0 1; 0 1].  B - [1 2] by column: [-2 0; 2 -6].
  EXPECT_THAT(Integers(Evaluate("MatMulInteger", {a, b, Of<uint8_t>({2}, {1, 3}), Of<int8_t>({2}, {1, 2})})),
              ElementsAre(2, -6, 2, -6));
}

TEST(Einsum, ProductsTracesAndEllipsis) {
  const Tensor a = F({2, 2}, {1, 2, 3, 4}), b = F({2, 2}, {5, 6, 7, 8});
  EXPECT_THAT(AsFloats(Evaluate("Einsum", {a, b}, {{"equation", "ij,jk->ik"}})), ElementsAre(19, 22, 43, 50));
  EXPECT_THAT(AsFloats(Evaluate("Einsum", {a, b}, {{"equation", "ij , jk"}})), ElementsAre(19, 22, 43, 50));
  EXPECT_THAT(AsFloats(Evaluate("Einsum", {a}, {{"equation", "ii"}})), ElementsAre(5));
  EXPECT_THAT(AsFloats(Evaluate("Einsum", {a}, {{"equation", "ij->j"}})), ElementsAre(4, 6));
  EXPECT_EQ(Evaluate("Einsum", {Ramp({3, 1, 2, 4}), Ramp({5, 4, 6})}, {{"equation", "...ij,...jk->...ik"}}).shape(),
            Shape({3, 5, 2, 6}));
}

// A cell of size 1 worked out by hand.
TEST(Lstm, OneStepFollowsTheFormula) {
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  const Tensor x = F({1, 1, 1}, {2});
  const Tensor w = F({1, 4, 1}, {0.1f, 0.2f, 0.3f, 0.4f}), r = F({1, 4, 1}, {0.5f, 0.6f, 0.7f, 0.8f});
  const Tensor h = F({1, 1, 1}, {0.5f}), c = F({1, 1, 1}, {0.25f});
  const auto out = EvaluateAll("LSTM", {x, w, r, std::nullopt, std::nullopt, h, c}, {{"hidden_size", int64_t{1}}}, 3);
  ASSERT_TRUE(out.ok()) << out.status();
  const double i = sigmoid(0.2 + 0.25), o = sigmoid(0.4 + 0.3), f = sigmoid(0.6 + 0.35), g = std::tanh(0.8 + 0.4);
  const double cell = f * 0.25 + i * g, hidden = o * std::tanh(cell);
  EXPECT_NEAR(AsFloats((*out)[0])[0], hidden, 1e-6);
  EXPECT_NEAR(AsFloats((*out)[1])[0], hidden, 1e-6);
  EXPECT_NEAR(AsFloats((*out)[2])[0], cell, 1e-6);
  EXPECT_EQ((*out)[0].shape(), Shape({1, 1, 1, 1}));
}

TEST(Lstm, ShortSequencesStopEarlyAndReverseStartsAtTheirEnd) {
  const Tensor x = Ramp({3, 2, 1}, 1), w = F({1, 1, 1}, {1}), r = F({1, 1, 1}, {10});
  const Tensor lengths = Of<int32_t>({2}, {3, 1});
  const Attributes a = {{"activations", std::vector<std::string>{"Relu"}}, {"direction", "reverse"}};
  const auto out = EvaluateAll("RNN", {x, w, r, std::nullopt, lengths}, a, 2);
  ASSERT_TRUE(out.ok()) << out.status();
  // Sample 0 is 1, 3, 5 read as 5, then 3 + 50, then 1 + 530; sample 1 is just 2.
  EXPECT_THAT(AsFloats((*out)[0]), ElementsAre(531, 2, 53, 0, 5, 0));
  EXPECT_THAT(AsFloats((*out)[1]), ElementsAre(531, 2));
}

}  // namespace
}  // namespace quant::testing
