// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weight_only/sweep.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "worker/quantize/weight_only/blas.h"
#include "worker/quantize/weight_only/vec.h"

namespace quant::weight_only {
namespace {

constexpr int64_t kLanes = kPanelRows;
static_assert(kLanes % vec::kLanes == 0);

// The kernel of vec.h in double.
struct ColumnsInDouble {
  const double* l;
  int64_t ldl;
  const double* w;
  double* acc;  // updated in place
  double* d;
  uint8_t* codes;
  const float* const* scale;
  const float* const* zero;
  double qmax;
  double* loss;

  void Run(int64_t count) const {
    for (int64_t k = count - 1; k >= 0; --k) {
      const double* const row = l + k * ldl;
      for (int64_t r = 0; r < kLanes; ++r) {
        const double s = scale[k][r];
        const double z = zero[k][r];
        const double target = w[k * kLanes + r] - acc[k * kLanes + r] / row[k];
        const double code = std::clamp(std::nearbyint(target / s) + z, 0.0, qmax);
        const double value = s * (code - z);
        const double e = (value - target) * row[k];
        loss[r] += e * e;
        codes[k * kLanes + r] = static_cast<uint8_t>(code);
        d[k * kLanes + r] = value - w[k * kLanes + r];
      }
      for (int64_t j = 0; j < k; ++j) {
        for (int64_t r = 0; r < kLanes; ++r) acc[j * kLanes + r] += d[k * kLanes + r] * row[j];
      }
    }
  }
};

}  // namespace

template <typename T>
Sweep<T>::Sweep(const SweepPlan& plan, const Factor<T>& factor, const PackedSquare* packed)
    : plan_(plan),
      factor_(factor),
      packed_(packed),
      cols_(plan.weights.cols),
      w_(static_cast<size_t>(cols_ * kLanes)),
      d_(w_.size()),
      acc_(static_cast<size_t>(std::min(plan.block, cols_) * kLanes)),
      codes_(w_.size()) {
  if (packed != nullptr) packed_d_.emplace(cols_);
}

template <typename T>
void Sweep<T>::LoadWeights(const Panel& panel) {
  constexpr int64_t kTile = 8;  // rows read at a time, so that a column's lanes are written by whole lines
  for (int64_t r = 0; r < kLanes; r += kTile) {
    for (int64_t k = 0; k < cols_; ++k) {
      const int64_t c = plan_.column[static_cast<size_t>(k)];
      T* const dst = w_.data() + k * kLanes + r;
      for (int64_t i = 0; i < kTile; ++i) {
        dst[i] = r + i < panel.rows ? static_cast<T>(Live(plan_, panel.first + r + i, c)) : T{0};
      }
    }
  }
}

template <typename T>
void Sweep<T>::Run(Panel& panel) {
  LoadWeights(panel);
  if (packed_d_.has_value()) packed_d_->Clear();
  for (int64_t end = cols_; end > 0;) {
    const int64_t begin = std::max<int64_t>(0, end - plan_.block);
    Sums(begin, end, end, acc_.data());
    if (plan_.grids_from_updated) FindGrids(panel, begin, end);
    Columns(panel, begin, end);
    if constexpr (std::is_same_v<T, float>) {
      if (packed_d_.has_value()) {
        for (int64_t k = end - 1; k >= begin; --k) packed_d_->Set(cols_ - 1 - k, d_.data() + k * kLanes);
      }
    }
    end = begin;
  }
  for (int64_t k = 0; k < cols_; ++k) {
    const int64_t c = plan_.column[static_cast<size_t>(k)];
    std::copy_n(codes_.data() + k * kLanes, kLanes, panel.codes.data() + c * kLanes);
    std::copy_n(d_.data() + k * kLanes, kLanes, panel.d.data() + c * kLanes);
  }
}

template <typename T>
void Sweep<T>::Sums(int64_t begin, int64_t end, int64_t done, T* sums) {
  if constexpr (std::is_same_v<T, float>) {
    if (packed_ != nullptr) {
      PanelProduct(*packed_, *packed_d_, cols_ - done, cols_ - end, cols_ - begin, sums + (end - 1 - begin) * kLanes,
                   -kLanes);
      return;
    }
  }
  if (done == cols_) {
    std::fill_n(sums, (end - begin) * kLanes, T{0});
    return;
  }
  blas::TransposedProduct(end - begin, kLanes, cols_ - done, factor_.l.data() + done * cols_ + begin, cols_,
                          d_.data() + done * kLanes, kLanes, sums, kLanes);
}

// Groups whose first visited column is in [begin, end), the block about to be done, get their grids from the weights as
// updated by all blocks before it, not by the block itself: as the reference algorithm does.
template <typename T>
void Sweep<T>::FindGrids(Panel& panel, int64_t begin, int64_t end) {
  for (int64_t k = end - 1; k >= begin; --k) {
    const int32_t g = plan_.group[static_cast<size_t>(k)];
    if (k + 1 < cols_ && plan_.group[static_cast<size_t>(k + 1)] == g) continue;
    int64_t least = k;
    while (least > 0 && plan_.group[static_cast<size_t>(least - 1)] == g) --least;
    FindGrid(panel, least, k + 1, begin, end);
  }
}

// The grids of the group of columns [begin, end) when those from `done` on are quantized: the other columns are where
// (d L)_k = 0 for all of them, a triangular solve over [begin, done). acc_ has the sums from block_begin on.
template <typename T>
void Sweep<T>::FindGrid(Panel& panel, int64_t begin, int64_t end, int64_t block_begin, int64_t done) {
  const int64_t span = done - begin;
  const int64_t before = std::max<int64_t>(0, block_begin - begin);
  update_.resize(static_cast<size_t>(span * kLanes));
  if (before > 0) Sums(begin, block_begin, done, update_.data());
  std::copy_n(acc_.data() + std::max<int64_t>(0, begin - block_begin) * kLanes, (span - before) * kLanes,
              update_.data() + before * kLanes);
  blas::NegativeSolveLeftTransposed(span, kLanes, factor_.l.data() + begin * cols_ + begin, cols_, update_.data(),
                                    kLanes);
  const int64_t count = end - begin;
  group_.resize(static_cast<size_t>(count));
  importance_.resize(plan_.importance.empty() ? 0 : group_.size());
  const auto g = static_cast<int64_t>(plan_.group[static_cast<size_t>(begin)]);
  for (int64_t r = 0; r < panel.rows; ++r) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t k = begin + i;
      group_[static_cast<size_t>(i)] =
          static_cast<float>(w_[static_cast<size_t>(k * kLanes + r)] + update_[static_cast<size_t>(i * kLanes + r)]);
      if (!importance_.empty()) {
        importance_[static_cast<size_t>(i)] =
            plan_.importance[static_cast<size_t>(plan_.column[static_cast<size_t>(k)])];
      }
    }
    const Grid grid = weight_only::FindGrid(group_, importance_, plan_.grid);
    panel.scale[static_cast<size_t>(g * kLanes + r)] = grid.scale;
    panel.zero[static_cast<size_t>(g * kLanes + r)] = grid.zero;
  }
}

