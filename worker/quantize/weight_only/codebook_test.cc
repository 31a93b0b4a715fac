// SPDX-License-Identifier: Apache-2.0
// NF4, FP4 and HQQ.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "worker/quantize/weight_only/hqq.h"
#include "worker/quantize/weight_only/nf4.h"
#include "worker/quantize/weight_only/rtn.h"
#include "worker/quantize/weight_only/testing.h"

namespace quant::weight_only {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Layer;
using testing::MakeLayer;

std::string Hex(const std::vector<uint8_t>& codes, size_t begin, size_t end) {
  std::string out;
  for (size_t i = begin; i < end; ++i) out += "0123456789abcdef"[codes[i]];
  return out;
}

// The vectors of formats.md section 4, made with bitsandbytes' CPU code.
std::vector<float> VectorWeights() {
  std::vector<float> w(128);
  for (int j = 0; j < 64; ++j) {
    w[static_cast<size_t>(j)] = static_cast<float>(j - 32) / 32;
    w[64 + static_cast<size_t>(j)] = static_cast<float>(j - 31) / 16;
  }
  return w;
}

TEST(Nf4, BitsandbytesVectors) {
  const std::vector<float> w = VectorWeights();
  const CodebookMatrix q = QuantizeCodebook({w, 2, 64}, {}).value();
  EXPECT_TRUE(Validate(q).ok());
  EXPECT_THAT(q.absmax, ElementsAre(1, 2));
  EXPECT_EQ(Hex(q.codes, 0, 64), "000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff");
  EXPECT_EQ(Hex(q.codes, 64, 128), "00001111111122222333344455566677788999aaabbbccccddddeeeeeeefffff");
  const std::vector<float> small = {1, -1, 0.5f};
  EXPECT_EQ(Hex(QuantizeCodebook({small, 1, 3}, {}).value().codes, 0, 3), "f0c");
}

TEST(Nf4, DoubleQuantizationVector) {
  const std::vector<float> w = VectorWeights();
  const CodebookMatrix q = QuantizeCodebook({w, 2, 64}, {.double_quantization = true}).value();
  EXPECT_TRUE(Validate(q).ok());
  EXPECT_FLOAT_EQ(q.nested_offset, 1.5f);
  EXPECT_THAT(q.nested_codes, ElementsAre(0, 255));
  EXPECT_THAT(q.nested_absmax, ElementsAre(0.5f));
  EXPECT_FLOAT_EQ(q.absmax[0], 1.0035156f);
  EXPECT_FLOAT_EQ(q.absmax[1], 2);
  EXPECT_EQ(Hex(q.codes, 0, 64), "000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff");
}

TEST(Nf4, DynamicMapHasItsKnownPlaces) {
  const auto map = DynamicMap();
  EXPECT_FLOAT_EQ(map[0], -0.9929687f);
  EXPECT_EQ(map[127], 0);
  EXPECT_EQ(map[255], 1);
  for (size_t i = 1; i < 256; ++i) EXPECT_LT(map[i - 1], map[i]);
}

TEST(Fp4, BitsandbytesVector) {
  const std::vector<float> w = VectorWeights();
  const CodebookMatrix q = QuantizeCodebook({w, 2, 64}, {.code = FourBitCode::kFp4}).value();
  EXPECT_TRUE(q.fp4);
  EXPECT_EQ(Hex(q.codes, 0, 64), "bbbbbbaaaaaaaadddddccccfffeeee9901166667774444555552222222233333");
}

TEST(Nf4, BlocksCrossRowsAndEndShort) {
  const Layer layer = MakeLayer(5, 172, 5, 3);  // 860 = 13 * 64 + 28
  for (const auto code : {FourBitCode::kNf4, FourBitCode::kFp4}) {
    for (const bool nested : {false, true}) {
      const CodebookMatrix q = QuantizeCodebook(layer.view(), {.code = code, .double_quantization = nested}).value();
      ASSERT_TRUE(Validate(q).ok());
      EXPECT_EQ(q.blocks(), 14);
      std::vector<float> back(layer.w.size());
      DequantizeRows(q, 0, 5, back);
      for (size_t i = 0; i < back.size(); ++i) {
        // Half the widest gap of the tables (NF4 0.304 / 2, FP4 1 / 6), and what double quantization adds: its coarsest
        // step is 0.9 / 64 of the largest difference from the mean, here less than twice the magnitude.
        EXPECT_LE(std::fabs(back[i] - layer.w[i]), q.absmax[i / 64] * (0.167f + (nested ? 0.04f : 0))) << i;
      }
    }
  }
}

TEST(Nf4, ZeroBlocks) {
  std::vector<float> w(128, 0.0f);
  w[100] = 2;
  for (const auto code : {FourBitCode::kNf4, FourBitCode::kFp4}) {
    const CodebookMatrix q = QuantizeCodebook({w, 1, 128}, {.code = code}).value();
    EXPECT_THAT(q.absmax, ElementsAre(0, 2));
    EXPECT_EQ(q.codes[5], code == FourBitCode::kNf4 ? 7 : 0);
    EXPECT_TRUE(
        Validate(QuantizeCodebook({w, 1, 128}, {.code = code, .double_quantization = true, .search = true}).value())
            .ok());
  }
}

TEST(Nf4, SearchLowersTheWeightedError) {
  const Layer layer = MakeLayer(20, 172, 300, 6);
  const std::vector<float> importance = layer.hessian.Diagonal();
  const auto error = [&](const CodebookMatrix& q) {
    std::vector<float> back(layer.w.size());
    DequantizeRows(q, 0, layer.rows, back);
    double sum = 0;
    for (size_t i = 0; i < back.size(); ++i)
      sum += importance[i % 172] * std::pow(static_cast<double>(back[i]) - layer.w[i], 2);
    return sum;
  };
  for (const auto code : {FourBitCode::kNf4, FourBitCode::kFp4}) {
    for (const bool nested : {false, true}) {
      const CodebookOptions plain{.code = code, .double_quantization = nested};
      CodebookOptions searched = plain;
      searched.search = true;
      const double before = error(QuantizeCodebook(layer.view(), plain).value());
      const double after = error(QuantizeCodebook(layer.view(), searched, importance).value());
      EXPECT_LT(after, 0.95 * before);
      EXPECT_GT(after, 0.4 * before);
    }
  }
}

TEST(Nf4, ThreadsDoNotChangeBitsAndBadInputIsRefused) {
  Layer layer = MakeLayer(40, 172, 5, 7);
  const CodebookOptions options{.double_quantization = true, .search = true};
  EXPECT_EQ(QuantizeCodebook(layer.view(), options, {}, 1).value().codes,
            QuantizeCodebook(layer.view(), options, {}, 3).value().codes);
  EXPECT_THAT(std::string(QuantizeCodebook(layer.view(), {.block_size = 48}).status().message()), HasSubstr("48"));
  EXPECT_FALSE(QuantizeCodebook(layer.view(), {.block_size = 8192}).ok());
  layer.w[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(std::string(QuantizeCodebook(layer.view(), {}).status().message()), HasSubstr("column 3 is nan"));
}

double PowerError(const Layer& layer, const GroupedMatrix& q) {
  std::vector<float> back(layer.w.size());
  DequantizeRows(q, 0, layer.rows, back);
  double sum = 0;
  for (size_t i = 0; i < back.size(); ++i) sum += std::pow(std::fabs(static_cast<double>(back[i]) - layer.w[i]), 0.7);
  return sum;
}

TEST(Hqq, LowersTheSparseNormBelowRoundToNearest) {
  const Layer layer = MakeLayer(30, 172, 5, 8);
  for (const int bits : {2, 3, 4}) {
    for (const int64_t group : {int64_t{64}, int64_t{128}}) {
      const GridOptions grid{.bits = bits, .group_size = group, .search = ScaleSearch::kMinMax};
      const double rtn = PowerError(layer, QuantizeRtn(layer.view(), grid).value());
      const GroupedMatrix q = QuantizeHqq(layer.view(), {.bits = bits, .group_size = group}).value();
      EXPECT_TRUE(Validate(q).ok());
      for (const float z : q.zeros) {
        EXPECT_EQ(z, std::nearbyint(z));
        EXPECT_GE(z, 0);
        EXPECT_LE(z, (1 << bits) - 1);
      }
      EXPECT_LT(PowerError(layer, q), 0.99 * rtn) << bits;
      EXPECT_GT(PowerError(layer, q), 0.5 * rtn) << bits;
      const GroupedMatrix f =
          QuantizeHqq(layer.view(), {.bits = bits, .group_size = group, .zero_points = ZeroPoints::kFloat}).value();
      EXPECT_TRUE(Validate(f).ok());
      EXPECT_LT(PowerError(layer, f), rtn) << bits;
      for (const float z : f.zeros) EXPECT_EQ(z, z == 0 ? 0 : RoundScale(z, ScaleType::kFloat16));
      const GroupedMatrix v1 = QuantizeHqq(layer.view(), {.bits = bits, .group_size = group, .zero_min = 1}).value();
      for (const float z : v1.zeros) EXPECT_GE(z, 1);
      EXPECT_EQ(QuantizeHqq(layer.view(), {.bits = bits}, 1).value().codes,
                QuantizeHqq(layer.view(), {.bits = bits}, 3).value().codes);
    }
  }
}

TEST(Hqq, ConstantAndZeroGroupsAreExact) {
  for (const float value : {0.0f, 0.75f, -0.75f}) {
    const std::vector<float> w(64, value);
    for (const auto zeros : {ZeroPoints::kInteger, ZeroPoints::kFloat}) {
      const GroupedMatrix q = QuantizeHqq({w, 1, 64}, {.zero_points = zeros}).value();
      std::vector<float> back(64);
      DequantizeRows(q, 0, 1, back);
      for (const float v : back) EXPECT_NEAR(v, value, std::fabs(value) * 0x1p-11f);
    }
  }
}

}  // namespace
}  // namespace quant::weight_only
