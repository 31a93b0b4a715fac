// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/hessian.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "worker/calibrate/syrk.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

std::vector<float> Tokens(int64_t tokens, int64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(tokens * cols));
  for (int64_t t = 0; t < tokens; ++t) {
    const float common = normal(random);
    for (int64_t c = 0; c < cols; ++c) {
      x[static_cast<size_t>(t * cols + c)] = (normal(random) + common) * (1 + 10 * static_cast<float>(c % 7 == 0));
    }
  }
  return x;
}

// (2 / n) sum x x^T in double.
std::vector<double> Naive(const std::vector<float>& x, int64_t tokens, int64_t cols) {
  std::vector<double> h(static_cast<size_t>(cols * cols));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        h[static_cast<size_t>(i * cols + j)] += 2.0 / static_cast<double>(tokens) *
                                                x[static_cast<size_t>(t * cols + i)] *
                                                x[static_cast<size_t>(t * cols + j)];
      }
    }
  }
  return h;
}

// Greatest difference relative to sqrt(H_ii H_jj).
double Error(const HessianMatrix& have, const std::vector<double>& want) {
  double worst = 0;
  const int64_t n = have.cols;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double scale = std::sqrt(want[static_cast<size_t>(i * n + i)] * want[static_cast<size_t>(j * n + j)]);
      const double e = std::fabs(have.h[static_cast<size_t>(i * n + j)] - want[static_cast<size_t>(i * n + j)]);
      worst = std::max(worst, e / scale);
    }
  }
  return worst;
}

HessianMatrix Of(const std::vector<float>& x, int64_t tokens, int64_t cols, HessianArithmetic arithmetic,
                 int64_t at_once = 1 << 30) {
  Hessian hessian = Hessian::Create(cols, arithmetic).value();
  for (int64_t t = 0; t < tokens; t += at_once) {
    const int64_t take = std::min(at_once, tokens - t);
    EXPECT_TRUE(
        hessian
            .Add(std::span<const float>(x).subspan(static_cast<size_t>(t * cols), static_cast<size_t>(take * cols)),
                 take)
            .ok());
  }
  EXPECT_EQ(hessian.tokens(), tokens);
  return std::move(hessian).Finish();
}

TEST(Hessian, KnownAnswer) {
  // Tokens (1, 2) and (3, -1): sum x x^T = [10 -1; -1 5], times 2 / 2.
  const HessianMatrix h = Of({1, 2, 3, -1}, 2, 2, HessianArithmetic::kFastest);
  EXPECT_EQ(h.h, (std::vector<float>{10, -1, -1, 5}));
  EXPECT_EQ(h.mean_abs, (std::vector<float>{2, 1.5}));
  EXPECT_EQ(h.Diagonal(), (std::vector<float>{10, 5}));
  EXPECT_EQ(h.tokens, 2);
}

TEST(Hessian, AgreesWithDoubleOnAwkwardShapes) {
  for (const int64_t cols : {1, 3, 16, 47, 64, 172, 200, 260}) {
    for (const int64_t tokens : {1, 2, 1023, 1025, 2500}) {
      if (cols > 100 && tokens > 1100) continue;  // the naive sums take long
      const std::vector<float> x = Tokens(tokens, cols, 7);
      const std::vector<double> want = Naive(x, tokens, cols);
      // Sums of at most 2500 products in float32: sqrt(1024) roundings of 2^-25 within a block, and a few more.
      EXPECT_LT(Error(Of(x, tokens, cols, HessianArithmetic::kFloat32), want), 3e-6) << cols << " x " << tokens;
      // Rounding x: each product is off by up to 2^-8 (two roundings of 2^-9), independently between tokens: below a
      // standard error of 2^-8 / sqrt(tokens), and the worst of 67,600 entries within eight of them.
      EXPECT_LT(Error(Of(x, tokens, cols, HessianArithmetic::kFastest), want), 0x1p-8 * 8 / std::sqrt(tokens) + 1e-5)
          << cols << " x " << tokens;
    }
  }
}

TEST(Hessian, FastestIsExactWhenInputsAreBFloat16) {
  std::vector<float> x = Tokens(1500, 40, 3);
  for (float& v : x) v = std::nearbyint(v * 8) / 8;  // up to 8 significant bits for |v| < 32
  for (float& v : x) v = std::clamp(v, -15.875f, 15.875f);
  EXPECT_LT(Error(Of(x, 1500, 40, HessianArithmetic::kFastest), Naive(x, 1500, 40)), 3e-6);
}

TEST(Hessian, DependsOnTokensAloneNotOnBatchesOrThreads) {
  const int64_t cols = 300;
  const std::vector<float> x = Tokens(3000, cols, 5);
  for (const auto arithmetic : {HessianArithmetic::kFastest, HessianArithmetic::kFloat32}) {
    omp_set_num_threads(1);
    const HessianMatrix one = Of(x, 3000, cols, arithmetic);
    omp_set_num_threads(3);
    const HessianMatrix many = Of(x, 3000, cols, arithmetic, 17);
    omp_set_num_threads(omp_get_num_procs());
    EXPECT_EQ(one.h, many.h);
    EXPECT_EQ(one.mean_abs, many.mean_abs);
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t j = 0; j < i; ++j) {
        ASSERT_EQ(one.h[static_cast<size_t>(i * cols + j)], one.h[static_cast<size_t>(j * cols + i)]) << i << ", " << j;
      }
    }
  }
}

TEST(Hessian, MergesTokensOfBoth) {
  const int64_t cols = 33;
  const std::vector<float> x = Tokens(2100, cols, 9);
  const std::span<const float> all(x);
  Hessian a = Hessian::Create(cols, HessianArithmetic::kFloat32).value();
  Hessian b = Hessian::Create(cols, HessianArithmetic::kFloat32).value();
  ASSERT_TRUE(a.Add(all.first(static_cast<size_t>(500 * cols)), 500).ok());
  ASSERT_TRUE(b.Add(all.subspan(static_cast<size_t>(500 * cols)), 1600).ok());
  ASSERT_TRUE(a.Merge(b).ok());
  EXPECT_EQ(a.tokens(), 2100);
  EXPECT_LT(Error(std::move(a).Finish(), Naive(x, 2100, cols)), 3e-6);
  Hessian other = Hessian::Create(cols + 1, HessianArithmetic::kFloat32).value();
  EXPECT_EQ(b.Merge(other).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Hessian, NamesTheColumnOfBadInputAndKeepsWhatItHad) {
  Hessian hessian = Hessian::Create(4).value();
  ASSERT_TRUE(hessian.Add(std::vector<float>{1, 1, 1, 1}, 1).ok());
  std::vector<float> x(8, 1.0f);
  x[6] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status bad = hessian.Add(x, 2);
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("token 1 is nan in column 2"));
  x[6] = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(std::string(hessian.Add(x, 2).message()), HasSubstr("-inf in column 2"));
  EXPECT_FALSE(hessian.Add(x, 3).ok());
  EXPECT_EQ(hessian.tokens(), 1);
  EXPECT_EQ(std::move(hessian).Finish().h, std::vector<float>(16, 2.0f));
}

TEST(Hessian, EmptyAndAbsurdSizes) {
  const HessianMatrix none = Hessian::Create(3).value().Finish();
  EXPECT_EQ(none.tokens, 0);
  EXPECT_EQ(none.h, std::vector<float>(9, 0.0f));
  EXPECT_FALSE(Hessian::Create(0).ok());
  EXPECT_FALSE(Hessian::Create(int64_t{1} << 40).ok());
}

}  // namespace
}  // namespace quant
