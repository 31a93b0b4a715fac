// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/blocks.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/escaping.h"
#include "worker/formats/checkpoint_testing.h"

namespace quant {
namespace {

std::string Hex(std::string_view bytes) { return absl::BytesToHexString({bytes.data(), bytes.size()}); }

float Half(const std::string& bytes, size_t at) {
  return Float16ToFloat(
      static_cast<uint16_t>(static_cast<unsigned char>(bytes[at]) | static_cast<unsigned char>(bytes[at + 1]) << 8));
}

// The values of a row, read as docs/formats/gguf.md says.
std::vector<float> Unpack(GgufType type, const std::string& bytes, size_t cols) {
  std::vector<float> out;
  for (size_t at = 0; out.size() < cols;) {
    float block[32];
    const float d = Half(bytes, at);
    at += 2;
    if (type == GgufType::kQ8_0) {
      for (int i = 0; i < 32; ++i) block[i] = d * static_cast<float>(static_cast<int8_t>(bytes[at++]));
    } else {
      const float m = type == GgufType::kQ4_1 ? Half(bytes, at) : 0;
      at += type == GgufType::kQ4_1 ? 2 : 0;
      for (int j = 0; j < 16; ++j, ++at) {
        const auto byte = static_cast<unsigned char>(bytes[at]);
        const int low = byte & 15, high = byte >> 4;
        block[j] = type == GgufType::kQ4_1 ? d * static_cast<float>(low) + m : d * static_cast<float>(low - 8);
        block[j + 16] = type == GgufType::kQ4_1 ? d * static_cast<float>(high) + m : d * static_cast<float>(high - 8);
      }
    }
    out.insert(out.end(), block, block + 32);
  }
  return out;
}

std::string Quantized(GgufType type, const std::vector<float>& x) {
  std::string out;
  QuantizeGgufRow(type, x, &out);
  return out;
}

// Run on libggml-base (formats.md section 6).
TEST(GgufBlocks, EqualGgmls) {
  std::vector<float> x(32);
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = 0.5f * static_cast<float>(127 - 8 * i);
  EXPECT_EQ(Hex(Quantized(GgufType::kQ8_0, x)), "00387f776f675f574f473f372f271f170f07fff7efe7dfd7cfc7bfb7afa79f978f87");
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i < 16 ? i - 8 : 7 - (i - 16));
  EXPECT_EQ(Hex(Quantized(GgufType::kQ4_0, x)), "003cf0e1d2c3b4a5968778695a4b3c2d1e0f");
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = -1 + 0.5f * static_cast<float>(i < 16 ? i : 31 - i);
  EXPECT_EQ(Hex(Quantized(GgufType::kQ4_1, x)), "003800bcf0e1d2c3b4a5968778695a4b3c2d1e0f");
}

TEST(GgufBlocks, ZerosHaveScaleZeroAndConstantsSurvive) {
  const std::vector<float> zeros(32, 0.0f), ones(32, 1.0f);
  EXPECT_EQ(Unpack(GgufType::kQ8_0, Quantized(GgufType::kQ8_0, zeros), 32), zeros);
  EXPECT_EQ(Unpack(GgufType::kQ4_0, Quantized(GgufType::kQ4_0, zeros), 32), zeros);
  EXPECT_EQ(Unpack(GgufType::kQ4_1, Quantized(GgufType::kQ4_1, zeros), 32), zeros);
  EXPECT_EQ(Unpack(GgufType::kQ4_1, Quantized(GgufType::kQ4_1, ones), 32), ones);
}

struct FitCase {
  const char* name;
  testing::RandomGrid grid;
  GgufType type;
  bool same_codes;
  const char* reason;
};

class Fits : public ::testing::TestWithParam<FitCase> {};

TEST_P(Fits, AsTheGridAllows) {
  const FitCase& c = GetParam();
  const WeightMatrix w = testing::RandomGrouped(c.grid, 3);
  const GgufFit fit = FitGguf(w);
  EXPECT_EQ(fit.type, c.type);
  EXPECT_EQ(fit.same_codes, c.same_codes);
  EXPECT_EQ(fit.reason, c.reason);
  EXPECT_EQ(fit.exact, fit.reason.empty());
  const std::vector<float> want = testing::Dequantized(w);
  std::vector<float> got;
  for (int64_t r = 0; r < c.grid.rows; ++r) {
    std::string row;
    PackGgufRow(w, fit, r, &row);
    ASSERT_EQ(static_cast<int64_t>(row.size()), GgufRowBytes(fit.type, c.grid.cols));
    if (fit.type == GgufType::kF16) {
      for (size_t i = 0; i < row.size(); i += 2) got.push_back(Half(row, i));
    } else {
      const std::vector<float> values = Unpack(fit.type, row, static_cast<size_t>(c.grid.cols));
      got.insert(got.end(), values.begin(), values.end());
    }
  }
  if (fit.exact) {
    EXPECT_EQ(got, want);
    return;
  }
  float most = 0;
  for (const float v : want) most = std::max(most, std::abs(v));
  // Q4_1: the offset, at most `most` in size, to 11 bits and the sum of two such numbers in float32. Q8_0: half a step
  // of 1/127 and the rounded step. F16: 11 bits.
  const float limit = fit.type == GgufType::kQ8_0 ? most * (0.5f / 127 + 0x1p-11f) : most * 0x1p-11f;
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], limit) << i;
}

