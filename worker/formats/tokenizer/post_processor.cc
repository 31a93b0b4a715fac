// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/post_processor.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::tokenizer {
namespace {

// The ids of special token `name`, listed in "special_tokens".
absl::Status AppendSpecial(const Fields& tokens, const std::string& name, std::vector<int32_t>& out) {
  ASSIGN_OR_RETURN(const Fields token, tokens.Object(name));
  const nlohmann::json* ids = token.Find("ids");
  if (ids == nullptr || !ids->is_array() || ids->size() > 16) return token.Wrong("ids", "is not an array of ids");
  for (const nlohmann::json& id : *ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(kMaxVocabulary)) {
      return token.Wrong("ids", "holds something that is not an id");
    }
    out.push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::StatusOr<PostProcessor> ReadTemplate(const Fields& fields) {
  ASSIGN_OR_RETURN(const std::vector<Fields> pieces, fields.Components("single"));
  PostProcessor post;
  bool text_seen = false;
  for (const Fields& piece : pieces) {
    if (piece.Find("Sequence") != nullptr) {
      if (text_seen) return fields.Wrong("single", "holds the text twice");
      text_seen = true;
      continue;
    }
    ASSIGN_OR_RETURN(const Fields special, piece.Object("SpecialToken"));
    ASSIGN_OR_RETURN(const std::string name, special.String("id"));
    ASSIGN_OR_RETURN(const Fields tokens, fields.Object("special_tokens"));
    RETURN_IF_ERROR(AppendSpecial(tokens, name, text_seen ? post.after : post.before));
  }
  if (!text_seen) return fields.Wrong("single", "does not hold the text");
  return post;
}

// BERT's and RoBERTa's: "cls" and "sep" are pairs of token and id.
absl::StatusOr<PostProcessor> ReadPairs(const Fields& fields) {
  PostProcessor post;
  for (const char* key : {"cls", "sep"}) {
    const nlohmann::json* pair = fields.Find(key);
    if (pair == nullptr || !pair->is_array() || pair->size() != 2 || !(*pair)[1].is_number_unsigned() ||
        (*pair)[1].get<uint64_t>() >= static_cast<uint64_t>(kMaxVocabulary)) {
      return fields.Wrong(key, "is not a pair of token and id");
    }
    (std::string_view(key) == "cls" ? post.before : post.after).push_back((*pair)[1].get<int32_t>());
  }
  return post;
}

}  // namespace

absl::StatusOr<PostProcessor> ReadPostProcessor(const Fields& fields) {
  const std::string& type = fields.type();
  if (type == "ByteLevel") return PostProcessor();
  if (type == "TemplateProcessing") return ReadTemplate(fields);
  if (type == "BertProcessing" || type == "RobertaProcessing") return ReadPairs(fields);
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const std::vector<Fields> components, fields.Components("processors"));
    PostProcessor post;
    for (const Fields& component : components) {  // each works on what the one before made
      ASSIGN_OR_RETURN(const PostProcessor part, ReadPostProcessor(component));
      post.before.insert(post.before.begin(), part.before.begin(), part.before.end());
      post.after.insert(post.after.end(), part.after.begin(), part.after.end());
    }
    return post;
  }
  return fields.UnknownType();
}

}  // namespace quant::tokenizer
