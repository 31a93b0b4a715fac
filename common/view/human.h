// SPDX-License-Identifier: Apache-2.0
// Numbers, times and texts from outside, as people read them.
#ifndef QUANT_COMMON_VIEW_HUMAN_H_
#define QUANT_COMMON_VIEW_HUMAN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace quant {

// Text from the server made safe for a terminal: control characters (escape sequences begin with one) become '?', and
// so do bytes that are no UTF-8.
std::string Printable(std::string_view text);
// Columns that UTF-8 text takes, counting one per code point.
int DisplayWidth(std::string_view text);
// Bytes that the first `columns` columns of UTF-8 text take.
size_t BytesOfColumns(std::string_view text, int columns);
// Cut to `width` columns, the last then being "…".
std::string Ellipsize(std::string_view text, int width);

// "17 B", "1.2 MiB": three significant digits.
std::string HumanBytes(int64_t bytes);
// "40 ms", "0.4 s", "12 s", "3m05s", "2h10m".
std::string HumanDuration(absl::Duration duration);
// "2026-11-23 14:05:09" in local time; "-" for the epoch (an unset timestamp).
std::string HumanTime(absl::Time time);
// Significant digits without trailing zeros: "0.0123", "12.3", "1230".
std::string Significant(double value, int digits = 3);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_HUMAN_H_
