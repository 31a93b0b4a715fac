// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/file/json_file.h"

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {

constexpr int kMaxDepth = 32;

absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& file, size_t max_bytes) {
  const std::string name = file.filename().string();
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::OpenBeneath(file.parent_path(), name));
  if (mapped->bytes().size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has ", mapped->bytes().size(), " bytes; at most ", max_bytes, " are read"));
  }
  bool too_deep = false;
  const auto bound = [&](int depth, nlohmann::json::parse_event_t /*event*/, nlohmann::json& /*value*/) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  nlohmann::json parsed = nlohmann::json::parse(mapped->text(), bound, /*allow_exceptions=*/false);
  if (too_deep) return absl::InvalidArgumentError(absl::StrCat(name, " is nested deeper than ", kMaxDepth));
  if (parsed.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not JSON, or holds a number that no double can"));
  }
  if (!parsed.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, " is not a JSON object"));
  return parsed;
}

}  // namespace quant
