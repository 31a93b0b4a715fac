// SPDX-License-Identifier: Apache-2.0
// Landlock (Linux 5.13): a process gives up the right to open files but for those below paths that it names.
// landlock(7); raw system calls, since no library of Debian has them.
//
// Landlock looks at opening, making, removing and renaming. It does not look at what needs no open file, such as
// stat(2), chmod(2) or utime(2): syscall_filter.h does.
#ifndef QUANT_WORKER_AGENT_SANDBOX_LANDLOCK_H_
#define QUANT_WORKER_AGENT_SANDBOX_LANDLOCK_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace quant {

// The interface's version in this kernel; 0: the kernel has none, or was started without it.
int LandlockAbi();

// The first version that holds truncate(2), without which a readable file could be emptied.
inline constexpr int kLandlockTruncate = 3;

// Builds a set of rules and puts this process under it. Thread-compatible.
class LandlockRules {
 public:
  enum class Access {
    kRead,       // open for reading, list folders
    kReadWrite,  // the same, and write; for devices
    kOwn,        // the same, and make, rename and remove regular files and folders
  };

  // All that version `abi` (at least 1) can forbid is forbidden: beside files, binding and connecting TCP (4), ioctl of
  // devices (5), signals and abstract sockets to processes outside (6).
  static absl::StatusOr<LandlockRules> Create(int abi);

  // Allows `access` to the file `path` or everything below the folder `path`; a link is followed.
  //   NOT_FOUND: there is no such path.
  absl::Status Allow(const std::filesystem::path& path, Access access);

  // Puts the calling thread, and threads and processes that it makes later, under the rules for ever. Needs
  // no_new_privs.
  absl::Status Enforce() const;

 private:
  LandlockRules(UniqueFd fd, uint64_t handled) : fd_(std::move(fd)), handled_(handled) {}

  UniqueFd fd_;
  uint64_t handled_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_SANDBOX_LANDLOCK_H_
