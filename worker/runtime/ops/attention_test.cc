// SPDX-License-Identifier: Apache-2.0
// Attention against the same computed from MatMul, Softmax and the like; RotaryEmbedding and RMSNormalization against
// their formulas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kYes = 1;

Tensor Random(const Shape& shape, int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  Floats values(static_cast<size_t>(*ElementCount(shape)));
  for (float& v : values) v = normal(random);
  return F(shape, values);
}

// The operators here sum in double and round to float once; a chain of them rounds a handful of times, so values of
// magnitude up to about 4 agree to some 1e-6.
void ExpectNear(const Tensor& got, const Tensor& want, float tolerance = 4e-6f) {
  ASSERT_EQ(got.shape(), want.shape());
  const Floats a = AsFloats(got), b = AsFloats(want);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << "element " << i;
}

// [batch, length, heads * size] -> [batch, heads, length, size].
Tensor SplitHeads(const Tensor& x, int64_t heads) {
  const Tensor split = x.Reshaped({x.dim(0), x.dim(1), heads, x.dim(2) / heads});
  return Evaluate("Transpose", {split}, {{"perm", Longs{0, 2, 1, 3}}});
}
Tensor JoinHeads(const Tensor& x) {
  const Tensor t = Evaluate("Transpose", {x}, {{"perm", Longs{0, 2, 1, 3}}});
  return t.Reshaped({t.dim(0), t.dim(1), t.dim(2) * t.dim(3)});
}
Tensor RepeatHeads(const Tensor& x, int64_t times) {
  const Tensor spread = Evaluate("Expand", {x.Reshaped({x.dim(0), x.dim(1), 1, x.dim(2), x.dim(3)}),
                                            L({x.dim(0), x.dim(1), times, x.dim(2), x.dim(3)})});
  return spread.Reshaped({x.dim(0), x.dim(1) * times, x.dim(2), x.dim(3)});
}

// Rank 4, keys and values as many heads as queries; `bias` is added to the scores.
Tensor Composed(const Tensor& q, const Tensor& k, const Tensor& v, float scale, float softcap, const Tensor& bias) {
  const Tensor scores = Evaluate("MatMul", {q, Evaluate("Transpose", {k}, {{"perm", Longs{0, 1, 3, 2}}})});
  Tensor s = Evaluate("Mul", {scores, Tensor::Scalar(scale)});
  if (softcap > 0) {
    s = Evaluate("Mul", {Evaluate("Tanh", {Evaluate("Div", {s, Tensor::Scalar(softcap)})}), Tensor::Scalar(softcap)});
  }
  return Evaluate("MatMul", {Evaluate("Softmax", {Evaluate("Add", {s, bias})}), v});
}

Tensor CausalBias(int64_t queries, int64_t past, int64_t keys) {
  Floats bias;
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < keys; ++j) bias.push_back(j <= past + i ? 0 : -std::numeric_limits<float>::infinity());
  }
  return F({queries, keys}, bias);
}

TEST(Attention, EqualsItsFormula) {
  const Tensor q = Random({2, 3, 5, 4}, 1), k = Random({2, 3, 7, 4}, 2), v = Random({2, 3, 7, 6}, 3);
  ExpectNear(Evaluate("Attention", {q, k, v}), Composed(q, k, v, 0.5f, 0, Tensor::Scalar(0.0f)));
  ExpectNear(Evaluate("Attention", {q, k, v}, {{"scale", 0.3f}, {"softcap", 1.5f}}),
             Composed(q, k, v, 0.3f, 1.5f, Tensor::Scalar(0.0f)));
  ExpectNear(Evaluate("Attention", {q, k, v}, {{"is_causal", kYes}}), Composed(q, k, v, 0.5f, 0, CausalBias(5, 0, 7)));
}

TEST(Attention, Rank3SharesKeysBetweenQueryHeads) {
  const Tensor q = Random({2, 5, 6 * 4}, 4), k = Random({2, 5, 2 * 4}, 5), v = Random({2, 5, 2 * 3}, 6);
  const Attributes attributes = {{"q_num_heads", int64_t{6}}, {"kv_num_heads", int64_t{2}}, {"is_causal", kYes}};
  const Tensor want = Composed(SplitHeads(q, 6), RepeatHeads(SplitHeads(k, 2), 3), RepeatHeads(SplitHeads(v, 2), 3),
                               0.5f, 0, CausalBias(5, 0, 5));
  ExpectNear(Evaluate("Attention", {q, k, v}, attributes), JoinHeads(want));
}

TEST(Attention, CausalMaskMovesWithThePast) {
  const Tensor q = Random({1, 2, 3, 4}, 7), k = Random({1, 2, 3, 4}, 8), v = Random({1, 2, 3, 4}, 9);
  const Tensor past_k = Random({1, 2, 6, 4}, 10), past_v = Random({1, 2, 6, 4}, 11);
  const auto out =
      EvaluateAll("Attention", {q, k, v, std::nullopt, past_k, past_v}, {{"is_causal", kYes}}, /*outputs=*/3);
  ASSERT_TRUE(out.ok()) << out.status();
  const Tensor all_k = Evaluate("Concat", {past_k, k}, {{"axis", int64_t{2}}});
  const Tensor all_v = Evaluate("Concat", {past_v, v}, {{"axis", int64_t{2}}});
  ExpectNear((*out)[0], Composed(q, all_k, all_v, 0.5f, 0, CausalBias(3, 6, 9)));
  ExpectNear((*out)[1], all_k, 0);
  ExpectNear((*out)[2], all_v, 0);
}

