// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <functional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

// What becomes of the matches of a split.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

absl::StatusOr<Behavior> ReadBehavior(const Fields& fields, std::string_view otherwise) {
  ASSIGN_OR_RETURN(const std::string name, fields.String("behavior", otherwise));
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return fields.Wrong("behavior", absl::StrCat("is ", Quoted(name), ", not a behaviour of a split"));
}

struct Part {
  Span span;
  bool match;
};

// The parts of a text of `size` bytes with these matches, empty ones left out, put together as `behavior` says.
std::vector<Span> PutTogether(size_t size, const std::vector<Span>& matches, bool invert, Behavior behavior) {
  std::vector<Part> parts;
  size_t done = 0;
  const auto add = [&](size_t begin, size_t end, bool match) {
    if (begin < end) parts.push_back({{begin, end}, match != invert});
  };
  for (const Span& match : matches) {
    add(done, match.begin, false);
    add(match.begin, match.end, true);
    done = match.end;
  }
  add(done, size, false);

  std::vector<Span> out;
  if (behavior == Behavior::kMergedWithNext) std::reverse(parts.begin(), parts.end());
  bool previous = false;  // whether the part before (in this direction) was a match
  for (const Part& part : parts) {
    switch (behavior) {
      case Behavior::kRemoved:
        if (!part.match) out.push_back(part.span);
        break;
      case Behavior::kIsolated:
        out.push_back(part.span);
        break;
      case Behavior::kContiguous:
        if (!out.empty() && part.match == previous) {
          out.back().end = part.span.end;
        } else {
          out.push_back(part.span);
        }
        break;
      case Behavior::kMergedWithPrevious:
        if (part.match && !previous && !out.empty()) {
          out.back().end = part.span.end;
        } else {
          out.push_back(part.span);
        }
        break;
      case Behavior::kMergedWithNext:
        if (part.match && !previous && !out.empty()) {
          out.back().begin = part.span.begin;
        } else {
          out.push_back(part.span);
        }
        break;
    }
    previous = part.match;
  }
  if (behavior == Behavior::kMergedWithNext) std::reverse(out.begin(), out.end());
  return out;
}

// Replaces each piece by its parts.
template <typename SpansOf>
absl::Status Cut(std::vector<Piece>& pieces, SpansOf spans_of) {
  std::vector<Piece> out;
  for (const Piece& piece : pieces) {
    ASSIGN_OR_RETURN(const std::vector<Span> spans, spans_of(piece.text));
    for (const Span& s : spans) {
      out.push_back({piece.text.substr(s.begin, s.end - s.begin), piece.first && s.begin == 0});
    }
  }
  pieces = std::move(out);
  return absl::OkStatus();
}

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, bool invert, Behavior behavior)
      : pattern_(std::move(pattern)), invert_(invert), behavior_(behavior) {}
  absl::Status Apply(std::vector<Piece>& pieces, PatternBudget& budget) const override {
    return Cut(pieces, [&](const std::string& text) -> absl::StatusOr<std::vector<Span>> {
      ASSIGN_OR_RETURN(const std::vector<Span> matches, pattern_.FindAll(text, budget));
      return PutTogether(text.size(), matches, invert_, behavior_);
    });
  }

 private:
  Pattern pattern_;
  bool invert_;
  Behavior behavior_;
};

