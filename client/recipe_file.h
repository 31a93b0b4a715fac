// SPDX-License-Identifier: Apache-2.0
// Reads what --recipe names: a quant.v1.Recipe as JSON (common/view/json.h) or as protobuf text.
#ifndef QUANT_CLIENT_RECIPE_FILE_H_
#define QUANT_CLIENT_RECIPE_FILE_H_

#include <filesystem>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quant {

namespace v1 {
class Recipe;
}  // namespace v1

// JSON when the first character that is no blank is "{", protobuf text otherwise; nothing but blanks is an empty
// recipe. `name` begins error messages.
//   INVALID_ARGUMENT: not a recipe; says where (JSON: the member; text: line and column) and what is wrong.
absl::StatusOr<v1::Recipe> ParseRecipe(std::string_view text, std::string_view name);

// ParseRecipe of a file of at most 4 MiB.
absl::StatusOr<v1::Recipe> ReadRecipe(const std::filesystem::path& path);

}  // namespace quant

#endif  // QUANT_CLIENT_RECIPE_FILE_H_
