// SPDX-License-Identifier: Apache-2.0
// Trie: finds the strings of a set that a text begins with. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_TRIE_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_TRIE_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace quant::tokenizer {

// One node per distinct prefix, edges in one hash map. Thread-compatible.
class Trie {
 public:
  // `value` >= 0; a string given again keeps its last value.
  void Add(std::string_view string, int32_t value) {
    uint32_t node = 0;
    for (const char c : string) {
      const auto [it, is_new] = edges_.try_emplace(Key(node, c), static_cast<uint32_t>(values_.size()));
      if (is_new) values_.push_back(kNone);
      node = it->second;
    }
    values_[node] = value;
  }

  // Calls visit(bytes, value) for each string that text.substr(at) begins with, the shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, size_t at, Visit visit) const {
    uint32_t node = 0;
    for (size_t i = at; i < text.size(); ++i) {
      const auto it = edges_.find(Key(node, text[i]));
      if (it == edges_.end()) return;
      node = it->second;
      if (values_[node] != kNone) visit(i + 1 - at, values_[node]);
    }
  }

  bool empty() const { return edges_.empty(); }

 private:
  static constexpr int32_t kNone = -1;
  static uint64_t Key(uint32_t node, char c) {
    return static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(c);
  }

  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> values_{kNone};
};

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_TRIE_H_
