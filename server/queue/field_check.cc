// SPDX-License-Identifier: Apache-2.0
#include "server/queue/field_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {

absl::Status InRange(const std::string& field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  if (high == kMaxCount) {
    return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be at least ", low));
  }
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be from ", low, " to ", high));
}

absl::Status DefaultOrUpTo(const std::string& field, double value, double high) {
  if (value >= 0 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be above 0 and at most ", high, ", or 0 for the default"));
}

absl::Status UnknownEnum(const std::string& field, int value) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", which this server's contract does not have"));
}

absl::Status BadText(const std::string& field, std::string_view value, size_t max, std::string_view rule) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", Quoted(value), " (", value.size(), " bytes); ",
                                                 std::string(rule), " and at most ", max, " bytes are wanted"));
}

bool HasControl(std::string_view s) {
  return std::any_of(s.begin(), s.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

}  // namespace quant
