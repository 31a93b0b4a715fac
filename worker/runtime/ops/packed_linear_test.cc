// SPDX-License-Identifier: Apache-2.0
// MatMulNBits and MatMulCodebook on hand-packed vectors (exact, from ONNX Runtime) and against DequantizeRows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "worker/graph/linear.h"
#include "worker/runtime/testing/evaluate.h"
#include "worker/tensor/packing.h"

namespace quant::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

using Bytes = std::vector<uint8_t>;

Attributes NBits(int64_t k, int64_t n, int64_t bits, int64_t block) {
  return {{"K", k}, {"N", n}, {"bits", bits}, {"block_size", block}};
}

// formats.md section 7: K 40, N 2, block 16, q[k][n] = (k + 3n) mod 2^bits, z[n][b] = 1 + n + b mod 2^bits,
// s[n][b] = 0.5 * (1 + n + b / 2); x is the identity, so that Y[k][n] = (q - z) * s, exactly.
class NBitsVector : public ::testing::TestWithParam<int> {
 protected:
  int bits() const { return GetParam(); }
  int levels() const { return 1 << bits(); }
  int Code(int k, int n) const { return (k + 3 * n) % levels(); }
  int Zero(int n, int b) const { return (1 + n + b) % levels(); }
  static float Scale(int n, int b) { return 0.5f * (1 + static_cast<float>(n) + static_cast<float>(b) / 2); }

  Bytes Codes() const {
    Bytes all;
    for (int n = 0; n < 2; ++n) {
      for (int b = 0; b < 3; ++b) {
        Bytes codes(16, 0), packed(PackedBytes(16, bits()));
        for (int k = 0; k < 16 && b * 16 + k < 40; ++k)
          codes[static_cast<size_t>(k)] = static_cast<uint8_t>(Code(b * 16 + k, n));
        PackBits(codes, bits(), packed);
        all.insert(all.end(), packed.begin(), packed.end());
      }
    }
    return all;
  }
  Bytes Zeros() const {
    Bytes all;
    for (int n = 0; n < 2; ++n) {
      Bytes packed(PackedBytes(3, bits()));
      PackBits(
          Bytes{static_cast<uint8_t>(Zero(n, 0)), static_cast<uint8_t>(Zero(n, 1)), static_cast<uint8_t>(Zero(n, 2))},
          bits(), packed);
      all.insert(all.end(), packed.begin(), packed.end());
    }
    return all;
  }
};

