// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a tokenizer.json. Internal to formats/tokenizer.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_JSON_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_JSON_H_

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::tokenizer {

// Errors as Tokenizer::Load.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerJson(const std::filesystem::path& folder);

// From GPT-2's own two files, vocab.json and merges.txt (one pair a line, "#version" in front): byte-level BPE whose
// added tokens are those named in tokenizer_config.json and special_tokens_map.json, and those of added_tokens.json.
// Errors as Tokenizer::Load; they speak of the tokenizer.json that these files amount to.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadVocabAndMerges(const std::filesystem::path& folder);

// The tokenizer that `json`, the content of a tokenizer.json, describes; `folder` has the files beside it.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const nlohmann::json& json,
                                                         const std::filesystem::path& folder);

// tokenizer_config.json and special_tokens_map.json: those that are there, in this order.
absl::StatusOr<std::vector<nlohmann::json>> ReadTokenizerConfigs(const std::filesystem::path& folder);

// The token that `config` names under `key`: a string or an object with "content"; "" when absent, null or empty.
// INVALID_ARGUMENT naming the key otherwise.
absl::StatusOr<std::string> NamedToken(const nlohmann::json& config, const char* key);

}  // namespace quant::tokenizer

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_JSON_H_
