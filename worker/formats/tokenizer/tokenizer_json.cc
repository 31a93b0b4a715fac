// SPDX-License-Identifier: Apache-2.0
// The pipeline of a tokenizer.json: added tokens out of the raw text, normalizer, added tokens out of the normalized
// text, pre-tokenizer, model, post-processor; and the decoder the other way round.
#include "worker/formats/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/json_file.h"
#include "worker/formats/tokenizer/added_tokens.h"
#include "worker/formats/tokenizer/decoder.h"
#include "worker/formats/tokenizer/model.h"
#include "worker/formats/tokenizer/normalizer.h"
#include "worker/formats/tokenizer/post_processor.h"
#include "worker/formats/tokenizer/pre_tokenizer.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMaxSmallJson = size_t{16} << 20;  // tokenizer_config.json may list all added tokens

// The ids of pieces seen before in the same text, words mostly.
class PieceCache {
 public:
  absl::Status Encode(const TokenModel& model, const std::string& piece, std::vector<int32_t>& out) {
    if (piece.size() > kMaxBytes) return model.Encode(piece, out);
    if (const auto it = ids_.find(piece); it != ids_.end()) {
      out.insert(out.end(), it->second.begin(), it->second.end());
      return absl::OkStatus();
    }
    std::vector<int32_t> ids;
    RETURN_IF_ERROR(model.Encode(piece, ids));
    out.insert(out.end(), ids.begin(), ids.end());
    if (ids_.size() < kMaxPieces) ids_.emplace(piece, std::move(ids));
    return absl::OkStatus();
  }

 private:
  static constexpr size_t kMaxBytes = 64;
  static constexpr size_t kMaxPieces = 1 << 16;
  std::unordered_map<std::string, std::vector<int32_t>> ids_;
};

