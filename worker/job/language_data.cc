// SPDX-License-Identifier: Apache-2.0
#include "worker/job/language_data.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/formats/dataset/text.h"
#include "worker/formats/tokenizer/tokenizer.h"
#include "worker/job/job_error.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using Windows = std::vector<std::vector<int32_t>>;

absl::StatusOr<Windows> ReadWindows(const fs::path& folder, const Tokenizer* tokenizer, int64_t vocab_size,
                                    int64_t length) {
  absl::StatusOr<TokenDataset> dataset = OpenTokenDataset(folder, tokenizer, vocab_size);
  if (!dataset.ok()) return WithJobReason(dataset.status(), "DATA_MISMATCH");
  absl::StatusOr<Windows> windows = MakeWindows(*dataset, {.length = length});
  if (!windows.ok()) return WithJobReason(windows.status(), "DATA_MISMATCH");
  return windows;
}

// Windows [skip, skip + count), count 0 meaning all that are left.
absl::StatusOr<Windows> Part(Windows windows, int64_t skip, int64_t count, const char* what) {
  const int64_t have = static_cast<int64_t>(windows.size());
  if (skip >= have) {
    return WithJobReason(
        absl::InvalidArgumentError(absl::StrCat("the ", what, " data has ", have, " windows of tokens and ", skip,
                                                " are skipped: nothing is left")),
        "DATA_MISMATCH");
  }
  const int64_t end = count > 0 ? std::min(have, skip + count) : have;
  return Windows(std::make_move_iterator(windows.begin() + skip), std::make_move_iterator(windows.begin() + end));
}

}  // namespace

absl::StatusOr<LanguageData> LoadLanguageData(const quant::v1::Lease& lease, const fs::path& inputs,
                                              const quant::v1::Recipe& recipe, int64_t vocab_size) {
  LanguageData data;
  if (!lease.has_calibration_dataset() && !lease.has_evaluation_dataset()) return data;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(inputs / "model");
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status()))
    return WithJobReason(tokenizer.status(), "MODEL_INVALID");
  const Tokenizer* reader = tokenizer.ok() ? tokenizer->get() : nullptr;
  if (reader != nullptr && reader->vocab_size() > vocab_size) {
    data.notes.push_back(absl::StrCat("the tokenizer knows ", reader->vocab_size(), " tokens, the model ", vocab_size,
                                      ": text with the tokens beyond is refused"));
  }
  const int64_t length = recipe.calibration().sequence_length();
  Windows calibration;
  if (lease.has_calibration_dataset()) {
    ASSIGN_OR_RETURN(calibration, ReadWindows(inputs / "calibration", reader, vocab_size, length));
  }
  const int64_t used = std::min(recipe.calibration().samples(), static_cast<int64_t>(calibration.size()));
  const quant::v1::Evaluation& e = recipe.evaluation();
  if (lease.has_evaluation_dataset()) {
    ASSIGN_OR_RETURN(Windows windows, ReadWindows(inputs / "evaluation", reader, vocab_size, length));
    const bool same =
        lease.has_calibration_dataset() && lease.evaluation_dataset().digest() == lease.calibration_dataset().digest();
    const int64_t skip = same && e.skip() == 0 && used < static_cast<int64_t>(windows.size()) ? used : e.skip();
    if (skip != e.skip())
      data.notes.push_back(absl::StrCat("evaluated on the windows after the ", used, " used for calibration"));
    if (same && skip < used)
      data.notes.push_back("calibration and evaluation used the same text: the figures are a little flattering");
    ASSIGN_OR_RETURN(data.evaluation, Part(std::move(windows), skip, e.samples(), "evaluation"));
  } else if (static_cast<int64_t>(calibration.size()) > used) {
    ASSIGN_OR_RETURN(data.evaluation, Part(calibration, std::max(used, e.skip()), e.samples(), "calibration"));
    data.notes.push_back(absl::StrCat("evaluated on the windows after the ", used, " used for calibration"));
  } else {
    data.notes.push_back("no text was left to evaluate on: give --evaluation");
  }
  calibration.resize(static_cast<size_t>(used));
  data.calibration = std::move(calibration);
  return data;
}

}  // namespace quant
