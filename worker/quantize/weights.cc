// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "worker/calibrate/observer.h"

namespace quant {
namespace {

// Walks a row-major tensor as [outer, channels, inner] about `axis`.
struct Walk {
  int64_t outer = 1, channels = 1, inner = 1;

  Walk(const Shape& shape, int axis) {
    for (int i = 0; i < static_cast<int>(shape.size()); ++i) {
      (i < axis ? outer : i == axis ? channels : inner) *= shape[static_cast<size_t>(i)];
    }
  }
  template <typename F>
  void Each(F f) const {  // f(element index, channel)
    int64_t i = 0;
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t k = 0; k < inner; ++k, ++i) f(static_cast<size_t>(i), static_cast<size_t>(c));
      }
    }
  }
};

}  // namespace

absl::StatusOr<QuantizedWeights> QuantizeWeights(const Tensor& weights, int axis, const WeightOptions& options,
                                                 std::span<const float> smallest_scales) {
  if (axis < 0 || axis >= weights.rank()) {
    return absl::InvalidArgumentError(absl::StrCat("channel axis ", axis, " of weights of rank ", weights.rank()));
  }
  absl::StatusOr<std::vector<float>> w = ToFloat(weights);
  if (!w.ok()) return w.status();
  absl::StatusOr<Tensor> codes = Tensor::Allocate(DType::kInt8, weights.shape());
  if (!codes.ok()) return codes.status();
  const Walk walk(weights.shape(), axis);
  const bool per_channel = options.granularity == WeightGranularity::kPerChannel;
  const size_t groups = per_channel ? static_cast<size_t>(walk.channels) : 1;

  std::vector<Range> ranges(groups);
  size_t bad = w->size();
  walk.Each([&](size_t i, size_t c) {
    const float v = (*w)[i];
    if (!std::isfinite(v)) bad = std::min(bad, i);
    Range& r = ranges[per_channel ? c : 0];
    r.lo = std::min<double>(r.lo, v);
    r.hi = std::max<double>(r.hi, v);
  });
  if (bad < w->size()) return absl::InvalidArgumentError(absl::StrCat("weight ", bad, " is ", (*w)[bad]));

  const int32_t top = (1 << (options.bits - 1)) - 1;
  const int32_t bottom = options.symmetric ? -top : -top - 1;
  QuantizedWeights out{.codes = *std::move(codes),
                       .scales = std::vector<float>(groups),
                       .zeros = std::vector<int8_t>(groups),
                       .axis = axis,
                       .bits = options.bits};
  float largest = 0;
  for (size_t g = 0; g < groups; ++g) {
    if (ranges[g].lo < ranges[g].hi) {
      largest = std::max(largest, GridForRange(ranges[g], bottom, top, options.symmetric).scale);
    }
  }
  for (size_t g = 0; g < groups; ++g) {
    Grid grid = GridForRange(ranges[g], bottom, top, options.symmetric);
    if (ranges[g].lo == ranges[g].hi) grid.scale = largest > 0 ? largest : 1;
    const float floor = smallest_scales.empty() ? 0 : smallest_scales[per_channel ? g : 0];
    if (grid.scale < floor) {
      grid.scale = floor;
      if (!options.symmetric) {
        grid.zero_point = static_cast<int32_t>(std::clamp<double>(
            std::nearbyint(bottom - ranges[g].lo / grid.scale), static_cast<double>(bottom), static_cast<double>(top)));
      }
    }
    out.scales[g] = grid.scale;
    out.zeros[g] = static_cast<int8_t>(grid.zero_point);
  }
  const std::span<int8_t> q = out.codes.mutable_data<int8_t>();
  walk.Each([&](size_t i, size_t c) {
    const size_t g = per_channel ? c : 0;
    const float code = std::nearbyint((*w)[i] / out.scales[g]) + static_cast<float>(out.zeros[g]);
    q[i] = static_cast<int8_t>(std::clamp(code, static_cast<float>(bottom), static_cast<float>(top)));
  });
  return out;
}

float BiasScaleFloor(float bias, float input_scale) { return std::fabs(bias) / input_scale / 1073741824.0f; }

std::vector<int32_t> QuantizeBias(std::span<const float> bias, float input_scale,
                                  std::span<const float> weight_scales) {
  std::vector<int32_t> q(bias.size());
  for (size_t c = 0; c < bias.size(); ++c) {
    const double scale = static_cast<double>(input_scale) * weight_scales[weight_scales.size() == 1 ? 0 : c];
    const double code = std::nearbyint(bias[c] / scale);
    q[c] = static_cast<int32_t>(std::clamp(code, static_cast<double>(std::numeric_limits<int32_t>::min()),
                                           static_cast<double>(std::numeric_limits<int32_t>::max())));
  }
  return q;
}

Tensor DequantizeWeights(const QuantizedWeights& weights) {
  const std::span<const int8_t> q = weights.codes.data<int8_t>();
  std::vector<float> w(q.size());
  const Walk walk(weights.codes.shape(), weights.axis);
  walk.Each([&](size_t i, size_t c) {
    const size_t g = weights.scales.size() == 1 ? 0 : c;
    w[i] = weights.scales[g] * static_cast<float>(q[i] - weights.zeros[g]);
  });
  return Tensor::Of<float>(weights.codes.shape(), w);
}

}  // namespace quant
