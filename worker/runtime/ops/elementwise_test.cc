// SPDX-License-Identifier: Apache-2.0
// Unary, binary, reduction, normalization and cast operators.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float At1(const std::string& op, float x, Attributes attributes = {}) {
  return AsFloats(Evaluate(op, {F({1}, {x})}, std::move(attributes)))[0];
}

TEST(Unary, KnownValues) {
  EXPECT_EQ(At1("Relu", -2), 0);
  EXPECT_EQ(At1("LeakyRelu", -2), -0.02f);
  EXPECT_EQ(At1("LeakyRelu", -2, {{"alpha", 0.5f}}), -1);
  EXPECT_FLOAT_EQ(At1("Sigmoid", 0), 0.5f);
  EXPECT_EQ(At1("Sigmoid", -200), std::exp(-200.0f));  // no overflow on either side
  EXPECT_EQ(At1("Sigmoid", 200), 1);
  EXPECT_FLOAT_EQ(At1("HardSigmoid", 1), 0.7f);
  EXPECT_FLOAT_EQ(At1("HardSwish", 1), 1 * (1 / 6.0f + 0.5f));
  EXPECT_EQ(At1("HardSwish", -4), 0);
  EXPECT_FLOAT_EQ(At1("Elu", -1), std::expm1(-1.0f));
  EXPECT_FLOAT_EQ(At1("Selu", 1), 1.0507009873554805f);
  EXPECT_FLOAT_EQ(At1("Softplus", 0), std::log(2.0f));
  EXPECT_EQ(At1("Softplus", 1000), 1000);
  EXPECT_FLOAT_EQ(At1("Gelu", 1), 0.8413447460685429f);
  EXPECT_FLOAT_EQ(At1("Gelu", 1, {{"approximate", "tanh"}}), 0.8411919906082768f);
  EXPECT_FLOAT_EQ(At1("Mish", 1), 0.8650983882673103f);
  EXPECT_FLOAT_EQ(At1("Erf", 0.5f), 0.5204998778130465f);
}

TEST(Unary, RoundGoesToEven) {
  EXPECT_THAT(AsFloats(Evaluate("Round", {F({6}, {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 2.6f})})),
              ElementsAre(0, 2, 2, 0, -2, 3));
}

