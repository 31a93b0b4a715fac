// SPDX-License-Identifier: Apache-2.0
// PreTokenizer: cuts normalized text into the pieces that the model sees one at a time. Internal to formats/tokenizer.
//
// Types: ByteLevel, Split, Metaspace, Whitespace, WhitespaceSplit, Digits, Punctuation, BertPreTokenizer,
// CharDelimiterSplit, Sequence. What each does is what Hugging Face tokenizers' pre_tokenizers/ does.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_PRE_TOKENIZER_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"
#include "worker/formats/tokenizer/pattern.h"

namespace quant::tokenizer {

struct Piece {
  std::string text;
  bool first = false;  // stands at the very beginning of the whole text (Metaspace's "first")
};

// Immutable.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Replaces `pieces` by their parts, none empty. RESOURCE_EXHAUSTED when `budget` is spent.
  virtual absl::Status Apply(std::vector<Piece>& pieces, PatternBudget& budget) const = 0;
};

// INVALID_ARGUMENT for wrong keys, UNIMPLEMENTED for other types.
absl::StatusOr<std::unique_ptr<PreTokenizer>> MakePreTokenizer(const Fields& fields);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_PRE_TOKENIZER_H_
