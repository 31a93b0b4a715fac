// SPDX-License-Identifier: Apache-2.0
// Quantized linear layers of a checkpoint, whatever format config.json's quantization_config names.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_H_

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

// The weights of the linear layer `module` ("model.layers.0.self_attn.q_proj"), as its tensors say; nullopt when the
// checkpoint holds that module in floating point. INVALID_ARGUMENT naming tensor: missing, odd-shaped or out of range.
// UNIMPLEMENTED naming quant_method and the known ones.
absl::StatusOr<std::optional<WeightMatrix>> ReadQuantizedLinear(const Checkpoint& checkpoint, std::string_view module);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_H_
