// SPDX-License-Identifier: Apache-2.0
// Proto fields by reflection, as text: what flags, recipe files and JSON have in common.
//
// Enum values are written without their enum's prefix ("SUCCEEDED" for JOB_STATE_SUCCEEDED) and read in any of the
// forms "MIN_MAX", "min-max", "min_max", "OBSERVER_MIN_MAX".
#ifndef QUANT_COMMON_VIEW_PROTO_FIELDS_H_
#define QUANT_COMMON_VIEW_PROTO_FIELDS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace google::protobuf {
class EnumDescriptor;
class EnumValueDescriptor;
class FieldDescriptor;
class Message;
}  // namespace google::protobuf

namespace quant {

// "SUCCEEDED" for JOB_STATE_SUCCEEDED; the whole name where it does not begin with its enum's.
std::string ShortEnumName(const google::protobuf::EnumValueDescriptor& value);
// The short name of a number; the number itself when this build does not know it.
std::string ShortEnumName(const google::protobuf::EnumDescriptor& type, int number);

// As a user writes it: "min-max".
std::string EnumFlagName(const google::protobuf::EnumValueDescriptor& value);
// "min-max|moving-average|…", without UNSPECIFIED: for help and messages.
std::string EnumChoices(const google::protobuf::EnumDescriptor& type);

//   INVALID_ARGUMENT: not a value of this enum; lists what there is. UNSPECIFIED cannot be chosen.
absl::StatusOr<const google::protobuf::EnumValueDescriptor*> ParseEnum(const google::protobuf::EnumDescriptor& type,
                                                                       std::string_view text);

// Sets a scalar field (or appends to a repeated one) from text: decimal numbers within the type's range, "true" and
// "false", enum values, strings as they are.
//   INVALID_ARGUMENT: says the value and what is expected.
absl::Status SetScalar(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field,
                       std::string_view text);

// As SetScalar for the field at a dotted path ("gptq.grid.bits"), making the messages on the way.
// REQUIRES: the path exists; anything else is a bug and stops the program.
absl::Status SetPath(google::protobuf::Message& message, std::string_view path, std::string_view text);

// The field that a dotted path names, starting at `message`'s type. REQUIRES: it exists.
const google::protobuf::FieldDescriptor& FieldAt(const google::protobuf::Message& message, std::string_view path);

}  // namespace quant

#endif  // QUANT_COMMON_VIEW_PROTO_FIELDS_H_
