// SPDX-License-Identifier: Apache-2.0
// TokenModel: turns one piece of text into token ids. Internal to formats/tokenizer.
//
// Types: BPE (Sennrich et al. 2016), Unigram (Kudo 2018), WordPiece (Schuster and Nakajima 2012), WordLevel; each with
// the ids and the corner cases of Hugging Face tokenizers' models/.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_MODEL_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_MODEL_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"

namespace quant::tokenizer {

// Tokens by id and ids by token.
class Vocabulary {
 public:
  // INVALID_ARGUMENT: id outside [0, kMaxVocabulary), taken by another token, or the token longer than kMaxTokenBytes.
  // A token given twice keeps its later id, as in a JSON object.
  absl::Status Add(std::string token, int64_t id);
  std::optional<int32_t> Find(std::string_view token) const;
  std::string_view token(int32_t id) const;                              // empty for a hole or outside
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }  // largest id + 1
  // The ids of "<0x00>" to "<0xFF>", where they are.
  std::array<std::optional<int32_t>, 256> ByteTokens() const;

 private:
  // Looks std::string_view up as it is.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::string> tokens_;
};

// The bytes' tokens of one character when all are there (byte fallback).
bool AppendByteTokens(std::string_view character, const std::array<std::optional<int32_t>, 256>& bytes,
                      std::vector<int32_t>& out);

// Immutable.
class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the ids of `piece`, non-empty well-formed UTF-8. INVALID_ARGUMENT: a character outside the vocabulary, and
  // no unknown token.
  virtual absl::Status Encode(std::string_view piece, std::vector<int32_t>& out) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit TokenModel(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

 private:
  Vocabulary vocabulary_;
};

// The object "vocab" of {token: id}.
absl::StatusOr<Vocabulary> ReadVocabulary(const Fields& fields);

// From "model". INVALID_ARGUMENT for wrong keys, merges of tokens that are not in the vocabulary, or too many of
// either; UNIMPLEMENTED for other types. A model without a type (old files) is told by its keys.
absl::StatusOr<std::unique_ptr<TokenModel>> MakeModel(const Fields& fields);
absl::StatusOr<std::unique_ptr<TokenModel>> MakeBpe(const Fields& fields);
absl::StatusOr<std::unique_ptr<TokenModel>> MakeUnigram(const Fields& fields);
absl::StatusOr<std::unique_ptr<TokenModel>> MakeWordPiece(const Fields& fields);
absl::StatusOr<std::unique_ptr<TokenModel>> MakeWordLevel(const Fields& fields);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_MODEL_H_