// Splits at characters of a class.
class SplitAt : public PreTokenizer {
 public:
  SplitAt(std::function<bool(char32_t)> is_match, Behavior behavior)
      : is_match_(std::move(is_match)), behavior_(behavior) {}
  absl::Status Apply(std::vector<Piece>& pieces, PatternBudget& /*budget*/) const override {
    return Cut(pieces, [&](const std::string& text) -> absl::StatusOr<std::vector<Span>> {
      std::vector<Span> matches;
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        if (is_match_(NextCharacter(text, at))) matches.push_back({begin, at});
      }
      return PutTogether(text.size(), matches, /*invert=*/false, behavior_);
    });
  }

 private:
  std::function<bool(char32_t)> is_match_;
  Behavior behavior_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::unique_ptr<PreTokenizer> split)
      : add_prefix_space_(add_prefix_space), split_(std::move(split)) {}
  absl::Status Apply(std::vector<Piece>& pieces, PatternBudget& budget) const override {
    for (Piece& piece : pieces) {
      if (add_prefix_space_ && !piece.text.starts_with(' ')) piece.text.insert(0, 1, ' ');
    }
    if (split_ != nullptr) RETURN_IF_ERROR(split_->Apply(pieces, budget));
    for (Piece& piece : pieces) piece.text = ByteLetters(piece.text);
    return absl::OkStatus();
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<PreTokenizer> split_;  // null: none
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string symbol, Prepend prepend, bool split)
      : symbol_(std::move(symbol)), prepend_(prepend), split_(split) {}
  absl::Status Apply(std::vector<Piece>& pieces, PatternBudget& budget) const override {
    for (Piece& piece : pieces) {
      std::string text;
      for (const char c : piece.text) {
        if (c == ' ') {
          text += symbol_;
        } else {
          text += c;
        }
      }
      const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.first);
      if (wanted && !text.starts_with(symbol_)) text.insert(0, symbol_);
      piece.text = std::move(text);
    }
    if (!split_) return absl::OkStatus();
    ASSIGN_OR_RETURN(const Pattern symbol, Pattern::Literal(symbol_));
    return Split(symbol, /*invert=*/false, Behavior::kMergedWithNext).Apply(pieces, budget);
  }

 private:
  std::string symbol_;
  Prepend prepend_;
  bool split_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}
  absl::Status Apply(std::vector<Piece>& pieces, PatternBudget& budget) const override {
    for (const std::unique_ptr<PreTokenizer>& part : parts_) RETURN_IF_ERROR(part->Apply(pieces, budget));
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

absl::StatusOr<std::unique_ptr<PreTokenizer>> MakeByteLevel(const Fields& fields) {
  // GPT-2's pattern (openai/gpt-2 encoder.py).
  static constexpr char kPattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  ASSIGN_OR_RETURN(const bool add_prefix_space, fields.Bool("add_prefix_space", true));
  ASSIGN_OR_RETURN(const bool use_regex, fields.Bool("use_regex", true));
  std::unique_ptr<PreTokenizer> split;
  if (use_regex) {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Regex(kPattern));
    split = std::make_unique<Split>(std::move(pattern), /*invert=*/false, Behavior::kIsolated);
  }
  return std::make_unique<ByteLevel>(add_prefix_space, std::move(split));
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> MakeMetaspace(const Fields& fields) {
  ASSIGN_OR_RETURN(std::string symbol, fields.String("replacement", kSpaceSymbol));
  if (symbol.empty()) return fields.Wrong("replacement", "is empty");
  ASSIGN_OR_RETURN(const bool add_prefix_space, fields.Bool("add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme, fields.String("prepend_scheme", add_prefix_space ? "always" : "never"));
  ASSIGN_OR_RETURN(const bool split, fields.Bool("split", true));
  Metaspace::Prepend prepend = Metaspace::Prepend::kAlways;
  if (scheme == "first") {
    prepend = Metaspace::Prepend::kFirst;
  } else if (scheme == "never") {
    prepend = Metaspace::Prepend::kNever;
  } else if (scheme != "always") {
    return fields.Wrong("prepend_scheme", absl::StrCat("is ", Quoted(scheme), ", not always, first or never"));
  }
  return std::make_unique<Metaspace>(std::move(symbol), prepend, split);
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> MakeSequence(std::vector<std::unique_ptr<PreTokenizer>> parts) {
  return std::make_unique<Sequence>(std::move(parts));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PreTokenizer>> MakePreTokenizer(const Fields& fields) {
  const std::string& type = fields.type();
  if (type == "ByteLevel") return MakeByteLevel(fields);
  if (type == "Metaspace") return MakeMetaspace(fields);
  if (type == "WhitespaceSplit") return std::make_unique<SplitAt>(IsSpace, Behavior::kRemoved);
  if (type == "Whitespace") {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Regex(R"(\w+|[^\w\s]+)"));
    return std::make_unique<Split>(std::move(pattern), /*invert=*/true, Behavior::kRemoved);
  }
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, fields.Bool("individual_digits", false));
    return std::make_unique<SplitAt>(IsNumber, individual ? Behavior::kIsolated : Behavior::kContiguous);
  }
  if (type == "Punctuation") {
    ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(fields, "Isolated"));
    return std::make_unique<SplitAt>(IsPunctuation, behavior);
  }
  if (type == "BertPreTokenizer") {
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    parts.push_back(std::make_unique<SplitAt>(IsSpace, Behavior::kRemoved));
    parts.push_back(std::make_unique<SplitAt>(IsPunctuation, Behavior::kIsolated));
    return MakeSequence(std::move(parts));
  }
  if (type == "CharDelimiterSplit") {
    ASSIGN_OR_RETURN(std::string delimiter, fields.String("delimiter"));
    if (delimiter.empty()) return fields.Wrong("delimiter", "is empty");
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Literal(std::move(delimiter)));
    return std::make_unique<Split>(std::move(pattern), /*invert=*/false, Behavior::kRemoved);
  }
  if (type == "Split") {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Read(fields, "pattern"));
    ASSIGN_OR_RETURN(const bool invert, fields.Bool("invert", false));
    ASSIGN_OR_RETURN(const Behavior behavior, ReadBehavior(fields, "Isolated"));
    return std::make_unique<Split>(std::move(pattern), invert, behavior);
  }
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const std::vector<Fields> components, fields.Components("pretokenizers"));
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    for (const Fields& component : components) {
      ASSIGN_OR_RETURN(std::unique_ptr<PreTokenizer> part, MakePreTokenizer(component));
      parts.push_back(std::move(part));
    }
    return MakeSequence(std::move(parts));
  }
  return fields.UnknownType();
}

}  // namespace quant::tokenizer
