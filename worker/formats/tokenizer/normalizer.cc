// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/normalizer.h"

#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/tokenizer/precompiled.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

constexpr size_t kMaxNormalized = 4 * static_cast<size_t>(Tokenizer::kMaxTextBytes);

absl::Status CheckSize(size_t size) {
  if (size <= kMaxNormalized) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("normalizing makes the text longer than ", kMaxNormalized, " bytes; use shorter texts"));
}

class Unicode : public Normalizer {
 public:
  explicit Unicode(NormalForm form) : form_(form) {}
  absl::Status Apply(std::string& text, PatternBudget& /*budget*/) const override {
    ASSIGN_OR_RETURN(text, Normalize(text, form_));
    return CheckSize(text.size());
  }

 private:
  NormalForm form_;
};

// Normalizers that look at one character at a time: `Change` appends what becomes of it.
template <typename Change>
class PerCharacter : public Normalizer {
 public:
  explicit PerCharacter(Change change) : change_(std::move(change)) {}
  absl::Status Apply(std::string& text, PatternBudget& /*budget*/) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) change_(NextCharacter(text, at), out);
    text = std::move(out);
    return CheckSize(text.size());
  }

 private:
  Change change_;
};

template <typename Change>
std::unique_ptr<Normalizer> MakePerCharacter(Change change) {
  return std::make_unique<PerCharacter<Change>>(std::move(change));
}

std::unique_ptr<Normalizer> MakeLowercase() {
  return MakePerCharacter([](char32_t c, std::string& out) { AppendLower(c, out); });
}

std::unique_ptr<Normalizer> MakeStripAccents() {
  return MakePerCharacter([](char32_t c, std::string& out) {
    if (!IsMark(c)) AppendCharacter(c, out);
  });
}

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(std::string& text, PatternBudget& /*budget*/) const override {
    size_t begin = 0;
    size_t end = text.size();
    for (size_t at = 0; left_ && begin < end; begin = at) {
      if (!IsSpace(NextCharacter(text, at))) break;
    }
    while (right_ && end > begin) {
      const char32_t last = CharacterBefore(text, end);
      if (!IsSpace(last)) break;
      std::string bytes;
      AppendCharacter(last, bytes);
      end -= bytes.size();
    }
    text = text.substr(begin, end - begin);
    return absl::OkStatus();
  }

 private:
  bool left_;
  bool right_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  absl::Status Apply(std::string& text, PatternBudget& budget) const override {
    ASSIGN_OR_RETURN(text, pattern_.ReplaceAll(text, content_, kMaxNormalized, budget));
    return absl::OkStatus();
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}
  absl::Status Apply(std::string& text, PatternBudget& /*budget*/) const override {
    if (!text.empty()) text.insert(0, content_);
    return CheckSize(text.size());
  }

 private:
  std::string content_;
};

class ByteLevel : public Normalizer {
 public:
  absl::Status Apply(std::string& text, PatternBudget& /*budget*/) const override {
    text = ByteLetters(text);
    return CheckSize(text.size());
  }
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  absl::Status Apply(std::string& text, PatternBudget& budget) const override {
    for (const std::unique_ptr<Normalizer>& part : parts_) RETURN_IF_ERROR(part->Apply(text, budget));
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

absl::StatusOr<std::unique_ptr<Normalizer>> MakeBert(const Fields& fields) {
  ASSIGN_OR_RETURN(const bool clean, fields.Bool("clean_text", true));
  ASSIGN_OR_RETURN(const bool ideographs, fields.Bool("handle_chinese_chars", true));
  ASSIGN_OR_RETURN(const bool lower, fields.Bool("lowercase", true));
  ASSIGN_OR_RETURN(const bool strip, fields.Bool("strip_accents", lower));
  std::vector<std::unique_ptr<Normalizer>> parts;
  if (clean) {
    parts.push_back(MakePerCharacter([](char32_t c, std::string& out) {
      if (c == 0 || c == 0xFFFD || IsControl(c)) return;
      if (IsSpace(c)) {
        out += ' ';
      } else {
        AppendCharacter(c, out);
      }
    }));
  }
  if (ideographs) {
    parts.push_back(MakePerCharacter([](char32_t c, std::string& out) {
      if (IsIdeograph(c)) out += ' ';
      AppendCharacter(c, out);
      if (IsIdeograph(c)) out += ' ';
    }));
  }
  if (strip) {
    parts.push_back(std::make_unique<Unicode>(NormalForm::kNfd));
    parts.push_back(MakeStripAccents());
  }
  if (lower) parts.push_back(MakeLowercase());
  return std::make_unique<Sequence>(std::move(parts));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> MakeNormalizer(const Fields& fields) {
  const std::string& type = fields.type();
  if (type == "NFC") return std::make_unique<Unicode>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<Unicode>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<Unicode>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<Unicode>(NormalForm::kNfkd);
  if (type == "Lowercase") return MakeLowercase();
  if (type == "StripAccents") return MakeStripAccents();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>();
  if (type == "BertNormalizer") return MakeBert(fields);
  if (type == "Precompiled") return MakePrecompiled(fields);
  if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, fields.Bool("strip_left", true));
    ASSIGN_OR_RETURN(const bool right, fields.Bool("strip_right", true));
    return std::make_unique<Strip>(left, right);
  }
  if (type == "Replace") {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Read(fields, "pattern"));
    ASSIGN_OR_RETURN(std::string content, fields.String("content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string content, fields.String("prepend"));
    return std::make_unique<Prepend>(std::move(content));
  }
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const std::vector<Fields> components, fields.Components("normalizers"));
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (const Fields& component : components) {
      ASSIGN_OR_RETURN(std::unique_ptr<Normalizer> part, MakeNormalizer(component));
      parts.push_back(std::move(part));
    }
    return std::make_unique<Sequence>(std::move(parts));
  }
  return fields.UnknownType();
}

}  // namespace quant::tokenizer
