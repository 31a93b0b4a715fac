// SPDX-License-Identifier: Apache-2.0
// Debian builds absl::string_view as Abseil's own type, and std::string_view does not convert to it: our APIs use the
// standard one and convert here, at the Abseil call. Also: showing text from outside in our messages.
#ifndef QUANT_COMMON_STRINGS_H_
#define QUANT_COMMON_STRINGS_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace quant {

inline absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view StdView(absl::string_view s) { return {s.data(), s.size()}; }

// True for well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). Empty is well-formed.
bool IsValidUtf8(std::string_view s);

// `s` between double quotes for a message: bytes outside printable ASCII and well-formed UTF-8 are escaped as \xNN, and
// what is longer than `max` bytes is cut with "…". The result is well-formed UTF-8 on one line whatever `s` holds.
std::string Quoted(std::string_view s, size_t max = 120);

}  // namespace quant

#endif  // QUANT_COMMON_STRINGS_H_
