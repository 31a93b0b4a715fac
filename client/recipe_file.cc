// SPDX-License-Identifier: Apache-2.0
#include "client/recipe_file.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "common/view/json.h"
#include "quant/v1/recipe.pb.h"

namespace quant {
namespace {

constexpr size_t kLargest = size_t{4} << 20;
constexpr int kDeepest = 64;

// Keeps the first error; without a collector protobuf would write to stderr itself.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", message);
  }
  void AddWarning(int, int, const std::string&) override {}
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

absl::StatusOr<v1::Recipe> ParseRecipe(std::string_view text, std::string_view name) {
  v1::Recipe recipe;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return recipe;
  if (text[first] == '{') {
    if (absl::Status status = JsonToMessage(text, recipe); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(AbslView(name), ": ", status.message()));
    }
    return recipe;
  }
  google::protobuf::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(kDeepest);
  if (!parser.Parse(&input, &recipe)) {
    return absl::InvalidArgumentError(
        absl::StrCat(AbslView(name), ", read as protobuf text (JSON begins with \"{\"): ", error.text()));
  }
  return recipe;
}

absl::StatusOr<v1::Recipe> ReadRecipe(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::error_code error;
  if (!in || std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(
        absl::StrCat("cannot read the recipe ", path.string(), ": ",
                     in ? "it is a folder" : std::error_code(errno, std::generic_category()).message()));
  }
  std::string text(kLargest + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kLargest) {
    return absl::InvalidArgumentError(
        absl::StrCat("the recipe ", path.string(), " has more than ", kLargest, " bytes: that is no recipe"));
  }
  return ParseRecipe(text, path.string());
}

}  // namespace quant
