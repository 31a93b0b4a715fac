// SPDX-License-Identifier: Apache-2.0
#include "common/random_id.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "absl/log/check.h"

namespace quant {

std::string RandomId(std::string_view prefix, int length) {
  static constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  constexpr unsigned char kLimit = 252;  // 7 * 36: a byte at or above it would favour some characters
  std::string id(prefix);
  const size_t want = prefix.size() + static_cast<size_t>(length);
  unsigned char bytes[64];
  while (id.size() < want) {
    const ssize_t n = ::getrandom(bytes, sizeof(bytes), 0);
    if (n < 0) {
      CHECK_EQ(errno, EINTR) << "getrandom failed";
      continue;
    }
    for (ssize_t i = 0; i < n && id.size() < want; ++i) {
      if (bytes[i] < kLimit) id += kAlphabet[bytes[i] % 36];
    }
  }
  return id;
}

bool IsRandomId(std::string_view s, std::string_view prefix, int length) {
  if (s.size() != prefix.size() + static_cast<size_t>(length) || s.substr(0, prefix.size()) != prefix) return false;
  s.remove_prefix(prefix.size());
  return std::all_of(s.begin(), s.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'); });
}

}  // namespace quant
