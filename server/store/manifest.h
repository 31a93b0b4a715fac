// SPDX-License-Identifier: Apache-2.0
// Manifests: the sets of files that make a model or a dataset. Rules of paths and names, the digest, the format.
#ifndef QUANT_SERVER_STORE_MANIFEST_H_
#define QUANT_SERVER_STORE_MANIFEST_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/v1/artifacts.pb.h"

namespace quant {

// A path is relative, UTF-8, 1 to 512 bytes, with "/" between parts of 1 to 255 bytes; no part is "." or "..", no
// backslash, no control character (U+0000..1F, U+007F..9F).  INVALID_ARGUMENT says which rule is broken.
absl::Status CheckPath(std::string_view path);

// An artifact's name: UTF-8, at most 128 bytes, no control character; may be empty.
absl::Status CheckName(std::string_view name);

// How long an artifact is kept: 1 second to 100 years.  INVALID_ARGUMENT.
absl::StatusOr<absl::Duration> CheckTtl(const google::protobuf::Duration& ttl);

// Checks a whole manifest and sorts it by path (bytewise): 1 to 10,000 files of at most 3 MiB in encoded form, each
// with a good path and digest; no path twice, and none that is a folder of another.  INVALID_ARGUMENT.
absl::Status CheckAndSortManifest(std::vector<v1::File>* files);

// SHA-256 over "<sha256> <size> <path>\n" of each file, in the order given (sorted by path).
std::string ManifestDigest(const std::vector<v1::File>& files);

// The kind of checkpoint, told from names alone: config.json and *.safetensors at the top are Hugging Face; else any
// *.onnx is ONNX; else a single *.gguf is GGUF; else UNSPECIFIED.
v1::ModelFormat DetectModelFormat(const std::vector<v1::File>& files);

}  // namespace quant

#endif  // QUANT_SERVER_STORE_MANIFEST_H_
