// SPDX-License-Identifier: Apache-2.0
// The kernels of linear layers on every instruction set of the machine, against DequantizeRows and products in double.
#include "worker/runtime/kernels/linear.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hwy/targets.h"
#include "worker/tensor/dtype.h"
#include "worker/tensor/packing.h"
#include "worker/tensor/weight_matrix.h"

namespace quant::kernels {
namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<uint8_t>;

// Runs f on each instruction set that is compiled in and supported here.
template <typename F>
void OnEveryTarget(const F& f) {
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    f(std::string(hwy::TargetName(target)));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

Floats Random(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(static_cast<size_t>(n));
  for (float& v : values) v = normal(random);
  return values;
}

// A matrix in its stored form, one byte off alignment, and its values.
struct Stored {
  Bytes bytes;
  Floats scales, zeros, table, values;
  WeightView view;
};

void Place(Stored* s, const void* data, size_t size) {
  s->bytes.assign(size + 1, 0);
  std::memcpy(s->bytes.data() + 1, data, size);
  s->view.data = reinterpret_cast<const std::byte*>(s->bytes.data()) + 1;
}

Stored FloatMatrix(WeightType type, int64_t rows, int64_t cols) {
  Stored s;
  s.values = Random(rows * cols, 7);
  s.view = {.type = type, .rows = rows, .cols = cols};
  if (type == WeightType::kF32) {
    Place(&s, s.values.data(), s.values.size() * 4);
    return s;
  }
  std::vector<uint16_t> bits;
  for (float& v : s.values) {
    bits.push_back(type == WeightType::kF16 ? FloatToFloat16(v) : FloatToBFloat16(v));
    v = type == WeightType::kF16 ? Float16ToFloat(bits.back()) : BFloat16ToFloat(bits.back());
  }
  Place(&s, bits.data(), bits.size() * 2);
  return s;
}

enum class Zeros { kNone, kWhole, kFraction };

Stored NBitsMatrix(int bits, int64_t rows, int64_t cols, int64_t block, Zeros zeros) {
  GroupedMatrix w{.rows = rows, .cols = cols, .bits = bits, .group_size = std::min(block, cols)};
  const int64_t blocks = (cols + block - 1) / block;
  const int levels = 1 << bits;
  const auto middle = static_cast<float>(1 << (bits - 1));
  std::mt19937 random(static_cast<unsigned>(bits * 1000 + cols));
  Bytes packed;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < blocks; ++g) {
      Bytes one(static_cast<size_t>(block), static_cast<uint8_t>(levels - 1));  // padding that must not count
      for (int64_t i = 0; i < block && g * block + i < cols; ++i) {
        // The second row is all zero points.
        one[static_cast<size_t>(i)] =
            static_cast<uint8_t>(r == 1 ? levels / 2 : static_cast<int>(random() % static_cast<unsigned>(levels)));
        w.codes.push_back(one[static_cast<size_t>(i)]);
      }
      Bytes bytes(PackedBytes(one.size(), bits));
      PackBits(one, bits, bytes);
      packed.insert(packed.end(), bytes.begin(), bytes.end());
      w.scales.push_back(0.01f * static_cast<float>(1 + random() % 30) * (random() % 8 == 0 ? -1.0f : 1.0f));
      if (zeros != Zeros::kNone) {
        const float zero = r == 1 ? middle : static_cast<float>(random() % static_cast<unsigned>(levels));
        w.zeros.push_back(zero + (zeros == Zeros::kFraction && r != 1 ? 0.375f : 0.0f));
      }
    }
  }
  Stored s;
  s.values.resize(static_cast<size_t>(rows * cols));
  DequantizeRows(w, 0, rows, s.values);
  s.scales = w.scales;
  s.zeros = w.zeros;
  s.view = {.type = WeightType::kNBits, .rows = rows, .cols = cols};
  s.view.bits = bits;
  s.view.block = block;
  s.view.blocks = blocks;
  s.view.block_bytes = static_cast<int64_t>(PackedBytes(static_cast<size_t>(block), bits));
  s.view.default_zero = middle;
  Place(&s, packed.data(), packed.size());
  s.view.scales = s.scales.data();
  s.view.zeros = s.zeros.empty() ? nullptr : s.zeros.data();
  return s;
}

Stored CodebookMatrixOf(int64_t rows, int64_t cols, int64_t block) {
  CodebookMatrix w{.rows = rows, .cols = cols, .block_size = block};
  std::mt19937 random(static_cast<unsigned>(cols));
  for (int64_t i = 0; i < rows * cols; ++i) w.codes.push_back(static_cast<uint8_t>(random() % 16));
  w.codebook = Random(16, 3);
  for (int64_t i = 0; i < w.blocks(); ++i) w.absmax.push_back(0.05f * static_cast<float>(random() % 40));
  Bytes packed((w.codes.size() + 1) / 2);
  for (size_t i = 0; i < w.codes.size(); ++i) packed[i / 2] |= static_cast<uint8_t>(w.codes[i] << (i % 2 == 0 ? 4 : 0));
  Stored s;
  s.values.resize(w.codes.size());
  DequantizeRows(w, 0, rows, s.values);
  s.scales = w.absmax;
  s.table = w.codebook;
  s.view = {.type = WeightType::kCodebook, .rows = rows, .cols = cols};
  s.view.block = block;
  Place(&s, packed.data(), packed.size());
  s.view.scales = s.scales.data();
  s.view.table = s.table.data();
  return s;
}

