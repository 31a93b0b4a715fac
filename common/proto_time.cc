// SPDX-License-Identifier: Apache-2.0
#include "common/proto_time.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>

#include <algorithm>
#include <cstdint>

namespace quant {
namespace {
// The limits that timestamp.proto and duration.proto name.
constexpr int64_t kFirstSecond = -62135596800;
constexpr int64_t kLastSecond = 253402300799;
constexpr int64_t kLongestSeconds = 315576000000;
}  // namespace

void SetProto(absl::Time time, google::protobuf::Timestamp* proto) {
  time = std::clamp(time, absl::FromUnixSeconds(kFirstSecond), absl::FromUnixSeconds(kLastSecond));
  const int64_t seconds = absl::ToUnixSeconds(time);  // rounds down, so that nanos is never negative
  proto->set_seconds(seconds);
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

void SetProto(absl::Duration duration, google::protobuf::Duration* proto) {
  duration = std::clamp(duration, -absl::Seconds(kLongestSeconds), absl::Seconds(kLongestSeconds));
  const int64_t seconds = absl::IDivDuration(duration, absl::Seconds(1), &duration);
  proto->set_seconds(seconds);
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

absl::Time FromProto(const google::protobuf::Timestamp& proto) {
  return absl::FromUnixSeconds(std::clamp(proto.seconds(), kFirstSecond, kLastSecond)) +
         absl::Nanoseconds(proto.nanos());
}

absl::Duration FromProto(const google::protobuf::Duration& proto) {
  return absl::Seconds(std::clamp(proto.seconds(), -kLongestSeconds, kLongestSeconds)) +
         absl::Nanoseconds(proto.nanos());
}

}  // namespace quant
