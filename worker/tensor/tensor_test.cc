// SPDX-License-Identifier: Apache-2.0
#include "worker/tensor/tensor.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "gtest/gtest.h"

namespace quant {
namespace {

TEST(Float16, EveryBitPatternSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float f = Float16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(Float16ToFloat(FloatToFloat16(f)))) << bits;
    } else {
      EXPECT_EQ(FloatToFloat16(f), bits) << f;
    }
  }
}

TEST(Float16, RoundsHalfToEvenAtEveryMidpoint) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const double a = Float16ToFloat(bits);
    const double b = Float16ToFloat(static_cast<uint16_t>(bits + 1));
    const float mid = static_cast<float>((a + b) / 2);  // exact: one more bit than float16 has
    EXPECT_EQ(FloatToFloat16(mid), bits % 2 == 0 ? bits : bits + 1) << bits;
    EXPECT_EQ(FloatToFloat16(std::nextafter(mid, 1e9f)), bits + 1) << bits;
  }
  EXPECT_EQ(FloatToFloat16(65519.996f), 0x7bff);
  EXPECT_EQ(FloatToFloat16(65520.0f), 0x7c00);
}

TEST(BFloat16, RoundsHalfToEvenAndKeepsNan) {
  EXPECT_EQ(FloatToBFloat16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(ElementCount, RefusesShapesThatOverflowInAnyOrder) {
  const int64_t big = int64_t{1} << 32;
  EXPECT_FALSE(ElementCount(Shape{big, big, 0}).ok());
  EXPECT_FALSE(ElementCount(Shape{0, big, big}).ok());
  EXPECT_FALSE(ElementCount(Shape{-1}).ok());
  EXPECT_FALSE(ElementCount(Shape(9, 1)).ok());
  EXPECT_EQ(*ElementCount(Shape{}), 1);
  EXPECT_EQ(*ElementCount(Shape{3, 0, 5}), 0);
}

TEST(Tensor, BorrowRefusesWrongByteCounts) {
  const std::byte bytes[5] = {};
  EXPECT_FALSE(Tensor::Borrow(DType::kFloat32, {1}, bytes, nullptr).ok());
  EXPECT_TRUE(Tensor::Borrow(DType::kInt8, {5}, bytes, nullptr).ok());
  EXPECT_TRUE(Tensor::Borrow(DType::kUInt4, {9}, bytes, nullptr).ok());
}

TEST(Cast, SaturatesRoundsHalfToEvenAndMapsNanToZero) {
  const Tensor src = Tensor::Of<float>({6}, std::vector<float>{-1000, 0.5f, 1.5f, 2.5f, 1e10f, NAN});
  const Tensor dst = *Cast(src, DType::kInt8);
  const std::span<const int8_t> q = dst.data<int8_t>();
  EXPECT_EQ(std::vector<int>(q.begin(), q.end()), (std::vector<int>{-128, 0, 2, 2, 127, 0}));
  const Tensor wide = *Cast(src, DType::kInt64);
  EXPECT_EQ(wide.data<int64_t>()[4], 10000000000);
  const Tensor huge = *Cast(Tensor::Of<double>({1}, std::vector<double>{1e300}), DType::kInt64);
  EXPECT_EQ(huge.data<int64_t>()[0], std::numeric_limits<int64_t>::max());
}

TEST(Cast, FourBitTypesPackLowNibbleFirst) {
  const Tensor src = Tensor::Of<int32_t>({3}, std::vector<int32_t>{-8, 7, 99});
  const Tensor packed = *Cast(src, DType::kInt4);
  ASSERT_EQ(packed.bytes().size(), 2u);
  EXPECT_EQ(std::to_integer<int>(packed.bytes()[0]), 0x78);
  EXPECT_EQ(std::to_integer<int>(packed.bytes()[1]), 0x07);
  EXPECT_EQ(*ToInt64(packed), (std::vector<int64_t>{-8, 7, 7}));
}

TEST(Cast, ReadsUnalignedBorrowedBytes) {
  std::byte raw[9];
  const float values[2] = {1.5f, -2.0f};
  std::memcpy(raw + 1, values, 8);
  const Tensor t = *Tensor::Borrow(DType::kFloat32, {2}, std::span<const std::byte>(raw + 1, 8), nullptr);
  EXPECT_EQ(*ToFloat(t), (std::vector<float>{1.5f, -2.0f}));
}

}  // namespace
}  // namespace quant
