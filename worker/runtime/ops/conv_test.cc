// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

TEST(Conv, AddsUpTheWindowAndTheBias) {
  const Tensor x = Ramp({1, 1, 3, 3}, 1);  // 1..9
  const Tensor w = F({1, 1, 2, 2}, {1, 0, 0, 2});
  const Tensor y = Evaluate("Conv", {x, w, F({1}, {10})});
  EXPECT_EQ(y.shape(), Shape({1, 1, 2, 2}));
  EXPECT_THAT(AsFloats(y), ElementsAre(1 + 2 * 5 + 10, 2 + 2 * 6 + 10, 4 + 2 * 8 + 10, 5 + 2 * 9 + 10));
}

TEST(Conv, PadsStridesAndDilations) {
  const Tensor x = Ramp({1, 1, 5}, 1);  // 1..5
  const Tensor w = F({1, 1, 2}, {1, 10});
  // Padded: 0 1 2 3 4 5 0 0; taps 2 apart, windows 2 apart: (0,2) (2,4) (4,0).
  EXPECT_THAT(
      AsFloats(Evaluate("Conv", {x, w}, {{"pads", Longs{1, 2}}, {"strides", Longs{2}}, {"dilations", Longs{2}}})),
      ElementsAre(20, 42, 4));
}

TEST(Conv, SameUpperPutsTheOddPadAtTheEndSameLowerAtTheBeginning) {
  const Tensor x = F({1, 1, 4}, {1, 2, 3, 4});
  const Tensor w = F({1, 1, 2}, {1, 10});
  EXPECT_THAT(AsFloats(Evaluate("Conv", {x, w}, {{"auto_pad", "SAME_UPPER"}})), ElementsAre(21, 32, 43, 4));
  EXPECT_THAT(AsFloats(Evaluate("Conv", {x, w}, {{"auto_pad", "SAME_LOWER"}})), ElementsAre(10, 21, 32, 43));
  EXPECT_THAT(AsFloats(Evaluate("Conv", {x, w}, {{"auto_pad", "VALID"}})), ElementsAre(21, 32, 43));
}

TEST(Conv, GroupsSeeOnlyTheirChannels) {
  const Tensor x = F({1, 4, 1}, {1, 2, 3, 4});
  const Tensor w = F({2, 2, 1}, {1, 10, 100, 1000});
  EXPECT_THAT(AsFloats(Evaluate("Conv", {x, w}, {{"group", int64_t{2}}})), ElementsAre(21, 4300));
  const Tensor depthwise = F({4, 1, 1}, {1, 10, 100, 1000});
  EXPECT_THAT(AsFloats(Evaluate("Conv", {x, depthwise}, {{"group", int64_t{4}}})), ElementsAre(1, 20, 300, 4000));
}

TEST(Conv, ThreeDimensions) {
  const Tensor y =
      Evaluate("Conv", {Ramp({1, 1, 2, 2, 2}), F({1, 1, 2, 2, 2}, Floats(8, 1))}, {{"pads", Longs{0, 0, 0, 1, 0, 0}}});
  EXPECT_EQ(y.shape(), Shape({1, 1, 2, 1, 1}));
  EXPECT_THAT(AsFloats(y), ElementsAre(28, 22));
}

TEST(Conv, RowsLongerThanOneBlockOfAccumulators) {
  // 1x1 kernels flatten the plane to one row of 30 * 31 = 930 columns; a padded kernel keeps rows of 600.
  const Tensor flat = Evaluate("Conv", {Ramp({1, 2, 30, 31}), F({1, 2, 1, 1}, {1, -1})});
  EXPECT_THAT(AsFloats(flat), Each(-930));
  const Tensor padded =
      Evaluate("Conv", {F({1, 1, 600}, Floats(600, 1)), F({1, 1, 3}, {1, 1, 1})}, {{"pads", Longs{1, 1}}});
  const Floats values = AsFloats(padded);
  EXPECT_EQ(values.front(), 2);
  EXPECT_EQ(values.back(), 2);
  for (size_t i = 1; i < 599; ++i) ASSERT_EQ(values[i], 3) << i;
}

