// SPDX-License-Identifier: Apache-2.0
// From the integer sums of QLinearConv and QLinearMatMul to their 8-bit outputs. Both have the inputs
// (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero); b_scale is a scalar or one per output channel.
//
//   y = saturate(round_half_even(sum * (a_scale * b_scale / y_scale)) + y_zero)
#ifndef QUANT_WORKER_RUNTIME_OPS_REQUANTIZE_H_
#define QUANT_WORKER_RUNTIME_OPS_REQUANTIZE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "worker/runtime/ops/util.h"

namespace quant::ops {

// INVALID_ARGUMENT unless scales and output zero point (inputs 1, 4, 6, 7) have the right types and sizes.
inline absl::Status CheckQuantizedScales(Descs in, int64_t channels) {
  for (const size_t i : {1, 4, 6}) {
    const int64_t n = Product(in[i]->shape);
    if (in[i]->dtype != DType::kFloat32 || in[i]->shape.size() > 1 || (n != 1 && !(i == 4 && n == channels))) {
      return Invalid("scale (input ", i, ") is ", DTypeName(in[i]->dtype), " ", ShapeString(in[i]->shape),
                     "; one float32", i == 4 ? " or one per channel" : "", " is needed");
    }
  }
  if ((in[7]->dtype != DType::kInt8 && in[7]->dtype != DType::kUInt8) || Product(in[7]->shape) != 1) {
    return Invalid("the output's zero point is ", DTypeName(in[7]->dtype), " ", ShapeString(in[7]->shape),
                   "; one int8 or uint8 is needed");
  }
  return absl::OkStatus();
}

class Requantizer {
 public:
  static absl::StatusOr<Requantizer> Create(Inputs in, Tensor& out) {
    Requantizer r;
    const float a = *Ptr<float>(*in[1]), y = *Ptr<float>(*in[6]);
    for (int64_t i = 0; i < in[4]->elements(); ++i) r.factors_.push_back(a * Ptr<float>(*in[4])[i] / y);
    ASSIGN_OR_RETURN(const std::vector<int64_t> zero, ToInt64(*in[7]));
    r.zero_ = static_cast<float>(zero.at(0));
    r.low_ = out.dtype() == DType::kInt8 ? -128.0f : 0.0f;
    r.dst_ = MutablePtr<uint8_t>(out);
    return r;
  }

  // Output element i of `channel`.
  void Store(int64_t sum, int64_t channel, int64_t i) const {
    const float factor = factors_[factors_.size() > 1 ? static_cast<size_t>(channel) : 0];
    const float q = std::nearbyint(static_cast<float>(sum) * factor);
    const float v = std::isnan(q) ? zero_ : std::clamp(q + zero_, low_, low_ + 255.0f);
    dst_[i] = static_cast<uint8_t>(static_cast<int32_t>(v));
  }

 private:
  std::vector<float> factors_;
  float zero_ = 0, low_ = 0;
  uint8_t* dst_ = nullptr;
};

}  // namespace quant::ops

#endif  // QUANT_WORKER_RUNTIME_OPS_REQUANTIZE_H_
