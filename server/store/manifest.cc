// SPDX-License-Identifier: Apache-2.0
#include "server/store/manifest.h"

#include <algorithm>
#include <cstddef>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/blobs/blob_store.h"

namespace quant {
namespace {

constexpr absl::Duration kShortestTtl = absl::Seconds(1);
constexpr absl::Duration kLongestTtl = absl::Hours(24 * 36'500);
constexpr size_t kMaxFiles = 10'000;
constexpr size_t kMaxPath = 512;
constexpr size_t kMaxPart = 255;  // NAME_MAX: a worker writes these files
constexpr size_t kMaxName = 128;
constexpr size_t kMaxManifestBytes = size_t{3} << 20;  // so that a message with one fits gRPC's 4 MiB

bool HasControl(std::string_view s) {
  for (size_t i = 0; i < s.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(s[i]);
    if (c < 0x20 || c == 0x7F) return true;
    if (c == 0xC2 && i + 1 < s.size() && static_cast<unsigned char>(s[i + 1]) < 0xA0) return true;  // U+0080..9F
  }
  return false;
}

}  // namespace

absl::Status CheckPath(std::string_view path) {
  const auto error = [&](std::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("file path ", Quoted(path), " ", AbslView(why)));
  };
  if (path.empty()) return error("is empty");
  if (path.size() > kMaxPath) return error(absl::StrCat("has ", path.size(), " bytes; the limit is ", kMaxPath));
  if (!IsValidUtf8(path)) return error("is not UTF-8");
  if (HasControl(path)) return error("has a control character");
  if (path.find('\\') != std::string_view::npos) return error("has a backslash; parts are separated by \"/\"");
  if (path.front() == '/') return error("is absolute; it must be relative to the artifact");
  for (size_t at = 0; at <= path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string_view part = path.substr(at, end - at);
    if (part.empty()) return error("has an empty part");
    if (part == "." || part == "..") return error("has a part \".\" or \"..\"");
    if (part.size() > kMaxPart) return error(absl::StrCat("has a part of more than ", kMaxPart, " bytes"));
    at = end + 1;
  }
  return absl::OkStatus();
}

absl::Status CheckName(std::string_view name) {
  if (name.size() > kMaxName) {
    return absl::InvalidArgumentError(absl::StrCat("name has ", name.size(), " bytes; the limit is ", kMaxName));
  }
  if (!IsValidUtf8(name) || HasControl(name)) {
    return absl::InvalidArgumentError(absl::StrCat("name ", Quoted(name), " has a control character or is not UTF-8"));
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Duration> CheckTtl(const google::protobuf::Duration& ttl) {
  const absl::Duration duration = FromProto(ttl);
  if (duration >= kShortestTtl && duration <= kLongestTtl) return duration;
  return absl::InvalidArgumentError(
      absl::StrCat("ttl is ", absl::FormatDuration(duration), "; it must be from 1 second to 100 years (876000h)"));
}

absl::Status CheckAndSortManifest(std::vector<v1::File>* files) {
  if (files->empty()) return absl::InvalidArgumentError("the manifest has no files");
  if (files->size() > kMaxFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("the manifest has ", files->size(), " files; the limit is ", kMaxFiles));
  }
  size_t bytes = 0;
  for (const v1::File& file : *files) {
    RETURN_IF_ERROR(CheckPath(file.path()));
    RETURN_IF_ERROR(CheckBlobId({file.digest().sha256(), file.digest().size_bytes()}));
    bytes += file.ByteSizeLong() + 4;
  }
  if (bytes > kMaxManifestBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the manifest takes ", bytes, " bytes; the limit is ",
                                                   kMaxManifestBytes, "; use fewer files or shorter paths"));
  }
  std::sort(files->begin(), files->end(), [](const v1::File& a, const v1::File& b) { return a.path() < b.path(); });
  std::set<std::string_view> paths;
  for (const v1::File& file : *files) {
    if (!paths.insert(file.path()).second) {
      return absl::InvalidArgumentError(absl::StrCat("file path ", Quoted(file.path()), " stands twice"));
    }
  }
  for (const v1::File& file : *files) {
    const std::string_view path = file.path();
    for (size_t slash = path.find('/'); slash != std::string_view::npos; slash = path.find('/', slash + 1)) {
      if (paths.contains(path.substr(0, slash))) {
        return absl::InvalidArgumentError(
            absl::StrCat("file path ", Quoted(path.substr(0, slash)), " is also a folder of ", Quoted(path)));
      }
    }
  }
  return absl::OkStatus();
}

std::string ManifestDigest(const std::vector<v1::File>& files) {
  Sha256 hash;
  for (const v1::File& file : files) {
    hash.Update(absl::StrCat(file.digest().sha256(), " ", file.digest().size_bytes(), " ", file.path(), "\n"));
  }
  return hash.Finish();
}

v1::ModelFormat DetectModelFormat(const std::vector<v1::File>& files) {
  bool config = false;
  bool safetensors = false;
  bool onnx = false;
  int gguf = 0;
  for (const v1::File& file : files) {
    const std::string& path = file.path();
    const bool top = path.find('/') == std::string::npos;
    config |= path == "config.json";
    safetensors |= top && absl::EndsWith(path, ".safetensors");
    onnx |= absl::EndsWithIgnoreCase(path, ".onnx");
    gguf += absl::EndsWithIgnoreCase(path, ".gguf") ? 1 : 0;
  }
  if (config && safetensors) return v1::MODEL_FORMAT_HUGGING_FACE;
  if (onnx) return v1::MODEL_FORMAT_ONNX;
  if (gguf == 1) return v1::MODEL_FORMAT_GGUF;
  return v1::MODEL_FORMAT_UNSPECIFIED;
}

}  // namespace quant
