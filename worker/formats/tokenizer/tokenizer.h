// SPDX-License-Identifier: Apache-2.0
// Tokenizer: text to token ids and back, as the files of a Hugging Face checkpoint define it.
//
// Two kinds of file: tokenizer.json (Hugging Face tokenizers: normalizer, pre-tokenizer, model, post-processor,
// decoder, added tokens; docs/formats/tokenizers.md lists the components) and tokenizer.model (SentencePiece). Ids are
// those the upstream libraries give, token for token. Files are not trusted: sizes, nesting and the cost of patterns
// are bounded.
//
// Thread-safety: immutable after Load; Encode and Decode may run on several threads at once.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace quant {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Reads `folder`'s tokenizer.json, else its tokenizer.model, else its vocab.json and merges.txt. Which tokens begin
  // and end a text is read from tokenizer_config.json and special_tokens_map.json, else from the post-processor or the
  // SentencePiece model.
  // NOT_FOUND: none of them. INVALID_ARGUMENT naming the key: malformed, tokens or merges that are not in the
  // vocabulary, over the limits below. UNIMPLEMENTED naming component and type: one that is not known here.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::filesystem::path& folder);

  // The ids of `text`, at most kMaxTextBytes of UTF-8. Special tokens written out in the text become their ids.
  // `add_special` adds what the post-processor puts around a text (for SentencePiece: the beginning token).
  // Time is n log n in the length, however few spaces there are; memory, where nothing cuts the text, 30 times it.
  // INVALID_ARGUMENT: not UTF-8, too long, or a character that the model can neither represent nor replace.
  // RESOURCE_EXHAUSTED: the split pattern backtracks too much on this text.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special) const = 0;

  // The text of `ids`, special tokens left out. Bytes that are no UTF-8 become U+FFFD, as a cut character does.
  // INVALID_ARGUMENT: an id outside the vocabulary.
  virtual absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const = 0;

  // One more than the largest id.
  virtual int64_t vocab_size() const = 0;
  // What the vocabulary calls `id`: "Ġhello", "▁hello", "<0x0A>"; empty for a hole or outside the vocabulary.
  virtual std::string_view token(int32_t id) const = 0;
  // The token that begins a text, and the one that ends it, where there is one.
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;

  static constexpr int64_t kMaxTextBytes = int64_t{32} << 20;
};

// Limits on tokenizer.json and tokenizer.model.
inline constexpr int64_t kMaxTokenizerBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 21;
inline constexpr int64_t kMaxMerges = int64_t{1} << 22;
inline constexpr int64_t kMaxTokenBytes = 4096;

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_H_
