// SPDX-License-Identifier: Apache-2.0
// GPTQ checkpoints, as AutoGPTQ and GPTQModel write them and Transformers and vLLM load them. Layout and vectors:
// docs/formats/gptq.md.
#ifndef QUANT_WORKER_FORMATS_GPTQ_GPTQ_H_
#define QUANT_WORKER_FORMATS_GPTQ_GPTQ_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {

// How zero points stand in qzeros: z - 1 ("gptq", what everyone reads) or z ("gptq_v2").
enum class GptqVersion { kV1, kV2 };

// The layer's weights, or nullopt when it has no qweight. The matrix has group_of only where g_idx says more than
// input / group_size does. A layer may have other bits or groups than config.json says (GPTQModel's `dynamic`): the
// shapes of its tensors tell.
// INVALID_ARGUMENT: a part is missing, or of another dtype or shape than the others call for; a group index, scale or
// zero point out of range; in V1 the field 2^bits - 1, which stands for 0 or 2^bits depending on the reader.
// UNIMPLEMENTED: the formats marlin, bitblas, gptq_p; words other than int32.
absl::StatusOr<std::optional<WeightMatrix>> ReadGptqLinear(const Checkpoint& checkpoint, std::string_view module);

// The writer. Layers of different bits or group sizes get entries in `dynamic`; modules left in floating point too.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateGptqWriter(const Checkpoint& source,
                                                                   const std::filesystem::path& folder,
                                                                   const ExportOptions& options, GptqVersion version);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GPTQ_GPTQ_H_