TEST(Attention, StepByStepWithAPastEqualsAllAtOnce) {
  const Tensor q = Random({1, 2, 5, 4}, 12), k = Random({1, 1, 5, 4}, 13), v = Random({1, 1, 5, 4}, 14);
  const Tensor whole = Evaluate("Attention", {q, k, v}, {{"is_causal", kYes}});
  const auto at = [](const Tensor& t, int64_t i) { return Evaluate("Slice", {t, L({i}), L({i + 1}), L({2})}); };
  Tensor past_k = F({1, 1, 0, 4}, {}), past_v = past_k;
  for (int64_t i = 0; i < 5; ++i) {
    const auto out = EvaluateAll("Attention", {at(q, i), at(k, i), at(v, i), std::nullopt, past_k, past_v},
                                 {{"is_causal", kYes}}, 3);
    ASSERT_TRUE(out.ok()) << out.status();
    ExpectNear((*out)[0], at(whole, i), 0);
    past_k = (*out)[1], past_v = (*out)[2];
  }
}

TEST(Attention, MasksBroadcastAndShortMasksHideTheRest) {
  const Tensor q = Random({2, 3, 2, 4}, 15), k = Random({2, 3, 5, 4}, 16), v = Random({2, 3, 5, 4}, 17);
  const float never = -std::numeric_limits<float>::infinity();
  const Tensor bias = Random({2, 1, 2, 5}, 18);
  ExpectNear(Evaluate("Attention", {q, k, v, bias}), Composed(q, k, v, 0.5f, 0, bias));
  const Tensor keep = B({1, 5}, {1, 0, 1, 1, 0});
  ExpectNear(Evaluate("Attention", {q, k, v, keep}), Composed(q, k, v, 0.5f, 0, F({1, 5}, {0, never, 0, 0, never})));
  ExpectNear(Evaluate("Attention", {q, k, v, F({1, 3}, {0, 1, 2})}),
             Composed(q, k, v, 0.5f, 0, F({1, 5}, {0, 1, 2, never, never})));
}

TEST(Attention, AQueryThatSeesNothingGivesZeros) {
  const Tensor q = Random({1, 1, 2, 4}, 19), k = Random({1, 1, 2, 4}, 20);
  const Tensor y = Evaluate("Attention", {q, k, k, B({2, 2}, {0, 0, 1, 0})});
  const Floats values = AsFloats(y), keys = AsFloats(k);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(values[i], 0);
    EXPECT_EQ(values[4 + i], keys[i]);
  }
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const Tensor x = Random({1, 2, 8}, 1), y = Random({1, 2, 6}, 1), four = Random({1, 2, 3, 4}, 1);
  const Attributes heads = {{"q_num_heads", int64_t{4}}, {"kv_num_heads", int64_t{3}}};
  const auto message = [](const absl::StatusOr<std::vector<Tensor>>& s) { return std::string(s.status().message()); };
  EXPECT_THAT(message(EvaluateAll("Attention", {x, x, x})), HasSubstr("q_num_heads is 0"));
  EXPECT_THAT(message(EvaluateAll("Attention", {x, y, y}, heads)), HasSubstr("cannot share 3"));
  EXPECT_THAT(message(EvaluateAll("Attention", {x, y, y}, {{"q_num_heads", kYes}, {"kv_num_heads", kYes}})),
              HasSubstr("do not fit"));
  EXPECT_THAT(message(EvaluateAll("Attention", {four, four, four, Random({5, 3}, 1)})), HasSubstr("broadcast"));
  EXPECT_THAT(message(EvaluateAll("Attention", {four, four, four, std::nullopt, four})), HasSubstr("together"));
  EXPECT_THAT(message(EvaluateAll("Attention", {four, four, four, std::nullopt, x, x})), HasSubstr("past_key"));
  EXPECT_TRUE(absl::IsUnimplemented(EvaluateAll("Attention", {four, four, four}, {}, 4).status()));
  EXPECT_THAT(message(EvaluateAll("Attention", {four, four, four}, {{"softcap", -1.0f}})), HasSubstr("softcap"));
}

// Rotates pair (a, b) by `angle`.
std::pair<double, double> Rotate(double a, double b, double angle) {
  return {a * std::cos(angle) - b * std::sin(angle), a * std::sin(angle) + b * std::cos(angle)};
}

double Angle(int64_t position, int64_t pair) { return static_cast<double>(position) * std::pow(0.3, pair); }

std::pair<Tensor, Tensor> Caches(int64_t rows, int64_t half) {
  Floats cos, sin;
  for (int64_t p = 0; p < rows; ++p) {
    for (int64_t k = 0; k < half; ++k) {
      cos.push_back(static_cast<float>(std::cos(Angle(p, k))));
      sin.push_back(static_cast<float>(std::sin(Angle(p, k))));
    }
  }
  return {F({rows, half}, cos), F({rows, half}, sin)};
}

