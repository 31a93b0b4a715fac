// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/tokenizer/fields.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::tokenizer {

constexpr size_t kMaxComponents = 32;

absl::StatusOr<Fields> Fields::Of(const nlohmann::json& json, std::string where) {
  if (!json.is_object())
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", where, " is not an object"));
  Fields fields(&json, std::move(where));
  ASSIGN_OR_RETURN(fields.type_, fields.String("type", ""));
  return fields;
}

absl::Status Fields::Wrong(std::string_view key, std::string_view what) const {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: ", where_, where_.empty() ? "" : ".", AbslView(key), " ", AbslView(what)));
}

absl::Status Fields::UnknownType() const {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", where_, " has type ", Quoted(type_),
                                               ", which is not known here (docs/formats/tokenizers.md lists those that "
                                               "are); tokenize the text beforehand and give the ids as an array"));
}

const nlohmann::json* Fields::Find(std::string_view key) const {
  const auto it = json_->find(key);
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<std::string> Fields::String(std::string_view key, std::optional<std::string_view> otherwise) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && otherwise.has_value()) return std::string(*otherwise);
  if (value == nullptr || !value->is_string()) return Wrong(key, "is not a string");
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > static_cast<size_t>(kMaxTokenBytes)) {
    return Wrong(key, absl::StrCat("has ", text.size(), " bytes; at most ", kMaxTokenBytes, " are read"));
  }
  return text;
}

absl::StatusOr<bool> Fields::Bool(std::string_view key, bool otherwise) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return Wrong(key, "is not true or false");
  return value->get<bool>();
}

absl::StatusOr<int64_t> Fields::Int(std::string_view key, std::optional<int64_t> otherwise, int64_t least,
                                    int64_t greatest) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr && otherwise.has_value()) return *otherwise;
  const bool small = value != nullptr && value->is_number_integer() &&
                     (!value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  if (!small || value->get<int64_t>() < least || value->get<int64_t>() > greatest) {
    return Wrong(key, absl::StrCat("is not an integer from ", least, " to ", greatest));
  }
  return value->get<int64_t>();
}

absl::StatusOr<Fields> Fields::Object(std::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return Wrong(key, "is missing");
  return Of(*value, absl::StrCat(where_, where_.empty() ? "" : ".", AbslView(key)));
}

absl::StatusOr<std::vector<Fields>> Fields::Components(std::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_array() || value->size() > kMaxComponents) {
    return Wrong(key, absl::StrCat("is not an array of at most ", kMaxComponents, " components"));
  }
  std::vector<Fields> components;
  for (size_t i = 0; i < value->size(); ++i) {
    ASSIGN_OR_RETURN(Fields component, Of((*value)[i], absl::StrCat(where_, ".", AbslView(key), "[", i, "]")));
    components.push_back(std::move(component));
  }
  return components;
}

}  // namespace quant::tokenizer
