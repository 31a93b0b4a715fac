// SPDX-License-Identifier: Apache-2.0
// The emitters (see builder.h), by the file they are in; FindEmitter (emit.cc) maps operators to them.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_EMIT_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_EMIT_H_

#include "worker/runtime/onednn/builder.h"

namespace quant::onednn {

// emit_conv.cc
absl::StatusOr<bool> EmitConv(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitConvInteger(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitConvTranspose(PlanBuilder& builder, int node_index);
// emit_matmul.cc
absl::StatusOr<bool> EmitMatMul(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitGemm(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitMatMulInteger(PlanBuilder& builder, int node_index);
// emit_linear.cc: layers whose weights stay as they are stored
absl::StatusOr<bool> EmitStoredLinear(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitMatMulNBits(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitMatMulCodebook(PlanBuilder& builder, int node_index);
// emit_attention.cc
absl::StatusOr<bool> EmitAttention(PlanBuilder& builder, int node_index);
// emit_decoder.cc
absl::StatusOr<bool> EmitNormalization(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitRotaryEmbedding(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitSigmoid(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitMul(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitGather(PlanBuilder& builder, int node_index);
// emit_pool.cc
absl::StatusOr<bool> EmitPool(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitGlobalAveragePool(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitReduceMean(PlanBuilder& builder, int node_index);
// emit_elementwise.cc
absl::StatusOr<bool> EmitUnary(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitBinary(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitBatchNormalization(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitSoftmax(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitPRelu(PlanBuilder& builder, int node_index);
// emit_quantize.cc
absl::StatusOr<bool> EmitQuantizeLinear(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitDequantizeLinear(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitDynamicQuantizeLinear(PlanBuilder& builder, int node_index);
// emit_shape.cc
absl::StatusOr<bool> EmitReshape(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitTranspose(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitConcat(PlanBuilder& builder, int node_index);
// emit_move.cc
absl::StatusOr<bool> EmitSlice(PlanBuilder& builder, int node_index);
absl::StatusOr<bool> EmitPad(PlanBuilder& builder, int node_index);

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_EMIT_H_