class Rotary : public ::testing::TestWithParam<std::tuple<bool, bool, int>> {};

TEST_P(Rotary, RotatesPairsByThePosition) {
  const auto [interleaved, flat, rotated] = GetParam();
  const int64_t batch = 2, heads = 3, length = 4, head = 10, half = rotated / 2;
  const Tensor x = flat ? Random({batch, length, heads * head}, 1) : Random({batch, heads, length, head}, 1);
  const Longs positions = {3, 0, 8, 5, 1, 2, 3, 4};
  const auto [cos, sin] = Caches(9, half);
  Attributes attributes = {{"num_heads", heads}, {"interleaved", int64_t{interleaved}}};
  if (rotated != head) attributes["rotary_embedding_dim"] = int64_t{rotated};
  const Tensor y = Evaluate("RotaryEmbedding", {x, cos, sin, L({batch, length}, positions)}, attributes);
  ASSERT_EQ(y.shape(), x.shape());
  const Floats in = AsFloats(x), out = AsFloats(y);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < length; ++i) {
        const size_t from =
            static_cast<size_t>((flat ? (b * length + i) * heads + h : (b * heads + h) * length + i) * head);
        for (size_t k = 0; k < static_cast<size_t>(half); ++k) {
          const size_t first = from + (interleaved ? 2 * k : k),
                       second = interleaved ? first + 1 : first + static_cast<size_t>(half);
          const auto [p, q] = Rotate(in[first], in[second],
                                     Angle(positions[static_cast<size_t>(b * length + i)], static_cast<int64_t>(k)));
          EXPECT_NEAR(out[first], p, 1e-6);  // cosines are rounded to float
          EXPECT_NEAR(out[second], q, 1e-6);
        }
        for (size_t k = static_cast<size_t>(rotated); k < static_cast<size_t>(head); ++k)
          EXPECT_EQ(out[from + k], in[from + k]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, Rotary,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Values(10, 6)));

TEST(RotaryEmbedding, WithoutPositionsTheCachesAreOnePerToken) {
  const auto [cos, sin] = Caches(6, 2);
  const Tensor x = Random({2, 1, 3, 4}, 2);
  const Tensor by_token = Evaluate("RotaryEmbedding", {x, cos.Reshaped({2, 3, 2}), sin.Reshaped({2, 3, 2})});
  const Tensor by_position = Evaluate("RotaryEmbedding", {x, cos, sin, L({2, 3}, {0, 1, 2, 3, 4, 5})});
  EXPECT_EQ(AsFloats(by_token), AsFloats(by_position));
}

TEST(RotaryEmbedding, RefusesWhatDoesNotFit) {
  const auto [cos, sin] = Caches(4, 2);
  const Tensor x = Random({1, 2, 3, 4}, 1);
  const auto message = [](const absl::StatusOr<std::vector<Tensor>>& s) { return std::string(s.status().message()); };
  EXPECT_THAT(message(EvaluateAll("RotaryEmbedding", {x, cos, sin, L({1, 3}, {0, 1, 4})})), HasSubstr("position 4"));
  EXPECT_THAT(message(EvaluateAll("RotaryEmbedding", {x, cos, sin, L({1, 3}, {0, -1, 2})})), HasSubstr("position -1"));
  EXPECT_THAT(message(EvaluateAll("RotaryEmbedding", {x, cos, sin})), HasSubstr("cos_cache"));
  EXPECT_THAT(message(EvaluateAll("RotaryEmbedding", {x, cos, sin, L({3}, {0, 1, 2})})), HasSubstr("position_ids"));
  EXPECT_THAT(message(EvaluateAll("RotaryEmbedding", {x, cos, sin}, {{"rotary_embedding_dim", int64_t{3}}})),
              HasSubstr("must be even"));
  EXPECT_THAT(message(EvaluateAll("RotaryEmbedding", {x.Reshaped({1, 3, 8}), cos, sin})), HasSubstr("num_heads is 0"));
}

TEST(RMSNormalization, DividesByTheRootMeanSquare) {
  const Tensor x = F({2, 2}, {3, 4, 0, 0}), scale = F({2}, {10, 20});
  const float rms = std::sqrt(12.5f);
  const Floats y = AsFloats(Evaluate("RMSNormalization", {x, scale}, {{"epsilon", 0.0f}}));
  EXPECT_FLOAT_EQ(y[0], 30 / rms);
  EXPECT_FLOAT_EQ(y[1], 80 / rms);
  // A row of zeros stays zero through epsilon.
  EXPECT_EQ(AsFloats(Evaluate("RMSNormalization", {x, scale}))[2], 0);
  // Over both dimensions: mean square 25 / 4.
  EXPECT_FLOAT_EQ(
      AsFloats(Evaluate("RMSNormalization", {x, F({1}, {1})}, {{"axis", int64_t{0}}, {"epsilon", 0.0f}}))[1], 4 / 2.5f);
}

}  // namespace
}  // namespace quant::testing
