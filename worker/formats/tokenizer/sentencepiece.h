// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a tokenizer.model, run by libsentencepiece. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::tokenizer {

// Errors as Tokenizer::Load. Special tokens written out in a text ("<s>") stay text, as SentencePiece has it.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const std::filesystem::path& folder);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_H_
