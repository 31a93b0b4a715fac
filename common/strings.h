// SPDX-License-Identifier: Apache-2.0
// Debian builds absl::string_view as Abseil's own type, and std::string_view does not convert to it: our APIs use the
// standard one and convert here, at the Abseil call.
#ifndef QUANT_COMMON_STRINGS_H_
#define QUANT_COMMON_STRINGS_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace quant {

inline absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view StdView(absl::string_view s) { return {s.data(), s.size()}; }

}  // namespace quant

#endif  // QUANT_COMMON_STRINGS_H_