TEST(Conv, AccumulatesInDouble) {
  // 1e8 + 1 - 1e8 loses the 1 in float.
  EXPECT_THAT(AsFloats(Evaluate("Conv", {F({1, 3, 1}, {1e8f, 1, -1e8f}), F({1, 3, 1}, {1, 1, 1})})), ElementsAre(1));
}

TEST(Conv, Float16GoesThroughFloatAndIsRoundedOnce) {
  const Tensor x = *Cast(F({1, 1, 2}, {1, 0.0009765625f}), DType::kFloat16);
  const Tensor w = *Cast(F({1, 1, 2}, {1, 0.5f}), DType::kFloat16);
  const Tensor y = Evaluate("Conv", {x, w});
  EXPECT_EQ(y.dtype(), DType::kFloat16);
  EXPECT_THAT(AsFloats(y), ElementsAre(1));  // 1 + 2^-11 ties to even
}

TEST(Conv, EmptyBatchGivesAnEmptyOutput) {
  EXPECT_EQ(Evaluate("Conv", {F({0, 1, 3, 3}, {}), F({2, 1, 2, 2}, Floats(8, 1))}).shape(), Shape({0, 2, 2, 2}));
}

TEST(ConvInteger, SubtractsZeroPointsAndPadsWithThem) {
  const Tensor x = Of<uint8_t>({1, 1, 2}, {10, 20});
  const Tensor w = Of<int8_t>({2, 1, 2}, {1, 2, -3, 4});
  const Tensor y =
      Evaluate("ConvInteger", {x, w, Of<uint8_t>({}, {5}), Of<int8_t>({2}, {1, 0})}, {{"pads", Longs{0, 1}}});
  EXPECT_EQ(y.dtype(), DType::kInt32);
  // x - 5 = 5, 15, pad 0; channel 0 weights 0, 1; channel 1 weights -3, 4.
  EXPECT_THAT(Integers(y), ElementsAre(15, 0, -15 + 60, -45));
}

TEST(ConvInteger, ExtremesAreExact) {
  const Tensor x = Of<uint8_t>({1, 64, 1}, std::vector<uint8_t>(64, 255));
  const Tensor w = Of<int8_t>({1, 64, 1}, std::vector<int8_t>(64, 127));
  EXPECT_THAT(Integers(Evaluate("ConvInteger", {x, w})), ElementsAre(2072640));  // where AVX2 saturates to 1048544
}

TEST(QLinearConv, RoundsHalfToEvenAndSaturates) {
  const Tensor x = Of<uint8_t>({1, 1, 3}, {128, 129, 255}), w = Of<int8_t>({2, 1, 1}, {1, 100});
  const Tensor y =
      Evaluate("QLinearConv", {x, F({}, {1}), Of<uint8_t>({}, {127}), w, F({2}, {0.5f, 1}), Of<int8_t>({2}, {0, 0}),
                               F({}, {1}), Of<int8_t>({}, {-1}), Of<int32_t>({2}, {0, -150})});
  EXPECT_EQ(y.dtype(), DType::kInt8);
  // Channel 0: 1, 2, 128 halved are 0.5, 1, 64, less 1.  Channel 1: 100 - 150, 200 - 150, 12800 - 150, less 1.
  EXPECT_THAT(Integers(y), ElementsAre(-1, 0, 63, -51, 49, 127));
}

TEST(ConvTranspose, SpreadsEachInput) {
  const Tensor x = F({1, 1, 3}, {1, 2, 3});
  const Tensor w = F({1, 1, 2}, {1, 10});
  EXPECT_THAT(AsFloats(Evaluate("ConvTranspose", {x, w})), ElementsAre(1, 12, 23, 30));
  EXPECT_THAT(
      AsFloats(Evaluate("ConvTranspose", {x, w, F({1}, {100})}, {{"strides", Longs{2}}, {"output_padding", Longs{1}}})),
      ElementsAre(101, 110, 102, 120, 103, 130, 100));
  EXPECT_THAT(AsFloats(Evaluate("ConvTranspose", {x, w}, {{"strides", Longs{2}}, {"pads", Longs{1, 1}}})),
              ElementsAre(10, 2, 20, 3));
  EXPECT_EQ(Evaluate("ConvTranspose", {x, w}, {{"strides", Longs{3}}, {"output_shape", Longs{9}}}).shape(),
            Shape({1, 1, 9}));
}

