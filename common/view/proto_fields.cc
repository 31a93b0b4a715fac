// SPDX-License-Identifier: Apache-2.0
#include "common/view/proto_fields.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace quant {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// "JobState" -> "JOB_STATE_", the prefix that buf's STANDARD rules ask of every value.
std::string Prefix(const EnumDescriptor& type) {
  std::string prefix;
  for (char c : type.name()) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  return prefix + '_';
}

absl::Status Expected(const FieldDescriptor& field, std::string_view text, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(field.name(), " is ", AbslView(what), ", not ", Quoted(text)));
}

template <typename Int>
bool ParseInt(std::string_view text, Int& value) {
  return absl::SimpleAtoi(AbslView(text), &value);
}

// Calls the Set or the Add member, as the field asks.
template <typename Value, typename Set, typename Add>
void Store(Message& message, const FieldDescriptor& field, Value value, Set set, Add add) {
  const auto* reflection = message.GetReflection();
  if (field.is_repeated()) {
    (reflection->*add)(&message, &field, std::move(value));
  } else {
    (reflection->*set)(&message, &field, std::move(value));
  }
}

}  // namespace

std::string ShortEnumName(const EnumValueDescriptor& value) {
  const std::string prefix = Prefix(*value.type());
  return absl::StartsWith(value.name(), prefix) ? value.name().substr(prefix.size()) : value.name();
}

std::string ShortEnumName(const EnumDescriptor& type, int number) {
  const EnumValueDescriptor* value = type.FindValueByNumber(number);
  return value == nullptr ? std::to_string(number) : ShortEnumName(*value);
}

std::string EnumFlagName(const EnumValueDescriptor& value) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(ShortEnumName(value)), {{"_", "-"}});
}

std::string EnumChoices(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) names.push_back(EnumFlagName(*type.value(i)));
  }
  return absl::StrJoin(names, "|");
}

absl::StatusOr<const EnumValueDescriptor*> ParseEnum(const EnumDescriptor& type, std::string_view text) {
  const std::string wanted = absl::StrReplaceAll(absl::AsciiStrToUpper(AbslView(text)), {{"-", "_"}});
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor* value = type.value(i);
    if (value->number() != 0 && (value->name() == wanted || ShortEnumName(*value) == wanted)) return value;
  }
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is none of ", EnumChoices(type)));
}

absl::Status SetScalar(Message& message, const FieldDescriptor& field, std::string_view text) {
  using R = google::protobuf::Reflection;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      int32_t value;
      if (!ParseInt(text, value)) return Expected(field, text, "a whole number of 32 bits");
      Store(message, field, value, &R::SetInt32, &R::AddInt32);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value;
      if (!ParseInt(text, value)) return Expected(field, text, "a whole number of 64 bits");
      Store(message, field, value, &R::SetInt64, &R::AddInt64);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      uint32_t value;
      if (!ParseInt(text, value)) return Expected(field, text, "a whole number from 0 to 4294967295");
      Store(message, field, value, &R::SetUInt32, &R::AddUInt32);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value;
      if (!ParseInt(text, value)) return Expected(field, text, "a whole number from 0 to 18446744073709551615");
      Store(message, field, value, &R::SetUInt64, &R::AddUInt64);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT: {
      double value;
      if (!absl::SimpleAtod(AbslView(text), &value) || !std::isfinite(value)) {
        return Expected(field, text, "a finite number");
      }
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
        Store(message, field, value, &R::SetDouble, &R::AddDouble);
        return absl::OkStatus();
      }
      if (std::abs(value) > std::numeric_limits<float>::max()) return Expected(field, text, "a 32-bit number");
      Store(message, field, static_cast<float>(value), &R::SetFloat, &R::AddFloat);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") return Expected(field, text, "true or false");
      Store(message, field, text == "true", &R::SetBool, &R::AddBool);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      absl::StatusOr<const EnumValueDescriptor*> value = ParseEnum(*field.enum_type(), text);
      if (!value.ok()) return absl::InvalidArgumentError(absl::StrCat(field.name(), ": ", value.status().message()));
      Store(message, field, (*value)->number(), &R::SetEnumValue, &R::AddEnumValue);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      if (field.type() == FieldDescriptor::TYPE_STRING && !IsValidUtf8(text))
        return Expected(field, text, "UTF-8 text");
      Store(message, field, std::string(text), &R::SetString, &R::AddString);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat(field.name(), " is a message, not a value"));
}

const FieldDescriptor& FieldAt(const Message& message, std::string_view path) {
  const google::protobuf::Descriptor* type = message.GetDescriptor();
  const FieldDescriptor* field = nullptr;
  for (absl::string_view part : absl::StrSplit(AbslView(path), '.')) {
    if (field != nullptr) type = field->message_type();
    field = type == nullptr ? nullptr : type->FindFieldByName(std::string(part));
    CHECK(field != nullptr) << "no field " << path << " in " << message.GetTypeName();
  }
  return *field;
}

absl::Status SetPath(Message& message, std::string_view path, std::string_view text) {
  Message* at = &message;
  while (true) {
    const size_t dot = path.find('.');
    const FieldDescriptor& field = FieldAt(*at, path.substr(0, dot));
    if (dot == std::string_view::npos) return SetScalar(*at, field, text);
    at = at->GetReflection()->MutableMessage(at, &field);
    path.remove_prefix(dot + 1);
  }
}

}  // namespace quant
