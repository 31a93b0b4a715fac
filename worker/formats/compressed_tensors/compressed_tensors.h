// SPDX-License-Identifier: Apache-2.0
// compressed-tensors checkpoints, as llm-compressor writes them and vLLM and Transformers load them: pack-quantized
// weights of 4 or 8 bits (W4A16, W8A16) and int-quantized ones (W8A8). Layout and vectors:
// docs/formats/compressed_tensors.md.
#ifndef QUANT_WORKER_FORMATS_COMPRESSED_TENSORS_COMPRESSED_TENSORS_H_
#define QUANT_WORKER_FORMATS_COMPRESSED_TENSORS_COMPRESSED_TENSORS_H_

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {

// The layer's weights, or nullopt when its weight is a float tensor. Quantized activations change nothing here.
// INVALID_ARGUMENT: a part is missing, or of another dtype or shape than the others call for. UNIMPLEMENTED: formats
// other than pack-quantized, int-quantized and naive-quantized.
absl::StatusOr<std::optional<WeightMatrix>> ReadCompressedTensorsLinear(const Checkpoint& checkpoint,
                                                                        std::string_view module);

// The writer. Scales are stored in F16 where they are such numbers, else in BF16, else in F32. Layers of different
// grids get config groups of their own. With options.int8_activations every layer must have 8 bits, be symmetric and
// have one group per row; the file then says that activations are quantized per token at run time.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateCompressedTensorsWriter(const Checkpoint& source,
                                                                                const std::filesystem::path& folder,
                                                                                const ExportOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_COMPRESSED_TENSORS_COMPRESSED_TENSORS_H_
