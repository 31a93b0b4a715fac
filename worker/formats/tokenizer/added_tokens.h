// SPDX-License-Identifier: Apache-2.0
// AddedTokens: tokens that are cut out of the text before the model sees it. Internal to formats/tokenizer.
//
// Two passes, as in Hugging Face tokenizers' added_vocabulary.rs: tokens with "normalized": false are found in the text
// as given, the others, themselves normalized, in the normalized text between those. The leftmost token wins, among
// those the longest. lstrip and rstrip take in the spaces beside it, single_word wants no word character there.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_ADDED_TOKENS_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_ADDED_TOKENS_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"
#include "worker/formats/tokenizer/model.h"
#include "worker/formats/tokenizer/normalizer.h"
#include "worker/formats/tokenizer/trie.h"

namespace quant::tokenizer {

class AddedTokens {
 public:
  // A stretch of text; id >= 0 when it is a token.
  struct Segment {
    size_t begin;
    size_t end;
    int32_t id;
  };

  // From the array "added_tokens" of the whole file. Tokens that `model` does not have are added to `extra`.
  // INVALID_ARGUMENT: malformed, or an id that is another token's.
  static absl::StatusOr<AddedTokens> Read(const Fields& file, const Vocabulary& model, const Normalizer* normalizer,
                                          Vocabulary& extra);

  std::vector<Segment> FindRaw(std::string_view text) const { return Find(text, raw_); }
  std::vector<Segment> FindNormalized(std::string_view text) const { return Find(text, normalized_); }
  bool IsSpecial(int32_t id) const { return special_.contains(id); }

 private:
  struct Token {
    int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
  };
  std::vector<Segment> Find(std::string_view text, const Trie& trie) const;

  std::vector<Token> tokens_;
  Trie raw_;  // values: index into tokens_
  Trie normalized_;
  std::unordered_set<int32_t> special_;
};

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_ADDED_TOKENS_H_
