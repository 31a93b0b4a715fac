// SPDX-License-Identifier: Apache-2.0
// Fields: one component of tokenizer.json, a JSON object with a "type", read with errors that name where it stands.
// Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_FIELDS_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant::tokenizer {

class Fields {
 public:
  // `where` is for messages: "pre_tokenizer", "normalizer.normalizers[1]". INVALID_ARGUMENT unless an object; its
  // "type" may be absent (type() is then empty) but must be a string. `json` must outlive this.
  static absl::StatusOr<Fields> Of(const nlohmann::json& json, std::string where);

  const std::string& type() const { return type_; }
  const std::string& where() const { return where_; }

  // INVALID_ARGUMENT naming the key when it has another type, or is absent (or null) and there is no `otherwise`.
  absl::StatusOr<std::string> String(std::string_view key, std::optional<std::string_view> otherwise = {}) const;
  absl::StatusOr<bool> Bool(std::string_view key, bool otherwise) const;
  absl::StatusOr<int64_t> Int(std::string_view key, std::optional<int64_t> otherwise, int64_t least,
                              int64_t greatest) const;
  absl::StatusOr<Fields> Object(std::string_view key) const;
  // The components of the array `key`, at most 32.
  absl::StatusOr<std::vector<Fields>> Components(std::string_view key) const;
  // The value, nullptr when absent or null.
  const nlohmann::json* Find(std::string_view key) const;

  absl::Status Wrong(std::string_view key, std::string_view what) const;  // INVALID_ARGUMENT "where.key what"
  absl::Status UnknownType() const;                                       // UNIMPLEMENTED naming where and type

 private:
  Fields(const nlohmann::json* json, std::string where) : json_(json), where_(std::move(where)) {}

  const nlohmann::json* json_;
  std::string where_;
  std::string type_;
};

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_FIELDS_H_
