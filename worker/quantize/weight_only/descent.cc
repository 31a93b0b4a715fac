// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/descent.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "worker/quantize/weight_only/blas.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kLanes = kPanelRows;
constexpr int kRounds = 2;  // visits of a column while its block's G is at hand
using Lanes = std::array<float, kLanes>;

}  // namespace

Descent::Descent(const SweepPlan& plan, const HessianMatrix& hessian, const PackedSquare* packed,
                 const GroupedMatrix& out)
    : plan_(plan), hessian_(hessian), packed_(packed), out_(out), cols_(out.cols) {
  const int64_t group = out.group_size;
  refit_ = plan.refit_scales && out.group_of.empty() && group <= 512;
  block_ = std::min(refit_ ? std::max(group, 128 / group * group) : 128, cols_);
  g_.resize(static_cast<size_t>(block_ * kLanes));
  if (packed != nullptr) packed_d_.emplace(cols_);
  if (refit_) {
    level_.resize(static_cast<size_t>(group * kLanes));
    product_.resize(level_.size());
  }
}

void Descent::Run(Panel& panel) {
  if (packed_ != nullptr && plan_.descent_passes > 0) Pack(panel, 0, cols_);
  for (int pass = 0; pass < plan_.descent_passes; ++pass) {
    for (int64_t begin = 0; begin < cols_; begin += block_) Block(panel, begin, std::min(begin + block_, cols_));
  }
}

void Descent::Pack(const Panel& panel, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) packed_d_->Set(c, panel.d.data() + c * kLanes);
}

void Descent::Block(Panel& panel, int64_t begin, int64_t end) {
  const int64_t count = end - begin;
  if (packed_ != nullptr) {
    PanelProduct(*packed_, *packed_d_, cols_, begin, end, g_.data(), kLanes);
  } else {
    blas::Product(count, kLanes, cols_, hessian_.h.data() + begin * cols_, cols_, panel.d.data(), kLanes, 0, g_.data(),
                  kLanes);
  }
  const auto lambda = static_cast<float>(plan_.lambda);
  for (int64_t i = 0; i < count * kLanes; ++i)
    g_[static_cast<size_t>(i)] += lambda * panel.d[static_cast<size_t>(begin * kLanes + i)];
  if (refit_) {
    for (int64_t c = begin; c < end; c += out_.group_size) Refit(panel, c / out_.group_size, begin);
  }
  std::vector<const float*> scale(static_cast<size_t>(count));
  std::vector<const float*> zero(static_cast<size_t>(count));
  for (int64_t c = begin; c < end; ++c) {
    const int64_t g = out_.group(c);
    scale[static_cast<size_t>(c - begin)] = panel.scale.data() + g * kLanes;
    zero[static_cast<size_t>(c - begin)] = panel.zero.data() + g * kLanes;
  }
  Lanes gain;
  vec::Descend({.count = count,
                .lanes = kLanes,
                .h = hessian_.h.data() + begin * cols_ + begin,
                .ldh = cols_,
                .lambda = lambda,
                .rounds = kRounds,
                .g = g_.data(),
                .d = panel.d.data() + begin * kLanes,
                .codes = panel.codes.data() + begin * kLanes,
                .scale = scale.data(),
                .zero = zero.data(),
                .qmax = static_cast<float>((1 << plan_.grid.bits) - 1),
                .gain = gain.data()});
  for (int64_t r = 0; r < kLanes; ++r)
    panel.loss[static_cast<size_t>(r)] += static_cast<double>(gain[static_cast<size_t>(r)]);
  if (packed_ != nullptr) Pack(panel, begin, end);
}

