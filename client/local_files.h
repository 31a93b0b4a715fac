// SPDX-License-Identifier: Apache-2.0
// The local side of models and datasets: which files of a path are uploaded, and where a download may write.
#ifndef QUANT_CLIENT_LOCAL_FILES_H_
#define QUANT_CLIENT_LOCAL_FILES_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/transfer/transfer.h"

namespace quant {

struct UploadFile {
  std::string path;  // in the manifest: relative, "/" between parts, UTF-8
  LocalFile local;   // digest empty until HashFiles
};

struct FileSet {
  std::vector<UploadFile> files;     // sorted by path, bytewise
  std::vector<std::string> skipped;  // "NAME: why", for the user
  int64_t size_bytes = 0;            // as seen by the walk
};

// The files of a path. A file: itself, alone. A folder: every regular file in it and below, but no hidden ones (".git")
// and no special ones; these are listed as skipped. A link inside the folder counts as the file it leads to when that
// is inside the folder too.
//   NOT_FOUND and other codes: the path cannot be read.
//   INVALID_ARGUMENT: no files; more than 10,000; a path that is not IsSafeManifestPath; a link that leads out of the
//   folder or to
//     another folder (the message says how to copy what it means).
absl::StatusOr<FileSet> FindFiles(const std::filesystem::path& path);

// Hashes every file. `progress` gets bytes done so far; returning false from it ends with CANCELLED.
absl::Status HashFiles(FileSet& set, const std::function<bool(int64_t done)>& progress);

// True for a path that a manifest may have: relative, no empty, "." or ".." part, no backslash, no control character,
// UTF-8, at most 512 bytes.
bool IsSafeManifestPath(std::string_view path);

// Where the file `path` of a manifest goes below `root`, an existing folder: makes the folders on the way. Paths are
// taken as hostile.
//   INVALID_ARGUMENT: not IsSafeManifestPath.
//   FAILED_PRECONDITION: a part on the way exists and is no real folder (a link could lead out of root), or the last
//     part is a folder.
absl::StatusOr<std::filesystem::path> PlaceBelow(const std::filesystem::path& root, std::string_view path);

}  // namespace quant

#endif  // QUANT_CLIENT_LOCAL_FILES_H_
