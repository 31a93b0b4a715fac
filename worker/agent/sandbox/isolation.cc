// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/sandbox/isolation.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"

namespace quant {
namespace {

// A user that is not mapped shows as nobody, and may do what it could before: nothing depends on it.
void WriteTo(const char* file, const std::string& text) {
  const UniqueFd fd(::open(file, O_WRONLY | O_CLOEXEC));
  if (fd.valid()) [[maybe_unused]]
    const ssize_t n = ::write(fd.get(), text.data(), text.size());
}

absl::Status Limit(decltype(RLIMIT_AS) resource, int64_t value, const char* name) {
  if (value <= 0) return absl::OkStatus();
  struct rlimit limit = {};
  if (::getrlimit(resource, &limit) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("getrlimit ", name));
  const rlim_t wanted = std::min(static_cast<rlim_t>(value), limit.rlim_max);
  limit = {.rlim_cur = wanted, .rlim_max = wanted};
  if (::setrlimit(resource, &limit) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("setrlimit ", name));
  return absl::OkStatus();
}

}  // namespace

bool LeaveNetwork(int64_t threads) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return ::unshare(CLONE_NEWNET) == 0;
  WriteTo("/proc/self/setgroups", "deny");
  WriteTo("/proc/self/uid_map", absl::StrCat(uid, " ", uid, " 1"));
  WriteTo("/proc/self/gid_map", absl::StrCat(gid, " ", gid, " 1"));
  // Only now: a user namespace takes the limit of its maker for the maker's user outside of it as well.
  return Limit(RLIMIT_NPROC, threads, "nproc").ok();
}

absl::Status DropCapabilities() {
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) {
    return absl::ErrnoToStatus(errno, "prctl(PR_CAP_AMBIENT_CLEAR_ALL)");
  }
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1; ++capability) {
    // Without CAP_SETPCAP there is nothing to lose: no_new_privs keeps exec from giving any.
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno == EPERM) break;
  }
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return absl::ErrnoToStatus(errno, "capset");
  return absl::OkStatus();
}

absl::Status LimitResources(const ProcessLimits& limits) {
  const struct rlimit no_core = {.rlim_cur = 0, .rlim_max = 0};
  if (::setrlimit(RLIMIT_CORE, &no_core) != 0) return absl::ErrnoToStatus(errno, "setrlimit core");
  RETURN_IF_ERROR(Limit(RLIMIT_AS, limits.address_space, "as"));
  RETURN_IF_ERROR(Limit(RLIMIT_FSIZE, limits.file_size, "fsize"));
  RETURN_IF_ERROR(Limit(RLIMIT_NOFILE, limits.open_files, "nofile"));
  ::signal(SIGXFSZ, SIG_IGN);
  return absl::OkStatus();
}

}  // namespace quant
