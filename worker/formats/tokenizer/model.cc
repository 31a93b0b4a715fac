// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::tokenizer {

absl::Status Vocabulary::Add(std::string token, int64_t id) {
  if (id < 0 || id >= kMaxVocabulary) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: token ", Quoted(token), " has id ", id,
                                                   "; ids go from 0 to ", kMaxVocabulary - 1));
  }
  if (token.size() > static_cast<size_t>(kMaxTokenBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: token ", id, " has ", token.size(),
                                                   " bytes; at most ", kMaxTokenBytes, " are read"));
  }
  const auto at = static_cast<size_t>(id);
  if (at >= tokens_.size()) tokens_.resize(at + 1);
  if (!tokens_[at].empty() && tokens_[at] != token) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json: id ", id, " is ", Quoted(tokens_[at]), " and ", Quoted(token)));
  }
  ids_.insert_or_assign(token, static_cast<int32_t>(id));
  tokens_[at] = std::move(token);
  return absl::OkStatus();
}

std::optional<int32_t> Vocabulary::Find(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? std::nullopt : std::optional<int32_t>(it->second);
}

std::string_view Vocabulary::token(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  return tokens_[static_cast<size_t>(id)];
}

std::array<std::optional<int32_t>, 256> Vocabulary::ByteTokens() const {
  std::array<std::optional<int32_t>, 256> bytes;
  for (size_t b = 0; b < bytes.size(); ++b) bytes[b] = Find(absl::StrFormat("<0x%02X>", b));
  return bytes;
}

bool AppendByteTokens(std::string_view character, const std::array<std::optional<int32_t>, 256>& bytes,
                      std::vector<int32_t>& out) {
  for (const char b : character) {
    if (!bytes[static_cast<unsigned char>(b)].has_value()) return false;
  }
  for (const char b : character) out.push_back(*bytes[static_cast<unsigned char>(b)]);
  return true;
}

absl::StatusOr<Vocabulary> ReadVocabulary(const Fields& fields) {
  const nlohmann::json* vocab = fields.Find("vocab");
  if (vocab == nullptr || !vocab->is_object()) return fields.Wrong("vocab", "is not an object of tokens and ids");
  if (vocab->size() > static_cast<size_t>(kMaxVocabulary)) {
    return fields.Wrong("vocab", absl::StrCat("has ", vocab->size(), " tokens; at most ", kMaxVocabulary, " are read"));
  }
  Vocabulary vocabulary;
  for (const auto& [token, id] : vocab->items()) {
    if (!id.is_number_integer())
      return fields.Wrong("vocab", absl::StrCat("has a token ", Quoted(token), " without an integer id"));
    RETURN_IF_ERROR(vocabulary.Add(token, id.get<int64_t>()));
  }
  return vocabulary;
}

absl::StatusOr<std::unique_ptr<TokenModel>> MakeModel(const Fields& fields) {
  const std::string& type = fields.type();
  const bool none = type.empty();
  if (type == "BPE" || (none && fields.Find("merges") != nullptr)) return MakeBpe(fields);
  const nlohmann::json* vocab = fields.Find("vocab");
  if (type == "Unigram" || (none && vocab != nullptr && vocab->is_array())) return MakeUnigram(fields);
  if (type == "WordPiece" || (none && fields.Find("continuing_subword_prefix") != nullptr))
    return MakeWordPiece(fields);
  if (type == "WordLevel") return MakeWordLevel(fields);
  return fields.UnknownType();
}

}  // namespace quant::tokenizer
