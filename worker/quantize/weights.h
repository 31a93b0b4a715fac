// SPDX-License-Identifier: Apache-2.0
// Weights and biases on integer grids.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHTS_H_
#define QUANT_WORKER_QUANTIZE_WEIGHTS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quantize/int8.h"
#include "worker/tensor/tensor.h"

namespace quant {

// int8 codes of a weight tensor (same shape, row-major) with one scale and zero point per channel, or one of each.
// w ~ scale[c] * (q - zero_point[c]).
struct QuantizedWeights {
  Tensor codes;               // int8
  std::vector<float> scales;  // channels, or 1
  std::vector<int8_t> zeros;  // as many; all 0 when symmetric
  int axis = 0;               // of the channels
  int bits = 8;
};

struct WeightOptions {
  WeightGranularity granularity = WeightGranularity::kPerChannel;
  bool symmetric = true;
  int bits = 8;  // 8: -127..127 (symmetric) or -128..127; 7: -63..63 or -64..63, still stored as int8
};

// Rounds half to even onto the grid of each channel (algorithms.md 1.1): symmetric scale = amax / qmax; asymmetric
// scale = (max - min) / (qmax - qmin) with the range widened to hold 0. A channel of zeros gets the largest scale of
// the tensor (1 when all are zero), so that its bias is no coarser than its neighbours'.
// `smallest_scales`, when not empty, bounds each channel's scale from below (see BiasScaleFloor).
// INVALID_ARGUMENT: a weight is NaN or infinite (index given), or `axis` is out of range.
absl::StatusOr<QuantizedWeights> QuantizeWeights(const Tensor& weights, int axis, const WeightOptions& options,
                                                 std::span<const float> smallest_scales = {});

// The least weight scale for which |bias| / (input_scale * weight_scale) stays below 2^30, so that an int32 bias cannot
// overflow: |bias| / (input_scale * 2^30).
float BiasScaleFloor(float bias, float input_scale);

// bias[c] / (input_scale * weight_scales[c]), rounded half to even and saturated to int32; weight_scales has one entry
// or one per channel.
std::vector<int32_t> QuantizeBias(std::span<const float> bias, float input_scale, std::span<const float> weight_scales);

// scale * (q - zero_point) as float, for checks and error figures.
Tensor DequantizeWeights(const QuantizedWeights& weights);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_WEIGHTS_H_