TEST(Unary, NanStaysNan) {
  for (const char* op : {"Relu", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Abs", "Sign"}) {
    EXPECT_TRUE(std::isnan(At1(op, kNan))) << op;
  }
  EXPECT_TRUE(std::isnan(AsFloats(Evaluate("Clip", {F({1}, {kNan}), Tensor::Scalar(0.0f), Tensor::Scalar(6.0f)}))[0]));
}

TEST(Unary, IntegersAreExactAndTheMostNegativeWraps) {
  const int64_t min = std::numeric_limits<int64_t>::min();
  EXPECT_THAT(Integers(Evaluate("Neg", {L({3, min, (int64_t{1} << 62) + 1})})),
              ElementsAre(-3, min, -(int64_t{1} << 62) - 1));
  EXPECT_THAT(Integers(Evaluate("Abs", {Of<int8_t>({2}, {-128, -5})})), ElementsAre(-128, 5));
  EXPECT_THAT(Integers(Evaluate("Sign", {L({-9, 0, 9})})), ElementsAre(-1, 0, 1));
}

TEST(Clip, BoundsAreOptionalAndTheUpperWins) {
  const Tensor x = F({3}, {-5, 1, 9});
  EXPECT_THAT(AsFloats(Evaluate("Clip", {x, Tensor::Scalar(0.0f), Tensor::Scalar(6.0f)})), ElementsAre(0, 1, 6));
  EXPECT_THAT(AsFloats(Evaluate("Clip", {x, std::nullopt, Tensor::Scalar(6.0f)})), ElementsAre(-5, 1, 6));
  EXPECT_THAT(AsFloats(Evaluate("Clip", {x, Tensor::Scalar(0.0f)})), ElementsAre(0, 1, 9));
  EXPECT_THAT(AsFloats(Evaluate("Clip", {x})), ElementsAre(-5, 1, 9));
  EXPECT_THAT(AsFloats(Evaluate("Clip", {x, Tensor::Scalar(3.0f), Tensor::Scalar(2.0f)})), ElementsAre(2, 2, 2));
  EXPECT_THAT(Integers(Evaluate("Clip", {Of<uint8_t>({2}, {0, 200}), Of<uint8_t>({}, {3}), Of<uint8_t>({}, {100})})),
              ElementsAre(3, 100));
}

TEST(Binary, BroadcastsBothWays) {
  const Tensor y = Evaluate("Sub", {F({2, 1}, {10, 20}), F({3}, {1, 2, 3})});
  EXPECT_EQ(y.shape(), Shape({2, 3}));
  EXPECT_THAT(AsFloats(y), ElementsAre(9, 8, 7, 19, 18, 17));
  EXPECT_EQ(Evaluate("Add", {F({}, {1}), F({}, {2})}).shape(), Shape({}));
  EXPECT_EQ(Evaluate("Add", {F({2, 0}, {}), F({1}, {2})}).shape(), Shape({2, 0}));
}

TEST(Binary, IntegerDivisionTruncatesWrapsAndRefusesZero) {
  const int64_t min = std::numeric_limits<int64_t>::min();
  EXPECT_THAT(Integers(Evaluate("Div", {L({7, -7, 7, min}), L({2, 2, -2, -1})})), ElementsAre(3, -3, -3, min));
  const auto by_zero = EvaluateAll("Div", {L({1}), L({0})});
  EXPECT_EQ(by_zero.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(AsFloats(Evaluate("Div", {F({2}, {1, -1}), F({}, {0})})), ElementsAre(kInf, -kInf));
}

TEST(Binary, ModTakesTheDivisorsSignOrTheDividends) {
  EXPECT_THAT(Integers(Evaluate("Mod", {L({7, -7, 7, -7}), L({3, 3, -3, -3})})), ElementsAre(1, 2, -2, -1));
  EXPECT_THAT(Integers(Evaluate("Mod", {L({7, -7}), L({3})}, {{"fmod", int64_t{1}}})), ElementsAre(1, -1));
  EXPECT_THAT(AsFloats(Evaluate("Mod", {F({1}, {-5.5f}), F({1}, {2})}, {{"fmod", int64_t{1}}})), ElementsAre(-1.5f));
  EXPECT_THAT(Integers(Evaluate("Mod", {L({std::numeric_limits<int64_t>::min()}), L({-1})})), ElementsAre(0));
}

TEST(Binary, IntegerOverflowWraps) {
  EXPECT_THAT(Integers(Evaluate("Add", {Of<uint8_t>({1}, {250}), Of<uint8_t>({1}, {10})})), ElementsAre(4));
  EXPECT_THAT(Integers(Evaluate("Mul", {Of<int32_t>({1}, {1 << 30}), Of<int32_t>({1}, {4})})), ElementsAre(0));
}

TEST(Binary, PowTakesAnotherTypeOfExponent) {
  EXPECT_THAT(AsFloats(Evaluate("Pow", {F({2}, {2, 3}), L({3, -1})})), ElementsAre(8, FloatNear(1 / 3.0f, 1e-7f)));
  EXPECT_THAT(Integers(Evaluate("Pow", {L({2, 10}), L({10, 2})})), ElementsAre(1024, 100));
}

TEST(Binary, VariadicAndComparisons) {
  EXPECT_THAT(AsFloats(Evaluate("Mean", {F({2}, {1, 2}), F({1}, {4}), F({2}, {4, 6})})), ElementsAre(3, 4));
  EXPECT_THAT(AsFloats(Evaluate("Max", {F({3}, {1, kNan, 3}), F({1}, {2})})), ElementsAre(2, ::testing::IsNan(), 3));
  EXPECT_THAT(AsFloats(Evaluate("Sum", {F({2}, {1, 2})})), ElementsAre(1, 2));
  EXPECT_THAT(Integers(Evaluate("LessOrEqual", {F({3}, {1, 2, kNan}), F({1}, {1})})), ElementsAre(1, 0, 0));
  EXPECT_THAT(Integers(Evaluate("Xor", {B({2}, {1, 1}), B({2}, {0, 1})})), ElementsAre(1, 0));
}

TEST(Where, PicksByConditionWithBroadcasting) {
  EXPECT_THAT(Integers(Evaluate("Where", {B({2, 1}, {1, 0}), L({1, 2}), L({9})})), ElementsAre(1, 2, 9, 9));
}

TEST(Where, AnyNonzeroByteIsTrue) {
  const std::vector<std::byte> raw = {std::byte{2}, std::byte{0}};
  const Tensor condition = *Tensor::Borrow(DType::kBool, {2}, raw, nullptr);
  EXPECT_THAT(Integers(Evaluate("Where", {condition, L({1}), L({9})})), ElementsAre(1, 9));
  EXPECT_THAT(Integers(Evaluate("Not", {condition})), ElementsAre(0, 1));
}

TEST(Reduce, AxesKeepdimsAndNoop) {
  const Tensor x = F({2, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(AsFloats(Evaluate("ReduceSum", {x, L({0})}, {{"keepdims", int64_t{0}}})), ElementsAre(5, 7, 9));
  EXPECT_EQ(Evaluate("ReduceSum", {x, L({-1})}).shape(), Shape({2, 1}));
  EXPECT_THAT(AsFloats(Evaluate("ReduceMean", {x}, {{"axes", Longs{1}}})), ElementsAre(2, 5));
  EXPECT_THAT(AsFloats(Evaluate("ReduceMax", {x})), ElementsAre(6));
  EXPECT_THAT(AsFloats(Evaluate("ReduceProd", {x}, {{"noop_with_empty_axes", int64_t{1}}})),
              ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(AsFloats(Evaluate("ReduceL2", {F({2}, {3, 4})})), ElementsAre(5));
  EXPECT_THAT(AsFloats(Evaluate("ReduceLogSumExp", {F({2}, {1000, 1000})})), ElementsAre(1000 + std::log(2.0f)));
  EXPECT_THAT(AsFloats(Evaluate("ReduceSum", {F({2, 0}, {}), L({1})})), ElementsAre(0, 0));
  EXPECT_THAT(Integers(Evaluate("ReduceMax", {Of<uint8_t>({3}, {7, 250, 3})})), ElementsAre(250));
}

TEST(Reduce, AccumulatesInDouble) {
  EXPECT_THAT(AsFloats(Evaluate("ReduceSum", {F({4}, {1e8f, 1, -1e8f, 1})})), ElementsAre(2));
}

TEST(ArgMax, FirstOrLastOfEquals) {
  const Tensor x = F({2, 3}, {1, 7, 7, 5, 2, 1});
  EXPECT_THAT(Integers(Evaluate("ArgMax", {x}, {{"axis", int64_t{1}}})), ElementsAre(1, 0));
  EXPECT_THAT(Integers(Evaluate("ArgMax", {x}, {{"axis", int64_t{1}}, {"select_last_index", int64_t{1}}})),
              ElementsAre(2, 0));
  EXPECT_EQ(Evaluate("ArgMin", {x}, {{"axis", int64_t{-1}}, {"keepdims", int64_t{0}}}).shape(), Shape({2}));
}

TEST(CumSum, ExclusiveAndReverse) {
  const Tensor x = F({3}, {1, 2, 3}), axis = L({}, {0});
  EXPECT_THAT(AsFloats(Evaluate("CumSum", {x, axis})), ElementsAre(1, 3, 6));
  EXPECT_THAT(AsFloats(Evaluate("CumSum", {x, axis}, {{"exclusive", int64_t{1}}, {"reverse", int64_t{1}}})),
              ElementsAre(5, 3, 0));
}

TEST(Softmax, IsStableAndSumsToOneAlongItsAxis) {
  EXPECT_THAT(AsFloats(Evaluate("Softmax", {F({1, 2}, {1000, 1000})})), ElementsAre(0.5f, 0.5f));
  const Floats y = AsFloats(Evaluate("Softmax", {F({2, 2}, {0, 1, 2, 3})}, {{"axis", int64_t{0}}}));
  EXPECT_FLOAT_EQ(y[0] + y[2], 1);
  EXPECT_FLOAT_EQ(y[2] / y[0], std::exp(2.0f));
  EXPECT_FLOAT_EQ(AsFloats(Evaluate("LogSoftmax", {F({1, 2}, {0, 0})}))[0], -std::log(2.0f));
}

TEST(Normalization, ByHand) {
  EXPECT_THAT(AsFloats(Evaluate("BatchNormalization",
                                {F({1, 2, 1}, {5, 7}), F({2}, {2, 3}), F({2}, {1, 0}), F({2}, {3, 7}), F({2}, {4, 1})},
                                {{"epsilon", 0.0f}})),
              ElementsAre(3, 0));
  EXPECT_THAT(AsFloats(Evaluate("InstanceNormalization", {F({1, 1, 2}, {1, 3}), F({1}, {10}), F({1}, {5})},
                                {{"epsilon", 0.0f}})),
              ElementsAre(-5, 15));
  EXPECT_THAT(AsFloats(Evaluate("LayerNormalization", {F({1, 2}, {1, 3}), F({2}, {10, 20})}, {{"epsilon", 0.0f}})),
              ElementsAre(-10, 20));
  // size 3: channel 0 sees channels 0 and 1; alpha / size = 1, bias 0, beta 1.
  EXPECT_THAT(AsFloats(Evaluate("LRN", {F({1, 3, 1}, {1, 2, 3})},
                                {{"size", int64_t{3}}, {"alpha", 3.0f}, {"beta", 1.0f}, {"bias", 0.0f}})),
              ElementsAre(1 / 5.0f, 2 / 14.0f, 3 / 13.0f));
}

TEST(Cast, TruncatesFloatsSaturatesAndKeepsLowBitsOfIntegers) {
  const Tensor x = F({6}, {1.9f, -1.9f, 300, -300, kNan, kInf});
  EXPECT_THAT(Integers(Evaluate("Cast", {x}, {{"to", int64_t{3}}})), ElementsAre(1, -1, 127, -128, 0, 127));
  EXPECT_THAT(Integers(Evaluate("Cast", {L({257, -1})}, {{"to", int64_t{2}}})), ElementsAre(1, 255));
  EXPECT_THAT(Integers(Evaluate("Cast", {F({3}, {0, 0.5f, kNan})}, {{"to", int64_t{9}}})), ElementsAre(0, 1, 1));
  EXPECT_THAT(AsFloats(Evaluate("Cast", {F({1}, {2049})}, {{"to", int64_t{10}}})), ElementsAre(2048));
  const Tensor half = *Cast(F({2}, {2.75f, -2.75f}), DType::kFloat16);
  EXPECT_THAT(Integers(Evaluate("Cast", {half}, {{"to", int64_t{7}}})), ElementsAre(2, -2));
  EXPECT_THAT(Integers(Evaluate("Cast", {F({3}, {7.9f, -8.9f, 20})}, {{"to", int64_t{22}}})), ElementsAre(7, -8, 7));
}

}  // namespace
}  // namespace quant::testing