class JsonTokenizer : public Tokenizer {
 public:
  absl::Status Read(const nlohmann::json& json, const fs::path& folder) {
    ASSIGN_OR_RETURN(const Fields file, Fields::Of(json, ""));
    if (file.Find("normalizer") != nullptr) {
      ASSIGN_OR_RETURN(const Fields fields, file.Object("normalizer"));
      ASSIGN_OR_RETURN(normalizer_, MakeNormalizer(fields));
    }
    if (file.Find("pre_tokenizer") != nullptr) {
      ASSIGN_OR_RETURN(const Fields fields, file.Object("pre_tokenizer"));
      ASSIGN_OR_RETURN(pre_tokenizer_, MakePreTokenizer(fields));
    }
    if (file.Find("decoder") != nullptr) {
      ASSIGN_OR_RETURN(const Fields fields, file.Object("decoder"));
      ASSIGN_OR_RETURN(decoder_, MakeDecoder(fields));
    }
    ASSIGN_OR_RETURN(const Fields model, file.Object("model"));
    ASSIGN_OR_RETURN(model_, MakeModel(model));
    ASSIGN_OR_RETURN(added_, AddedTokens::Read(file, model_->vocabulary(), normalizer_.get(), extra_));
    if (vocab_size() == 0) return absl::InvalidArgumentError("tokenizer.json: the vocabulary is empty");
    if (file.Find("post_processor") != nullptr) {
      ASSIGN_OR_RETURN(const Fields fields, file.Object("post_processor"));
      ASSIGN_OR_RETURN(post_, ReadPostProcessor(fields));
      for (const std::vector<int32_t>* ids : {&post_.before, &post_.after}) {
        for (const int32_t id : *ids) {
          if (id >= vocab_size()) {
            return absl::InvalidArgumentError(
                absl::StrCat("tokenizer.json: post_processor adds id ", id, "; the vocabulary has ", vocab_size()));
          }
        }
      }
    }
    return ReadEnds(folder);
  }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special) const override {
    if (static_cast<int64_t>(text.size()) > kMaxTextBytes) {
      return absl::InvalidArgumentError(absl::StrCat("the text has ", text.size(), " bytes; at most ", kMaxTextBytes,
                                                     " are tokenized at once: split it into documents"));
    }
    if (!IsValidUtf8(text)) return absl::InvalidArgumentError("the text is not UTF-8");
    std::vector<int32_t> ids;
    if (add_special) ids = post_.before;
    PatternBudget budget;
    PieceCache cache;
    for (const AddedTokens::Segment& raw : added_.FindRaw(text)) {
      if (raw.id >= 0) {
        ids.push_back(raw.id);
        continue;
      }
      std::string normalized(text.substr(raw.begin, raw.end - raw.begin));
      if (normalizer_ != nullptr) RETURN_IF_ERROR(normalizer_->Apply(normalized, budget));
      for (const AddedTokens::Segment& segment : added_.FindNormalized(normalized)) {
        if (segment.id >= 0) {
          ids.push_back(segment.id);
          continue;
        }
        std::vector<Piece> pieces(1);
        pieces[0].text = normalized.substr(segment.begin, segment.end - segment.begin);
        pieces[0].first = raw.begin == 0 && segment.begin == 0;
        if (pre_tokenizer_ != nullptr) RETURN_IF_ERROR(pre_tokenizer_->Apply(pieces, budget));
        for (const Piece& piece : pieces) RETURN_IF_ERROR(cache.Encode(*model_, piece.text, ids));
      }
    }
    if (add_special) ids.insert(ids.end(), post_.after.begin(), post_.after.end());
    return ids;
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    std::vector<std::string> tokens;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocab_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("id ", ids[i], " at position ", i, " is outside the vocabulary of ", vocab_size()));
      }
      const std::string_view text = token(ids[i]);
      if (!added_.IsSpecial(ids[i]) && !text.empty()) tokens.emplace_back(text);
    }
    if (decoder_ == nullptr) return absl::StrJoin(tokens, " ");
    RETURN_IF_ERROR(decoder_->Apply(tokens));
    return absl::StrJoin(tokens, "");
  }

  int64_t vocab_size() const override { return std::max(model_->vocabulary().size(), extra_.size()); }
  std::string_view token(int32_t id) const override {
    const std::string_view own = model_->vocabulary().token(id);
    return own.empty() ? extra_.token(id) : own;
  }
  std::optional<int32_t> bos() const override { return bos_; }
  std::optional<int32_t> eos() const override { return eos_; }

 private:
  // The first and the last token of a text.
  absl::Status ReadEnds(const fs::path& folder) {
    ASSIGN_OR_RETURN(const std::vector<nlohmann::json> configs, ReadTokenizerConfigs(folder));
    RETURN_IF_ERROR(FindNamed(configs, "bos_token", bos_));
    RETURN_IF_ERROR(FindNamed(configs, "eos_token", eos_));
    if (!bos_.has_value() && !post_.before.empty()) bos_ = post_.before.front();
    if (!eos_.has_value() && !post_.after.empty()) eos_ = post_.after.back();
    return absl::OkStatus();
  }

  absl::Status FindNamed(const std::vector<nlohmann::json>& configs, const char* key,
                         std::optional<int32_t>& id) const {
    for (const nlohmann::json& config : configs) {
      ASSIGN_OR_RETURN(const std::string token, NamedToken(config, key));
      if (token.empty()) continue;
      id = model_->vocabulary().Find(token);
      if (!id.has_value()) id = extra_.Find(token);
      if (id.has_value()) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json or special_tokens_map.json: ", key, " is ",
                                                     Quoted(token), ", which is not in the vocabulary"));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<Normalizer> normalizer_;       // null: none
  std::unique_ptr<PreTokenizer> pre_tokenizer_;  // null: none
  std::unique_ptr<Decoder> decoder_;             // null: tokens joined by spaces
  std::unique_ptr<TokenModel> model_;
  Vocabulary extra_;  // added tokens that the model does not have
  AddedTokens added_;
  PostProcessor post_;
  std::optional<int32_t> bos_;
  std::optional<int32_t> eos_;
};

}  // namespace

absl::StatusOr<std::vector<nlohmann::json>> ReadTokenizerConfigs(const fs::path& folder) {
  std::vector<nlohmann::json> configs;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    absl::StatusOr<nlohmann::json> json = ReadJsonObject(folder / name, kMaxSmallJson);
    if (absl::IsNotFound(json.status())) continue;
    RETURN_IF_ERROR(json.status());
    configs.push_back(*std::move(json));
  }
  return configs;
}

absl::StatusOr<std::string> NamedToken(const nlohmann::json& config, const char* key) {
  const auto value = config.find(key);
  if (value == config.end() || value->is_null()) return std::string();
  if (value->is_string()) return value->get<std::string>();
  const auto content = value->is_object() ? value->find("content") : value->end();
  if (content != value->end() && content->is_string()) return content->get<std::string>();
  return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json or special_tokens_map.json: ", key,
                                                 " is neither a string nor an object with content"));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const nlohmann::json& json, const fs::path& folder) {
  auto tokenizer = std::make_unique<JsonTokenizer>();
  RETURN_IF_ERROR(tokenizer->Read(json, folder));
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const fs::path& folder) {
  ASSIGN_OR_RETURN(const nlohmann::json json,
                   ReadJsonObject(folder / "tokenizer.json", static_cast<size_t>(kMaxTokenizerBytes)));
  return MakeTokenizer(json, folder);
}

}  // namespace quant::tokenizer