template <typename T>
void Sweep<T>::Columns(Panel& panel, int64_t begin, int64_t end) {
  const int64_t count = end - begin;
  std::vector<const float*> scale(static_cast<size_t>(count));
  std::vector<const float*> zero(static_cast<size_t>(count));
  for (int64_t k = begin; k < end; ++k) {
    const int64_t g = plan_.group[static_cast<size_t>(k)];
    scale[static_cast<size_t>(k - begin)] = panel.scale.data() + g * kLanes;
    zero[static_cast<size_t>(k - begin)] = panel.zero.data() + g * kLanes;
  }
  const auto qmax = static_cast<float>((1 << plan_.grid.bits) - 1);
  const T* const l = factor_.l.data() + begin * cols_ + begin;
  if constexpr (std::is_same_v<T, double>) {
    ColumnsInDouble{l,
                    cols_,
                    w_.data() + begin * kLanes,
                    acc_.data(),
                    d_.data() + begin * kLanes,
                    codes_.data() + begin * kLanes,
                    scale.data(),
                    zero.data(),
                    qmax,
                    panel.loss.data()}
        .Run(count);
  } else {
    std::array<float, kLanes> loss;
    vec::Sweep({.count = count,
                .lanes = kLanes,
                .l = l,
                .ldl = cols_,
                .w = w_.data() + begin * kLanes,
                .acc = acc_.data(),
                .d = d_.data() + begin * kLanes,
                .codes = codes_.data() + begin * kLanes,
                .scale = scale.data(),
                .zero = zero.data(),
                .qmax = qmax,
                .loss = loss.data()});
    for (size_t r = 0; r < loss.size(); ++r) panel.loss[r] += static_cast<double>(loss[r]);
  }
}

template class Sweep<float>;
template class Sweep<double>;

}  // namespace quant::weight_only
