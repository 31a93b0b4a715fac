// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/panel_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "worker/calibrate/syrk.h"

namespace quant::weight_only {
namespace {

struct Case {
  int64_t n, count, begin, end;
  bool backwards;
};

class PanelProductTest : public ::testing::TestWithParam<Case> {};

// Against plain sums in double: a sum of `count` products of values rounded to 8 bits.
TEST_P(PanelProductTest, IsTheSumOfProducts) {
  if (!syrk::HasBFloat16()) GTEST_SKIP() << "this CPU has no AVX512_BF16";
  const Case c = GetParam();
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> a(static_cast<size_t>(c.n * c.n)), x(static_cast<size_t>(c.n * kPanelRows));
  for (float& v : a) v = normal(random);
  for (float& v : x) v = normal(random);
  const PackedSquare packed(a.data(), c.n, c.backwards);
  PackedLanes lanes(c.n);
  for (int64_t k = 0; k < c.count; ++k) lanes.Set(k, x.data() + k * kPanelRows);
  const int64_t rows = c.end - c.begin;
  const int64_t stride = c.backwards ? -kPanelRows : kPanelRows;
  std::vector<float> out(static_cast<size_t>(rows * kPanelRows), NAN);
  PanelProduct(packed, lanes, c.count, c.begin, c.end, out.data() + (c.backwards ? (rows - 1) * kPanelRows : 0),
               stride);
  const auto at = [&](int64_t i) { return c.backwards ? c.n - 1 - i : i; };
  for (int64_t m = c.begin; m < c.end; ++m) {
    const int64_t row = c.backwards ? c.end - 1 - m : m - c.begin;
    for (int64_t lane = 0; lane < kPanelRows; ++lane) {
      double sum = 0, squares = 0;
      for (int64_t k = 0; k < c.count; ++k) {
        const double product = static_cast<double>(a[static_cast<size_t>(at(k) * c.n + at(m))]) *
                               x[static_cast<size_t>(k * kPanelRows + lane)];
        sum += product;
        squares += product * product;
      }
      // Two roundings of 2^-9 at most each, six times their root mean square.
      EXPECT_NEAR(out[static_cast<size_t>(row * kPanelRows + lane)], sum, 6 * 0x1p-9 * std::sqrt(squares) + 1e-30)
          << m << ", " << lane;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PanelProductTest,
                         ::testing::Values(Case{256, 256, 0, 128, false}, Case{256, 128, 128, 256, true},
                                           Case{172, 172, 120, 172, false}, Case{172, 128, 128, 172, true},
                                           Case{37, 37, 3, 30, false}, Case{37, 0, 0, 37, true},
                                           Case{2100, 2100, 2048, 2100, false}, Case{2101, 2048, 2090, 2101, true}));

}  // namespace
}  // namespace quant::weight_only
