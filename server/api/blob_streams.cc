// SPDX-License-Identifier: Apache-2.0
#include "server/api/blob_streams.h"

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {

absl::StatusOr<bool> IsThereFor(const Principal& caller, const BlobStreams& streams, const BlobId& blob) {
  RETURN_IF_ERROR(CheckBlobId(blob));
  ASSIGN_OR_RETURN(const bool held, streams.artifacts->HoldsBlob(caller, blob.sha256));
  if (!held) return false;
  return streams.blobs->Touch(blob);
}

std::string StoredUploadId(const Principal& caller, std::string_view upload_id) {
  const char* const owner = caller.role == Role::kWorker ? "worker" : "tenant";
  return Sha256Hex(absl::StrCat(owner, "/", caller.tenant, "/", AbslView(upload_id)));
}

absl::Status TooBusy(std::string_view why) {
  return WithReason(absl::UnavailableError(absl::StrCat("too many ", AbslView(why), "; try again")), "SERVER_BUSY", {},
                    absl::Seconds(1));
}

absl::Status Stopping() {
  return WithReason(absl::UnavailableError("the server is stopping; go on with another or when it is back"),
                    "SERVER_STOPPING", {}, absl::Seconds(1));
}

absl::Status Admit(const absl::StatusOr<Principal>& caller, const BlobStreams& streams, const StreamSlot& slot) {
  if (!caller.ok()) return caller.status();
  if (streams.stopping) return Stopping();
  if (!slot.admitted()) return TooBusy("streams are open");
  return absl::OkStatus();
}

}  // namespace quant