INSTANTIATE_TEST_SUITE_P(
    , Fits,
    ::testing::Values(
        FitCase{"Symmetric4", {.rows = 3, .cols = 96, .group_size = 32}, GgufType::kQ4_0, true, ""},
        FitCase{"Symmetric4Wide", {.rows = 3, .cols = 256, .group_size = 128}, GgufType::kQ4_0, true, ""},
        FitCase{"Symmetric4Row", {.rows = 3, .cols = 96, .group_size = 96}, GgufType::kQ4_0, true, ""},
        FitCase{"Symmetric3", {.rows = 3, .cols = 64, .bits = 3, .group_size = 32}, GgufType::kQ4_0, true, ""},
        FitCase{"Asymmetric3", {.rows = 3, .cols = 64, .bits = 3, .symmetric = false}, GgufType::kQ4_0, true, ""},
        FitCase{"Asymmetric2", {.rows = 3, .cols = 64, .bits = 2, .symmetric = false}, GgufType::kQ4_0, true, ""},
        FitCase{"Symmetric8", {.rows = 3, .cols = 64, .bits = 8}, GgufType::kQ8_0, true, ""},
        FitCase{"Asymmetric4",
                {.rows = 3, .cols = 64, .symmetric = false},
                GgufType::kQ4_1,
                true,
                "its offsets are rounded to float16"},
        FitCase{"Asymmetric8",
                {.rows = 3, .cols = 64, .bits = 8, .symmetric = false},
                GgufType::kQ8_0,
                false,
                "an asymmetric grid of 8 bits"},
        FitCase{"Order",
                {.rows = 3, .cols = 64, .dynamic_order = true},
                GgufType::kQ8_0,
                false,
                "act-order with dynamic groups"},
        FitCase{"Group16",
                {.rows = 3, .cols = 64, .group_size = 16},
                GgufType::kQ8_0,
                false,
                "its group size is no multiple of 32"},
        FitCase{"Inputs172",
                {.rows = 3, .cols = 172, .group_size = 32},
                GgufType::kF16,
                false,
                "its inputs are no multiple of 32"}),
    [](const auto& test) { return test.param.name; });

TEST(GgufBlocks, CodebooksAreRequantized) {
  EXPECT_EQ(FitGguf(testing::RandomCodebook(2, 64, 64, false, false, 1)).type, GgufType::kQ8_0);
  EXPECT_EQ(FitGguf(testing::RandomCodebook(2, 43, 64, false, false, 1)).type, GgufType::kF16);
}

}  // namespace
}  // namespace quant
