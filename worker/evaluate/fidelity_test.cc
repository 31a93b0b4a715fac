// SPDX-License-Identifier: Apache-2.0
#include "worker/evaluate/fidelity.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace quant {
namespace {

TEST(ErrorSums, MatchesValuesByHand) {
  ErrorSums s;
  s.Add(std::vector<float>{3, -4}, std::vector<float>{3, -3});
  EXPECT_DOUBLE_EQ(s.Mse(), 0.5);
  EXPECT_DOUBLE_EQ(s.Mae(), 0.5);
  EXPECT_DOUBLE_EQ(s.RelativeError(), 0.2);
  EXPECT_NEAR(s.SqnrDb(), 10 * std::log10(25.0), 1e-12);
  EXPECT_NEAR(s.Cosine(), 21 / std::sqrt(25.0 * 18), 1e-12);
}

TEST(ErrorSums, AnEightBitGridOnGaussianNoiseHasItsTextbookSqnr) {
  // Step d on a unit Gaussian without clipping: SQNR = 10 log10(12 / d^2).
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  std::vector<float> x(100000), y(x.size());
  const float d = 0.05f;
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(rng), y[i] = d * std::nearbyint(x[i] / d);
  ErrorSums s;
  s.Add(x, y);
  EXPECT_NEAR(s.SqnrDb(), 10 * std::log10(12 / (d * d)), 0.1);
}

TEST(ErrorSums, CapsAndDegenerateSignals) {
  ErrorSums same, lost, broken;
  same.Add(std::vector<float>{0, 0}, std::vector<float>{0, 0});
  EXPECT_EQ(same.SqnrDb(), 200);
  EXPECT_EQ(same.Cosine(), 1);
  lost.Add(std::vector<float>{0}, std::vector<float>{1});
  EXPECT_EQ(lost.SqnrDb(), -200);
  EXPECT_EQ(lost.Cosine(), 0);
  broken.Add(std::vector<float>{1, 2}, std::vector<float>{NAN, 2});
  EXPECT_EQ(broken.broken, 1);
  EXPECT_EQ(broken.count, 1);
}

TEST(ArgMax, PrefersTheLowerIndexAndNeverNan) {
  EXPECT_EQ(ArgMax(std::vector<float>{NAN, 1, 5, 5}), 2);
  EXPECT_EQ(ArgMax(std::vector<float>{NAN}), -1);
}

TEST(RankOf, CountsBetterScoresWithTiesToTheLowerIndex) {
  const std::vector<float> scores = {0.1f, 0.9f, 0.5f, 0.5f};
  EXPECT_EQ(RankOf(scores, 1), 0);
  EXPECT_EQ(RankOf(scores, 2), 1);
  EXPECT_EQ(RankOf(scores, 3), 2);
  EXPECT_EQ(RankOf(std::vector<float>{1, NAN}, 1), 2);
}

TEST(PairedInterval, CoversTheTruthAboutNinetyFivePercentOfTheTime) {
  std::mt19937 rng(11);
  const double gain = 0.03, loss = 0.05;
  int covered = 0;
  constexpr int kTrials = 2000, kSamples = 1000;
  for (int t = 0; t < kTrials; ++t) {
    double sum = 0, squares = 0;
    for (int i = 0; i < kSamples; ++i) {
      const double u = static_cast<double>(rng()) / 4294967296.0;
      const int d = u < gain ? 1 : u < gain + loss ? -1 : 0;
      sum += d;
      squares += d * d;
    }
    const Interval i = PairedInterval(sum, squares, kSamples);
    covered += i.low <= gain - loss && gain - loss <= i.high;
  }
  EXPECT_GT(covered, 0.93 * kTrials);
  EXPECT_LT(covered, 0.97 * kTrials);
}

TEST(PairedInterval, DoesNotClaimCertaintyWithoutDiscordantPairs) {
  const Interval i = PairedInterval(0, 0, 300);
  EXPECT_DOUBLE_EQ(i.high, 0.01);
  EXPECT_DOUBLE_EQ(i.low, -0.01);
}

}  // namespace
}  // namespace quant
