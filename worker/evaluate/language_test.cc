// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/language.h"

#include <cmath>
#include <limits>
#include <map>

#include "gtest/gtest.h"

namespace quant {
namespace {

MetricResult Named(const std::vector<MetricResult>& metrics, const std::string& name) {
  for (const MetricResult& m : metrics) {
    if (m.name == name) return m;
  }
  ADD_FAILURE() << "no metric " << name;
  return {};
}

TEST(SumWindow, KnownDistributions) {
  // Two positions over three tokens; logits are log probabilities up to a constant.
  const std::vector<float> p = {std::log(0.5f), std::log(0.25f), std::log(0.25f), 7, 7, 7, 9, 9, 9};
  const std::vector<float> q = {std::log(0.25f) + 3, std::log(0.5f) + 3, std::log(0.25f) + 3, 1, 1, 1, 0, 0, 0};
  const std::vector<int32_t> tokens = {0, 1, 2};
  int64_t broken = 0;
  const WindowSums s = SumWindow(p, q, 3, tokens, &broken);
  EXPECT_EQ(s.targets, 2);
  EXPECT_NEAR(s.nll_original, std::log(4.0) + std::log(3.0), 1e-6);
  EXPECT_NEAR(s.nll_quantized, std::log(2.0) + std::log(3.0), 1e-6);
  // 0.5 log 2 + 0.25 log 0.5 + 0 at the first position, nothing at the second.
  EXPECT_NEAR(s.divergence, 0.25 * std::log(2.0), 1e-6);
  EXPECT_EQ(s.same_top, 1);  // ties count for the lower index in both
  EXPECT_EQ(broken, 0);
}

TEST(SumWindow, BrokenRowsCountAsUniform) {
  const std::vector<float> p = {0, 0, 5, 5};
  const std::vector<float> q = {std::numeric_limits<float>::quiet_NaN(), 0, 5, 5};
  const std::vector<int32_t> tokens = {0, 1};
  int64_t broken = 0;
  const WindowSums s = SumWindow(p, q, 2, tokens, &broken);
  EXPECT_EQ(broken, 1);
  EXPECT_NEAR(s.nll_quantized, std::log(2.0), 1e-9);
  EXPECT_NEAR(s.divergence, 0, 1e-9);
  EXPECT_EQ(s.same_top, 0);
}

TEST(SumWindow, LargeLogitsDoNotOverflow) {
  const std::vector<float> p = {1e30f, -1e30f, 0, 0};
  const std::vector<int32_t> tokens = {0, 0};
  int64_t broken = 0;
  const WindowSums s = SumWindow(p, p, 2, tokens, &broken);
  EXPECT_EQ(s.nll_original, 0);
  EXPECT_EQ(s.divergence, 0);
}

TEST(LanguageMetrics, PerplexityIsOfAllTargetsNotOfWindows) {
  const std::vector<WindowSums> windows = {
      {.nll_original = 10, .nll_quantized = 11, .divergence = 0.5, .same_top = 4, .targets = 5},
      {.nll_original = 60, .nll_quantized = 63, .divergence = 1.0, .same_top = 12, .targets = 15}};
  const std::vector<MetricResult> m = LanguageMetrics(windows);
  const MetricResult perplexity = Named(m, "perplexity");
  EXPECT_NEAR(perplexity.original, std::exp(70.0 / 20), 1e-9);
  EXPECT_NEAR(perplexity.quantized, std::exp(74.0 / 20), 1e-9);
  EXPECT_EQ(perplexity.samples, 20);
  // Both windows lose 0.2 a target: there is no spread, so the interval is the difference itself.
  EXPECT_NEAR(perplexity.low, perplexity.delta, 1e-9);
  const MetricResult divergence = Named(m, "kl_divergence");
  EXPECT_NEAR(divergence.quantized, 1.5 / 20, 1e-12);
  // Residuals 0.5 - 0.075 * 5 = 0.125 and 1 - 0.075 * 15 = -0.125: se = sqrt(2 * 2 * 0.125^2) / 20 = 0.0125.
  EXPECT_NEAR(divergence.high - divergence.quantized, 1.96 * 0.0125, 1e-12);
  EXPECT_NEAR(Named(m, "same_top").quantized, 80, 1e-9);
  EXPECT_LE(Named(m, "same_top").high, 0);
}

}  // namespace
}  // namespace quant
