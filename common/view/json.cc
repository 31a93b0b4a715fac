// SPDX-License-Identifier: Apache-2.0
#include "common/view/json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <google/protobuf/timestamp.pb.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/view/proto_fields.h"

namespace quant {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

constexpr int kDeepest = 64;

Json Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

// The double whose shortest form is the float's shortest form: 0.01, not 0.009999999776482582.
Json Number(float value) {
  if (!std::isfinite(value)) return Number(static_cast<double>(value));
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  double same = value;
  std::from_chars(text, end, same);
  return same;
}

std::string Rfc3339(absl::Time time) { return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", time, absl::UTCTimeZone()); }

std::string Seconds(absl::Duration duration) {
  const absl::Duration whole = absl::Trunc(duration, absl::Seconds(1));
  const int64_t nanos = absl::ToInt64Nanoseconds(absl::AbsDuration(duration - whole));
  std::string fraction = nanos == 0 ? "" : absl::StrFormat(".%09d", nanos);
  while (!fraction.empty() && fraction.back() == '0') fraction.pop_back();
  return absl::StrCat(duration < absl::ZeroDuration() && whole == absl::ZeroDuration() ? "-" : "",
                      absl::ToInt64Seconds(whole), fraction, "s");
}

Json ToJson(const Message& message);

// One value of a field; `index` is -1 for a singular one.
Json ValueToJson(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const auto get = [&](auto singular, auto repeated) {
    return index < 0 ? (r.*singular)(message, &field) : (r.*repeated)(message, &field, index);
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32);
    case FieldDescriptor::CPPTYPE_INT64:
      return get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(get(&Reflection::GetFloat, &Reflection::GetRepeatedFloat));
    case FieldDescriptor::CPPTYPE_BOOL:
      return get(&Reflection::GetBool, &Reflection::GetRepeatedBool);
    case FieldDescriptor::CPPTYPE_ENUM:
      return ShortEnumName(*field.enum_type(), get(&Reflection::GetEnumValue, &Reflection::GetRepeatedEnumValue));
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string value = get(&Reflection::GetString, &Reflection::GetRepeatedString);
      return field.type() == FieldDescriptor::TYPE_BYTES ? absl::Base64Escape(value) : value;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(index < 0 ? r.GetMessage(message, &field) : r.GetRepeatedMessage(message, &field, index));
  }
  return nullptr;
}

Json MapToJson(const Message& message, const FieldDescriptor& field) {
  const Reflection& r = *message.GetReflection();
  std::map<std::string, Json> sorted;
  for (int i = 0; i < r.FieldSize(message, &field); ++i) {
    const Message& entry = r.GetRepeatedMessage(message, &field, i);
    const Json key = ValueToJson(entry, *field.message_type()->map_key(), -1);
    sorted[key.is_string() ? key.get<std::string>() : key.dump()] =
        ValueToJson(entry, *field.message_type()->map_value(), -1);
  }
  Json object = Json::object();
  for (auto& [key, value] : sorted) object[key] = std::move(value);
  return object;
}

Json ToJson(const Message& message) {
  if (message.GetDescriptor() == google::protobuf::Timestamp::descriptor()) {
    return Rfc3339(FromProto(static_cast<const google::protobuf::Timestamp&>(message)));
  }
  if (message.GetDescriptor() == google::protobuf::Duration::descriptor()) {
    return Seconds(FromProto(static_cast<const google::protobuf::Duration&>(message)));
  }
  const Reflection& r = *message.GetReflection();
  Json object = Json::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    if (field.is_map()) {
      object[field.name()] = MapToJson(message, field);
    } else if (field.is_repeated()) {
      Json array = Json::array();
      for (int k = 0; k < r.FieldSize(message, &field); ++k) array.push_back(ValueToJson(message, field, k));
      object[field.name()] = std::move(array);
    } else if (!field.has_presence() || r.HasField(message, &field)) {
      object[field.name()] = ValueToJson(message, field, -1);
    }
  }
  return object;
}

// Text from outside may be anything; what is not UTF-8 becomes U+FFFD.
std::string Dump(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace); }

absl::Status At(const std::string& path, std::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(path.empty() ? "the document" : path, ": ", AbslView(problem)));
}

std::string Join(const std::string& path, std::string_view name) {
  return absl::StrCat(path, path.empty() ? "" : ".", AbslView(name));
}

// The text SetScalar takes for a JSON scalar of the right kind; not OK for another kind.
absl::StatusOr<std::string> ScalarText(const Json& json, const FieldDescriptor& field, const std::string& path) {
  const bool text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
  const bool boolean = field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
  if (json.is_string() && !boolean) return json.get<std::string>();
  if (json.is_boolean() && boolean) return json.dump();
  const bool number = !text && !boolean && field.cpp_type() != FieldDescriptor::CPPTYPE_ENUM;
  if (json.is_number() && number) {
    // 3.0 is a whole number in JSON.
    if (json.is_number_float() && std::abs(json.get<double>()) < 9e15 &&
        json.get<double>() == std::trunc(json.get<double>())) {
      return std::to_string(static_cast<int64_t>(json.get<double>()));
    }
    return json.dump();
  }
  return At(path, absl::StrCat("expects ",
                               text      ? "a string"
                               : boolean ? "true or false"
                               : number  ? "a number"
                                         : "a name",
                               ", not ", Quoted(json.dump(-1, ' ', true, Json::error_handler_t::replace), 40)));
}

