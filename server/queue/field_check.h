// SPDX-License-Identifier: Apache-2.0
// Checks of single fields of a request, with messages that name field, value and limit. Internal to server/queue.
#ifndef QUANT_SERVER_QUEUE_FIELD_CHECK_H_
#define QUANT_SERVER_QUEUE_FIELD_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace quant {

// Stands for "no upper limit" in messages.
inline constexpr int64_t kMaxCount = std::numeric_limits<int64_t>::max();

// INVALID_ARGUMENT unless low <= value <= high.
absl::Status InRange(const std::string& field, int64_t value, int64_t low, int64_t high);

// 0 stands for the default; above it up to `high`. NaN is out of range.
absl::Status DefaultOrUpTo(const std::string& field, double value, double high);

// INVALID_ARGUMENT: an enum value of a newer contract.
absl::Status UnknownEnum(const std::string& field, int value);

// INVALID_ARGUMENT for a text that breaks `rule` or exceeds `max` bytes.
absl::Status BadText(const std::string& field, std::string_view value, size_t max, std::string_view rule);

// Whether there is a control character.
bool HasControl(std::string_view s);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_FIELD_CHECK_H_
