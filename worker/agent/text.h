// SPDX-License-Identifier: Apache-2.0
// Text and paths that come from outside: from the child process, or from a manifest.
#ifndef QUANT_WORKER_AGENT_TEXT_H_
#define QUANT_WORKER_AGENT_TEXT_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace quant {

enum class Keep { kHead, kTail };

// `text` made fit for a proto string and a log: bytes that are not UTF-8 and control characters other than newline and
// tab become '?', and only the first or last `max_bytes` bytes are kept, never cutting a character in two.
std::string CleanText(std::string_view text, size_t max_bytes, Keep keep);

// Whether `path` of a manifest may be joined to a folder of ours: relative, 1 to 512 bytes of UTF-8 in parts of at most
// 255 bytes, none of them empty, "." or "..", no backslash, no control character.
//   INVALID_ARGUMENT: names the path and the rule it breaks.
absl::Status CheckManifestPath(std::string_view path);

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_TEXT_H_