TEST_P(NBitsVector, PacksAsOnnxRuntimeDoes) {
  const Bytes codes = Codes(), zeros = Zeros();
  const size_t block = PackedBytes(16, bits());
  const auto first = [&](size_t b) {
    return Bytes(codes.begin() + static_cast<int64_t>(b * block),
                 codes.begin() + static_cast<int64_t>((b + 1) * block));
  };
  if (bits() == 4) {
    EXPECT_THAT(first(0), ElementsAre(0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe));
    EXPECT_THAT(first(2), ElementsAre(0x10, 0x32, 0x54, 0x76, 0, 0, 0, 0));
    EXPECT_THAT(first(3), ElementsAre(0x43, 0x65, 0x87, 0xa9, 0xcb, 0xed, 0x0f, 0x21));
    EXPECT_THAT(zeros, ElementsAre(0x21, 0x03, 0x32, 0x04));
  } else if (bits() == 8) {
    EXPECT_THAT(first(0), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    EXPECT_THAT(zeros, ElementsAre(1, 2, 3, 2, 3, 4));
  } else {
    EXPECT_THAT(first(0), ElementsAre(0xe4, 0xe4, 0xe4, 0xe4));
    EXPECT_THAT(first(3), ElementsAre(0x93, 0x93, 0x93, 0x93));
    EXPECT_THAT(zeros, ElementsAre(0x39, 0x0e));
  }
}

TEST_P(NBitsVector, ComputesExactly) {
  Floats identity(1600, 0.0f), scales, zeros;
  for (size_t i = 0; i < 40; ++i) identity[i * 41] = 1;
  for (int n = 0; n < 2; ++n) {
    for (int b = 0; b < 3; ++b) scales.push_back(Scale(n, b)), zeros.push_back(static_cast<float>(Zero(n, b)));
  }
  const int64_t block = static_cast<int64_t>(PackedBytes(16, bits()));
  const Tensor x = F({40, 40}, identity), codes = Of<uint8_t>({2, 3, block}, Codes()), s = F({2, 3}, scales);
  const Bytes z = Zeros();
  const Attributes attributes = NBits(40, 2, bits(), 16);
  Floats want, symmetric;
  for (int k = 0; k < 40; ++k) {
    for (int n = 0; n < 2; ++n) {
      want.push_back(static_cast<float>(Code(k, n) - Zero(n, k / 16)) * Scale(n, k / 16));
      symmetric.push_back(static_cast<float>(Code(k, n) - (1 << (bits() - 1))) * Scale(n, k / 16));
    }
  }
  const Tensor packed = Of<uint8_t>({2, static_cast<int64_t>(z.size()) / 2}, z);
  EXPECT_THAT(AsFloats(Evaluate("MatMulNBits", {x, codes, s, packed}, attributes, kMicrosoftDomain)),
              ElementsAreArray(want));
  EXPECT_THAT(AsFloats(Evaluate("MatMulNBits", {x, codes, s, F({2, 3}, zeros)}, attributes, kMicrosoftDomain)),
              ElementsAreArray(want));
  EXPECT_THAT(AsFloats(Evaluate("MatMulNBits", {x, codes, s}, attributes, kMicrosoftDomain)),
              ElementsAreArray(symmetric));
  // Batch dimensions and a bias.
  const Tensor biased =
      Evaluate("MatMulNBits", {x.Reshaped({2, 20, 40}), codes, s, packed, std::nullopt, F({2}, {100, 200})}, attributes,
               kMicrosoftDomain);
  EXPECT_EQ(biased.shape(), Shape({2, 20, 2}));
  EXPECT_EQ(AsFloats(biased)[0], want[0] + 100);
  EXPECT_EQ(AsFloats(biased)[79], want[79] + 200);
}

INSTANTIATE_TEST_SUITE_P(Bits, NBitsVector, ::testing::Values(2, 4, 8));

TEST(MatMulNBits, RefusesWhatDoesNotFit) {
  const Tensor x = Ramp({1, 40}), codes = Of<uint8_t>({2, 3, 8}, Bytes(48)), scales = Ramp({2, 3});
  const auto message = [&](const std::vector<std::optional<Tensor>>& in, const Attributes& a) {
    return std::string(EvaluateAll("MatMulNBits", in, a, 1, kMicrosoftDomain).status().message());
  };
  EXPECT_EQ(message({x, codes, scales}, NBits(40, 2, 4, 16)), "");
  EXPECT_THAT(message({x, codes, scales}, NBits(40, 2, 3, 16)), HasSubstr("bits is 3"));
  EXPECT_THAT(message({x, codes, scales}, NBits(41, 2, 4, 16)), HasSubstr("K = 41"));
  EXPECT_THAT(message({x, codes, scales}, NBits(40, 2, 4, 0)), HasSubstr("block_size 0"));
  EXPECT_THAT(message({x, codes, scales}, NBits(40, -2, 4, 16)), HasSubstr("N -2"));
  EXPECT_THAT(message({x, codes, scales}, NBits(40, int64_t{1} << 40, 4, 16)), HasSubstr("make no matrix"));
  EXPECT_THAT(message({x, codes, scales}, NBits(40, int64_t{1} << 34, 4, 1 << 30)), HasSubstr("too large"));
  EXPECT_THAT(message({x, codes, scales}, NBits(40, 2, 4, 8)), HasSubstr("B is uint8"));
  EXPECT_THAT(message({x, codes, Ramp({5})}, NBits(40, 2, 4, 16)), HasSubstr("scales"));
  EXPECT_THAT(message({x, codes, scales, Of<uint8_t>({3}, Bytes(3))}, NBits(40, 2, 4, 16)), HasSubstr("zero_points"));
  EXPECT_THAT(
      message({x, codes, scales, std::nullopt, Of<int32_t>({40}, std::vector<int32_t>(40))}, NBits(40, 2, 4, 16)),
      HasSubstr("g_idx"));
}

// Rows of odd length: codes of one byte and magnitudes of one block belong to two rows.
TEST(MatMulCodebook, BlocksCrossRows) {
  CodebookMatrix w{.rows = 7, .cols = 19, .block_size = 32};
  std::mt19937 random(1);
  for (int i = 0; i < 7 * 19; ++i) w.codes.push_back(static_cast<uint8_t>(random() % 16));
  for (int i = 0; i < 16; ++i) w.codebook.push_back(0.125f * static_cast<float>(i - 7));
  for (int i = 0; i < 5; ++i) w.absmax.push_back(static_cast<float>(1 + i));
  Graph graph;
  graph.inputs = {{.name = "x", .has_shape = true, .shape = {{.value = 19}, {.value = 19}}}};
  ASSERT_TRUE(AppendQuantizedLinear(&graph, "layer", "x", w).ok());
  const Node& node = graph.nodes.back();
  Floats identity(361, 0.0f), weights(7 * 19), want;
  for (size_t i = 0; i < 19; ++i) identity[i * 20] = 1;
  DequantizeRows(w, 0, 7, weights);
  for (size_t k = 0; k < 19; ++k) {
    for (size_t n = 0; n < 7; ++n) want.push_back(weights[n * 19 + k]);
  }
  const Tensor y = Evaluate("MatMulCodebook",
                            {F({19, 19}, identity), *graph.Initializer(node.inputs[1]),
                             *graph.Initializer(node.inputs[2]), *graph.Initializer(node.inputs[3])},
                            node.attributes, kQuantdDomain);
  EXPECT_THAT(AsFloats(y), ElementsAreArray(want));
}

}  // namespace
}  // namespace quant::testing
