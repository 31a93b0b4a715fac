// SPDX-License-Identifier: Apache-2.0
// The sandbox of a job's process. A model is untrusted input and its readers are large; whatever a hostile file makes
// of the process, it can compute, write in its own folder, and nothing else. docs/sandbox.md says what is restricted
// and by what.
//
// The process puts itself into the sandbox, first thing in main: the program and its libraries are loaded, there is one
// thread, and no byte from outside has been read. Nothing of it can be taken back.
#ifndef QUANT_WORKER_AGENT_SANDBOX_SANDBOX_H_
#define QUANT_WORKER_AGENT_SANDBOX_SANDBOX_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace quant {

enum class SandboxMode {
  kOff,         // none
  kBestEffort,  // what this kernel has and allows
  kOn,          // all of it, or no job is run
};
// "off", "best-effort", "on".   INVALID_ARGUMENT: another word.
absl::StatusOr<SandboxMode> ParseSandboxMode(std::string_view text);
const char* SandboxModeName(SandboxMode mode);

// What a kernel, and the rights of this process in it, allow; limits and dropped capabilities always are.
struct SandboxFeatures {
  int landlock = 0;       // version of Landlock's interface; 0: none
  bool syscalls = false;  // seccomp filters
  bool network = false;   // a network namespace of its own

  bool Complete() const;
  // "Landlock 6, system call filter, network namespace".
  std::string ToString() const;
  // What is not there and what that means, one sentence per part; "" when all is.
  std::string Missing() const;
};

// Finds out by trying, in a process forked for it. Call before the first thread.
//   INTERNAL: a part that the kernel says it has does not work: a job's process would not start either.
absl::StatusOr<SandboxFeatures> DetectSandbox();

// How many threads a job's process may have that computes with `threads` of them: several libraries keep their own.
inline int SandboxThreads(int threads) { return 8 * threads + 64; }

struct SandboxOptions {
  std::filesystem::path folder;  // the job's (agent/job_folder.h)
  int threads = 1;               // that the job computes with
  int64_t memory_bytes = 0;      // its limit, from which the cap of its address space follows; 0: no cap
};

// Puts this process into the sandbox and returns what of it there is. With kOff it does nothing.
//   FAILED_PRECONDITION: kOn and a part is missing, or there are threads.  Others: a part that is there failed.
// After an error the process may be half in the sandbox: it can only end.
absl::StatusOr<SandboxFeatures> EnterSandbox(SandboxMode mode, const SandboxOptions& options);

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_SANDBOX_SANDBOX_H_
