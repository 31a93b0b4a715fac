// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/tokenizer.h"

#include <system_error>

#include "absl/status/status.h"
#include "worker/formats/tokenizer/sentencepiece.h"
#include "worker/formats/tokenizer/tokenizer_json.h"

namespace quant {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / "tokenizer.json", ignored)) return tokenizer::LoadTokenizerJson(folder);
  if (std::filesystem::exists(folder / "tokenizer.model", ignored)) return tokenizer::LoadSentencePiece(folder);
  return absl::NotFoundError(
      "the folder has no tokenizer: neither tokenizer.json (Hugging Face tokenizers) nor tokenizer.model "
      "(SentencePiece); add one, or give token ids instead of text");
}

}  // namespace quant
