// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/sandbox/syscall_filter.h"

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace quant {
namespace {

// By name: libseccomp knows the numbers of the machine, and a name that it or the machine lacks (open on arm64) is left
// out.
constexpr const char* kAllowed[] = {
    // memory
    "brk", "madvise", "mbind", "membarrier", "mincore", "mlock", "mlock2", "mmap", "mprotect", "mremap", "msync",
    "munlock", "munmap", "get_mempolicy", "set_mempolicy",
    // threads; clone is below
    "arch_prctl", "exit", "exit_group", "futex", "futex_waitv", "get_robust_list", "getcpu", "gettid",
    "restart_syscall", "rseq", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getparam", "sched_getscheduler", "sched_setaffinity", "sched_yield", "set_robust_list", "set_tid_address",
    // files: which ones is Landlock's matter
    "access", "chdir", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "faccessat", "faccessat2",
    "fadvise64", "fallocate", "fchdir", "fcntl", "fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate",
    "getcwd", "getdents", "getdents64", "lseek", "lstat", "mkdir", "mkdirat", "newfstatat", "open", "openat", "pread64",
    "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
    "rename", "renameat", "renameat2", "rmdir", "sendfile", "stat", "statfs", "statx", "sync_file_range", "truncate",
    "umask", "unlink", "unlinkat", "write", "writev",
    // waiting
    "eventfd2", "pipe", "pipe2", "poll", "ppoll", "pselect6", "select",
    // time
    "clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "time", "times",
    // signals; kill and tgkill are below
    "pause", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "sigaltstack",
    // what it is
    "capget", "getegid", "geteuid", "getgid", "getgroups", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "getsid", "getuid", "sysinfo", "uname"};

// Beside these, what is not allowed fails with ENOSYS.
constexpr const char* kForbidden[] = {"chmod",  "chown",   "connect",  "execve", "execveat", "fchmod",     "fchmodat",
                                      "fchown", "fork",    "fchownat", "link",   "linkat",   "mount",      "ptrace",
                                      "setns",  "setsid",  "setpgid",  "socket", "symlink",  "socketpair", "symlinkat",
                                      "tkill",  "umount2", "unshare",  "vfork"};

// prctl(2) could clear the signal that ends this process with the agent.
constexpr int kPrctls[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, PR_GET_DUMPABLE, PR_SET_THP_DISABLE};

constexpr uint64_t kNamespaces =
    uint64_t{CLONE_NEWNS} | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

// Collects the first error, so that the rules below read as a list.
class Filter {
 public:
  Filter() : context_(seccomp_init(SCMP_ACT_ERRNO(ENOSYS)), &seccomp_release) {
    if (context_ == nullptr) error_ = ENOMEM;
  }

  void Add(uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> arguments = {}) {
    if (error_ != 0) return;
    const int call = seccomp_syscall_resolve_name(name);
    if (call == __NR_SCMP_ERROR) return;
    const int code = seccomp_rule_add_array(context_.get(), action, call, static_cast<unsigned>(arguments.size()),
                                            arguments.begin());
    if (code != 0 && code != -EDOM) {  // EDOM: not on this machine
      error_ = -code;
      at_ = name;
    }
  }

  absl::Status Load() {
    if (error_ == 0) {
      // A search tree instead of a list; a filter must not slow down speculation (Linux before 5.16 did); all threads.
      seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
      seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_SSB, 1);
      seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_TSYNC, 1);
      error_ = -seccomp_load(context_.get());
      at_ = "seccomp_load";
    }
    if (error_ == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(error_, absl::StrCat("the system call filter: ", at_));
  }

 private:
  std::unique_ptr<void, decltype(&seccomp_release)> context_;
  int error_ = 0;
  const char* at_ = "seccomp_init";
};

// The lower half: the kernel does not look at the upper one of an int.
scmp_arg_cmp Equals(unsigned argument, uint64_t value) {
  return SCMP_CMP64(argument, SCMP_CMP_MASKED_EQ, 0xffffffffU, value);
}

}  // namespace

bool HasSyscallFilters() {
  const uint32_t action = SECCOMP_RET_ERRNO;
  return ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

absl::Status FilterSyscalls() {
  Filter filter;
  for (const char* name : kAllowed) filter.Add(SCMP_ACT_ALLOW, name);
  for (const char* name : kForbidden) {
#if defined(__SANITIZE_ADDRESS__)
    // The leak check at exit: a helper that shares this process's memory traces its threads.
    if (std::string_view(name) == "ptrace") continue;
#endif
    filter.Add(SCMP_ACT_ERRNO(EPERM), name);
  }
  for (const int option : kPrctls) filter.Add(SCMP_ACT_ALLOW, "prctl", {Equals(0, static_cast<uint64_t>(option))});
  filter.Add(SCMP_ACT_ALLOW, "ioctl", {Equals(1, TCGETS)});  // isatty(3)

  // A thread of this process, not a process. clone3 keeps its flags in memory, where no filter can look: the C library
  // falls back to clone.
  filter.Add(SCMP_ACT_ALLOW, "clone",
             {SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, uint64_t{CLONE_THREAD} | kNamespaces, uint64_t{CLONE_THREAD})});

  // abort(3) and raise(3).
  const uint64_t self = static_cast<uint64_t>(::getpid());
  filter.Add(SCMP_ACT_ALLOW, "kill", {Equals(0, self)});
  filter.Add(SCMP_ACT_ALLOW, "tgkill", {Equals(0, self)});

  // Its own limits, which it cannot raise: the hard ones are as low.
  filter.Add(SCMP_ACT_ALLOW, "prlimit64", {Equals(0, 0)});
  filter.Add(SCMP_ACT_ALLOW, "prlimit64", {Equals(0, self)});

#if defined(__SANITIZE_ADDRESS__)
  filter.Add(SCMP_ACT_ALLOW, "clone",
             {SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, uint64_t{CLONE_THREAD} | CLONE_VM | CLONE_UNTRACED | kNamespaces,
                         uint64_t{CLONE_VM} | CLONE_UNTRACED)});
  for (const char* name : {"ptrace", "wait4"}) filter.Add(SCMP_ACT_ALLOW, name);
  for (const int option : {PR_SET_DUMPABLE, PR_SET_PTRACER, PR_SET_PDEATHSIG}) {
    filter.Add(SCMP_ACT_ALLOW, "prctl", {Equals(0, static_cast<uint64_t>(option))});
  }
#endif
  return filter.Load();
}

}  // namespace quant
