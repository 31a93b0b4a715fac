// SPDX-License-Identifier: Apache-2.0
#include "worker/tensor/weight_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "worker/tensor/packing.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Bytes = std::vector<uint8_t>;

TEST(Packing, FirstCodeIsInTheLowestBits) {
  Bytes dst(2);
  PackBits(Bytes{1, 2, 3, 4}, 4, dst);
  EXPECT_THAT(dst, ElementsAre(0x21, 0x43));
  PackBits(Bytes{3, 0, 1, 2, 1}, 2, dst);
  EXPECT_THAT(dst, ElementsAre(0b10010011, 0b00000001));
}

// AutoGPTQ's 3-bit words: code 10 is split between the first word's highest bits and the second word's lowest.
TEST(Packing, ThreeBitCodesStraddleBytesAndWords) {
  Bytes codes(32), dst(12);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 5 % 8);
  PackBits(codes, 3, dst);
  uint64_t low = 0;
  for (size_t i = 0; i < 8; ++i) low |= static_cast<uint64_t>(dst[i]) << (8 * i);
  for (size_t i = 0; i < 21; ++i) EXPECT_EQ(low >> (3 * i) & 7, codes[i]) << i;
}

TEST(Packing, EveryWidthAndLengthSurvives) {
  std::mt19937 random(1);
  for (int bits = 1; bits <= 8; ++bits) {
    for (size_t count = 0; count < 40; ++count) {
      Bytes codes(count), packed(PackedBytes(count, bits), 0xff), back(count);
      for (uint8_t& c : codes) c = static_cast<uint8_t>(random() % (1u << bits));
      PackBits(codes, bits, packed);
      UnpackBits(packed, bits, back);
      ASSERT_EQ(back, codes) << bits << " bits, " << count;
      const size_t used = count * static_cast<size_t>(bits) % 8;
      if (used != 0) {
        ASSERT_EQ(packed.back() >> used, 0) << "unused bits are 0";
      }
    }
  }
}

TEST(Packing, HighFirstPutsTheFirstCodeOfAByteInItsHighHalf) {
  Bytes dst(2, 0xff);
  PackHighFirst(Bytes{1, 2, 3}, dst);
  EXPECT_THAT(dst, ElementsAre(0x12, 0x30));
  std::mt19937 random(2);
  for (size_t count = 0; count < 40; ++count) {
    Bytes codes(count), packed(PackedBytes(count, 4), 0xff), back(count);
    for (uint8_t& c : codes) c = static_cast<uint8_t>(random() % 16);
    PackHighFirst(codes, packed);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(packed[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15, codes[i]) << i;
    UnpackHighFirst(packed, back);
    ASSERT_EQ(back, codes) << count;
  }
}

// Bit b of code i is bit i * bits + b of the stream: the definition, beside the eight codes at a time.
TEST(Packing, IsTheBitStreamOfItsDefinition) {
  std::mt19937 random(3);
  for (int bits = 1; bits <= 8; ++bits) {
    Bytes codes(37), packed(PackedBytes(codes.size(), bits));
    for (uint8_t& c : codes) c = static_cast<uint8_t>(random() % (1u << bits));
    PackBits(codes, bits, packed);
    for (size_t at = 0; at < codes.size() * static_cast<size_t>(bits); ++at) {
      const size_t i = at / static_cast<size_t>(bits), b = at % static_cast<size_t>(bits);
      ASSERT_EQ(packed[at / 8] >> (at % 8) & 1, codes[i] >> b & 1) << bits << " bits, code " << i;
    }
  }
}

GroupedMatrix Grouped() {
  return {.rows = 2,
          .cols = 5,
          .bits = 2,
          .group_size = 3,
          .codes = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1},
          .scales = {1, 10, 0.5f, -2},
          .zeros = {0, 1, 2, 3}};
}

TEST(WeightMatrix, DequantizesGroups) {
  std::vector<float> all(10), second(5);
  DequantizeRows(Grouped(), 0, 2, all);
  EXPECT_THAT(all, ElementsAre(0, 1, 2, 20, -10, -0.5f, 0, 0.5f, 6, 4));
  DequantizeRows(Grouped(), 1, 2, second);
  EXPECT_THAT(second, ElementsAre(-0.5f, 0, 0.5f, 6, 4));
}

TEST(WeightMatrix, WithoutZerosTheMiddleIsZero) {
  GroupedMatrix w = Grouped();
  w.zeros.clear();
  std::vector<float> row(5);
  DequantizeRows(w, 0, 1, row);
  EXPECT_THAT(row, ElementsAre(-2, -1, 0, 10, -20));
}

TEST(WeightMatrix, ActOrderPutsColumnsIntoGroups) {
  GroupedMatrix w = Grouped();
  w.group_of = {1, 0, 0, 1, 0};
  std::vector<float> row(5);
  DequantizeRows(w, 0, 1, row);
  EXPECT_THAT(row, ElementsAre(-10, 1, 2, 20, 0));
}

