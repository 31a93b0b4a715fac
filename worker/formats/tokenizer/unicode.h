// SPDX-License-Identifier: Apache-2.0
// What the tokenizer's components ask of Unicode: code points of well-formed UTF-8, classes of characters, normal forms
// (utf8proc), and GPT-2's letters for bytes. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_UNICODE_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quant::tokenizer {

// "▁", U+2581, SentencePiece's stand-in for a space.
inline constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";
inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// Bytes of the character that starts with `lead`, in well-formed UTF-8.
constexpr size_t CharacterBytes(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}
// The character at `at` of well-formed `text`; `at` moves behind it.
char32_t NextCharacter(std::string_view text, size_t& at);
// The character that ends before `end` > 0.
char32_t CharacterBefore(std::string_view text, size_t end);
void AppendCharacter(char32_t c, std::string& out);

bool IsSpace(char32_t c);        // White_Space
bool IsNumber(char32_t c);       // Nd, Nl, No
bool IsPunctuation(char32_t c);  // P*, and all of ASCII's punctuation and symbols
bool IsMark(char32_t c);         // M*
bool IsControl(char32_t c);      // C*, but not tab, newline, carriage return
bool IsWord(char32_t c);         // letters, marks, decimal digits, connectors: \w
bool IsIdeograph(char32_t c);    // the CJK blocks that BERT sets apart

// The lower case of one character; U+0130 has two characters.
void AppendLower(char32_t c, std::string& out);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
absl::StatusOr<std::string> Normalize(std::string_view text, NormalForm form);

// `text` with each byte as GPT-2's letter for it: itself where that is printable, else one from U+0100 on.
std::string ByteLetters(std::string_view text);
// The byte of a letter; -1 for other characters.
int ByteOfLetter(char32_t letter);

// `bytes` with each maximal ill-formed part as one U+FFFD.
std::string RepairUtf8(std::string_view bytes);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_UNICODE_H_
