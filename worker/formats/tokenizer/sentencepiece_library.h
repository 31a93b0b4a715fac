// SPDX-License-Identifier: Apache-2.0
// libsentencepiece behind an interface without Abseil, in a module of its own (quant_sentencepiece.so, beside the
// program) that is loaded when a model needs it. Two reasons, both Debian's: its header declares absl::string_view to
// be the standard one, which Debian's Abseil contradicts; and the library exports the symbols of a protobuf of its own,
// which would take the place of libprotobuf's in any program that links both (it crashes before main). The module's
// symbols bind to its own libraries first and are seen by nobody else. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_LIBRARY_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_LIBRARY_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quant::tokenizer {

// Immutable once loaded. Functions return what went wrong, "" when nothing did; none throws.
class SentencePieceLibrary {
 public:
  // Null, with `why` set, when the module is not there or cannot be loaded.
  static std::unique_ptr<SentencePieceLibrary> Open(std::string* why);

  virtual ~SentencePieceLibrary() = default;
  virtual std::string Load(std::string_view model) = 0;
  virtual std::string Encode(std::string_view text, std::vector<int>& ids) const = 0;
  virtual std::string Decode(const std::vector<int>& ids, std::string& text) const = 0;
  virtual int size() const = 0;
  virtual std::string_view piece(int id) const = 0;  // 0 <= id < size()
  virtual int bos() const = 0;                       // -1: none
  virtual int eos() const = 0;                       // -1: none
};

// What the module exports, by this name.
inline constexpr char kMakeSentencePiece[] = "QuantMakeSentencePiece";
using MakeSentencePiece = SentencePieceLibrary* (*)();

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_SENTENCEPIECE_LIBRARY_H_