absl::Status FromJson(const Json& json, Message& message, const std::string& path, int depth);

absl::Status ValueFromJson(const Json& json, Message& message, const FieldDescriptor& field, const std::string& path,
                           int depth) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    if (field.message_type()->file()->package() == "google.protobuf") return At(path, "cannot be read from JSON");
    const Reflection& r = *message.GetReflection();
    return FromJson(json, field.is_repeated() ? *r.AddMessage(&message, &field) : *r.MutableMessage(&message, &field),
                    path, depth + 1);
  }
  ASSIGN_OR_RETURN(const std::string text, ScalarText(json, field, path));
  // What MessageToJson writes for an enum that was not set.
  if (field.enum_type() != nullptr && !field.is_repeated() &&
      (text == "UNSPECIFIED" || text == field.enum_type()->value(0)->name())) {
    return absl::OkStatus();
  }
  const absl::Status status = SetScalar(message, field, text);
  return status.ok() ? status : At(path, std::string(status.message()));
}

absl::Status FromJson(const Json& json, Message& message, const std::string& path, int depth) {
  if (depth > kDeepest) return At(path, absl::StrCat("is nested deeper than ", kDeepest, " levels"));
  if (!json.is_object()) return At(path, "expects an object {…}");
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  const Reflection& r = *message.GetReflection();
  std::map<const google::protobuf::OneofDescriptor*, std::string> chosen;
  for (const auto& [name, value] : json.items()) {
    const std::string at = Join(path, name);
    const FieldDescriptor* field = type.FindFieldByName(name);
    if (field == nullptr) field = type.FindFieldByCamelcaseName(name);
    if (field == nullptr) {
      std::string known;
      for (int i = 0; i < type.field_count(); ++i) absl::StrAppend(&known, i > 0 ? ", " : "", type.field(i)->name());
      return absl::InvalidArgumentError(
          absl::StrCat("no member ", Quoted(name), path.empty() ? "" : " in ", path, "; there are ", known));
    }
    if (value.is_null()) continue;
    if (const auto* oneof = field->real_containing_oneof()) {
      const auto [it, is_new] = chosen.emplace(oneof, name);
      if (!is_new)
        return At(at, absl::StrCat("cannot stand beside ", it->second, ": only one ", oneof->name(), " is allowed"));
    }
    if (field->is_map()) return At(at, "cannot be read from JSON");
    if (!field->is_repeated()) {
      RETURN_IF_ERROR(ValueFromJson(value, message, *field, at, depth));
      continue;
    }
    if (!value.is_array()) return At(at, "expects a list […]");
    r.ClearField(&message, field);
    for (size_t i = 0; i < value.size(); ++i) {
      RETURN_IF_ERROR(ValueFromJson(value[i], message, *field, absl::StrCat(at, "[", i, "]"), depth));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string MessageToJson(const Message& message, const JsonExtras& extras) {
  Json object = Json::object();
  for (const auto& [name, value] : extras) object[name] = value;
  const Json fields = ToJson(message);
  for (const auto& [name, value] : fields.items()) object[name] = value;
  return Dump(object);
}

std::string StringsToJson(const JsonExtras& members) {
  Json object = Json::object();
  for (const auto& [name, value] : members) object[name] = value;
  return Dump(object);
}

std::string ListToJson(const std::vector<std::string>& items) {
  if (items.empty()) return "{\n  \"items\": []\n}";
  std::string out = "{\n  \"items\": [";
  // A newline inside a JSON string is escaped, so those here are all between tokens.
  for (size_t i = 0; i < items.size(); ++i) {
    absl::StrAppend(&out, i > 0 ? "," : "", "\n    ", absl::StrReplaceAll(items[i], {{"\n", "\n    "}}));
  }
  return out + "\n  ]\n}";
}

absl::Status JsonToMessage(std::string_view json, Message& message) {
  // The parser says where it stopped only by an exception, and it keeps the last of two equal names: both are handled
  // here and nowhere else.
  std::vector<std::set<std::string>> names;
  std::string repeated;
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key && !names.back().insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    if (depth > 2 * kDeepest) too_deep = true;
    return true;
  };
  Json parsed;
  try {
    parsed = Json::parse(json.begin(), json.end(), watch);
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", e.what()));
  }
  if (too_deep) return absl::InvalidArgumentError(absl::StrCat("nested deeper than ", 2 * kDeepest, " levels"));
  if (!repeated.empty())
    return absl::InvalidArgumentError(absl::StrCat("the member ", Quoted(repeated), " appears twice"));
  return FromJson(parsed, message, "", 0);
}

}  // namespace quant
