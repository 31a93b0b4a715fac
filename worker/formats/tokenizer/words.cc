// SPDX-License-Identifier: Apache-2.0
// WordPiece: the longest token that the rest of a word begins with, again and again; and WordLevel: whole words.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/model.h"
#include "worker/formats/tokenizer/trie.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

class WordPiece : public TokenModel {
 public:
  WordPiece(Vocabulary vocabulary, int32_t unk, const std::string& prefix, int64_t max_characters)
      : TokenModel(std::move(vocabulary)), unk_(unk), max_characters_(max_characters) {
    for (int64_t i = 0; i < this->vocabulary().size(); ++i) {
      const auto id = static_cast<int32_t>(i);
      const std::string_view token = this->vocabulary().token(id);
      starts_.Add(token, id);
      if (token.starts_with(prefix)) continuations_.Add(token.substr(prefix.size()), id);
    }
    starts_.Finish();
    continuations_.Finish();
  }

  absl::Status Encode(std::string_view piece, std::vector<int32_t>& out) const override {
    int64_t characters = 0;
    for (size_t at = 0; at < piece.size(); at += CharacterBytes(piece[at])) ++characters;
    const size_t before = out.size();
    bool fits = characters <= max_characters_;
    for (size_t at = 0; fits && at < piece.size();) {
      size_t longest = 0;
      int32_t id = 0;
      (at == 0 ? starts_ : continuations_).ForEachPrefix(piece, at, [&](size_t bytes, int32_t value) {
        longest = bytes;
        id = value;
      });
      fits = longest > 0;
      if (fits) out.push_back(id);
      at += longest;
    }
    if (!fits) {
      out.resize(before);
      out.push_back(unk_);
    }
    return absl::OkStatus();
  }

 private:
  Trie starts_;
  Trie continuations_;  // without the prefix
  int32_t unk_;
  int64_t max_characters_;
};

class WordLevel : public TokenModel {
 public:
  WordLevel(Vocabulary vocabulary, std::optional<int32_t> unk) : TokenModel(std::move(vocabulary)), unk_(unk) {}
  absl::Status Encode(std::string_view piece, std::vector<int32_t>& out) const override {
    std::optional<int32_t> id = vocabulary().Find(piece);
    if (!id.has_value()) id = unk_;
    if (!id.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the tokenizer has no token for ", Quoted(piece), " and no unknown token"));
    }
    out.push_back(*id);
    return absl::OkStatus();
  }

 private:
  std::optional<int32_t> unk_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenModel>> MakeWordPiece(const Fields& fields) {
  constexpr int64_t kMaxCharacters = 1'000'000;
  ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(fields));
  ASSIGN_OR_RETURN(const std::string unk, fields.String("unk_token", "[UNK]"));
  ASSIGN_OR_RETURN(const std::string prefix, fields.String("continuing_subword_prefix", "##"));
  ASSIGN_OR_RETURN(const int64_t max_characters, fields.Int("max_input_chars_per_word", 100, 1, kMaxCharacters));
  const std::optional<int32_t> id = vocabulary.Find(unk);
  if (!id.has_value())
    return fields.Wrong("unk_token", absl::StrCat("is ", Quoted(unk), ", which is not in the vocabulary"));
  return std::make_unique<WordPiece>(std::move(vocabulary), *id, prefix, max_characters);
}

absl::StatusOr<std::unique_ptr<TokenModel>> MakeWordLevel(const Fields& fields) {
  ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(fields));
  ASSIGN_OR_RETURN(const std::string unk, fields.String("unk_token", "<unk>"));
  const std::optional<int32_t> id = vocabulary.Find(unk);
  return std::make_unique<WordLevel>(std::move(vocabulary), id);
}

}  // namespace quant::tokenizer
