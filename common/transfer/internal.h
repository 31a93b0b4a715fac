// SPDX-License-Identifier: Apache-2.0
// What upload.cc and download.cc share; not for others.
#ifndef QUANT_COMMON_TRANSFER_INTERNAL_H_
#define QUANT_COMMON_TRANSFER_INTERNAL_H_

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

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

// Whether to stop: the caller's wish, or an error of another file.
using StopFn = std::function<bool()>;
// How far one file is: bytes done, bytes of these that were there already, and a note as in TransferProgress.
using TellFn = std::function<void(int64_t done, int64_t skipped, std::string note)>;
// Moves one file.
using MoveFn = std::function<absl::Status(const LocalFile& file, const StopFn& stop, const TellFn& tell)>;

// Moves all files, options.parallel at a time, and adds up their progress. The first error stops the others and is
// returned. (move.cc)
absl::Status MoveAll(const std::vector<LocalFile>& files, const TransferOptions& options,
                     const TransferProgressFn& progress, const MoveFn& move);

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
