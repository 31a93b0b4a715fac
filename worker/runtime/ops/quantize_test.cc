// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

using ::testing::ElementsAre;

TEST(QuantizeLinear, RoundsHalfToEvenBeforeTheZeroPointAndSaturates) {
  const Tensor x = F({8}, {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 1e9f, -1e9f, 3});
  EXPECT_THAT(Integers(Evaluate("QuantizeLinear", {x, F({}, {1}), Of<uint8_t>({}, {3})})),
              ElementsAre(3, 5, 5, 3, 1, 255, 0, 6));
  EXPECT_THAT(Integers(Evaluate("QuantizeLinear", {x, F({}, {1}), Of<int8_t>({}, {0})})),
              ElementsAre(0, 2, 2, 0, -2, 127, -128, 3));
  EXPECT_EQ(Evaluate("QuantizeLinear", {x, F({}, {1})}).dtype(), DType::kUInt8);
}

TEST(QuantizeLinear, NonFiniteValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const Tensor x = F({3}, {std::numeric_limits<float>::quiet_NaN(), kInf, -kInf});
  EXPECT_THAT(Integers(Evaluate("QuantizeLinear", {x, F({}, {1}), Of<uint8_t>({}, {7})})), ElementsAre(7, 255, 0));
  EXPECT_THAT(Integers(Evaluate("QuantizeLinear", {F({2}, {0, 1}), F({}, {0}), Of<uint8_t>({}, {7})})),
              ElementsAre(7, 255));
}

TEST(QuantizeLinear, PerAxisAndBlocked) {
  const Tensor x = F({2, 2}, {10, 20, 30, 40});
  EXPECT_THAT(
      Integers(Evaluate("QuantizeLinear", {x, F({2}, {10, 5}), Of<int8_t>({2}, {0, 1})}, {{"axis", int64_t{0}}})),
      ElementsAre(1, 2, 7, 9));
  EXPECT_THAT(Integers(Evaluate("QuantizeLinear", {x, F({2}, {10, 5})}, {{"axis", int64_t{-1}}})),
              ElementsAre(1, 4, 3, 8));
  // Blocks of 2 along axis 1 of 3 columns: the last block is short.
  const Tensor wide = F({2, 3}, {1, 2, 3, 4, 5, 6});
  EXPECT_THAT(Integers(Evaluate("QuantizeLinear", {wide, F({2, 2}, {1, 3, 2, 6})},
                                {{"axis", int64_t{1}}, {"block_size", int64_t{2}}})),
              ElementsAre(1, 2, 1, 2, 2, 1));
}

TEST(QuantizeLinear, FourBitsArePackedLowNibbleFirst) {
  const Tensor x = F({3}, {-9, 7, -1});
  const Tensor y = Evaluate("QuantizeLinear", {x, F({}, {1})}, {{"output_dtype", int64_t{22}}});
  EXPECT_EQ(y.dtype(), DType::kInt4);
  EXPECT_EQ(std::to_integer<int>(y.bytes()[0]), 0x78);
  EXPECT_EQ(std::to_integer<int>(y.bytes()[1]), 0x0f);
  EXPECT_THAT(AsFloats(Evaluate("DequantizeLinear", {y, F({}, {2})})), ElementsAre(-16, 14, -2));
}

TEST(DequantizeLinear, EveryTypeAndAxis) {
  EXPECT_THAT(
      AsFloats(Evaluate("DequantizeLinear", {Of<uint8_t>({2}, {0, 255}), F({}, {0.5f}), Of<uint8_t>({}, {128})})),
      ElementsAre(-64, 63.5f));
  EXPECT_THAT(AsFloats(Evaluate("DequantizeLinear", {Of<int32_t>({2}, {1000000, -3}), F({2}, {0.25f, 2})},
                                {{"axis", int64_t{0}}})),
              ElementsAre(250000, -6));
  EXPECT_THAT(
      AsFloats(Evaluate("DequantizeLinear", {Of<int16_t>({1}, {-32768}), F({1}, {1}), Of<int16_t>({1}, {32767})})),
      ElementsAre(-65535));
  EXPECT_THAT(AsFloats(Evaluate("DequantizeLinear", {Of<int8_t>({4, 1}, {1, 2, 3, 4}), F({2, 1}, {1, 10})},
                                {{"axis", int64_t{0}}, {"block_size", int64_t{2}}})),
              ElementsAre(1, 2, 30, 40));
}

TEST(DequantizeLinear, OfUnalignedBorrowedWeights) {
  alignas(8) std::byte raw[9] = {};
  raw[1] = std::byte{5};  // int32 5 at an odd address
  const Tensor x = *Tensor::Borrow(DType::kInt32, {2}, std::span(raw).subspan(1), nullptr);
  EXPECT_THAT(AsFloats(Evaluate("DequantizeLinear", {x, F({}, {2})})), ElementsAre(10, 0));
  EXPECT_THAT(Integers(Evaluate("Add", {x, x})), ElementsAre(10, 0));
}

TEST(DynamicQuantizeLinear, CoversZeroAndAConstantZeroInput) {
  const auto out = EvaluateAll("DynamicQuantizeLinear", {F({3}, {-1, 0, 4.1f})}, {}, 3);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_FLOAT_EQ(AsFloats((*out)[1])[0], 5.1f / 255);
  EXPECT_THAT(Integers((*out)[2]), ElementsAre(50));
  EXPECT_THAT(Integers((*out)[0]), ElementsAre(0, 50, 255));
  const auto zeros = EvaluateAll("DynamicQuantizeLinear", {F({2}, {0, 0})}, {}, 3);
  ASSERT_TRUE(zeros.ok());
  EXPECT_THAT(Integers((*zeros)[0]), ElementsAre(0, 0));
}

}  // namespace
}  // namespace quant::testing
