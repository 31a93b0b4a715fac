// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding: the piece's characters, then the pair with the lowest rank is merged, the leftmost first, until
// no pair is left. A heap of pairs over a linked list of symbols: n log n.
#include <cstdint>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/model.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

struct Merge {
  int32_t rank;
  int32_t id;  // of the merged token
};

// Key of a pair of ids.
uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Spreads keys that differ in high bits only (splitmix64's last steps).
struct KeyHash {
  size_t operator()(uint64_t key) const {
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB;
    return key ^ (key >> 31);
  }
};
using MergeMap = std::unordered_map<uint64_t, Merge, KeyHash>;

struct BpeOptions {
  std::optional<int32_t> unk;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
  std::string prefix;  // of every character of a piece but the first
  std::string suffix;  // of the last
};

class Bpe : public TokenModel {
 public:
  Bpe(Vocabulary vocabulary, MergeMap merges, BpeOptions options)
      : TokenModel(std::move(vocabulary)), merges_(std::move(merges)), options_(std::move(options)) {
    if (options_.byte_fallback) bytes_ = this->vocabulary().ByteTokens();
  }

  absl::Status Encode(std::string_view piece, std::vector<int32_t>& out) const override {
    if (options_.ignore_merges) {
      if (const std::optional<int32_t> whole = vocabulary().Find(piece); whole.has_value()) {
        out.push_back(*whole);
        return absl::OkStatus();
      }
    }
    std::vector<int32_t> symbols = Characters(piece);
    MergeAll(symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
    return absl::OkStatus();
  }

 private:
  // The ids before any merge. A character outside the vocabulary becomes its bytes, else the unknown token (one for a
  // run of them with fuse_unk), else nothing.
  std::vector<int32_t> Characters(std::string_view piece) const {
    std::vector<int32_t> symbols;
    symbols.reserve(piece.size());
    bool unknown = false;  // an unknown token waits for what follows
    std::string affixed;
    for (size_t at = 0; at < piece.size();) {
      std::string_view c = piece.substr(at, CharacterBytes(piece[at]));
      const std::string_view plain = c;
      const bool first = at == 0;
      at += c.size();
      const bool last = at == piece.size();
      if ((!first && !options_.prefix.empty()) || (last && !options_.suffix.empty())) {
        affixed = absl::StrCat(first ? "" : options_.prefix, AbslView(c), last ? options_.suffix : "");
        c = affixed;
      }
      if (const std::optional<int32_t> id = vocabulary().Find(c); id.has_value()) {
        if (unknown) symbols.push_back(*options_.unk);
        unknown = false;
        symbols.push_back(*id);
      } else if (options_.byte_fallback && AppendByteTokens(c == plain ? plain : c, bytes_, symbols)) {
        continue;
      } else if (options_.unk.has_value()) {
        if (unknown && !options_.fuse_unk) symbols.push_back(*options_.unk);
        unknown = true;
      }
    }
    if (unknown) symbols.push_back(*options_.unk);
    return symbols;
  }

  void MergeAll(std::vector<int32_t>& symbols) const {
    struct Link {
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;
      int32_t id;
      bool operator>(const Candidate& o) const { return rank != o.rank ? rank > o.rank : position > o.position; }
    };
    const auto n = static_cast<int32_t>(symbols.size());
    const auto at = [&](int32_t i) -> int32_t& { return symbols[static_cast<size_t>(i)]; };
    std::vector<Link> links(symbols.size());
    std::vector<Candidate> initial;
    const auto candidate = [&](int32_t left, int32_t right, std::vector<Candidate>& into) {
      const auto it = merges_.find(PairKey(at(left), at(right)));
      if (it != merges_.end()) into.push_back({it->second.rank, left, it->second.id});
    };
    for (int32_t i = 0; i < n; ++i) {
      links[static_cast<size_t>(i)] = {i - 1, i + 1 < n ? i + 1 : -1};
      if (i + 1 < n) candidate(i, i + 1, initial);
    }
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap({}, std::move(initial));
    std::vector<Candidate> fresh;
    constexpr int32_t kGone = -1;
    while (!heap.empty()) {
      const Candidate top = heap.top();
      heap.pop();
      const int32_t left = top.position;
      Link& link = links[static_cast<size_t>(left)];
      const int32_t right = link.next;
      if (at(left) == kGone || right < 0) continue;
      // The pair may have changed since it was pushed.
      const auto it = merges_.find(PairKey(at(left), at(right)));
      if (it == merges_.end() || it->second.id != top.id || it->second.rank != top.rank) continue;
      at(left) = top.id;
      at(right) = kGone;
      link.next = links[static_cast<size_t>(right)].next;
      if (link.next >= 0) links[static_cast<size_t>(link.next)].previous = left;
      fresh.clear();
      if (link.previous >= 0) candidate(link.previous, left, fresh);
      if (link.next >= 0) candidate(left, link.next, fresh);
      for (const Candidate& c : fresh) heap.push(c);
    }
    std::erase(symbols, kGone);
  }

  MergeMap merges_;
  BpeOptions options_;
  std::array<std::optional<int32_t>, 256> bytes_;
};

// One entry of "merges": "a b", or ["a", "b"].
absl::Status SplitMerge(const Fields& fields, const nlohmann::json& entry, size_t rank, std::string& left,
                        std::string& right) {
  if (entry.is_string()) {
    const auto& text = entry.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      left = text.substr(0, space);
      right = text.substr(space + 1);
      return absl::OkStatus();
    }
  } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
    left = entry[0].get<std::string>();
    right = entry[1].get<std::string>();
    return absl::OkStatus();
  }
  return fields.Wrong("merges", absl::StrCat("has an entry ", rank, " that is not a pair of tokens"));
}

