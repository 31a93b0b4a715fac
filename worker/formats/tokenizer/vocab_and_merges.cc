// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/formats/file/json_file.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/formats/tokenizer/tokenizer_json.h"

namespace quant::tokenizer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
constexpr auto kMaxBytes = static_cast<size_t>(kMaxTokenizerBytes);

absl::StatusOr<Json> ReadMergeLines(const fs::path& file) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> mapped, MappedFile::Open(file));
  std::string_view text = mapped->text();
  if (text.size() > kMaxBytes || !IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("merges.txt is not UTF-8, or has more than ", kMaxBytes, " bytes"));
  }
  Json merges = Json::array();
  for (bool first = true; !text.empty(); first = false) {
    const size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (first && line.starts_with("#version"))) continue;
    merges.push_back(std::string(line));
  }
  return merges;
}

Json AddedToken(const std::string& content, const Json& id, bool special) {
  return {{"id", id}, {"content", content}, {"special", special}, {"normalized", false}};
}

// The added tokens: those of added_tokens.json, and the special ones that the configurations name.
absl::StatusOr<Json> ReadAdded(const fs::path& folder, const std::vector<Json>& configs, const Json& vocab) {
  Json added = Json::array();
  absl::StatusOr<Json> more = ReadJsonObject(folder / "added_tokens.json", kMaxBytes);
  if (absl::IsNotFound(more.status())) more = Json::object();
  RETURN_IF_ERROR(more.status());
  std::set<std::string> special;
  for (const Json& config : configs) {
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
      ASSIGN_OR_RETURN(std::string token, NamedToken(config, key));
      if (!token.empty()) special.insert(std::move(token));
    }
  }
  for (const auto& [token, id] : more->items()) added.push_back(AddedToken(token, id, special.contains(token)));
  for (const std::string& token : special) {
    if (vocab.contains(token)) added.push_back(AddedToken(token, vocab[token], true));
  }
  return added;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadVocabAndMerges(const fs::path& folder) {
  ASSIGN_OR_RETURN(Json vocab, ReadJsonObject(folder / "vocab.json", kMaxBytes));
  ASSIGN_OR_RETURN(Json merges, ReadMergeLines(folder / "merges.txt"));
  ASSIGN_OR_RETURN(const std::vector<Json> configs, ReadTokenizerConfigs(folder));
  ASSIGN_OR_RETURN(Json added, ReadAdded(folder, configs, vocab));
  bool add_prefix_space = false;
  for (const Json& config : configs) {
    const auto value = config.find("add_prefix_space");
    if (value != config.end() && value->is_boolean()) add_prefix_space = value->get<bool>();
  }
  const Json json = {{"added_tokens", std::move(added)},
                     {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}}},
                     {"decoder", {{"type", "ByteLevel"}}},
                     {"model", {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}}}};
  return MakeTokenizer(json, folder);
}

}  // namespace quant::tokenizer