TEST(ConvTranspose, GroupsAndTwoDimensions) {
  const Tensor x = F({1, 2, 1, 1}, {2, 3});
  const Tensor w = F({2, 1, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_THAT(AsFloats(Evaluate("ConvTranspose", {x, w}, {{"group", int64_t{2}}})),
              ElementsAre(2, 4, 6, 8, 15, 18, 21, 24));
}

TEST(MaxPool, TakesTheLargestAndIgnoresPads) {
  const Tensor x = F({1, 1, 2, 3}, {-1, -2, -3, -4, -5, -6});
  const Attributes a = {{"kernel_shape", Longs{2, 2}}, {"pads", Longs{1, 1, 0, 0}}};
  const Tensor y = Evaluate("MaxPool", {x}, a);
  EXPECT_EQ(y.shape(), Shape({1, 1, 2, 3}));
  EXPECT_THAT(AsFloats(y), ElementsAre(-1, -1, -2, -1, -1, -2));
  EXPECT_THAT(Integers(Evaluate("MaxPool", {Of<int8_t>({1, 1, 1, 3}, {-128, 5, -3})}, {{"kernel_shape", Longs{1, 3}}})),
              ElementsAre(5));
}

TEST(MaxPool, CeilModeAddsAWindowButNoneThatStartsInThePadding) {
  const Attributes a = {{"kernel_shape", Longs{2}}, {"strides", Longs{2}}, {"ceil_mode", int64_t{1}}};
  EXPECT_THAT(AsFloats(Evaluate("MaxPool", {F({1, 1, 5}, {1, 2, 3, 4, 5})}, a)), ElementsAre(2, 4, 5));
  Attributes padded = a;
  padded["pads"] = Longs{1, 1};
  // Padded length 6 of input 4: windows at -1, 1, 3; slack divides, nothing is added.
  EXPECT_THAT(AsFloats(Evaluate("MaxPool", {F({1, 1, 4}, {1, 2, 3, 4})}, padded)), ElementsAre(1, 3, 4));
  padded["strides"] = Longs{3};
  // Windows at -1 and 2; a third would start at 5, beyond the input.
  EXPECT_EQ(Evaluate("MaxPool", {F({1, 1, 4}, {1, 2, 3, 4})}, padded).dim(2), 2);
}

TEST(AveragePool, CountsPadsOnlyWhenAsked) {
  const Tensor x = F({1, 1, 3}, {3, 6, 9});
  Attributes a = {{"kernel_shape", Longs{3}}, {"pads", Longs{1, 1}}};
  EXPECT_THAT(AsFloats(Evaluate("AveragePool", {x}, a)), ElementsAre(4.5, 6, 7.5));
  a["count_include_pad"] = int64_t{1};
  EXPECT_THAT(AsFloats(Evaluate("AveragePool", {x}, a)), ElementsAre(3, 6, 5));
  // The window ceil_mode adds reaches past the pads: only what is before their end counts.
  const Attributes ceil = {
      {"kernel_shape", Longs{2}}, {"strides", Longs{2}}, {"ceil_mode", int64_t{1}}, {"count_include_pad", int64_t{1}}};
  EXPECT_THAT(AsFloats(Evaluate("AveragePool", {x}, ceil)), ElementsAre(4.5, 9));
}

TEST(GlobalPool, ReducesAllSpatialDimensions) {
  const Tensor x = Ramp({1, 2, 2, 3});
  const Tensor y = Evaluate("GlobalAveragePool", {x});
  EXPECT_EQ(y.shape(), Shape({1, 2, 1, 1}));
  EXPECT_THAT(AsFloats(y), ElementsAre(2.5, 8.5));
  EXPECT_THAT(AsFloats(Evaluate("GlobalMaxPool", {x})), ElementsAre(5, 11));
}

}  // namespace
}  // namespace quant::testing