absl::StatusOr<MergeMap> ReadMerges(const Fields& fields, const Vocabulary& vocabulary, size_t prefix_size) {
  const nlohmann::json* merges = fields.Find("merges");
  if (merges == nullptr || !merges->is_array() || merges->size() > static_cast<size_t>(kMaxMerges)) {
    return fields.Wrong("merges", absl::StrCat("is not an array of at most ", kMaxMerges, " pairs"));
  }
  MergeMap map;
  map.reserve(merges->size());
  std::string left;
  std::string right;
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    RETURN_IF_ERROR(SplitMerge(fields, (*merges)[rank], rank, left, right));
    const std::optional<int32_t> left_id = vocabulary.Find(left);
    const std::optional<int32_t> right_id = vocabulary.Find(right);
    const std::string merged = left + (right.size() >= prefix_size ? right.substr(prefix_size) : "");
    const std::optional<int32_t> id = vocabulary.Find(merged);
    if (!left_id.has_value() || !right_id.has_value() || !id.has_value()) {
      const std::string& missing = !left_id.has_value() ? left : !right_id.has_value() ? right : merged;
      return fields.Wrong("merges", absl::StrCat("has an entry ", rank, " (", Quoted(left), ", ", Quoted(right),
                                                 ") whose ", Quoted(missing), " is not in the vocabulary"));
    }
    map.insert_or_assign(PairKey(*left_id, *right_id), Merge{static_cast<int32_t>(rank), *id});
  }
  return map;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TokenModel>> MakeBpe(const Fields& fields) {
  ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(fields));
  BpeOptions options;
  ASSIGN_OR_RETURN(options.fuse_unk, fields.Bool("fuse_unk", false));
  ASSIGN_OR_RETURN(options.byte_fallback, fields.Bool("byte_fallback", false));
  ASSIGN_OR_RETURN(options.ignore_merges, fields.Bool("ignore_merges", false));
  ASSIGN_OR_RETURN(options.prefix, fields.String("continuing_subword_prefix", ""));
  ASSIGN_OR_RETURN(options.suffix, fields.String("end_of_word_suffix", ""));
  ASSIGN_OR_RETURN(const std::string unk, fields.String("unk_token", ""));
  if (!unk.empty()) {
    options.unk = vocabulary.Find(unk);
    if (!options.unk.has_value())
      return fields.Wrong("unk_token", absl::StrCat("is ", Quoted(unk), ", which is not in the vocabulary"));
  }
  ASSIGN_OR_RETURN(auto merges, ReadMerges(fields, vocabulary, options.prefix.size()));
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options));
}

}  // namespace quant::tokenizer
