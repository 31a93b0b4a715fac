// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/tokenizer.h"

#include <system_error>

#include "absl/status/status.h"
#include "worker/formats/tokenizer/sentencepiece.h"
#include "worker/formats/tokenizer/tokenizer_json.h"

namespace quant {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::filesystem::path& folder) {
  const auto has = [&](const char* name) {
    std::error_code ignored;
    return std::filesystem::exists(folder / name, ignored);
  };
  if (has("tokenizer.json")) return tokenizer::LoadTokenizerJson(folder);
  if (has("tokenizer.model")) return tokenizer::LoadSentencePiece(folder);
  if (has("vocab.json") && has("merges.txt")) return tokenizer::LoadVocabAndMerges(folder);
  return absl::NotFoundError(
      "the folder has no tokenizer: neither tokenizer.json (Hugging Face tokenizers), nor tokenizer.model "
      "(SentencePiece), nor vocab.json with merges.txt (GPT-2); add one, or give token ids instead of text");
}

}  // namespace quant
