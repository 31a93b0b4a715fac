// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "nlohmann/json.hpp"
#include "worker/formats/dataset/source.h"
#include "worker/formats/file/mapped_file.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using Labels = std::map<std::string, int64_t>;

constexpr size_t kMaxImages = 10'000'000;
constexpr size_t kMaxLabelBytes = size_t{1} << 28;

bool IsImage(const fs::path& file) {
  const std::string extension = absl::AsciiStrToLower(file.extension().string());
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

// The images directly in `folder`, sorted, with `prefix` before each name.
absl::Status ListImages(const fs::path& folder, const std::string& prefix, std::vector<std::string>& files) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (!IsImage(it->path()) || !it->is_regular_file(error)) continue;
    files.push_back(prefix + it->path().filename().string());
    if (files.size() > kMaxImages)
      return absl::InvalidArgumentError(absl::StrCat("over ", kMaxImages, " images in one folder"));
  }
  if (error)
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list ", Quoted(folder.filename().string())));
  std::sort(files.begin(), files.end());
  return absl::OkStatus();
}

absl::Status AddLabel(const std::string& name, int64_t label, Labels& labels) {
  if (label < 0) return absl::InvalidArgumentError(absl::StrCat("label ", label, " of ", Quoted(name), " is negative"));
  if (!labels.emplace(name, label).second)
    return absl::InvalidArgumentError(absl::StrCat(Quoted(name), " is listed twice"));
  return absl::OkStatus();
}

// {"name": 3, ...}
absl::StatusOr<Labels> ParseJsonLabels(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object of name to label");
  Labels labels;
  for (const auto& [name, value] : json.items()) {
    if (!value.is_number_integer())
      return absl::InvalidArgumentError(absl::StrCat("the label of ", Quoted(name), " is not an integer"));
    RETURN_IF_ERROR(AddLabel(name, value.get<int64_t>(), labels));
  }
  return labels;
}

// One "name label" per line; the label is what follows the last space or tab.
absl::StatusOr<Labels> ParseTextLabels(std::string_view text) {
  Labels labels;
  int64_t line_number = 0;
  while (!text.empty()) {
    ++line_number;
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string line(absl::StripAsciiWhitespace(AbslView(text.substr(0, end))));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    const size_t gap = line.find_last_of(" \t");
    int64_t label = 0;
    if (gap == std::string::npos || !absl::SimpleAtoi(line.substr(gap + 1), &label)) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line_number, " is ", Quoted(line), "; want a file name and a label"));
    }
    const std::string name(absl::StripAsciiWhitespace(line.substr(0, gap)));
    RETURN_IF_ERROR(AddLabel(name, label, labels));
  }
  return labels;
}

absl::StatusOr<std::optional<Labels>> ReadLabelFile(const fs::path& folder) {
  for (const char* name : {"labels.json", "labels.txt"}) {
    if (!fs::exists(folder / name)) continue;
    ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(folder / name));
    if (file->text().size() > kMaxLabelBytes)
      return absl::InvalidArgumentError(absl::StrCat(name, " is over ", kMaxLabelBytes, " bytes"));
    absl::StatusOr<Labels> labels =
        std::string_view(name).ends_with("json") ? ParseJsonLabels(file->text()) : ParseTextLabels(file->text());
    if (!labels.ok()) return absl::Status(labels.status().code(), absl::StrCat(name, ": ", labels.status().message()));
    return std::optional(*std::move(labels));
  }
  return std::optional<Labels>();
}

// By relative path, by file name, by sub-folder.
std::optional<int64_t> Lookup(const Labels& labels, const std::string& file) {
  const fs::path path(file);
  for (const std::string& key : {file, path.filename().string(), path.parent_path().string()}) {
    if (const auto it = labels.find(key); it != labels.end()) return it->second;
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<ImageFolder> FindImages(const fs::path& folder) {
  ImageFolder out;
  RETURN_IF_ERROR(ListImages(folder, "", out.files));
  std::vector<std::string> classes;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_directory(error)) classes.push_back(it->path().filename().string());
  }
  if (error) return absl::ErrnoToStatus(error.value(), "cannot list the dataset");
  std::sort(classes.begin(), classes.end());
  ASSIGN_OR_RETURN(const std::optional<Labels> named, ReadLabelFile(folder));

  if (!classes.empty()) {
    if (!out.files.empty()) {
      return absl::InvalidArgumentError("images both in the dataset's folder and in sub-folders: use one or the other");
    }
    std::vector<std::vector<std::string>> by_class(classes.size());
    size_t most = 0;
    for (size_t c = 0; c < classes.size(); ++c) {
      RETURN_IF_ERROR(ListImages(folder / classes[c], classes[c] + "/", by_class[c]));
      most = std::max(most, by_class[c].size());
    }
    for (size_t i = 0; i < most; ++i) {
      for (size_t c = 0; c < classes.size(); ++c) {
        if (i >= by_class[c].size()) continue;
        out.files.push_back(by_class[c][i]);
        out.labels.push_back(static_cast<int64_t>(c));
      }
    }
  }
  if (named.has_value()) {
    out.labels.clear();
    for (const std::string& file : out.files) {
      const std::optional<int64_t> label = Lookup(*named, file);
      if (!label.has_value())
        return absl::InvalidArgumentError(absl::StrCat("no label for image ", Quoted(file), " in the label file"));
      out.labels.push_back(*label);
    }
  }
  return out;
}

}  // namespace quant
