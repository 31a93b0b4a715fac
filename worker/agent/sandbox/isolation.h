// SPDX-License-Identifier: Apache-2.0
// What a process can give up beside files and system calls: the network, capabilities, and room to grow in. Each works
// on the calling process and cannot be taken back; to be called while it has one thread.
#ifndef QUANT_WORKER_AGENT_SANDBOX_ISOLATION_H_
#define QUANT_WORKER_AGENT_SANDBOX_ISOLATION_H_

#include <cstdint>

#include "absl/status/status.h"

namespace quant {

// Moves the process into a network namespace of its own, which has no interface but a loopback that is down: inside a
// new user namespace, where its user and group stay what they are and all others show as nobody; else, for root,
// without one (a process in a chroot may not make a user namespace). False: neither is allowed here; nothing was
// changed.
//
// `threads` is the most that the process may have from then on (0: as it is), where it got a user namespace. Elsewhere
// the limit is not set: RLIMIT_NPROC would count whatever else its user runs, in containers that of all containers.
bool LeaveNetwork(int64_t threads = 0);

// Gives up all capabilities, so that root is a user like any other.
absl::Status DropCapabilities();

struct ProcessLimits {
  int64_t address_space = 0;  // bytes of virtual memory; 0: no limit
  int64_t file_size = 0;      // bytes of the largest file written; 0: no limit
  int64_t open_files = 0;     // 0: as it is
};

// Sets hard and soft limits; one that is above the present hard limit becomes that one. No core dumps. A write past
// `file_size` fails with EFBIG: SIGXFSZ is ignored.
absl::Status LimitResources(const ProcessLimits& limits);

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_SANDBOX_ISOLATION_H_
