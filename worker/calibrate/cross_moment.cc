// SPDX-License-Identifier: Apache-2.0
#include "worker/calibrate/cross_moment.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/calibrate/syrk.h"

namespace quant {

absl::StatusOr<CrossMoment> CrossMoment::Create(int64_t cols) {
  if (cols < 1 || cols > 65536) {
    return absl::InvalidArgumentError(absl::StrCat("a cross moment of ", cols, " columns; 1 to 65536 are supported"));
  }
  CrossMoment moment;
  moment.cols_ = cols;
  try {
    moment.sum_.resize(static_cast<size_t>(cols * cols));
    moment.difference_.resize(static_cast<size_t>(syrk::kBlockTokens * cols));
    moment.quantized_.resize(moment.difference_.size());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a cross moment of ", cols, " columns (", cols * cols * 4 >> 20, " MiB)"));
  }
  return moment;
}

absl::Status CrossMoment::Add(std::span<const float> original, std::span<const float> quantized, int64_t tokens) {
  if (tokens < 0 || original.size() != quantized.size() || static_cast<int64_t>(original.size()) != tokens * cols_) {
    return absl::InvalidArgumentError(absl::StrCat("cross moment: ", original.size(), " and ", quantized.size(),
                                                   " values are not ", tokens, " tokens of ", cols_, " columns"));
  }
  for (size_t i = 0; i < original.size(); ++i) {
    if (!std::isfinite(original[i] - quantized[i])) {
      return absl::InvalidArgumentError(absl::StrCat("the inputs of token ", i / static_cast<size_t>(cols_), " are ",
                                                     original[i], " and ", quantized[i], " in column ",
                                                     i % static_cast<size_t>(cols_), " before and after quantization"));
    }
  }
  for (int64_t done = 0; done < tokens;) {
    const int64_t take = std::min(tokens - done, syrk::kBlockTokens - pending_);
    const auto from = static_cast<size_t>(done * cols_);
    const auto to = static_cast<size_t>(pending_ * cols_);
    for (size_t i = 0; i < static_cast<size_t>(take * cols_); ++i) {
      quantized_[to + i] = quantized[from + i];
      difference_[to + i] = original[from + i] - quantized[from + i];
    }
    pending_ += take;
    done += take;
    if (pending_ == syrk::kBlockTokens) Flush();
  }
  tokens_ += tokens;
  return absl::OkStatus();
}

void CrossMoment::Flush() {
  if (pending_ == 0) return;
  syrk::AddCrossFloat32(difference_.data(), quantized_.data(), pending_, cols_, sum_.data());
  pending_ = 0;
}

CrossMomentMatrix CrossMoment::Finish() && {
  Flush();
  CrossMomentMatrix result{.cols = cols_, .tokens = tokens_, .d = std::move(sum_)};
  const auto scale = static_cast<float>(2.0 / static_cast<double>(std::max<int64_t>(tokens_, 1)));
  for (float& v : result.d) v *= scale;
  *this = CrossMoment();
  return result;
}

}  // namespace quant
