// SPDX-License-Identifier: Apache-2.0
// Dynamic INT8: the nodes around a MatMulInteger or ConvInteger that are one product with scales.
//
//   DynamicQuantizeLinear(x) -> codes, a_scale, a_zero
//   dst = Cast(MatMulInteger|ConvInteger(codes, w, a_zero, w_zero)) * (a_scale * w_scale)
//       = (codes - a_zero) x (w - w_zero) * a_scale * w_scale
//
// a_scale and a_zero are of this run; w, w_zero and w_scale are constants.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_DYNAMIC_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_DYNAMIC_H_

#include <optional>

#include "worker/runtime/onednn/builder.h"

namespace quant::onednn {

struct DynamicProduct {
  int codes = -1;             // u8
  int scale = -1, zero = -1;  // scalars of DynamicQuantizeLinear: f32, u8
  int cast = -1, mul = -1;    // nodes, for Claim()
  int out = -1;               // what the Mul defines
  QuantizedConstant weights;  // with one scale, or one per index of `weight_axis`
};

// The product that the integer node is part of; nothing when the nodes around it are not as above, the sum or its Cast
// has another reader, or the weights less their zero point do not fit s8.
absl::StatusOr<std::optional<DynamicProduct>> MatchDynamicProduct(PlanBuilder& builder, int node_index,
                                                                  int weight_axis);

// A buffer with the zero point as int32, which is what primitives read. Appends a step.
absl::StatusOr<int> WidenZeroPoint(PlanBuilder& builder, const DynamicProduct& product);

// The source in float32, (codes - zero) * scale, as a value of its own. Appends a step. For machines whose int8 sums
// would saturate.
absl::StatusOr<int> DequantizeDynamic(PlanBuilder& builder, const DynamicProduct& product);

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_DYNAMIC_H_
