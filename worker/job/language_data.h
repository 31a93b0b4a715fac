// SPDX-License-Identifier: Apache-2.0
// The text of a language model's job as windows of tokens.
#ifndef QUANT_WORKER_JOB_LANGUAGE_DATA_H_
#define QUANT_WORKER_JOB_LANGUAGE_DATA_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/v1/recipe.pb.h"
#include "quant/v1/workers.pb.h"

namespace quant {

struct LanguageData {
  std::vector<std::vector<int32_t>> calibration;  // empty: none given
  std::vector<std::vector<int32_t>> evaluation;   // empty: nothing to evaluate on
  std::vector<std::string> notes;
};

// Reads calibration/ and evaluation/ (text.h) with the tokenizer in model/, cut into windows of the
// recipe's sequence_length. Calibration takes the first `samples`; evaluation leaves out `skip` and takes `samples` (0:
// all). Without evaluation data the windows after those used for calibration serve, where there are any.
// Reasons: DATA_MISMATCH (no tokenizer for text, too short, token outside the vocabulary, ...), MODEL_INVALID (a
// malformed tokenizer).
absl::StatusOr<LanguageData> LoadLanguageData(const quant::v1::Lease& lease, const std::filesystem::path& inputs,
                                              const quant::v1::Recipe& recipe, int64_t vocab_size);

}  // namespace quant

#endif  // QUANT_WORKER_JOB_LANGUAGE_DATA_H_
