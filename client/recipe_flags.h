// SPDX-License-Identifier: Apache-2.0
// The flags of `quantctl job submit` that are fields of quant.v1.Recipe: one table of rows, each a flag, the methods it
// belongs to and the field it sets.
#ifndef QUANT_CLIENT_RECIPE_FLAGS_H_
#define QUANT_CLIENT_RECIPE_FLAGS_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/flags.h"

namespace quant {

namespace v1 {
class Recipe;
}  // namespace v1

// What --method takes, in the order they are shown: "dynamic", "static", …, "hqq".
const std::vector<std::string>& MethodNames();

// Gives the recipe this method with its defaults, unless it has the same one already: then its options stay.
//   INVALID_ARGUMENT: no such method; lists them.
absl::Status SetMethod(std::string_view name, v1::Recipe& recipe);

// Reads "METHOD[:BITS[:GROUP_SIZE]]", as --candidates lists them, e.g. "gptq:4:128".
absl::StatusOr<v1::Recipe> ParseCandidate(std::string_view text);

// Which part of a recipe a kind of job reads.
enum class RecipeParts { kAll, kCalibration, kEvaluation, kData };  // kData: both of them

// Owns the targets of the recipe's flags.
class RecipeFlags {
 public:
  RecipeFlags();
  ~RecipeFlags();

  // Adds every flag, --method included, to `flags`, which must not outlive this object.
  void AddTo(FlagSet& flags);

  // Puts the flags that were given into `recipe`, over what it holds (from a file).
  //   INVALID_ARGUMENT: a value that its field cannot hold; a flag of another method (it is named with the methods it
  //     belongs to); a flag for a part of the recipe outside `parts`; flags that exclude each other; no method at all
  //     when `parts` is kAll.
  // `kind` is the job's kind, for the messages.
  absl::Status Apply(const FlagSet& flags, RecipeParts parts, std::string_view kind, v1::Recipe& recipe) const;

  // The value of --max-drop, --candidates: a tune job has them outside the recipe.
  const std::string& Value(std::string_view flag) const;

 private:
  struct Target {
    std::string text;
    bool boolean = false;
    std::vector<std::string> list;
  };
  std::map<std::string, Target, std::less<>> targets_;
};

}  // namespace quant

#endif  // QUANT_CLIENT_RECIPE_FLAGS_H_
