// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/child_output.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace quant {

void OutputTail::Append(std::string_view bytes) {
  if (bytes.size() > capacity_) bytes.remove_prefix(bytes.size() - capacity_);
  bytes_ += bytes;
  if (bytes_.size() > 2 * capacity_) bytes_.erase(0, bytes_.size() - capacity_);
}

std::string_view OutputTail::Get() const {
  std::string_view all = bytes_;
  if (all.size() > capacity_) all.remove_prefix(all.size() - capacity_);
  return all;
}

absl::Status FrameSplitter::Append(std::string_view bytes, const std::function<absl::Status(std::string_view)>& frame) {
  pending_ += bytes;
  size_t at = 0;
  while (pending_.size() - at >= 4) {
    uint32_t length = 0;
    for (size_t i = 0; i < 4; ++i) {
      length |= static_cast<uint32_t>(static_cast<unsigned char>(pending_[at + i])) << (8 * i);
    }
    if (length > kMaxFrameBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a progress frame of ", length, " bytes; at most ", kMaxFrameBytes, " are taken"));
    }
    if (pending_.size() - at - 4 < length) break;
    RETURN_IF_ERROR(frame(std::string_view(pending_).substr(at + 4, length)));
    at += 4 + length;
  }
  pending_.erase(0, at);
  return absl::OkStatus();
}

}  // namespace quant
