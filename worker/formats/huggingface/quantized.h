// SPDX-License-Identifier: Apache-2.0
// Quantized linear layers of a checkpoint, whatever format config.json's quantization_config names.
#ifndef QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_H_
#define QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_H_

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/formats/huggingface/checkpoint.h"
#include "worker/tensor/tensor.h"
#include "worker/tensor/weight_matrix.h"

namespace quant {

// The weights of the linear layer `module` ("model.layers.0.self_attn.q_proj"), as its tensors say; nullopt when the
// checkpoint holds that module in floating point, or not at all. What a quant_method reads is in the headers of gptq/,
// awq/, bitsandbytes/ and compressed_tensors/. INVALID_ARGUMENT naming layer and tensor: missing, odd-shaped or out of
// range. UNIMPLEMENTED naming quant_method and the known ones.
absl::StatusOr<std::optional<WeightMatrix>> ReadQuantizedLinear(const Checkpoint& checkpoint, std::string_view module);

// The layer's bias, [rows] of a float type, quantized or not; nullopt when it has none. INVALID_ARGUMENT: it is no
// vector of floats, or `rows` is positive and it has another number of entries.
absl::StatusOr<std::optional<Tensor>> ReadLinearBias(const Checkpoint& checkpoint, std::string_view module,
                                                     int64_t rows = 0);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_HUGGINGFACE_QUANTIZED_H_
