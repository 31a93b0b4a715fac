// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/hessian.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/calibrate/syrk.h"

namespace quant {
namespace {

constexpr int64_t kMaxCols = 65536;

// sum |x| of each column. Not finite where a value is not: double holds every sum of finite floats.
std::vector<double> AbsSums(const float* x, int64_t tokens, int64_t cols) {
  constexpr int64_t kWidth = 512;
  std::vector<double> sums(static_cast<size_t>(cols));
  double* const sum = sums.data();
#pragma omp parallel for schedule(static)
  for (int64_t begin = 0; begin < cols; begin += kWidth) {
    const int64_t end = std::min(begin + kWidth, cols);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = begin; c < end; ++c) sum[c] += std::fabs(x[t * cols + c]);
    }
  }
  return sums;
}

}  // namespace

std::vector<float> HessianMatrix::Diagonal() const {
  std::vector<float> diagonal(static_cast<size_t>(cols));
  for (int64_t i = 0; i < cols; ++i) diagonal[static_cast<size_t>(i)] = h[static_cast<size_t>(i * cols + i)];
  return diagonal;
}

absl::StatusOr<Hessian> Hessian::Create(int64_t cols, HessianArithmetic arithmetic) {
  if (cols < 1 || cols > kMaxCols) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hessian of ", cols, " columns; 1 to ", kMaxCols, " are supported"));
  }
  Hessian hessian;
  hessian.cols_ = cols;
  hessian.bfloat16_ = arithmetic == HessianArithmetic::kFastest && syrk::HasBFloat16();
  try {
    hessian.sum_.resize(static_cast<size_t>(cols * cols));
    hessian.abs_sum_.resize(static_cast<size_t>(cols));
    if (hessian.bfloat16_) {
      const int64_t panels = (cols + 3 * syrk::kPanel - 1) / (3 * syrk::kPanel) * 3;
      hessian.pairs_.resize(static_cast<size_t>(panels * (syrk::kBlockTokens / 2) * syrk::kPanel));
    } else {
      hessian.block_.resize(static_cast<size_t>(syrk::kBlockTokens * cols));
    }
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a Hessian of ", cols, " columns (", cols * cols * 4 >> 20, " MiB)"));
  }
  return hessian;
}

absl::Status Hessian::Add(std::span<const float> x, int64_t tokens) {
  if (tokens < 0 || static_cast<int64_t>(x.size()) != tokens * cols_) {
    return absl::InvalidArgumentError(
        absl::StrCat("Hessian: ", x.size(), " values are not ", tokens, " tokens of ", cols_, " columns"));
  }
  const std::vector<double> sums = AbsSums(x.data(), tokens, cols_);
  const auto finite = [](auto v) { return std::isfinite(v); };
  if (!std::all_of(sums.begin(), sums.end(), finite)) {
    const int64_t bad = std::find_if_not(x.begin(), x.end(), finite) - x.begin();
    return absl::InvalidArgumentError(absl::StrCat("the input of token ", bad / cols_, " is ",
                                                   x[static_cast<size_t>(bad)], " in column ", bad % cols_));
  }
  for (size_t c = 0; c < sums.size(); ++c) abs_sum_[c] += sums[c];
  for (int64_t done = 0; done < tokens;) {
    const int64_t take = std::min(tokens - done, syrk::kBlockTokens - pending_);
    Gather(x.data() + done * cols_, take);
    done += take;
    if (pending_ == syrk::kBlockTokens) Flush();
  }
  tokens_ += tokens;
  return absl::OkStatus();
}

void Hessian::Gather(const float* x, int64_t tokens) {
  if (bfloat16_) {
    syrk::PackBFloat16(x, pending_, tokens, cols_, pairs_.data());
  } else {
    std::copy_n(x, tokens * cols_, block_.data() + pending_ * cols_);
  }
  pending_ += tokens;
}

void Hessian::Flush() {
  if (pending_ == 0) return;
  if (bfloat16_) {
    syrk::AddBFloat16(pairs_.data(), pending_, cols_, sum_.data());
  } else {
    syrk::AddFloat32(block_.data(), pending_, cols_, sum_.data());
  }
  pending_ = 0;
}

absl::Status Hessian::Merge(const Hessian& other) {
  if (other.cols_ != cols_ || other.bfloat16_ != bfloat16_) {
    return absl::InvalidArgumentError(absl::StrCat("Hessians of ", cols_, " and ", other.cols_, " columns",
                                                   other.cols_ == cols_ ? " in different arithmetic" : "",
                                                   " cannot be merged"));
  }
  Flush();
  for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += other.sum_[i];
  for (size_t i = 0; i < abs_sum_.size(); ++i) abs_sum_[i] += other.abs_sum_[i];
  if (other.pending_ > 0) {
    if (bfloat16_) {
      syrk::AddBFloat16(other.pairs_.data(), other.pending_, cols_, sum_.data());
    } else {
      syrk::AddFloat32(other.block_.data(), other.pending_, cols_, sum_.data());
    }
  }
  tokens_ += other.tokens_;
  return absl::OkStatus();
}

HessianMatrix Hessian::Finish() && {
  Flush();
  HessianMatrix result;
  result.cols = cols_;
  result.tokens = tokens_;
  result.h = std::move(sum_);
  const double n = static_cast<double>(std::max<int64_t>(tokens_, 1));
  const float scale = static_cast<float>(2.0 / n);
  float* const h = result.h.data();
  const int64_t cols = cols_;
  constexpr int64_t kTile = 64;  // both the row and the column side of a tile stay in the cache
  const int64_t tiles = (cols + kTile - 1) / kTile;
#pragma omp parallel for schedule(dynamic)
  for (int64_t ti = 0; ti < tiles; ++ti) {
    for (int64_t tj = 0; tj <= ti; ++tj) {
      for (int64_t i = ti * kTile; i < std::min((ti + 1) * kTile, cols); ++i) {
        for (int64_t j = tj * kTile; j < std::min((tj + 1) * kTile, i + 1); ++j) {
          h[i * cols + j] *= scale;
          h[j * cols + i] = h[i * cols + j];
        }
      }
    }
  }
  result.mean_abs.resize(abs_sum_.size());
  for (size_t i = 0; i < abs_sum_.size(); ++i) result.mean_abs[i] = static_cast<float>(abs_sum_[i] / n);
  *this = Hessian();
  return result;
}

}  // namespace quant
