// SPDX-License-Identifier: Apache-2.0
// The JSON that quantctl prints and reads: proto JSON with three differences that scripts want. Field names are as
// written in the .proto (not camelCase), 64-bit integers are numbers (not strings), and enum values come without their
// enum's prefix ("SUCCEEDED"). Scalars are always there, also when zero, save those that know whether they were set
// (optional, oneof). Timestamps are RFC 3339 in UTC, durations "12.5s", bytes base64, NaN and infinities strings.
#ifndef QUANT_COMMON_VIEW_JSON_H_
#define QUANT_COMMON_VIEW_JSON_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace quant {

// Members put before those of the message, as strings: {"id", "…"}.
using JsonExtras = std::vector<std::pair<std::string, std::string>>;

// One JSON object, indented by two blanks, without a newline at its end.
std::string MessageToJson(const google::protobuf::Message& message, const JsonExtras& extras = {});
// An object of strings only.
std::string StringsToJson(const JsonExtras& members);
// {"items": […]} of objects that are JSON already.
std::string ListToJson(const std::vector<std::string>& items);

// Reads an object into `message`, on top of what it holds. Takes what MessageToJson writes and also proto JSON:
// camelCase names, 64-bit integers as strings, full enum names. Timestamps and durations are not read.
//   INVALID_ARGUMENT: names the member ("static_int8.activation_symmetry") and what is wrong: not JSON, an unknown or
//     repeated name, a wrong type or range, two members of one oneof, more than 64 levels.
absl::Status JsonToMessage(std::string_view json, google::protobuf::Message& message);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_JSON_H_
