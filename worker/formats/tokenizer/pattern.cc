// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/unicode.h"

namespace quant::tokenizer {
namespace {

constexpr uint32_t kFirstLimit = 1000;  // steps of an ordinary match: a few per character of a word
constexpr uint32_t kLastLimit = 10'000'000;
constexpr uint32_t kHeapKibibytes = 256 * 1024;  // a run of n spaces backtracks n deep, about 130 bytes each

std::string Message(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// Whether a class holds another class or an intersection: [^(\s|[.,])], [\p{L}&&[^\p{Han}]].
bool HasNestedClass(std::string_view expression) {
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\') {
      ++i;
    } else if (!in_class) {
      in_class = c == '[';
      if (in_class && i + 1 < expression.size() && expression[i + 1] == '^') ++i;
      if (in_class && i + 1 < expression.size() && expression[i + 1] == ']') ++i;
    } else if (c == ']') {
      in_class = false;
    } else if ((c == '[' && expression.substr(i, 2) != "[:") || expression.substr(i, 2) == "&&") {
      return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<Pattern> Pattern::Literal(std::string text) {
  if (text.empty()) return absl::InvalidArgumentError("an empty string to look for");
  Pattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::Regex(const std::string& expression) {
  uint32_t options = PCRE2_UTF | PCRE2_UCP;
  if (HasNestedClass(expression)) {
#ifdef PCRE2_ALT_EXTENDED_CLASS
    options |= PCRE2_ALT_EXTENDED_CLASS;
#else
    return absl::UnimplementedError(
        absl::StrCat("classes inside classes in ", Quoted(expression), " need PCRE2 10.45"));
#endif
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), options, &error,
                                   &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regular expression ", Quoted(expression), ": ", Message(error), " at byte ", offset));
  }
  Pattern pattern;
  pattern.code_ = std::shared_ptr<const pcre2_real_code_8>(
      code, [](const pcre2_real_code_8* c) { pcre2_code_free(const_cast<pcre2_code*>(c)); });
  return pattern;
}

absl::StatusOr<Pattern> Pattern::Read(const Fields& fields, std::string_view key) {
  const nlohmann::json* value = fields.Find(key);
  if (value != nullptr && value->is_string()) {
    ASSIGN_OR_RETURN(std::string text, fields.String(key));
    return Literal(std::move(text));
  }
  ASSIGN_OR_RETURN(const Fields pattern, fields.Object(key));
  absl::StatusOr<Pattern> result = absl::InvalidArgumentError("");
  if (pattern.Find("String") != nullptr) {
    ASSIGN_OR_RETURN(std::string text, pattern.String("String"));
    result = Literal(std::move(text));
  } else if (pattern.Find("Regex") != nullptr) {
    ASSIGN_OR_RETURN(const std::string expression, pattern.String("Regex"));
    result = Regex(expression);
  } else {
    return fields.Wrong(key, "has neither String nor Regex");
  }
  if (result.ok()) return result;
  return absl::Status(result.status().code(),
                      absl::StrCat("tokenizer.json: ", pattern.where(), ": ", result.status().message()));
}

// One search from `from`, with rising limits; `result` is PCRE2's.
absl::Status Pattern::Match(std::string_view text, size_t from, void* data, void* context, PatternBudget& budget,
                            int& result) const {
  auto* match_context = static_cast<pcre2_match_context*>(context);
  for (uint32_t limit = kFirstLimit;; limit *= 10) {
    pcre2_set_match_limit(match_context, limit);
    // The text is known to be well-formed; without the flag every call would check all of it again.
    result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, PCRE2_NO_UTF_CHECK,
                         static_cast<pcre2_match_data*>(data), match_context);
    if (result != PCRE2_ERROR_MATCHLIMIT) break;
    budget.steps -= limit;
    if (limit >= kLastLimit || budget.steps < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the tokenizer's pattern backtracks too much at byte ", from, " of the text"));
    }
  }
  if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the tokenizer's pattern failed at byte ", from, " of the text: ", Message(result)));
}

absl::StatusOr<std::vector<Span>> Pattern::FindAll(std::string_view text, PatternBudget& budget) const {
  std::vector<Span> found;
  if (code_ == nullptr) {
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      found.push_back({at, at + literal_.size()});
    }
    return found;
  }
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  if (data == nullptr || context == nullptr) return absl::ResourceExhaustedError("no memory for a pattern's match");
  pcre2_set_heap_limit(context.get(), kHeapKibibytes);
  for (size_t from = 0; from < text.size();) {
    int result = 0;
    RETURN_IF_ERROR(Match(text, from, data.get(), context.get(), budget, result));
    if (result == PCRE2_ERROR_NOMATCH) break;
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    if (span[0] > span[1] || span[0] < from)
      return absl::InvalidArgumentError("the tokenizer's pattern uses \\K oddly");
    if (span[0] == span[1]) {
      from = span[1] + (span[1] < text.size() ? CharacterBytes(text[span[1]]) : 1);
    } else {
      from = span[1];
    }
    found.push_back({span[0], span[1]});
  }
  return found;
}

absl::StatusOr<std::string> Pattern::ReplaceAll(std::string_view text, std::string_view content, size_t max_bytes,
                                                PatternBudget& budget) const {
  ASSIGN_OR_RETURN(const std::vector<Span> spans, FindAll(text, budget));
  if (text.size() + spans.size() * content.size() > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("replacing makes the text longer than ", max_bytes, " bytes; use shorter texts"));
  }
  std::string out;
  size_t done = 0;
  for (const Span& span : spans) {
    out.append(text, done, span.begin - done).append(content);
    done = span.end;
  }
  return out.append(text, done);
}

}  // namespace quant::tokenizer
