// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/precompiled.h"

#include <utf8proc.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

constexpr size_t kMaxGrapheme = 6;

class Precompiled : public Normalizer {
 public:
  Precompiled(std::vector<uint32_t> trie, std::string replacements)
      : trie_(std::move(trie)), replacements_(std::move(replacements)) {}

  absl::Status Apply(std::string& text, PatternBudget& /*budget*/) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = GraphemeEnd(text, begin);
      const std::string_view grapheme = std::string_view(text).substr(begin, end - begin);
      begin = end;
      if (grapheme.size() < kMaxGrapheme) {
        if (const std::optional<std::string_view> found = Find(grapheme); found.has_value()) {
          out += *found;
          continue;
        }
      }
      for (size_t at = 0; at < grapheme.size();) {
        const std::string_view c = grapheme.substr(at, CharacterBytes(grapheme[at]));
        at += c.size();
        out += Find(c).value_or(c);
      }
      if (out.size() > 4 * static_cast<size_t>(Tokenizer::kMaxTextBytes)) {
        return absl::ResourceExhaustedError("normalizing makes the text too long; use shorter texts");
      }
    }
    if (!IsValidUtf8(out))
      return absl::InvalidArgumentError("tokenizer.json: precompiled_charsmap has text that is not UTF-8");
    text = std::move(out);
    return absl::OkStatus();
  }

 private:
  static size_t GraphemeEnd(std::string_view text, size_t begin) {
    utf8proc_int32_t state = 0;
    size_t end = begin;
    char32_t last = NextCharacter(text, end);
    while (end < text.size()) {
      size_t after = end;
      const char32_t next = NextCharacter(text, after);
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(last), static_cast<utf8proc_int32_t>(next),
                                           &state))
        break;
      last = next;
      end = after;
    }
    return end;
  }

  // The replacement of the shortest prefix of `text` that the trie knows.
  std::optional<std::string_view> Find(std::string_view text) const {
    const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & (1U << 9)) >> 6); };
    if (trie_.empty()) return std::nullopt;
    uint32_t at = offset(trie_[0]);
    for (const char byte : text) {
      const auto label = static_cast<unsigned char>(byte);
      if (label == 0) return std::nullopt;
      at ^= label;
      if (at >= trie_.size()) return std::nullopt;
      const uint32_t unit = trie_[at];
      if ((unit & ((1U << 31) | 0xFF)) != label) return std::nullopt;
      at ^= offset(unit);
      if (((unit >> 8) & 1) == 0) continue;
      if (at >= trie_.size()) return std::nullopt;
      const size_t position = trie_[at] & 0x7FFFFFFF;
      const size_t end = replacements_.find('\0', position);
      if (position > replacements_.size() || end == std::string::npos) return std::nullopt;
      return std::string_view(replacements_).substr(position, end - position);
    }
    return std::nullopt;
  }

  std::vector<uint32_t> trie_;
  std::string replacements_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> MakePrecompiled(const Fields& fields) {
  constexpr char kKey[] = "precompiled_charsmap";
  const nlohmann::json* value = fields.Find(kKey);
  std::string bytes;
  if (value != nullptr) {
    if (!value->is_string() || !absl::Base64Unescape(value->get_ref<const std::string&>(), &bytes)) {
      return fields.Wrong(kKey, "is not base64");
    }
  }
  const auto word = [&](size_t i) {
    uint32_t v = 0;
    for (size_t b = 0; b < 4; ++b) v |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[4 * i + b])) << (8 * b);
    return v;
  };
  std::vector<uint32_t> trie;
  std::string replacements;
  if (!bytes.empty()) {
    if (bytes.size() < 4 || word(0) % 4 != 0 || word(0) > bytes.size() - 4) {
      return fields.Wrong(kKey, absl::StrCat("has ", bytes.size(), " bytes, fewer than its trie says"));
    }
    trie.resize(word(0) / 4);
    for (size_t i = 0; i < trie.size(); ++i) trie[i] = word(i + 1);
    replacements = bytes.substr(4 + 4 * trie.size());
  }
  return std::make_unique<Precompiled>(std::move(trie), std::move(replacements));
}

}  // namespace quant::tokenizer
