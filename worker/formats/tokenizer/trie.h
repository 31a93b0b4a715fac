// SPDX-License-Identifier: Apache-2.0
// Trie: finds the strings of a set that a text begins with. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_TRIE_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_TRIE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quant::tokenizer {

// The strings in order; those with a common prefix are a range, which each further byte narrows by binary search. Takes
// little more memory than the strings. Immutable after Finish.
class Trie {
 public:
  // A string given again keeps its last value; an empty one is never found.
  void Add(std::string_view string, int32_t value) {
    if (!string.empty()) strings_.emplace_back(string, value);
  }

  // To be called once, after the last Add.
  void Finish() {
    std::stable_sort(strings_.begin(), strings_.end(),
                     [](const Entry& a, const Entry& b) { return a.first < b.first; });
    size_t kept = 0;
    for (size_t i = 0; i < strings_.size(); ++i) {
      const bool again = kept > 0 && strings_[kept - 1].first == strings_[i].first;
      if (again) --kept;
      if (kept != i) strings_[kept] = std::move(strings_[i]);
      ++kept;
    }
    strings_.resize(kept);
    for (const Entry& entry : strings_) ++first_[Byte(entry.first[0]) + 1];
    for (size_t b = 1; b < first_.size(); ++b) first_[b] += first_[b - 1];
  }

  // Calls visit(bytes, value) for each string that text.substr(at) begins with, the shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, size_t at, Visit visit) const {
    if (at >= text.size()) return;
    size_t low = first_[Byte(text[at])];
    size_t high = first_[Byte(text[at]) + 1];
    for (size_t bytes = 1; low < high; ++bytes) {
      if (strings_[low].first.size() == bytes) visit(bytes, strings_[low++].second);
      if (at + bytes >= text.size()) return;
      const size_t next = Byte(text[at + bytes]);
      const auto begin = strings_.begin();
      const auto before = [bytes](const Entry& entry, size_t b) { return Byte(entry.first[bytes]) < b; };
      const auto from =
          std::lower_bound(begin + static_cast<ptrdiff_t>(low), begin + static_cast<ptrdiff_t>(high), next, before);
      const auto to = std::lower_bound(from, begin + static_cast<ptrdiff_t>(high), next + 1, before);
      low = static_cast<size_t>(from - begin);
      high = static_cast<size_t>(to - begin);
    }
  }

  bool empty() const { return strings_.empty(); }

 private:
  using Entry = std::pair<std::string, int32_t>;
  static size_t Byte(char c) { return static_cast<unsigned char>(c); }

  std::vector<Entry> strings_;
  std::array<size_t, 257> first_{};  // where the strings that begin with a byte start
};

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_TRIE_H_
