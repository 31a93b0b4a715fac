// SPDX-License-Identifier: Apache-2.0
// FileWatch: notices within a second that a file was changed or replaced, without a thread: whoever uses what was read
// from the file asks first.
#ifndef QUANT_SERVER_AUTH_FILE_WATCH_H_
#define QUANT_SERVER_AUTH_FILE_WATCH_H_

#include <sys/stat.h>

#include <filesystem>
#include <utility>

#include "absl/time/time.h"

namespace quant {

// Thread-compatible.
class FileWatch {
 public:
  explicit FileWatch(std::filesystem::path file) : file_(std::move(file)) {}

  const std::filesystem::path& file() const { return file_; }

  // True when the file is to be read: it is not as it was at the last Accept. Looks at most once a second.
  bool Changed(absl::Time now) {
    if (now - looked_ < absl::Seconds(1) && now >= looked_) return false;
    looked_ = now;
    seen_ = {};
    ::stat(file_.c_str(), &seen_);  // before the reading: a change during it is noticed the next time
    return !Same(seen_, accepted_);
  }
  // What Changed saw was read and is good.
  void Accept() { accepted_ = seen_; }

 private:
  static bool Same(const struct stat& a, const struct stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
           a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec &&
           a.st_ctim.tv_sec == b.st_ctim.tv_sec && a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
  }

  const std::filesystem::path file_;
  struct stat seen_ = {};
  struct stat accepted_ = {};
  absl::Time looked_ = absl::InfinitePast();
};

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_FILE_WATCH_H_
