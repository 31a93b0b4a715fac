// SPDX-License-Identifier: Apache-2.0
// libsentencepiece behind an interface without Abseil: its header declares absl::string_view to be the standard one,
// which Debian's Abseil contradicts, so the two must not meet in one file. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_LIBRARY_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_LIBRARY_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace quant::tokenizer {

// Immutable once loaded. Functions return what went wrong, "" when nothing did; none throws.
class SentencePieceLibrary {
 public:
  SentencePieceLibrary();
  ~SentencePieceLibrary();
  std::string Load(std::string_view model);
  std::string Encode(std::string_view text, std::vector<int>& ids) const;
  std::string Decode(const std::vector<int>& ids, std::string& text) const;
  int size() const;
  std::string_view piece(int id) const;  // 0 <= id < size()
  int bos() const;                       // -1: none
  int eos() const;                       // -1: none

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_LIBRARY_H_