void Descent::Refit(Panel& panel, int64_t group, int64_t block_begin) {
  const int64_t begin = group * out_.group_size;
  const int64_t count = std::min(out_.group_size, cols_ - begin);
  float* const scale = panel.scale.data() + group * kLanes;
  const float* const zero = panel.zero.data() + group * kLanes;
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* const codes = panel.codes.data() + (begin + i) * kLanes;
    float* const level = level_.data() + i * kLanes;
    for (int64_t r = 0; r < kLanes; ++r) level[r] = static_cast<float>(codes[r]) - zero[r];
  }
  blas::Product(count, kLanes, count, hessian_.h.data() + begin * cols_ + begin, cols_, level_.data(), kLanes, 0,
                product_.data(), kLanes);
  const auto lambda = static_cast<float>(plan_.lambda);
  float* const g = g_.data() + (begin - block_begin) * kLanes;
  Lanes slope{};
  Lanes curvature{};
  for (int64_t i = 0; i < count; ++i) {
    const float* const level = level_.data() + i * kLanes;
    float* const product = product_.data() + i * kLanes;
    for (int64_t r = 0; r < kLanes; ++r) {
      product[r] += lambda * level[r];
      slope[static_cast<size_t>(r)] += level[r] * g[i * kLanes + r];
      curvature[static_cast<size_t>(r)] += level[r] * product[r];
    }
  }
  Lanes change{};
  for (int64_t r = 0; r < panel.rows; ++r) {
    const auto at = static_cast<size_t>(r);
    if (!(curvature[at] > 0)) continue;
    const float wanted = scale[r] - slope[at] / curvature[at];
    // Never through zero: a group whose best scale has the other sign keeps its own.
    if (!std::isfinite(wanted) || wanted * scale[r] <= 0) continue;
    const float rounded = RoundScale(wanted, plan_.grid.scale_type);
    const float delta = rounded - scale[r];
    const float gain = delta * (2 * slope[at] + delta * curvature[at]);
    if (!(gain < 0)) continue;
    change[at] = delta;
    scale[r] = rounded;
    panel.loss[at] += static_cast<double>(gain);
  }
  for (int64_t i = 0; i < count; ++i) {
    float* const d = panel.d.data() + (begin + i) * kLanes;
    float* const level = level_.data() + i * kLanes;
    const float* const product = product_.data() + i * kLanes;
    for (int64_t r = 0; r < kLanes; ++r) {
      const float factor = change[static_cast<size_t>(r)];
      level[r] *= factor;
      d[r] += level[r];
      g[i * kLanes + r] += factor * product[r];
    }
  }
  // The other groups of this block see the change through H too.
  const auto spread = [&](int64_t from, int64_t to) {
    if (from >= to) return;
    blas::Product(to - from, kLanes, count, hessian_.h.data() + from * cols_ + begin, cols_, level_.data(), kLanes, 1,
                  g_.data() + (from - block_begin) * kLanes, kLanes);
  };
  spread(block_begin, begin);
  spread(begin + count, std::min(block_begin + block_, cols_));
}

void Descent::Nearest(Panel& panel) {
  const auto qmax = static_cast<float>((1 << plan_.grid.bits) - 1);
  for (int64_t c = 0; c < cols_; ++c) {
    const int64_t g = out_.group(c);
    for (int64_t r = 0; r < kLanes; ++r) {
      const float w = r < panel.rows ? Live(plan_, panel.first + r, c) : 0.0f;
      const float scale = panel.scale[static_cast<size_t>(g * kLanes + r)];
      const float zero = panel.zero[static_cast<size_t>(g * kLanes + r)];
      const float code = std::clamp(std::nearbyint(w / scale) + zero, 0.0f, qmax);
      panel.codes[static_cast<size_t>(c * kLanes + r)] = static_cast<uint8_t>(code);
      panel.d[static_cast<size_t>(c * kLanes + r)] = scale * (code - zero) - w;
    }
  }
  for (int64_t begin = 0; begin < cols_; begin += block_) {
    const int64_t count = std::min(block_, cols_ - begin);
    blas::Product(count, kLanes, cols_, hessian_.h.data() + begin * cols_, cols_, panel.d.data(), kLanes, 0, g_.data(),
                  kLanes);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t r = 0; r < kLanes; ++r) {
        const double d = panel.d[static_cast<size_t>((begin + i) * kLanes + r)];
        panel.loss[static_cast<size_t>(r)] +=
            d * (static_cast<double>(g_[static_cast<size_t>(i * kLanes + r)]) + plan_.lambda * d);
      }
    }
  }
}

void Descent::UndampedLoss(const Panel& panel, double* row_loss) const {
  std::array<double, kLanes> square{};
  for (int64_t c = 0; c < cols_; ++c) {
    for (int64_t r = 0; r < kLanes; ++r) {
      const double d = panel.d[static_cast<size_t>(c * kLanes + r)];
      square[static_cast<size_t>(r)] += d * d;
    }
  }
  for (int64_t r = 0; r < panel.rows; ++r) {
    const auto at = static_cast<size_t>(r);
    row_loss[r] = std::max(0.0, panel.loss[at] - plan_.lambda * square[at]);
  }
}

}  // namespace quant::weight_only
