// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/quantized.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/awq/awq.h"
#include "worker/formats/bitsandbytes/bitsandbytes.h"
#include "worker/formats/compressed_tensors/compressed_tensors.h"
#include "worker/formats/gptq/gptq.h"
#include "worker/formats/huggingface/layer_parts.h"

namespace quant {

absl::StatusOr<std::optional<WeightMatrix>> ReadQuantizedLinear(const Checkpoint& checkpoint, std::string_view module) {
  if (!checkpoint.Has("quantization_config")) return std::nullopt;
  const std::string method = checkpoint.QuantMethod();
  if (method == "gptq") return ReadGptqLinear(checkpoint, module);
  if (method == "awq") return ReadAwqLinear(checkpoint, module);
  if (method == "bitsandbytes") return ReadBitsandbytesLinear(checkpoint, module);
  if (method == "compressed-tensors") return ReadCompressedTensorsLinear(checkpoint, module);
  return absl::UnimplementedError(
      absl::StrCat("config.json: quant_method ", Quoted(method),
                   " is not read; gptq, awq, bitsandbytes and compressed-tensors are, and unquantized checkpoints"));
}

absl::StatusOr<std::optional<Tensor>> ReadLinearBias(const Checkpoint& checkpoint, std::string_view module,
                                                     int64_t rows) {
  const LayerParts parts(checkpoint, module);
  if (parts.Find(".bias") == nullptr) return std::nullopt;
  ASSIGN_OR_RETURN(const Tensor* bias,
                   parts.Get(".bias", {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64},
                             {rows > 0 ? rows : -1}));
  return *bias;
}

}  // namespace quant
