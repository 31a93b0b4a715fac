// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/sandbox/landlock.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

constexpr uint64_t kFileRead = LANDLOCK_ACCESS_FS_READ_FILE;
constexpr uint64_t kFileWrite = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE;
constexpr uint64_t kFolderRead = LANDLOCK_ACCESS_FS_READ_DIR;
// No links, devices, fifos and sockets: a job has no use for them, and its output must not hold any.
constexpr uint64_t kFolderWrite = LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR |
                                  LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                                  LANDLOCK_ACCESS_FS_REFER;

// Every right that version `abi` knows; a right that is not handled is not restricted.
uint64_t HandledBy(int abi) {
  uint64_t rights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;  // version 1: bits 0 (EXECUTE) to 12 (MAKE_SYM)
  if (abi >= 2) rights |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3) rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
  if (abi >= 5) rights |= LANDLOCK_ACCESS_FS_IOCTL_DEV;
  return rights;
}

}  // namespace

int LandlockAbi() {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return abi < 0 ? 0 : static_cast<int>(abi);
}

absl::StatusOr<LandlockRules> LandlockRules::Create(int abi) {
  landlock_ruleset_attr attr = {};
  attr.handled_access_fs = HandledBy(abi);
  if (abi >= 4) attr.handled_access_net = LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP;
  if (abi >= 6) attr.scoped = LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL;
  // An older kernel takes the longer structure as long as what it does not know is zero.
  const long fd = ::syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "landlock_create_ruleset");
  return LandlockRules(UniqueFd(static_cast<int>(fd)), attr.handled_access_fs);
}

absl::Status LandlockRules::Allow(const std::filesystem::path& path, Access access) {
  const UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  struct stat info;
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return absl::ErrnoToStatus(errno, path.string());
  const bool folder = S_ISDIR(info.st_mode);
  uint64_t rights = kFileRead;
  if (access != Access::kRead) rights |= kFileWrite;
  if (folder) rights |= kFolderRead;
  if (folder && access == Access::kOwn) rights |= kFolderWrite;
  landlock_path_beneath_attr rule = {};
  rule.allowed_access = rights & handled_;
  rule.parent_fd = fd.get();
  if (::syscall(SYS_landlock_add_rule, fd_.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("landlock_add_rule for ", path.string()));
  }
  return absl::OkStatus();
}

absl::Status LandlockRules::Enforce() const {
  if (::syscall(SYS_landlock_restrict_self, fd_.get(), 0) != 0) {
    return absl::ErrnoToStatus(errno, "landlock_restrict_self");
  }
  return absl::OkStatus();
}

}  // namespace quant
