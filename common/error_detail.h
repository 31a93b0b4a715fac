// SPDX-License-Identifier: Apache-2.0
// Reasons on an absl::Status: a payload that holds a serialized quant.v1.ErrorDetail. The message stays for people (the
// value, the limit, the remedy); the reason is for programs. Free of gRPC; common/grpc_status.h carries it over the
// wire.
#ifndef QUANT_COMMON_ERROR_DETAIL_H_
#define QUANT_COMMON_ERROR_DETAIL_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace quant {

// The payload's type URL.
inline constexpr char kErrorDetailUrl[] = "type.googleapis.com/quant.v1.ErrorDetail";

// `status` with a detail attached; replaces one that is there. An OK status is returned unchanged.
//   reason: UPPER_SNAKE_CASE, at most 63 characters, e.g. "BLOB_MISSING".
//   metadata: values for programs; text that is not UTF-8 is escaped as by Quoted().
//   retry_after: when above zero, not before this much time has passed is another try worth it.
absl::Status WithReason(absl::Status status, std::string_view reason, std::map<std::string, std::string> metadata = {},
                        absl::Duration retry_after = absl::ZeroDuration());

// The reason, or "" when there is no (readable) detail.
std::string ReasonOf(const absl::Status& status);
// One metadata value, or "".
std::string MetadataOf(const absl::Status& status, std::string_view key);
// The time to wait before another try, or zero.
absl::Duration RetryAfterOf(const absl::Status& status);

}  // namespace quant

#endif  // QUANT_COMMON_ERROR_DETAIL_H_
