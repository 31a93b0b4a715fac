// SPDX-License-Identifier: Apache-2.0
// What upload.cc and download.cc share; not for others.
#ifndef QUANT_COMMON_TRANSFER_INTERNAL_H_
#define QUANT_COMMON_TRANSFER_INTERNAL_H_

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/strings.h"
#include "common/transfer/transfer.h"
#include "grpcpp/client_context.h"
#include "quant/v1/artifacts.pb.h"

namespace quant::transfer_internal {

inline void Prepare(const TransferOptions& options, absl::Duration deadline, grpc::ClientContext& context) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  if (options.prepare) options.prepare(context);
}

inline bool Cancelled(const TransferOptions& options) { return options.retry.cancelled && options.retry.cancelled(); }

inline void Fill(const FileDigest& digest, v1::Digest& message) {
  message.set_sha256(digest.sha256);
  message.set_size_bytes(digest.size_bytes);
}

// "cannot WHAT PATH: strerror", with the code that errno means.
inline absl::Status FileError(int error, std::string_view what, const std::filesystem::path& path) {
  absl::Status status = absl::ErrnoToStatus(error, absl::StrCat("cannot ", AbslView(what), " ", path.string()));
  if (error != ENOSPC && error != EDQUOT) return status;
  return WithReason(absl::ResourceExhaustedError(
                        absl::StrCat("no room to ", AbslView(what), " ", path.string(), ": free space on that disk")),
                    "DISK_FULL");
}

}  // namespace quant::transfer_internal

#endif  // QUANT_COMMON_TRANSFER_INTERNAL_H_
