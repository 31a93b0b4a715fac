// SPDX-License-Identifier: Apache-2.0
#include "common/strings.h"

namespace quant {
namespace {

// Length of the well-formed sequence at the start of `s` (not empty), or 0.
size_t Utf8Length(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  size_t length = 0;
  unsigned char low = 0x80;  // range of the second byte: RFC 3629 section 4
  unsigned char high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  if (s.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

}  // namespace

bool IsValidUtf8(std::string_view s) {
  while (!s.empty()) {
    const size_t n = Utf8Length(s);
    if (n == 0) return false;
    s.remove_prefix(n);
  }
  return true;
}

std::string Quoted(std::string_view s, size_t max) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  size_t used = 0;
  while (!s.empty()) {
    const size_t n = Utf8Length(s);
    const size_t step = n == 0 ? 1 : n;
    if (used + step > max) {
      out += "…";
      break;
    }
    const unsigned char c = static_cast<unsigned char>(s[0]);
    // U+0080..U+009F are control characters too: C2 80 .. C2 9F.
    const bool control = c < 0x20 || c == 0x7F || (c == 0xC2 && n == 2 && static_cast<unsigned char>(s[1]) < 0xA0);
    if (n == 0 || control) {
      for (size_t i = 0; i < step; ++i) {
        const unsigned char b = static_cast<unsigned char>(s[i]);
        out += "\\x";
        out += kHex[b >> 4];
        out += kHex[b & 15];
      }
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += s.substr(0, step);
    }
    used += step;
    s.remove_prefix(step);
  }
  return out + "\"";
}

}  // namespace quant
