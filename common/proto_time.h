// SPDX-License-Identifier: Apache-2.0
// absl::Time and absl::Duration to and from their proto forms.
#ifndef QUANT_COMMON_PROTO_TIME_H_
#define QUANT_COMMON_PROTO_TIME_H_

#include "absl/time/time.h"

namespace google::protobuf {
class Duration;
class Timestamp;
}  // namespace google::protobuf

namespace quant {

// Nanoseconds are kept. Times outside year 1..9999 and durations beyond 10,000 years are cut to that range.
void SetProto(absl::Time time, google::protobuf::Timestamp* proto);
void SetProto(absl::Duration duration, google::protobuf::Duration* proto);

// Any field values are taken: what is out of range saturates.
absl::Time FromProto(const google::protobuf::Timestamp& proto);
absl::Duration FromProto(const google::protobuf::Duration& proto);

}  // namespace quant

#endif  // QUANT_COMMON_PROTO_TIME_H_
