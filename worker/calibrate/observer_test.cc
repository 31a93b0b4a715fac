// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/observer.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace quant {
namespace {

TensorStatistics Seen(const std::vector<float>& v) {
  TensorStatistics s;
  EXPECT_TRUE(s.Add(v, 0.01).ok());
  return s;
}

std::vector<float> Gaussian(int n, unsigned seed = 7) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = normal(rng);
  return v;
}

double MeasuredError(const std::vector<float>& v, Range r, int steps) {
  const double s = (r.hi - r.lo) / steps;
  double sum = 0;
  for (const double x : v) {
    const double q = r.lo + s * std::round((std::clamp(x, r.lo, r.hi) - r.lo) / s);
    sum += (x - q) * (x - q);
  }
  return sum / static_cast<double>(v.size());
}

TEST(HistogramMse, PredictsTheErrorOfQuantizingGaussianData) {
  const std::vector<float> v = Gaussian(200000);
  for (const double a : {1.0, 2.0, 3.0, 4.5}) {
    const double predicted = ExpectedSquaredError(Seen(v).histogram, {-a, a}, 255);
    EXPECT_NEAR(predicted / MeasuredError(v, {-a, a}, 255), 1.0, 0.02) << a;
  }
}

TEST(HistogramMse, FindsTheOptimalClipOfAGaussianAtFourBits) {
  // Least-MSE uniform quantizer with 15 steps over +-a on N(0,1): a is about 2.7 sigma (e.g. Banner et al. 2019, where
  // 4 bits give 2.57 for the midrise form). Brute force on the data is the judge.
  const std::vector<float> v = Gaussian(100000);
  const Range r = FindRange(Seen(v), {.observer = Observer::kHistogramMse, .steps = 15});
  EXPECT_GT(r.hi, 2.3);
  EXPECT_LT(r.hi, 3.1);
  double best = 1e9;
  for (double a = 1.5; a < 4; a += 0.05) best = std::min(best, MeasuredError(v, {-a, a}, 15));
  EXPECT_LT(MeasuredError(v, r, 15), best * 1.02);
}

TEST(HistogramMse, CutsALoneOutlierOffButKeepsItWhenItCarriesTheEnergy) {
  std::vector<float> v = Gaussian(100000);
  v[5] = 30;
  const Range cut = FindRange(Seen(v), {.observer = Observer::kHistogramMse, .steps = 15});
  EXPECT_LT(cut.hi, 10);
  for (size_t i = 0; i < 2000; ++i) v[i] = 30;
  const Range kept = FindRange(Seen(v), {.observer = Observer::kHistogramMse, .steps = 15});
  EXPECT_GT(kept.hi, 25);
}

TEST(Percentile, CutsBothTailsOrTheUpperOneAlone) {
  std::vector<float> v(10001);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i) / 5000.0f - 1;  // uniform on [-1, 1]
  const ObserverOptions o{.observer = Observer::kPercentile, .percentile = 90};
  const Range two = FindRange(Seen(v), o);
  EXPECT_NEAR(two.lo, -0.9, 0.005);
  EXPECT_NEAR(two.hi, 0.9, 0.005);
  for (float& x : v) x = std::fabs(x);
  const Range one = FindRange(Seen(v), o);
  EXPECT_EQ(one.lo, 0);
  EXPECT_NEAR(one.hi, 0.9, 0.005);
}

TEST(Entropy, IsNotTheDegenerateMinMaxAndKeepsTheBulk) {
  std::vector<float> v = Gaussian(200000);
  v[0] = 100;
  const Range r = FindRange(Seen(v), {.observer = Observer::kEntropy});
  EXPECT_LT(r.hi, 50);
  EXPECT_GT(r.hi, 2.5);
  EXPECT_GE(r.lo, -100);
}

TEST(MovingAverage, WeighsTheNewestBatchByC) {
  TensorStatistics s;
  ASSERT_TRUE(s.Add(std::vector<float>{0, 10}, 0.25).ok());
  ASSERT_TRUE(s.Add(std::vector<float>{-4, 2}, 0.25).ok());
  const Range r = FindRange(s, {.observer = Observer::kMovingAverage});
  EXPECT_DOUBLE_EQ(r.lo, -1);
  EXPECT_DOUBLE_EQ(r.hi, 8);
}

TEST(FindRange, DegenerateTensorsGiveUsableRanges) {
  for (const Observer o : {Observer::kMinMax, Observer::kMovingAverage, Observer::kPercentile, Observer::kHistogramMse,
                           Observer::kEntropy}) {
    for (const bool symmetric : {false, true}) {
      const ObserverOptions options{.observer = o, .symmetric = symmetric};
      const Range zero = FindRange(Seen(std::vector<float>(100, 0.0f)), options);
      EXPECT_EQ(zero.lo, 0) << static_cast<int>(o);
      EXPECT_EQ(zero.hi, 0);
      for (const float c : {5.0f, -5.0f, 1e-20f, 1e30f}) {
        const Range r = FindRange(Seen(std::vector<float>(100, c)), options);
        EXPECT_LE(r.lo, 0) << static_cast<int>(o) << " " << c;
        EXPECT_GE(r.hi, 0);
        // The constant itself is inside, to the width of a bin.
        EXPECT_GE(c > 0 ? r.hi : -r.lo, std::fabs(c) * 0.99) << static_cast<int>(o) << " " << c;
        const Grid g = GridForRange(r, 0, 255, symmetric);
        EXPECT_TRUE(std::isfinite(g.scale) && g.scale > 0);
      }
      const Range empty = FindRange(TensorStatistics(), options);
      EXPECT_EQ(empty.hi - empty.lo, 0);
    }
  }
}

TEST(GridForRange, AsymmetricHoldsZeroExactlyAndReachesBothEnds) {
  const Grid g = GridForRange({-1, 3}, 0, 255, false);
  EXPECT_FLOAT_EQ(g.scale, 4.0f / 255);
  EXPECT_EQ(g.zero_point, 64);
  const Grid positive = GridForRange({1, 3}, 0, 255, false);
  EXPECT_EQ(positive.zero_point, 0);
  EXPECT_FLOAT_EQ(positive.scale, 3.0f / 255);
  const Grid s8 = GridForRange({-1, 3}, -128, 127, false);
  EXPECT_EQ(s8.zero_point, -64);
}

TEST(GridForRange, SymmetricPutsZeroInTheMiddle) {
  const Grid s8 = GridForRange({-1, 3}, -127, 127, true);
  EXPECT_EQ(s8.zero_point, 0);
  EXPECT_FLOAT_EQ(s8.scale, 3.0f / 127);
  EXPECT_EQ(GridForRange({-1, 3}, 0, 255, true).zero_point, 128);
  EXPECT_EQ(GridForRange({0, 0}, -127, 127, true).scale, 1.0f);
}

}  // namespace
}  // namespace quant
