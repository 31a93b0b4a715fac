// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/cross_moment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace quant {
namespace {

using ::testing::HasSubstr;

TEST(CrossMoment, KnownAnswer) {
  // x - y = (1, 0) and (0, 2) for y = (1, 2) and (3, -1): sum = [1 2; 6 -2], times 2 / 2.
  CrossMoment moment = CrossMoment::Create(2).value();
  ASSERT_TRUE(moment.Add(std::vector<float>{2, 2, 3, 1}, std::vector<float>{1, 2, 3, -1}, 2).ok());
  const CrossMomentMatrix have = std::move(moment).Finish();
  EXPECT_EQ(have.d, (std::vector<float>{1, 2, 6, -2}));
  EXPECT_EQ(have.tokens, 2);
}

TEST(CrossMoment, AgreesWithDoubleForAnyBatchesAndThreads) {
  const int64_t cols = 270;
  const int64_t tokens = 1100;
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * cols));
  std::vector<float> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = normal(random);
    x[i] = y[i] + 0.1f * normal(random);
  }
  const auto run = [&](int threads, int64_t at_once) {
    omp_set_num_threads(threads);
    CrossMoment moment = CrossMoment::Create(cols).value();
    for (int64_t t = 0; t < tokens; t += at_once) {
      const int64_t take = std::min(at_once, tokens - t);
      const auto begin = static_cast<size_t>(t * cols);
      const auto count = static_cast<size_t>(take * cols);
      EXPECT_TRUE(moment
                      .Add(std::span<const float>(x).subspan(begin, count),
                           std::span<const float>(y).subspan(begin, count), take)
                      .ok());
    }
    omp_set_num_threads(omp_get_num_procs());
    return std::move(moment).Finish();
  };
  const CrossMomentMatrix one = run(1, tokens);
  EXPECT_EQ(one.d, run(3, 100).d);
  for (const int64_t i : {int64_t{0}, int64_t{255}, int64_t{256}, cols - 1}) {
    for (const int64_t j : {int64_t{0}, int64_t{100}, int64_t{256}, cols - 1}) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const auto a = static_cast<size_t>(t * cols + i);
        sum += 2.0 / static_cast<double>(tokens) * (static_cast<double>(x[a]) - y[a]) *
               y[static_cast<size_t>(t * cols + j)];
      }
      // 1100 products of about 0.1: float32 sums are good to sqrt(1100) 2^-25 of them.
      EXPECT_NEAR(one.d[static_cast<size_t>(i * cols + j)], sum, 1e-6) << i << ", " << j;
    }
  }
}

TEST(CrossMoment, RefusesBadInput) {
  CrossMoment moment = CrossMoment::Create(2).value();
  std::vector<float> x(4, 1.0f);
  EXPECT_FALSE(moment.Add(x, std::vector<float>(2), 2).ok());
  std::vector<float> y = x;
  y[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(std::string(moment.Add(x, y, 2).message()), HasSubstr("token 1 are 1 and nan in column 1"));
  EXPECT_EQ(moment.tokens(), 0);
  EXPECT_FALSE(CrossMoment::Create(0).ok());
}

}  // namespace
}  // namespace quant
