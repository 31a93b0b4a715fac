// SPDX-License-Identifier: Apache-2.0
#include "client/local_files.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "common/strings.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostFiles = 10'000;  // the server's limit of a manifest
constexpr size_t kLongestPath = 512;

absl::Status PathError(const std::error_code& error, std::string_view what, const fs::path& path) {
  return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot ", AbslView(what), " ", path.string()));
}

// The server would refuse such a name, but only after everything was sent.
absl::Status CheckName(const std::string& name) {
  if (IsSafeManifestPath(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the path ", Quoted(name), name.size() > kLongestPath ? absl::StrCat(" of ", name.size(), " bytes") : "",
      " cannot be in a manifest: at most ", kLongestPath,
      " bytes of UTF-8 without control characters and backslashes; rename it"));
}

bool IsBelow(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

// What a link in the folder `root` (canonical) stands for.
absl::Status CheckLink(const fs::path& link, const fs::path& root) {
  const std::string remedy =
      absl::StrCat(": copy the folder with its links resolved (cp -rL ", root.string(), " COPY) and upload that");
  std::error_code error;
  const fs::path target = fs::canonical(link, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(link.string(), " is a link that leads nowhere: remove it"));
  if (!IsBelow(target, root))
    return absl::InvalidArgumentError(
        absl::StrCat(link.string(), " is a link to ", target.string(), ", outside the folder", remedy));
  if (!fs::is_regular_file(target, error)) {
    return absl::InvalidArgumentError(absl::StrCat(link.string(), " is a link to something that is no file", remedy));
  }
  return absl::OkStatus();
}

absl::StatusOr<FileSet> WalkFolder(const fs::path& path) {
  std::error_code error;
  const fs::path root = fs::canonical(path, error);
  if (error) return PathError(error, "read", path);
  FileSet set;
  std::vector<fs::path> folders = {root};
  while (!folders.empty()) {
    const fs::path folder = std::move(folders.back());
    folders.pop_back();
    fs::directory_iterator it(folder, error), end;
    for (; !error && it != end; it.increment(error)) {
      const fs::path entry = it->path();
      const std::string name = entry.lexically_relative(root).generic_string();
      if (entry.filename().string().front() == '.') {
        set.skipped.push_back(absl::StrCat(name, ": hidden"));
        continue;
      }
      if (absl::Status named = CheckName(name); !named.ok()) return named;
      const fs::file_status status = it->symlink_status(error);
      if (error) return PathError(error, "read", entry);
      if (fs::is_directory(status)) {
        folders.push_back(entry);
        continue;
      }
      if (fs::is_symlink(status)) {
        if (absl::Status link = CheckLink(entry, root); !link.ok()) return link;
      } else if (!fs::is_regular_file(status)) {
        set.skipped.push_back(absl::StrCat(name, ": not a regular file"));
        continue;
      }
      const auto size = fs::file_size(entry, error);
      if (error) return PathError(error, "read", entry);
      if (set.files.size() == kMostFiles) {
        return absl::InvalidArgumentError(absl::StrCat(root.string(), " has more than ", kMostFiles,
                                                       " files, the limit: upload a folder with only what is needed"));
      }
      set.files.push_back({name, {entry, {"", static_cast<int64_t>(size)}}});
    }
    if (error) return PathError(error, "read", folder);
  }
  return set;
}

}  // namespace

absl::StatusOr<FileSet> FindFiles(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat("no such file or folder: ", path.string()));
  FileSet set;
  if (fs::is_directory(status)) {
    absl::StatusOr<FileSet> walked = WalkFolder(path);
    if (!walked.ok()) return walked;
    set = *std::move(walked);
  } else if (fs::is_regular_file(status)) {
    const auto size = fs::file_size(path, error);
    if (error) return PathError(error, "read", path);
    const std::string name = path.filename().string();
    if (absl::Status named = CheckName(name); !named.ok()) return named;
    set.files.push_back({name, {path, {"", static_cast<int64_t>(size)}}});
  } else {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is neither a file nor a folder"));
  }
  if (set.files.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " has no files", set.skipped.empty() ? "" : " that are not hidden"));
  }
  std::sort(set.files.begin(), set.files.end(),
            [](const UploadFile& a, const UploadFile& b) { return a.path < b.path; });
  for (const UploadFile& file : set.files) set.size_bytes += file.local.digest.size_bytes;
  return set;
}

absl::Status HashFiles(FileSet& set, const std::function<bool(int64_t)>& progress) {
  std::string buffer(size_t{1} << 20, '\0');
  int64_t done = 0;
  for (UploadFile& file : set.files) {
    std::ifstream in(file.local.path, std::ios::binary);
    if (!in) return PathError(std::error_code(errno, std::generic_category()), "read", file.local.path);
    Sha256 hash;
    int64_t size = 0;
    while (in) {
      in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
      const auto count = in.gcount();
      hash.Update(std::string_view(buffer.data(), static_cast<size_t>(count)));
      size += count;
      if (progress && !progress(done + size)) return absl::CancelledError("stopped");
    }
    if (!in.eof()) return absl::DataLossError(absl::StrCat("reading ", file.local.path.string(), " failed"));
    file.local.digest = {hash.Finish(), size};
    done += size;
  }
  return absl::OkStatus();
}

bool IsSafeManifestPath(std::string_view path) {
  if (path.empty() || path.size() > kLongestPath || !IsValidUtf8(path)) return false;
  for (char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F || c == '\\') return false;
  }
  for (absl::string_view part : absl::StrSplit(AbslView(path), '/')) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

absl::StatusOr<fs::path> PlaceBelow(const fs::path& root, std::string_view path) {
  if (!IsSafeManifestPath(path)) {
    return absl::InvalidArgumentError(absl::StrCat("the server names a file ", Quoted(path),
                                                   ", which could lie outside ", root.string(), ": not written"));
  }
  const std::vector<std::string> parts = absl::StrSplit(AbslView(path), '/');
  fs::path at = root;
  std::error_code error;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    at /= parts[i];
    fs::create_directory(at, error);  // an error shows below: then it is no folder
    const fs::file_status status = fs::symlink_status(at, error);
    if (fs::exists(status) && !fs::is_directory(status)) {
      return absl::FailedPreconditionError(absl::StrCat(at.string(), " is in the way: it must be a folder (no link)"));
    }
    if (!fs::exists(status)) return absl::PermissionDeniedError(absl::StrCat("cannot make the folder ", at.string()));
  }
  at /= parts.back();
  if (fs::is_directory(fs::symlink_status(at, error))) {
    return absl::FailedPreconditionError(absl::StrCat(at.string(), " is in the way: it is a folder"));
  }
  return at;
}

}  // namespace quant