void CheckDequantize(const Stored& s, const std::string& what) {
  const int64_t rows = s.view.rows, cols = s.view.cols;
  for (const int64_t begin : {int64_t{0}, cols / 2}) {  // a half may start inside a block or a byte
    const int64_t width = cols - begin, ld = width + 3;
    Floats got(static_cast<size_t>(rows * ld), -77.0f);
    DequantizeBlock(s.view, 0, rows, begin, cols, got.data(), ld);
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t k = 0; k < ld; ++k) {
        const float want = k < width ? s.values[static_cast<size_t>(n * cols + begin + k)] : -77.0f;
        ASSERT_EQ(got[static_cast<size_t>(n * ld + k)], want) << what << " row " << n << " column " << begin + k;
      }
    }
  }
}

// Each of the K products is rounded at most K + 4 times on its way (difference, product, sums, scale), whatever the
// order: |error| <= (K + 8) * 2^-24 * sum |x w|. A row of zeros gives exactly its bias.
void CheckGemv(const Stored& s, int64_t m, bool with_bias, const std::string& what) {
  const int64_t rows = s.view.rows, cols = s.view.cols, ldy = rows + 2;
  const Floats x = Random(m * cols, 11), bias = Random(rows, 12);
  Floats shared(static_cast<size_t>(GemvSharedFloats(s.view, m)) + 1),
      own(static_cast<size_t>(GemvThreadFloats(s.view)) + 1);
  Floats y(static_cast<size_t>(m * ldy), -77.0f), again = y;
  GemvPrepare(s.view, x.data(), m, shared.data());
  const float* b = with_bias ? bias.data() : nullptr;
  Gemv(s.view, x.data(), m, shared.data(), own.data(), b, 0, rows, y.data(), ldy);
  for (int64_t n = 0; n < rows; ++n)
    Gemv(s.view, x.data(), m, shared.data(), own.data(), b, n, n + 1, again.data(), ldy);
  ASSERT_EQ(y, again) << what << ": the split over rows changes the result";
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t n = 0; n < rows; ++n) {
      double want = 0, magnitude = 0;
      for (int64_t k = 0; k < cols; ++k) {
        const double p = static_cast<double>(x[static_cast<size_t>(i * cols + k)]) *
                         static_cast<double>(s.values[static_cast<size_t>(n * cols + k)]);
        want += p;
        magnitude += std::abs(p);
      }
      const double add = with_bias ? static_cast<double>(bias[static_cast<size_t>(n)]) : 0.0;
      const double bound = std::ldexp(static_cast<double>(cols + 8) * magnitude + std::abs(add), -24);
      const float got = y[static_cast<size_t>(i * ldy + n)];
      ASSERT_NEAR(got, want + add, bound) << what << " row " << n << " of W, row " << i << " of x";
      if (magnitude == 0) {
        ASSERT_EQ(got, static_cast<float>(add)) << what;
      }
    }
    ASSERT_EQ(y[static_cast<size_t>(i * ldy + rows)], -77.0f) << what << ": writes past the row";
  }
}

void Check(const Stored& s, const std::string& what) {
  CheckDequantize(s, what);
  for (const int64_t m : {1, 2, 3, 4, 7}) CheckGemv(s, m, m % 2 == 1, absl::StrCat(what, " m ", m));
}

constexpr int64_t kSizes[] = {1, 5, 64, 172, 173};

TEST(Linear, StoredFloats) {
  OnEveryTarget([](const std::string& target) {
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
      for (const int64_t cols : kSizes)
        Check(FloatMatrix(type, 5, cols), absl::StrCat(target, " type ", static_cast<int>(type), " K ", cols));
    }
  });
}

TEST(Linear, PackedCodesInBlocksOfAnySize) {
  OnEveryTarget([](const std::string& target) {
    for (const int bits : {2, 4, 8}) {
      for (const int64_t cols : {int64_t{1}, int64_t{5}, int64_t{64}, int64_t{172}, int64_t{173}, int64_t{640}}) {
        for (const int64_t block :
             {int64_t{5}, int64_t{16}, int64_t{32}, int64_t{64}, int64_t{128}, int64_t{256}, cols}) {
          for (const Zeros zeros : {Zeros::kNone, Zeros::kWhole, Zeros::kFraction}) {
            Check(NBitsMatrix(bits, 3, cols, block, zeros), absl::StrCat(target, " bits ", bits, " K ", cols, " block ",
                                                                         block, " zeros ", static_cast<int>(zeros)));
          }
        }
      }
    }
  });
}

TEST(Linear, CodebooksWithBlocksAcrossRows) {
  OnEveryTarget([](const std::string& target) {
    for (const int64_t cols : {int64_t{1}, int64_t{5}, int64_t{64}, int64_t{172}, int64_t{173}, int64_t{640}}) {
      for (const int64_t block : {32, 64, 128, 4096}) {
        Check(CodebookMatrixOf(5, cols, block), absl::StrCat(target, " codebook K ", cols, " block ", block));
      }
    }
  });
}

}  // namespace
}  // namespace quant::kernels
