// SPDX-License-Identifier: Apache-2.0
// The vector kernels against one-line loops, at lengths around every vector width.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "worker/runtime/kernels/elementwise.h"
#include "worker/runtime/kernels/transpose.h"

namespace quant::kernels {
namespace {

const size_t kLengths[] = {0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100};

std::vector<float> Random(size_t n, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

template <typename T>
T Code(float real, float scale, int32_t zero) {
  const float v = real / scale;
  if (std::isnan(v)) return static_cast<T>(zero);
  const double lo = std::numeric_limits<T>::min(), hi = std::numeric_limits<T>::max();
  return static_cast<T>(std::clamp(std::nearbyint(static_cast<double>(v)) + zero, lo, hi));
}

TEST(Kernels, QuantizeRoundsHalfToEvenAndSaturates) {
  for (const size_t n : kLengths) {
    std::vector<float> x = Random(n, 3, 1);
    const float specials[] = {0.25f,
                              -0.25f,
                              0.75f,
                              1e30f,
                              -1e30f,
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN(),
                              -0.0f};
    for (size_t i = 0; i < std::min(n, std::size(specials)); ++i) x[n - 1 - i] = specials[i];
    std::vector<uint8_t> u(n);
    std::vector<int8_t> s(n);
    QuantizeF32U8(x.data(), n, 0.5f, 100, u.data());
    QuantizeF32S8(x.data(), n, 0.5f, -5, s.data());
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(u[i], Code<uint8_t>(x[i], 0.5f, 100)) << x[i];
      EXPECT_EQ(s[i], Code<int8_t>(x[i], 0.5f, -5)) << x[i];
    }
  }
}

TEST(Kernels, DequantizeAndTables) {
  std::vector<uint8_t> codes(256);
  for (size_t i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
  std::vector<float> real(256);
  DequantizeU8F32(codes.data(), 256, 0.1f, 7, real.data());
  for (int i = 0; i < 256; ++i) EXPECT_EQ(real[static_cast<size_t>(i)], static_cast<float>(i - 7) * 0.1f);
  DequantizeS8F32(reinterpret_cast<const int8_t*>(codes.data()), 255, 0.1f, -3, real.data());
  EXPECT_EQ(real[254], static_cast<float>(-2 + 3) * 0.1f);
}

TEST(Kernels, BinaryOperatorsStepsAndNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const size_t n : kLengths) {
    std::vector<float> a = Random(n + 1, 1, 1), b = Random(n + 1, 1, 2), d(n);
    if (n > 2) a[1] = nan, b[2] = nan;
    BinaryF32(BinaryOp::kMax, a.data(), Step::kEach, b.data(), Step::kEach, n, d.data());
    for (size_t i = 0; i < n; ++i) {
      if (std::isnan(a[i]) || std::isnan(b[i])) {
        EXPECT_TRUE(std::isnan(d[i])) << i;
      } else {
        EXPECT_EQ(d[i], std::max(a[i], b[i]));
      }
    }
    BinaryF32(BinaryOp::kSub, a.data(), Step::kOne, b.data(), Step::kEach, n, d.data());
    for (size_t i = 3; i < n; ++i) EXPECT_EQ(d[i], a[0] - b[i]);
    BinaryF32(BinaryOp::kDiv, b.data(), Step::kEach, a.data(), Step::kOne, n, d.data());
    for (size_t i = 3; i < n; ++i) EXPECT_EQ(d[i], b[i] / a[0]);
    ClampF32(a.data(), n, -0.5f, 0.25f, d.data());
    for (size_t i = 3; i < n; ++i) EXPECT_EQ(d[i], std::clamp(a[i], -0.5f, 0.25f));
  }
}

TEST(Kernels, QuantizedAddMatchesTheSameArithmeticInFloat) {
  std::mt19937 random(5);
  for (const size_t n : kLengths) {
    std::vector<uint8_t> a(n + 1), b(n + 1), d(n);
    for (uint8_t& v : a) v = static_cast<uint8_t>(random());
    for (uint8_t& v : b) v = static_cast<uint8_t>(random());
    const Grid ga{0.05f, 3}, gb{0.02f, 200}, gd{0.06f, 60};
    for (const Step step : {Step::kEach, Step::kOne}) {
      BinaryU8(BinaryOp::kAdd, a.data(), ga, b.data(), step, gb, 0.0f, 5.0f, gd, n, d.data());
      for (size_t i = 0; i < n; ++i) {
        const float y = static_cast<float>(b[step == Step::kOne ? 0 : i] - 200) * 0.02f;
        const float sum = std::clamp(static_cast<float>(a[i] - 3) * 0.05f + y, 0.0f, 5.0f);
        EXPECT_EQ(d[i], Code<uint8_t>(sum, 0.06f, 60)) << i;
      }
    }
  }
}

TEST(Kernels, SumsAndRanges) {
  for (const size_t channels : {1, 5, 16, 33}) {
    const size_t rows = 19;
    const std::vector<float> x = Random(rows * channels, 1, 9);
    std::vector<double> sum(channels);
    SumRowsF32(x.data(), rows, channels, sum.data());
    std::vector<uint8_t> codes(rows * channels, 255);
    std::vector<int32_t> total(channels);
    SumRowsU8(codes.data(), rows, channels, total.data());
    for (size_t c = 0; c < channels; ++c) {
      double want = 0;
      for (size_t r = 0; r < rows; ++r) want += x[r * channels + c];
      EXPECT_DOUBLE_EQ(sum[c], want);
      EXPECT_EQ(total[c], 255 * 19);
    }
    float min, max;
    MinMaxF32(x.data(), x.size(), &min, &max);
    EXPECT_EQ(min, std::min(0.0f, *std::min_element(x.begin(), x.end())));
    EXPECT_EQ(max, std::max(0.0f, *std::max_element(x.begin(), x.end())));
  }
}

TEST(Kernels, CopyMatrixInEveryArrangement) {
  std::vector<uint32_t> words(5000);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i * 2654435761u);
  const std::byte* src = reinterpret_cast<const std::byte*>(words.data());
  for (const size_t size : {1, 2, 4, 8}) {
    for (const int64_t rows : {1, 2, 3, 4, 17, 40}) {
      for (const int64_t cols : {1, 2, 3, 4, 5, 33, 50}) {
        for (const auto& [rs, cs] :
             {std::pair<int64_t, int64_t>{1, rows}, {cols, 1}, {cols + 2, 1}, {1, rows + 3}, {0, 1}, {2, 3}}) {
          std::vector<std::byte> dst(static_cast<size_t>(rows * cols) * size);
          CopyMatrix(size, rows, cols, src, rs, cs, dst.data());
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < cols; ++c) {
              ASSERT_EQ(0, std::memcmp(&dst[static_cast<size_t>(r * cols + c) * size],
                                       src + static_cast<size_t>(r * rs + c * cs) * size, size))
                  << size << " " << rows << "x" << cols << " strides " << rs << " " << cs;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quant::kernels
