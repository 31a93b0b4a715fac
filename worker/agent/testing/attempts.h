// SPDX-License-Identifier: Apache-2.0
// What a hostile job would try, each as one call for tests: fake_child's verb `try`.
#ifndef QUANT_WORKER_AGENT_TESTING_ATTEMPTS_H_
#define QUANT_WORKER_AGENT_TESTING_ATTEMPTS_H_

#include <string>
#include <vector>

namespace quant {

// Tries words[0] with the arguments words[1..] and returns 0 when it could, else the errno of what stopped it.
//
//   connect PORT              TCP to 127.0.0.1
//   socket                    a datagram socket
//   read FILE | list FOLDER
//   write FILE                overwrite its first byte
//   create FILE | remove FILE | truncate FILE | chmod FILE
//   link OLD NEW | symlink OLD NEW | rename OLD NEW
//   ptrace PID | readmem PID | kill PID
//   forks N                   N processes that sleep for a minute; ends them
//   detach FILE               a process in a session of its own, whose parent has ended, that keeps FILE locked
//   exec PROGRAM              in a forked process, or, where there can be none, in place of this one
//   file GIB                  a (sparse) file of that size
//   memory GIB                allocate, without touching it
//   threads N                 that many at once
//   call NAME                 a system call with useless arguments: io_uring_setup, bpf, …
int Attempt(const std::vector<std::string>& words);

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_TESTING_ATTEMPTS_H_
