// SPDX-License-Identifier: Apache-2.0
// bitsandbytes checkpoints, as Transformers loads them: NF4 and FP4 with and without double quantization, and LLM.int8.
// Layout and vectors: docs/formats/bitsandbytes.md.
#ifndef QUANT_WORKER_FORMATS_BITSANDBYTES_BITSANDBYTES_H_
#define QUANT_WORKER_FORMATS_BITSANDBYTES_BITSANDBYTES_H_

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {

// The layer's weights: a CodebookMatrix, or for LLM.int8 a GroupedMatrix of 8 bits with one group per row, whose scale
// is SCB / 127. nullopt when its weight is a float tensor. INVALID_ARGUMENT: a part is missing, unknown, or of another
// dtype or shape than the others call for; a quant_state that is no object of the expected keys; LLM.int8 formats other
// than "row".
absl::StatusOr<std::optional<WeightMatrix>> ReadBitsandbytesLinear(const Checkpoint& checkpoint,
                                                                   std::string_view module);

// The writer. The layers are all of one kind: NF4, FP4, or 8 bits (LLM.int8); the 4-bit ones all doubly quantized or
// none. SCB is stored as scale * 127 such that SCB / 127 gives the scale back, exactly for scales made by that division
// and within one unit in the last place for others.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateBitsandbytesWriter(const Checkpoint& source,
                                                                           const std::filesystem::path& folder,
                                                                           const ExportOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_BITSANDBYTES_BITSANDBYTES_H_
