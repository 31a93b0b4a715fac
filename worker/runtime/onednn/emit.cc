// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/emit.h"

#include <string>
#include <unordered_map>

#include "worker/graph/linear.h"

namespace quant::onednn {

Emitter FindEmitter(std::string_view domain, std::string_view op_type) {
  static const auto& table = *new std::unordered_map<std::string_view, Emitter>{
      {"Conv", EmitConv},
      {"ConvInteger", EmitConvInteger},
      {"ConvTranspose", EmitConvTranspose},
      {"MatMul", EmitMatMul},
      {"Gemm", EmitGemm},
      {"MatMulInteger", EmitMatMulInteger},
      {"MaxPool", EmitPool},
      {"AveragePool", EmitPool},
      {"GlobalAveragePool", EmitGlobalAveragePool},
      {"ReduceMean", EmitReduceMean},
      {"Relu", EmitUnary},
      {"LeakyRelu", EmitUnary},
      {"Clip", EmitUnary},
      {"Sigmoid", EmitSigmoid},
      {"Tanh", EmitUnary},
      {"Elu", EmitUnary},
      {"HardSwish", EmitUnary},
      {"HardSigmoid", EmitUnary},
      {"Exp", EmitUnary},
      {"Sqrt", EmitUnary},
      {"Abs", EmitUnary},
      {"Neg", EmitUnary},
      {"Gelu", EmitUnary},
      {"Add", EmitBinary},
      {"Sub", EmitBinary},
      {"Mul", EmitMul},
      {"Div", EmitBinary},
      {"Max", EmitBinary},
      {"Min", EmitBinary},
      {"PRelu", EmitPRelu},
      {"BatchNormalization", EmitBatchNormalization},
      {"Softmax", EmitSoftmax},
      {"LogSoftmax", EmitSoftmax},
      {"QuantizeLinear", EmitQuantizeLinear},
      {"DequantizeLinear", EmitDequantizeLinear},
      {"DynamicQuantizeLinear", EmitDynamicQuantizeLinear},
      {"Reshape", EmitReshape},
      {"Flatten", EmitReshape},
      {"Squeeze", EmitReshape},
      {"Unsqueeze", EmitReshape},
      {"Identity", EmitReshape},
      {"Dropout", EmitReshape},
      {"Transpose", EmitTranspose},
      {"Concat", EmitConcat},
      {"Slice", EmitSlice},
      {"Pad", EmitPad},
      {"Gather", EmitGather},
      {"Attention", EmitAttention},
      {"RotaryEmbedding", EmitRotaryEmbedding},
      {"RMSNormalization", EmitNormalization},
      {"SimplifiedLayerNormalization", EmitNormalization},
      {"LayerNormalization", EmitNormalization},
  };
  if (domain == kMicrosoftDomain && op_type == "MatMulNBits") return EmitMatMulNBits;
  if (domain == kQuantdDomain && op_type == "MatMulCodebook") return EmitMatMulCodebook;
  if (!domain.empty()) return nullptr;
  const auto it = table.find(op_type);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace quant::onednn
