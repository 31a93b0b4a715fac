// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/decoder.h"

#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/pattern.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

// GPT-2's letters back to bytes, over all tokens together: a character may be spread over several. A token that is not
// made of such letters stays as it is.
class ByteLevel : public Decoder {
 public:
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    std::string out;
    for (const std::string& token : tokens) {
      std::string bytes;
      bool letters = true;
      for (size_t at = 0; letters && at < token.size();) {
        const int byte = ByteOfLetter(NextCharacter(token, at));
        letters = byte >= 0;
        bytes += static_cast<char>(byte);
      }
      out += letters ? bytes : token;
    }
    tokens = {RepairUtf8(out)};
    return absl::OkStatus();
  }
};

// The value of "<0xAB>"; -1 for other tokens.
int ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

// A run of byte tokens is one string; when it is not UTF-8, one U+FFFD for each byte.
class ByteFallback : public Decoder {
 public:
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string run;
    const auto finish = [&] {
      if (IsValidUtf8(run)) {
        if (!run.empty()) out.push_back(run);
      } else {
        out.insert(out.end(), run.size(), std::string(kReplacement));
      }
      run.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = ByteOfToken(token); byte >= 0) {
        run += static_cast<char>(byte);
      } else {
        finish();
        out.push_back(std::move(token));
      }
    }
    finish();
    tokens = std::move(out);
    return absl::OkStatus();
  }
};

class Fuse : public Decoder {
 public:
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    tokens = {absl::StrJoin(tokens, "")};
    return absl::OkStatus();
  }
};

class Replace : public Decoder {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    PatternBudget budget;
    constexpr size_t kMax = 4 * static_cast<size_t>(Tokenizer::kMaxTextBytes);
    for (std::string& token : tokens) {
      ASSIGN_OR_RETURN(token, pattern_.ReplaceAll(token, content_, kMax, budget));
    }
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

// Up to `start` copies of the character in front of every token, and `stop` behind it, go.
class Strip : public Decoder {
 public:
  Strip(std::string character, int64_t start, int64_t stop)
      : character_(std::move(character)), start_(start), stop_(stop) {}
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      std::string_view left = token;
      for (int64_t i = 0; i < start_ && left.starts_with(character_); ++i) left.remove_prefix(character_.size());
      for (int64_t i = 0; i < stop_ && left.ends_with(character_); ++i) left.remove_suffix(character_.size());
      token = std::string(left);
    }
    return absl::OkStatus();
  }

 private:
  std::string character_;
  int64_t start_;
  int64_t stop_;
};

// The symbol is a space; one at the very start, put there by the pre-tokenizer, goes.
class Metaspace : public Decoder {
 public:
  Metaspace(std::string symbol, bool prepended) : symbol_(std::move(symbol)), prepended_(prepended) {}
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i == 0 && prepended_ && tokens[0].starts_with(symbol_)) tokens[0].erase(0, symbol_.size());
      tokens[i] = absl::StrReplaceAll(tokens[i], {{symbol_, " "}});
    }
    return absl::OkStatus();
  }

 private:
  std::string symbol_;
  bool prepended_;
};

// A token starts a word unless it begins with the prefix (WordPiece); or ends one when it ends with the suffix (BPE).
class Words : public Decoder {
 public:
  Words(std::string prefix, std::string suffix, bool cleanup)
      : prefix_(std::move(prefix)), suffix_(std::move(suffix)), cleanup_(cleanup) {}
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::string& token = tokens[i];
      if (!suffix_.empty()) {
        token = absl::StrReplaceAll(token, {{suffix_, i + 1 == tokens.size() ? "" : " "}});
      } else if (i > 0 && token.starts_with(prefix_)) {
        token.erase(0, prefix_.size());
      } else if (i > 0) {
        token.insert(0, 1, ' ');
      }
      if (cleanup_) {
        token = absl::StrReplaceAll(token, {{" .", "."},
                                            {" ?", "?"},
                                            {" !", "!"},
                                            {" ,", ","},
                                            {" ' ", "'"},
                                            {" n't", "n't"},
                                            {" 'm", "'m"},
                                            {" do not", " don't"},
                                            {" 's", "'s"},
                                            {" 've", "'ve"},
                                            {" 're", "'re"}});
      }
    }
    return absl::OkStatus();
  }

 private:
  std::string prefix_;
  std::string suffix_;
  bool cleanup_;
};

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Decoder>> parts) : parts_(std::move(parts)) {}
  absl::Status Apply(std::vector<std::string>& tokens) const override {
    for (const std::unique_ptr<Decoder>& part : parts_) RETURN_IF_ERROR(part->Apply(tokens));
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<Decoder>> parts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> MakeDecoder(const Fields& fields) {
  const std::string& type = fields.type();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "ByteFallback") return std::make_unique<ByteFallback>();
  if (type == "Fuse") return std::make_unique<Fuse>();
  if (type == "Replace") {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Read(fields, "pattern"));
    ASSIGN_OR_RETURN(std::string content, fields.String("content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "Strip") {
    ASSIGN_OR_RETURN(std::string character, fields.String("content"));
    if (character.empty()) return fields.Wrong("content", "is empty");
    ASSIGN_OR_RETURN(const int64_t start, fields.Int("start", 0, 0, kMaxTokenBytes));
    ASSIGN_OR_RETURN(const int64_t stop, fields.Int("stop", 0, 0, kMaxTokenBytes));
    return std::make_unique<Strip>(std::move(character), start, stop);
  }
  if (type == "Metaspace") {
    ASSIGN_OR_RETURN(std::string symbol, fields.String("replacement", kSpaceSymbol));
    if (symbol.empty()) return fields.Wrong("replacement", "is empty");
    ASSIGN_OR_RETURN(const bool add_prefix_space, fields.Bool("add_prefix_space", true));
    ASSIGN_OR_RETURN(const std::string scheme, fields.String("prepend_scheme", add_prefix_space ? "always" : "never"));
    return std::make_unique<Metaspace>(std::move(symbol), scheme != "never");
  }
  if (type == "WordPiece") {
    ASSIGN_OR_RETURN(std::string prefix, fields.String("prefix", "##"));
    ASSIGN_OR_RETURN(const bool cleanup, fields.Bool("cleanup", true));
    return std::make_unique<Words>(std::move(prefix), "", cleanup);
  }
  if (type == "BPEDecoder") {
    ASSIGN_OR_RETURN(std::string suffix, fields.String("suffix", "</w>"));
    if (suffix.empty()) return fields.Wrong("suffix", "is empty");
    return std::make_unique<Words>("", std::move(suffix), /*cleanup=*/false);
  }
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const std::vector<Fields> components, fields.Components("decoders"));
    std::vector<std::unique_ptr<Decoder>> parts;
    for (const Fields& component : components) {
      ASSIGN_OR_RETURN(std::unique_ptr<Decoder> part, MakeDecoder(component));
      parts.push_back(std::move(part));
    }
    return std::make_unique<Sequence>(std::move(parts));
  }
  return fields.UnknownType();
}

}  // namespace quant::tokenizer
