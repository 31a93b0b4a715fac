// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a tokenizer.json. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_JSON_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_JSON_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::tokenizer {

// Errors as Tokenizer::Load.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const std::filesystem::path& folder);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_JSON_H_
