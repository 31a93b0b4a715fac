// SPDX-License-Identifier: Apache-2.0
// Unigram language model: of all ways to cut a piece into tokens the one with the greatest sum of log-probabilities, by
// Viterbi. A character that no token covers alone may become the unknown token, 10 below the least score.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/model.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/formats/tokenizer/trie.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

constexpr double kUnknownPenalty = 10.0;

class Unigram : public TokenModel {
 public:
  Unigram(Vocabulary vocabulary, std::vector<double> scores, std::optional<int32_t> unk, bool byte_fallback)
      : TokenModel(std::move(vocabulary)), scores_(std::move(scores)), unk_(unk), byte_fallback_(byte_fallback) {
    for (int64_t id = 0; id < this->vocabulary().size(); ++id) {
      trie_.Add(this->vocabulary().token(static_cast<int32_t>(id)), static_cast<int32_t>(id));
    }
    trie_.Finish();
    unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
    if (byte_fallback_) bytes_ = this->vocabulary().ByteTokens();
  }

  absl::Status Encode(std::string_view piece, std::vector<int32_t>& out) const override {
    struct Node {
      double score = 0;
      size_t begin = kNowhere;
      int32_t id = 0;  // kUnknown: no token
    };
    std::vector<Node> best(piece.size() + 1);  // the best way to cut what ends here
    for (size_t at = 0; at < piece.size();) {
      const size_t character = CharacterBytes(piece[at]);
      const double before = best[at].score;
      bool single = false;
      const auto offer = [&](size_t bytes, int32_t id, double score) {
        Node& end = best[at + bytes];
        if (end.begin == kNowhere || before + score > end.score) end = {before + score, at, id};
      };
      trie_.ForEachPrefix(piece, at, [&](size_t bytes, int32_t id) {
        offer(bytes, id, scores_[static_cast<size_t>(id)]);
        single = single || bytes == character;
      });
      if (!single) offer(character, kUnknown, unknown_score_);
      at += character;
    }

    std::vector<Span> cuts;  // from the end
    for (size_t end = piece.size(); end > 0;) {
      const Node& node = best[end];
      // A run of unknown characters is one unknown token; so is the unknown token itself written out.
      const bool unknown = node.id == kUnknown || node.id == unk_;
      if (unknown && !cuts.empty() && cuts.back().unknown) {
        cuts.back().begin = node.begin;
      } else {
        cuts.push_back({node.begin, end, node.id, unknown});
      }
      end = node.begin;
    }
    for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) RETURN_IF_ERROR(Append(piece, *cut, out));
    return absl::OkStatus();
  }

 private:
  static constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
  static constexpr int32_t kUnknown = -1;

  struct Span {
    size_t begin;
    size_t end;
    int32_t id;
    bool unknown;
  };

  absl::Status Append(std::string_view piece, const Span& cut, std::vector<int32_t>& out) const {
    const std::string_view text = piece.substr(cut.begin, cut.end - cut.begin);
    if (!cut.unknown) {
      out.push_back(cut.id);
      return absl::OkStatus();
    }
    if (const std::optional<int32_t> known = vocabulary().Find(text); known.has_value()) {
      out.push_back(*known);
      return absl::OkStatus();
    }
    if (byte_fallback_ && AppendByteTokens(text, bytes_, out)) return absl::OkStatus();
    if (!unk_.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the tokenizer has no token for ", Quoted(text), " and no unknown token"));
    }
    out.push_back(*unk_);
    return absl::OkStatus();
  }

  Trie trie_;
  std::vector<double> scores_;  // by id
  double unknown_score_ = 0;
  std::optional<int32_t> unk_;
  bool byte_fallback_;
  std::array<std::optional<int32_t>, 256> bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenModel>> MakeUnigram(const Fields& fields) {
  const nlohmann::json* vocab = fields.Find("vocab");
  if (vocab == nullptr || !vocab->is_array() || vocab->empty() || vocab->size() > static_cast<size_t>(kMaxVocabulary)) {
    return fields.Wrong("vocab", absl::StrCat("is not an array of 1 to ", kMaxVocabulary, " tokens with scores"));
  }
  Vocabulary vocabulary;
  std::vector<double> scores;
  for (size_t id = 0; id < vocab->size(); ++id) {
    const nlohmann::json& entry = (*vocab)[id];
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number() ||
        !std::isfinite(entry[1].get<double>())) {
      return fields.Wrong("vocab", absl::StrCat("has an entry ", id, " that is not a token and a finite score"));
    }
    RETURN_IF_ERROR(vocabulary.Add(entry[0].get<std::string>(), static_cast<int64_t>(id)));
    scores.push_back(entry[1].get<double>());
  }
  std::optional<int32_t> unk;
  if (fields.Find("unk_id") != nullptr) {
    ASSIGN_OR_RETURN(const int64_t id, fields.Int("unk_id", {}, 0, vocabulary.size() - 1));
    unk = static_cast<int32_t>(id);
  }
  ASSIGN_OR_RETURN(const bool byte_fallback, fields.Bool("byte_fallback", false));
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(scores), unk, byte_fallback);
}

}  // namespace quant::tokenizer
