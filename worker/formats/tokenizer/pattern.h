// SPDX-License-Identifier: Apache-2.0
// Pattern: what a Split pre-tokenizer or a Replace normalizer looks for: a plain string, or a regular expression run by
// PCRE2 (UTF and Unicode properties on, no JIT). Internal to formats/tokenizer.
//
// The expression is untrusted and may backtrack without end. Each attempt gets a match limit, which is raised tenfold
// and tried again when it is hit; what those attempts may cost together is bounded for one text (PatternBudget), so the
// outcome depends on pattern and text alone, not on the clock.
//
// Thread-safety: immutable; the budget belongs to one call.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_PATTERN_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/fields.h"

struct pcre2_real_code_8;

namespace quant::tokenizer {

// Steps of PCRE2's match limit that one text may still spend on attempts beyond the first, cheap one.
struct PatternBudget {
  int64_t steps = 300'000'000;  // some ten seconds
};

struct Span {
  size_t begin;
  size_t end;
  bool operator==(const Span&) const = default;
};

class Pattern {
 public:
  // `fields`' `key` is {"String": s} or {"Regex": r}; or a plain string. INVALID_ARGUMENT: neither, an empty string, or
  // PCRE2 does not compile it (its message is passed on). UNIMPLEMENTED: classes inside classes and their intersection
  // (&&), which upstream's Oniguruma knows, with a PCRE2 before 10.45.
  static absl::StatusOr<Pattern> Read(const Fields& fields, std::string_view key);
  static absl::StatusOr<Pattern> Literal(std::string text);
  static absl::StatusOr<Pattern> Regex(const std::string& expression);

  // The matches in well-formed UTF-8 `text` from left to right, none overlapping; an empty match moves the search on by
  // one character. RESOURCE_EXHAUSTED when `budget` is spent.
  absl::StatusOr<std::vector<Span>> FindAll(std::string_view text, PatternBudget& budget) const;

  // `text` with each match replaced by `content`. RESOURCE_EXHAUSTED besides when that is longer than `max_bytes`.
  absl::StatusOr<std::string> ReplaceAll(std::string_view text, std::string_view content, size_t max_bytes,
                                         PatternBudget& budget) const;

 private:
  Pattern() = default;
  absl::Status Match(std::string_view text, size_t from, void* data, void* context, PatternBudget& budget,
                     int& result) const;

  std::string literal_;
  std::shared_ptr<const pcre2_real_code_8> code_;  // shared by copies of the pattern; null: literal_
};

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_PATTERN_H_
