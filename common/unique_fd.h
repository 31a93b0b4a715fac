// SPDX-License-Identifier: Apache-2.0
// UniqueFd: owns a file descriptor and closes it. Thread-compatible.
#ifndef QUANT_COMMON_UNIQUE_FD_H_
#define QUANT_COMMON_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace quant {

class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes ownership; a negative value means "none".
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  // Errors of close are lost: fsync first where they matter.
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives up ownership.
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace quant

#endif  // QUANT_COMMON_UNIQUE_FD_H_
