// SPDX-License-Identifier: Apache-2.0
// Hand-made tokenizer folders for tests.
#ifndef QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_TESTING_H_
#define QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_TESTING_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/statusor.h"
#include "worker/formats/testing.h"
#include "worker/formats/tokenizer/tokenizer.h"

namespace quant::testing {

inline absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJson(const nlohmann::json& json) {
  const TempDir folder;
  WriteFile(folder / "tokenizer.json", json.dump());
  return Tokenizer::Load(folder.path());
}

// A tokenizer.json whose model knows whole pieces only: Pieces() then shows what the model was given.
inline nlohmann::json PiecesOnly() {
  return {{"model", {{"type", "WordLevel"}, {"vocab", {{"<unk>", 0}}}, {"unk_token", "<unk>"}}}};
}

// The pieces that `json`'s normalizer and pre-tokenizer cut `text` into: each candidate gets an id of its own, any
// other piece shows as "<unk>".
inline std::vector<std::string> Pieces(nlohmann::json json, std::string_view text,
                                       const std::vector<std::string>& candidates) {
  for (const std::string& c : candidates) {
    nlohmann::json& vocab = json["model"]["vocab"];
    if (!vocab.contains(c)) vocab[c] = vocab.size();
  }
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadJson(json);
  CHECK_OK(tokenizer.status());
  const absl::StatusOr<std::vector<int32_t>> ids = (*tokenizer)->Encode(text, false);
  CHECK_OK(ids.status());
  std::vector<std::string> pieces;
  for (const int32_t id : *ids) pieces.emplace_back((*tokenizer)->token(id));
  return pieces;
}

inline std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text, bool add_special = false) {
  const absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text, add_special);
  CHECK_OK(ids.status());
  return *ids;
}

}  // namespace quant::testing

#endif  // QUANT_WORKER_FORMATS_TOKENIZER_TOKENIZER_TESTING_H_