CodebookMatrix Codebook() {
  CodebookMatrix w{.rows = 3, .cols = 13, .block_size = 32};
  for (int i = 0; i < 39; ++i) w.codes.push_back(static_cast<uint8_t>(i % 16));
  for (int i = 0; i < 16; ++i) w.codebook.push_back(static_cast<float>(i));
  w.absmax = {1, 100};
  return w;
}

TEST(WeightMatrix, CodebookBlocksCrossRows) {
  std::vector<float> last(13);
  DequantizeRows(Codebook(), 2, 3, last);  // elements 26 to 38: the second block starts at 32
  EXPECT_THAT(last, ElementsAre(10, 11, 12, 13, 14, 15, 0, 100, 200, 300, 400, 500, 600));
}

TEST(WeightMatrix, BitsPerWeightCountsScalesAndZeros) {
  GroupedMatrix w = Grouped();  // 10 codes of 2 bits, 4 scales, 4 zero points
  EXPECT_DOUBLE_EQ(BitsPerWeight(w), 2 + 4 * (16 + 2) / 10.0);
  w.zeros[0] = 0.5f;
  EXPECT_DOUBLE_EQ(BitsPerWeight(w, 32), 2 + 4 * (32 + 32) / 10.0);
  w.zeros.clear();
  EXPECT_DOUBLE_EQ(BitsPerWeight(w), 2 + 4 * 16 / 10.0);
  CodebookMatrix c = Codebook();
  EXPECT_DOUBLE_EQ(BitsPerWeight(c), 4 + 32 / 32.0);
  c.nested_codes = {0, 1};
  EXPECT_DOUBLE_EQ(BitsPerWeight(c), 4 + (8 + 32 / 256.0) / 32);
}

template <typename Matrix, typename Change>
std::string Message(Matrix w, Change change) {
  EXPECT_TRUE(Validate(w).ok()) << Validate(w);
  change(w);
  const absl::Status s = Validate(w);
  EXPECT_TRUE(s.ok() || absl::IsInvalidArgument(s)) << s;
  return std::string(s.message());
}

TEST(WeightMatrix, ValidateNamesTheField) {
  const auto grouped = [](auto change) { return Message(Grouped(), change); };
  EXPECT_THAT(grouped([](auto& w) { w.bits = 5; }), HasSubstr("5 bits"));
  EXPECT_THAT(grouped([](auto& w) { w.group_size = 6; }), HasSubstr("group size 6"));
  EXPECT_THAT(grouped([](auto& w) { w.group_size = 0; }), HasSubstr("group size 0"));
  EXPECT_THAT(grouped([](auto& w) { w.rows = -2; }), HasSubstr("-2 x 5"));
  EXPECT_THAT(grouped([](auto& w) { w.codes.pop_back(); }), HasSubstr("codes has 9"));
  EXPECT_THAT(grouped([](auto& w) { w.codes[3] = 4; }), HasSubstr("above 3"));
  EXPECT_THAT(grouped([](auto& w) { w.scales.push_back(1); }), HasSubstr("scales has 5"));
  EXPECT_THAT(grouped([](auto& w) { w.zeros.pop_back(); }), HasSubstr("zeros has 3"));
  EXPECT_THAT(grouped([](auto& w) { w.scales[0] = std::numeric_limits<float>::infinity(); }), HasSubstr("infinite"));
  EXPECT_THAT(grouped([](auto& w) { w.zeros[0] = std::numeric_limits<float>::quiet_NaN(); }), HasSubstr("NaN"));
  EXPECT_THAT(grouped([](auto& w) { w.group_of = {0, 1}; }), HasSubstr("group_of has 2"));
  EXPECT_THAT(grouped([](auto& w) { w.group_of = {0, 0, 0, 0, 2}; }), HasSubstr("group 2 of 2"));
  EXPECT_THAT(grouped([](auto& w) { w.group_of = {0, 0, 0, 0, -1}; }), HasSubstr("group -1"));
  const auto codebook = [](auto change) { return Message(Codebook(), change); };
  EXPECT_THAT(codebook([](auto& w) { w.block_size = 24; }), HasSubstr("block size 24"));
  EXPECT_THAT(codebook([](auto& w) { w.codes[0] = 16; }), HasSubstr("above 15"));
  EXPECT_THAT(codebook([](auto& w) { w.codebook.pop_back(); }), HasSubstr("codebook has 15"));
  EXPECT_THAT(codebook([](auto& w) { w.absmax.pop_back(); }), HasSubstr("absmax has 1"));
  EXPECT_THAT(codebook([](auto& w) { w.nested_codes = {1}; }), HasSubstr("nested_codes has 1"));
  EXPECT_THAT(codebook([](auto& w) { w.nested_block = 0; }), HasSubstr("block size"));
}

}  // namespace
}  // namespace quant
