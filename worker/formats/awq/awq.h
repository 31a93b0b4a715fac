// SPDX-License-Identifier: Apache-2.0
// AWQ checkpoints in the GEMM layout, as AutoAWQ writes them and Transformers and vLLM load them. Layout and vectors:
// docs/formats/awq.md. What the AWQ method changes besides the quantized weights (norms, biases, rows of other layers)
// comes as ordinary tensors.
#ifndef QUANT_WORKER_FORMATS_AWQ_AWQ_H_
#define QUANT_WORKER_FORMATS_AWQ_AWQ_H_

#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {

// The layer's weights, or nullopt when it has no qweight. INVALID_ARGUMENT: a part is missing, or of another dtype or
// shape than the others call for; another number of bits than 4. UNIMPLEMENTED: versions other than gemm.
absl::StatusOr<std::optional<WeightMatrix>> ReadAwqLinear(const Checkpoint& checkpoint, std::string_view module);

// The writer. All layers must have one group size, of which `options` need not know. Symmetric layers are written with
// every zero point 8.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateAwqWriter(const Checkpoint& source,
                                                                  const std::filesystem::path& folder,
                                                                  const ExportOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_AWQ_AWQ_H_
