// SPDX-License-Identifier: Apache-2.0
// What a child process sends up: the tail of its stdout and stderr, and its progress frames. Both are hostile input.
#ifndef QUANT_WORKER_AGENT_CHILD_OUTPUT_H_
#define QUANT_WORKER_AGENT_CHILD_OUTPUT_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace quant {

// Keeps the last `capacity` bytes of a stream in bounded memory. Thread-compatible.
class OutputTail {
 public:
  explicit OutputTail(size_t capacity) : capacity_(capacity) {}
  void Append(std::string_view bytes);
  // The newest bytes, at most `capacity`.
  std::string_view Get() const;

 private:
  const size_t capacity_;
  std::string bytes_;  // at most twice the capacity
};

// Splits a byte stream into frames: u32 little-endian length, then that many bytes. Thread-compatible.
class FrameSplitter {
 public:
  // The longest payload taken. A Progress has at most a few hundred bytes.
  static constexpr size_t kMaxFrameBytes = 64 * 1024;

  // Calls `frame` with each payload that `bytes` completes; the view is valid during the call.
  //   INVALID_ARGUMENT: a frame longer than kMaxFrameBytes was announced; nothing may be appended after that.
  //   Others: from `frame`.
  absl::Status Append(std::string_view bytes, const std::function<absl::Status(std::string_view payload)>& frame);

 private:
  std::string pending_;  // the start of a frame, less than 4 + kMaxFrameBytes
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_CHILD_OUTPUT_H_
