// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/text.h"

#include "absl/strings/str_cat.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr size_t kMaxPathBytes = 512;
constexpr size_t kMaxPartBytes = 255;  // NAME_MAX of Linux file systems

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// Length of the UTF-8 character at the start of `s`; 0 when there is none.
size_t CharacterLength(std::string_view s) {
  for (size_t n = 1; n <= 4 && n <= s.size(); ++n) {
    if (IsValidUtf8(s.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

std::string CleanText(std::string_view text, size_t max_bytes, Keep keep) {
  if (keep == Keep::kTail && text.size() > max_bytes) text.remove_prefix(text.size() - max_bytes);
  std::string out;
  while (!text.empty()) {
    const size_t n = CharacterLength(text);
    const bool bad = n == 0 || (n == 1 && IsControl(text[0]) && text[0] != '\n' && text[0] != '\t');
    const std::string_view piece = bad ? std::string_view("?") : text.substr(0, n);
    if (out.size() + piece.size() > max_bytes) break;
    out += piece;
    text.remove_prefix(n == 0 ? 1 : n);
  }
  return out;
}

absl::Status CheckManifestPath(std::string_view path) {
  const auto bad = [&](std::string_view rule) {
    return absl::InvalidArgumentError(
        absl::StrCat("file path ", Quoted(path), " of the manifest ", AbslView(rule), ": it is not used"));
  };
  if (path.empty()) return bad("is empty");
  if (path.size() > kMaxPathBytes) return bad("is longer than 512 bytes");
  if (!IsValidUtf8(path)) return bad("is not UTF-8");
  for (char c : path) {
    if (IsControl(c)) return bad("has a control character");
    if (c == '\\') return bad("has a backslash");
  }
  if (path.front() == '/') return bad("is absolute");
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty()) return bad("has an empty part");
    if (part == "." || part == "..") return bad("has a part \".\" or \"..\"");
    if (part.size() > kMaxPartBytes) return bad("has a part longer than 255 bytes");
    if (slash == std::string_view::npos) return absl::OkStatus();
    path.remove_prefix(slash + 1);
  }
}

}  // namespace quant
