// SPDX-License-Identifier: Apache-2.0
// Processes that a job's process made and that left its process group: a new session (setsid), a parent that has ended.
// The sandbox lets a job make no process at all; this is for a system without seccomp, and for what nobody thought of.
//
// Thread-safe.
#ifndef QUANT_WORKER_AGENT_ORPHANS_H_
#define QUANT_WORKER_AGENT_ORPHANS_H_

#include <sys/types.h>

namespace quant {

// From now on this process, not init, inherits orphans below it (PR_SET_CHILD_SUBREAPER), and KillOrphans ends them.
// For a program that has no child but those of ForkChild.
void AdoptOrphans();

// fork(2), remembering the child until ForgetChild. In the child: async-signal-safe calls only, as after any fork of a
// process with threads.
pid_t ForkChild();
void ForgetChild(pid_t pid);

// Kills and reaps every child that is none of ForkChild's, and what becomes a child by that, until there is none or two
// seconds have passed. Costs one pass over /proc. Does nothing without AdoptOrphans.
void KillOrphans();

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_ORPHANS_H_
