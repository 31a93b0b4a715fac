// SPDX-License-Identifier: Apache-2.0
// System calls of the blob store as Status: errno becomes a code, ENOSPC and EDQUOT become RESOURCE_EXHAUSTED with the
// reason DISK_FULL, and the message names the file.
#ifndef QUANT_SERVER_BLOBS_FILE_IO_H_
#define QUANT_SERVER_BLOBS_FILE_IO_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/unique_fd.h"

namespace quant {

// The status of errno value `error` met while `doing` ("write", "open", …) `path`. I/O errors are UNAVAILABLE.
absl::Status FileError(int error, std::string_view doing, const std::filesystem::path& path);

// open(2) with O_CLOEXEC and O_NOFOLLOW.
absl::StatusOr<UniqueFd> OpenFile(const std::filesystem::path& path, int flags, unsigned mode = 0600);
// Writes all of the pieces, the first at `offset`.
absl::Status WriteAt(int fd, absl::Span<const std::string_view> pieces, int64_t offset,
                     const std::filesystem::path& path);
// Reads up to `size` bytes at `offset`; fewer only at the end of the file.
absl::StatusOr<std::string> ReadAt(int fd, int64_t size, int64_t offset, const std::filesystem::path& path);
absl::Status SyncFile(int fd, const std::filesystem::path& path);
// Makes renames and removals in `folder` durable.
absl::Status SyncFolder(const std::filesystem::path& folder);
// Makes the folder and its parents, durably; one that is there is fine.
absl::Status MakeFolder(const std::filesystem::path& folder);
absl::StatusOr<int64_t> FreeBytes(const std::filesystem::path& folder);

}  // namespace quant

#endif  // QUANT_SERVER_BLOBS_FILE_IO_H_
