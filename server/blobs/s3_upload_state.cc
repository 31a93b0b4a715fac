// SPDX-License-Identifier: Apache-2.0
#include "server/blobs/s3_upload_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/sha256_state.h"

namespace quant {
namespace {
constexpr int64_t kLargestPart = int64_t{5} << 30;  // S3's limit
constexpr int64_t kMostParts = 10'000;              // too
}  // namespace

std::string S3BlobKey(std::string_view sha256) {
  return absl::StrCat("sha256/", AbslView(sha256.substr(0, 2)), "/", AbslView(sha256));
}
std::string S3UploadKey(std::string_view upload_id, std::string_view sha256) {
  return absl::StrCat("uploads/", AbslView(upload_id), "-", AbslView(sha256));
}

std::string S3UploadState::Encode() const {
  return absl::StrCat("quant-upload 1 ", part_bytes, " ", parts, " ", tail.size(), " ", hash, " ",
                      multipart_id.empty() ? "-" : multipart_id, "\n", tail);
}

std::optional<S3UploadState> S3UploadState::Decode(std::string_view text) {
  const size_t line_end = text.find('\n');
  if (line_end == std::string_view::npos) return std::nullopt;
  const std::vector<std::string> words = absl::StrSplit(AbslView(text.substr(0, line_end)), ' ');
  S3UploadState state;
  size_t tail_size = 0;
  if (words.size() != 7 || words[0] != "quant-upload" || words[1] != "1" ||
      !absl::SimpleAtoi(words[2], &state.part_bytes) || !absl::SimpleAtoi(words[3], &state.parts) ||
      !absl::SimpleAtoi(words[4], &tail_size)) {
    return std::nullopt;
  }
  state.hash = words[5];
  state.multipart_id = words[6] == "-" ? "" : words[6];
  state.tail = std::string(text.substr(line_end + 1));
  const bool sane = state.part_bytes > 0 && state.part_bytes <= kLargestPart && state.parts >= 0 &&
                    state.parts <= kMostParts && state.tail.size() == tail_size &&
                    static_cast<int64_t>(tail_size) <= state.part_bytes &&
                    (state.parts > 0) <= !state.multipart_id.empty() &&
                    ResumableSha256::Restore(state.hash, state.committed()).has_value();
  if (!sane) return std::nullopt;
  return state;
}

absl::StatusOr<std::optional<S3ConfirmedUpload>> LoadS3Upload(S3Client* s3, const std::string& upload_key,
                                                              const BlobId& blob) {
  const auto text = s3->Get(upload_key);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  RETURN_IF_ERROR(text.status());
  std::optional<S3UploadState> state = S3UploadState::Decode(*text);
  if (!state.has_value() || state->committed() > blob.size_bytes) return std::nullopt;
  std::vector<S3Client::Part> parts;
  if (!state->multipart_id.empty()) {
    auto listed = s3->ListParts(S3BlobKey(blob.sha256), state->multipart_id);
    if (absl::IsNotFound(listed.status())) return std::nullopt;  // completed, or aborted
    RETURN_IF_ERROR(listed.status());
    parts = *std::move(listed);
  }
  // More may have been sent after the state was written; the next stream replaces them.
  const auto count = static_cast<size_t>(state->parts);
  if (parts.size() < count) return std::nullopt;
  parts.resize(count);
  for (size_t i = 0; i < count; ++i) {
    if (parts[i].number != static_cast<int>(i + 1) || parts[i].size != state->part_bytes) return std::nullopt;
  }
  return S3ConfirmedUpload{*std::move(state), std::move(parts)};
}

}  // namespace quant
