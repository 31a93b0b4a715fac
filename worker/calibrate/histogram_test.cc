// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "gtest/gtest.h"

namespace quant {
namespace {

std::vector<float> HeavyTailed(int n, unsigned seed) {
  std::mt19937 rng(seed);
  std::student_t_distribution<float> t(2);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = rng() % 4 == 0 ? 0.0f : t(rng);
  return v;
}

bool Same(const Histogram& a, const Histogram& b) {
  return std::equal(a.bins().begin(), a.bins().end(), b.bins().begin()) && a.limit() == b.limit() &&
         a.count() == b.count() && a.zeros() == b.zeros() && a.min() == b.min() && a.max() == b.max();
}

TEST(Histogram, DependsOnTheValuesAloneNotOnOrderOrBatching) {
  std::vector<float> v = HeavyTailed(20000, 1);
  Histogram whole(256), sorted(256), pieces(256), merged(256);
  ASSERT_TRUE(whole.Add(v).ok());
  for (size_t i = 0; i < v.size(); i += 37) {
    ASSERT_TRUE(pieces.Add(std::span(v).subspan(i, std::min<size_t>(37, v.size() - i))).ok());
  }
  std::sort(v.begin(), v.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  for (const float x : v) ASSERT_TRUE(sorted.Add({&x, 1}).ok());
  Histogram half_a(256), half_b(256);
  ASSERT_TRUE(half_a.Add(std::span(v).first(v.size() / 2)).ok());
  ASSERT_TRUE(half_b.Add(std::span(v).subspan(v.size() / 2)).ok());
  merged.Merge(half_b);
  merged.Merge(half_a);
  EXPECT_TRUE(Same(whole, pieces));
  EXPECT_TRUE(Same(whole, sorted));
  EXPECT_TRUE(Same(whole, merged));
}

TEST(Histogram, EachValueStandsInTheBinThatHoldsIt) {
  const std::vector<float> v = {-4.0f, -1.0f, -0.0f, 0.0f, 0.49f, 0.5f, 3.999f};
  Histogram h(16);  // limit 8, width 1
  ASSERT_TRUE(h.Add(v).ok());
  ASSERT_EQ(h.limit(), 8.0);
  std::vector<int64_t> expected(16, 0);
  for (const float x : v) ++expected[static_cast<size_t>(std::floor(x) + 8)];
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), h.bins().begin()));
  EXPECT_EQ(h.zeros(), 2);
}

TEST(Histogram, RefusesNanAndInfinityAndKeepsWhatItHad) {
  Histogram h(16);
  ASSERT_TRUE(h.Add(std::vector<float>{1, 2}).ok());
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(h.Add(std::vector<float>{5, NAN}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(h.Add(std::vector<float>{-inf}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(h.count(), 2);
  EXPECT_EQ(h.max(), 2.0f);
}

TEST(Histogram, HoldsTheExtremesOfFloat) {
  Histogram h(16);
  const float big = std::numeric_limits<float>::max();
  ASSERT_TRUE(h.Add(std::vector<float>{-big, big, std::numeric_limits<float>::denorm_min()}).ok());
  EXPECT_EQ(std::accumulate(h.bins().begin(), h.bins().end(), int64_t{0}), 3);
}

}  // namespace
}  // namespace quant
