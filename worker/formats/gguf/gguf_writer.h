// SPDX-License-Identifier: Apache-2.0
// GGUF files, as llama.cpp runs them: model.gguf with metadata, tokenizer and tensors. Layout, names, keys and vectors:
// docs/formats/gguf.md.
#ifndef QUANT_WORKER_FORMATS_GGUF_GGUF_WRITER_H_
#define QUANT_WORKER_FORMATS_GGUF_GGUF_WRITER_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/checkpoint_writer.h"

namespace quant {

// The writer, of <folder>/model.gguf. Quantized layers become Q4_0, Q4_1 or Q8_0 with their own codes where the grids
// agree; others are requantized from their real values (FitGguf in blocks.h), and a note counts them and says why.
// Norms and vectors are stored as F32, other tensors in their own type. A tied lm_head, which the source does not hold,
// is left out. The other files of the source are not copied: a GGUF file is complete. UNIMPLEMENTED, INVALID_ARGUMENT,
// NOT_FOUND: as ReadGgufArchitecture and ReadGgufVocabulary, or the source has a tensor that llama.cpp does not know.
absl::StatusOr<std::unique_ptr<CheckpointWriter>> CreateGgufWriter(const Checkpoint& source,
                                                                   const std::filesystem::path& folder,
                                                                   const ExportOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_GGUF_GGUF_WRITER_H_
