// SPDX-License-Identifier: Apache-2.0
// The system calls a job's process may make, as a seccomp filter: a list of what is allowed, so that a call that a new
// kernel brings is not. What is not on the list fails with ENOSYS, for which the C library has other ways, or with
// EPERM where a person may come to read the error; nothing is killed.
//
// Allowed: memory, threads, files, time, its own signals. Not allowed: sockets of any family, new processes and
// programs (fork, clone without CLONE_THREAD, clone3, execve), leaving its process group or session, signals to others,
// ptrace and process_vm_*, chmod, chown, extended attributes and links, namespaces and mounts, io_uring, bpf, perf,
// userfaultfd, keyrings, modules, clocks, reboot, pidfds, memfds.
#ifndef QUANT_WORKER_AGENT_SANDBOX_SYSCALL_FILTER_H_
#define QUANT_WORKER_AGENT_SANDBOX_SYSCALL_FILTER_H_

#include "absl/status/status.h"

namespace quant {

// Whether this kernel has seccomp filters.
bool HasSyscallFilters();

// Puts all threads of this process, and those it makes later, under the filter for ever; sets no_new_privs.
absl::Status FilterSyscalls();

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_SANDBOX_SYSCALL_FILTER_H_
