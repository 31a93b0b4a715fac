// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/added_tokens.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

constexpr size_t kMaxAdded = 100'000;

// Where the spaces before `end`, or from `begin` on, stop.
size_t SpacesBefore(std::string_view text, size_t end) {
  while (end > 0) {
    const char32_t c = CharacterBefore(text, end);
    if (!IsSpace(c)) break;
    std::string bytes;
    AppendCharacter(c, bytes);
    end -= bytes.size();
  }
  return end;
}
size_t SpacesAfter(std::string_view text, size_t begin) {
  for (size_t at = begin; at < text.size(); begin = at) {
    if (!IsSpace(NextCharacter(text, at))) break;
  }
  return begin;
}

bool WordAt(std::string_view text, size_t at) { return at < text.size() && IsWord(NextCharacter(text, at)); }
bool WordBefore(std::string_view text, size_t end) { return end > 0 && IsWord(CharacterBefore(text, end)); }

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::Read(const Fields& file, const Vocabulary& model, const Normalizer* normalizer,
                                              Vocabulary& extra) {
  AddedTokens added;
  const nlohmann::json* list = file.Find("added_tokens");
  if (list == nullptr) return added;
  if (!list->is_array() || list->size() > kMaxAdded) {
    return file.Wrong("added_tokens", absl::StrCat("is not an array of at most ", kMaxAdded, " tokens"));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    ASSIGN_OR_RETURN(const Fields fields, Fields::Of((*list)[i], absl::StrCat("added_tokens[", i, "]")));
    ASSIGN_OR_RETURN(const int64_t given, fields.Int("id", {}, 0, kMaxVocabulary - 1));
    ASSIGN_OR_RETURN(std::string content, fields.String("content"));
    ASSIGN_OR_RETURN(const bool special, fields.Bool("special", false));
    ASSIGN_OR_RETURN(const bool normalized, fields.Bool("normalized", !special));
    Token token{static_cast<int32_t>(given), false, false, false};
    ASSIGN_OR_RETURN(token.single_word, fields.Bool("single_word", false));
    ASSIGN_OR_RETURN(token.lstrip, fields.Bool("lstrip", false));
    ASSIGN_OR_RETURN(token.rstrip, fields.Bool("rstrip", false));
    if (content.empty()) continue;
    if (const std::optional<int32_t> known = model.Find(content); known.has_value()) {
      token.id = *known;  // the model's word counts
    } else {
      if (!model.token(token.id).empty()) {
        return fields.Wrong(
            "id", absl::StrCat("is ", token.id, ", which is ", Quoted(model.token(token.id)), " in the model"));
      }
      RETURN_IF_ERROR(extra.Add(content, token.id));
    }
    if (special) added.special_.insert(token.id);
    const auto index = static_cast<int32_t>(added.tokens_.size());
    added.tokens_.push_back(token);
    if (normalized && normalizer != nullptr) {
      PatternBudget budget;
      RETURN_IF_ERROR(normalizer->Apply(content, budget));
    }
    if (!content.empty()) (normalized ? added.normalized_ : added.raw_).Add(content, index);
  }
  added.raw_.Finish();
  added.normalized_.Finish();
  return added;
}

std::vector<AddedTokens::Segment> AddedTokens::Find(std::string_view text, const Trie& trie) const {
  std::vector<Segment> segments;
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !trie.empty();) {
    size_t bytes = 0;
    int32_t index = 0;
    trie.ForEachPrefix(text, at, [&](size_t length, int32_t value) {
      bytes = length;
      index = value;
    });
    if (bytes == 0) {
      at += CharacterBytes(text[at]);
      continue;
    }
    const Token& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    size_t end = at + bytes;
    at = end;
    if (token.single_word && (WordBefore(text, begin) || WordAt(text, end))) continue;
    if (token.lstrip) begin = std::max(SpacesBefore(text, begin), done);
    if (token.rstrip) end = SpacesAfter(text, end);
    if (done < begin) segments.push_back({done, begin, -1});
    segments.push_back({begin, end, token.id});
    at = done = end;
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

}  // namespace quant::tokenizer
