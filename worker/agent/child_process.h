// SPDX-License-Identifier: Apache-2.0
// ChildProcess: one child in a process group of its own, with its output and progress pipes. It knows how to start,
// watch and end a process; what to do when is supervisor.h.
//
// The child gets: stdin from /dev/null; stdout and stderr into one pipe; descriptor 3, the progress pipe; no other
// descriptor; the environment it is given and no more; default signal dispositions and an empty mask; no core dumps; a
// raised OOM score, so that a kernel short of memory ends it and not the agent; the folder as working directory. It is
// killed when the thread that started it ends (PR_SET_PDEATHSIG), so that nothing outlives an agent that dies.
#ifndef QUANT_WORKER_AGENT_CHILD_PROCESS_H_
#define QUANT_WORKER_AGENT_CHILD_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace quant {

// How a process ended and what it used.
struct ChildExit {
  int wait_status = 0;         // as of wait4(2)
  int64_t peak_rss_bytes = 0;  // largest resident set; not below the agent's own when it forked
  double cpu_seconds = 0;      // user and system
};

// What a running process holds.
struct ChildUsage {
  int64_t rss = 0;    // resident bytes: quant_worker_job_rss_bytes
  int64_t owned = 0;  // without file pages, which the kernel can drop: what the memory limit is about
  int64_t threads = 0;
};

// Thread-compatible; to be used by the thread that started it.
class ChildProcess {
 public:
  struct Command {
    std::vector<std::string> argv;         // argv[0] is the file to execute, no search in PATH
    std::vector<std::string> environment;  // NAME=VALUE
    std::filesystem::path folder;          // working directory
  };

  // Returns once the program has been executed.
  //   The code of the errno with the failing call's name: it could not be started, nothing is left of it.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const Command& command);

  // Kills and reaps the whole group if Reap was not called.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Non-blocking read ends.
  int output_fd() const { return output_.get(); }
  int progress_fd() const { return progress_.get(); }
  // Readable once the process has ended; -1 on a kernel without pidfd_open: ask Exited() now and then.
  int exit_fd() const { return exit_.get(); }

  // To every process of the group.
  void Signal(int signal);
  // Whether the process has ended; its group may live on.
  bool Exited() const;
  // Zeros when it has ended.
  ChildUsage ReadUsage() const;
  // Kills what is left of the group, waits for the process, and kills orphans (orphans.h). Call once.
  ChildExit Reap();

 private:
  ChildProcess(pid_t pid, UniqueFd output, UniqueFd progress);

  const pid_t pid_;
  UniqueFd output_;
  UniqueFd progress_;
  UniqueFd exit_;
  bool reaped_ = false;
};

// The agent's variables that a child may see: PATH, LANG, LD_LIBRARY_PATH, GLIBC_TUNABLES, OMP_*, GOMP_*, ONEDNN_*,
// DNNL_*, OPENBLAS_* and the sanitizers' *SAN_OPTIONS. No token or password comes along. GOMP_SPINCOUNT, and
// GLIBC_TUNABLES with large pages for large allocations, are added where nothing is said of them.
std::vector<std::string> ChildEnvironment();

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_CHILD_PROCESS_H_
