// SPDX-License-Identifier: Apache-2.0
// Normalizer: the first step, text to text. Internal to formats/tokenizer.
//
// Types: NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace, Prepend, ByteLevel, BertNormalizer, Precompiled
// (SentencePiece's character map), Sequence. What each does is what Hugging Face tokenizers' normalizers/ does.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_NORMALIZER_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_NORMALIZER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"
#include "worker/formats/tokenizer/pattern.h"

namespace quant::tokenizer {

// Immutable.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Well-formed UTF-8 in and out. RESOURCE_EXHAUSTED past 4 * Tokenizer::kMaxTextBytes or `budget`.
  virtual absl::Status Apply(std::string& text, PatternBudget& budget) const = 0;
};

// INVALID_ARGUMENT for wrong keys, UNIMPLEMENTED for other types.
absl::StatusOr<std::unique_ptr<Normalizer>> MakeNormalizer(const Fields& fields);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_NORMALIZER_H_
