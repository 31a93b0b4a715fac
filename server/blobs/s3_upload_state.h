// SPDX-License-Identifier: Apache-2.0
// How far an upload to S3 is, as the text of an object; see s3_blob_store.h.
#ifndef QUANT_SERVER_BLOBS_S3_UPLOAD_STATE_H_
#define QUANT_SERVER_BLOBS_S3_UPLOAD_STATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/blobs/blob_store.h"
#include "server/blobs/s3_client.h"

namespace quant {

// "sha256/ab/<hash>", "uploads/<upload_id>-<hash>".
std::string S3BlobKey(std::string_view sha256);
std::string S3UploadKey(std::string_view upload_id, std::string_view sha256);

struct S3UploadState {
  std::string multipart_id;  // empty while no part was sent
  int64_t part_bytes = 0;    // size of each part but the last
  int64_t parts = 0;         // sent, all of that size
  std::string hash;          // ResumableSha256::Save after all bytes
  std::string tail;          // the bytes after the parts, fewer than part_bytes

  int64_t committed() const { return parts * part_bytes + static_cast<int64_t>(tail.size()); }

  // "quant-upload 1 <part_bytes> <parts> <tail size> <hash> <multipart_id or ->\n", then the tail.
  std::string Encode() const;
  // Nothing if `text` is not what Encode made.
  static std::optional<S3UploadState> Decode(std::string_view text);
};

// The state of an upload and its parts as S3 confirms them. Nothing when there is none, or S3 does not have its parts.
struct S3ConfirmedUpload {
  S3UploadState state;
  std::vector<S3Client::Part> parts;
};
absl::StatusOr<std::optional<S3ConfirmedUpload>> LoadS3Upload(S3Client* s3, const std::string& upload_key,
                                                              const BlobId& blob);

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_S3_UPLOAD_STATE_H_
