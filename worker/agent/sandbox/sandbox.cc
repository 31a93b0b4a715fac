// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/sandbox/sandbox.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/unique_fd.h"
#include "worker/agent/sandbox/isolation.h"
#include "worker/agent/sandbox/landlock.h"
#include "worker/agent/sandbox/syscall_filter.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using Access = LandlockRules::Access;

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr const char* kInputs[] = {"model", "baseline", "calibration", "evaluation"};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // terabytes of shadow memory; ThreadSanitizer has a thread of its own
#else
constexpr bool kSanitized = false;
#endif

// What code reads for itself: libraries and modules that are loaded late, time zones, processors, itself. Of no use to
// an attacker but to learn what machine it is on. What is missing is left out.
std::vector<fs::path> SystemPaths() {
  std::vector<fs::path> paths = {"/lib",
                                 "/lib64",
                                 "/usr/lib",
                                 "/usr/lib64",
                                 "/usr/local/lib",
                                 "/etc/ld.so.cache",
                                 "/etc/localtime",
                                 "/usr/share/zoneinfo",
                                 "/proc/self",
                                 "/proc/cpuinfo",
                                 "/proc/meminfo",
                                 "/sys/devices/system",
                                 "/sys/kernel/mm/transparent_hugepage",
                                 "/dev/random",
                                 "/dev/urandom"};
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  paths.push_back(program);
  paths.push_back(program.parent_path() / "quant_sentencepiece.so");
  if (const char* path = std::getenv("LD_LIBRARY_PATH"); path != nullptr) {
    for (const auto folder : absl::StrSplit(path, ':', absl::SkipEmpty())) paths.emplace_back(StdView(folder));
  }
  return paths;
}

absl::Status AllowIfThere(LandlockRules& rules, const fs::path& path, Access access) {
  const absl::Status status = rules.Allow(path, access);
  return absl::IsNotFound(status) || absl::IsPermissionDenied(status) ? absl::OkStatus() : status;
}

// Input files that are symbolic links into the cache, where there are no hard ones: the link's target, and it alone.
absl::Status AllowLinkedInputs(LandlockRules& rules, const fs::path& folder) {
  for (const char* part : kInputs) {
    std::error_code error;
    for (auto it = fs::recursive_directory_iterator(folder / part, error); !error && it != fs::end(it);
         it.increment(error)) {
      if (it->is_symlink(error)) RETURN_IF_ERROR(AllowIfThere(rules, it->path(), Access::kRead));
    }
  }
  return absl::OkStatus();
}

absl::Status RestrictFiles(int abi, const fs::path& folder) {
  ASSIGN_OR_RETURN(LandlockRules rules, LandlockRules::Create(abi));
  RETURN_IF_ERROR(rules.Allow("/dev/null", Access::kReadWrite));
  for (const fs::path& path : SystemPaths()) RETURN_IF_ERROR(AllowIfThere(rules, path, Access::kRead));
  if (!folder.empty()) {
    RETURN_IF_ERROR(rules.Allow(folder, Access::kRead));
    RETURN_IF_ERROR(AllowLinkedInputs(rules, folder));
    for (const char* part : {"output", "work", "resume"}) {
      RETURN_IF_ERROR(AllowIfThere(rules, folder / part, Access::kOwn));
    }
  }
  return rules.Enforce();
}

int64_t InputBytes(const fs::path& folder) {
  int64_t bytes = 0;
  for (const char* part : kInputs) {
    std::error_code error;
    for (auto it = fs::recursive_directory_iterator(folder / part, error); !error && it != fs::end(it);
         it.increment(error)) {
      std::error_code unsized;
      if (it->is_regular_file(unsized)) bytes += static_cast<int64_t>(it->file_size(unsized));
    }
  }
  return bytes;
}

// Wide enough that no honest job meets them: these are against an attacker, --memory is what jobs are held to.
ProcessLimits LimitsFor(const SandboxOptions& options) {
  const int64_t inputs = InputBytes(options.folder);
  ProcessLimits limits;
  // A result that is wider than its model, and the hidden states of a large calibration set.
  limits.file_size = 4 * inputs + 4 * kGiB;
  limits.open_files = 4096;
  if (options.memory_bytes > 0 && !kSanitized) {
    // Twice the memory, since freed memory stays mapped; the model, what is made of it, and both again to read them
    // back; per thread a stack, an arena of malloc and the buffers of the libraries; code.
    limits.address_space = 2 * options.memory_bytes + 4 * inputs + options.threads * (kGiB / 4) + 4 * kGiB;
  }
  return limits;
}

absl::Status CheckOneThread() {
  if (kSanitized) return absl::OkStatus();
  std::error_code error;
  int threads = 0;
  for (auto it = fs::directory_iterator("/proc/self/task", error); !error && it != fs::end(it); it.increment(error)) {
    ++threads;
  }
  if (threads <= 1) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the sandbox was asked for with ", threads, " threads running"));
}

// All parts that are there, in the order in which they do not hinder each other.
absl::StatusOr<SandboxFeatures> Enter(const fs::path& folder, int64_t threads) {
  SandboxFeatures got;
  got.network = LeaveNetwork(threads);
  RETURN_IF_ERROR(DropCapabilities());
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return absl::ErrnoToStatus(errno, "prctl(PR_SET_NO_NEW_PRIVS)");
  if (const int abi = LandlockAbi(); abi > 0) {
    RETURN_IF_ERROR(RestrictFiles(abi, folder));
    got.landlock = abi;
  }
  if (HasSyscallFilters()) {
    RETURN_IF_ERROR(FilterSyscalls());
    got.syscalls = true;
  }
  return got;
}

}  // namespace

absl::StatusOr<SandboxMode> ParseSandboxMode(std::string_view text) {
  for (SandboxMode mode : {SandboxMode::kOff, SandboxMode::kBestEffort, SandboxMode::kOn}) {
    if (text == SandboxModeName(mode)) return mode;
  }
  return absl::InvalidArgumentError(absl::StrCat("--sandbox ", Quoted(text), ": one of on, best-effort, off"));
}

const char* SandboxModeName(SandboxMode mode) {
  switch (mode) {
    case SandboxMode::kOff:
      return "off";
    case SandboxMode::kBestEffort:
      return "best-effort";
    case SandboxMode::kOn:
      return "on";
  }
  return "off";
}

bool SandboxFeatures::Complete() const { return landlock >= kLandlockTruncate && syscalls && network; }

std::string SandboxFeatures::ToString() const {
  std::vector<std::string> parts;
  if (landlock > 0) parts.push_back(absl::StrCat("Landlock ", landlock));
  if (syscalls) parts.emplace_back("system call filter");
  if (network) parts.emplace_back("network namespace");
  parts.emplace_back("limits");
  return absl::StrJoin(parts, ", ");
}

std::string SandboxFeatures::Missing() const {
  std::vector<std::string> parts;
  if (landlock == 0) {
    parts.emplace_back("no Landlock: a job can read and write every file of this worker's user");
  } else if (landlock < kLandlockTruncate) {
    parts.push_back(
        absl::StrCat("Landlock ", landlock, " of ", kLandlockTruncate, ": a job can empty files of the blob cache"));
  }
  if (!syscalls) parts.emplace_back("no seccomp filter: a job can make processes, trace and signal others");
  if (!network && !syscalls) {
    parts.emplace_back("no network namespace: a job can use the network");
  } else if (!network) {
    parts.emplace_back("no network namespace: only the system call filter keeps a job from the network");
  }
  return absl::StrJoin(parts, "; ");
}

absl::StatusOr<SandboxFeatures> DetectSandbox() {
  struct Answer {
    bool ok = false;
    SandboxFeatures features;
    char error[256] = {};
  } answer;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (pid == 0) {
    const absl::StatusOr<SandboxFeatures> got = Enter({}, 0);
    answer.ok = got.ok();
    if (got.ok()) answer.features = *got;
    absl::SNPrintF(answer.error, sizeof(answer.error), "%s", got.status().ToString());
    ::_exit(::write(write_end.get(), &answer, sizeof(answer)) == sizeof(answer) ? 0 : 1);
  }
  write_end.reset();
  const bool told = ::read(read_end.get(), &answer, sizeof(answer)) == sizeof(answer);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!told) return absl::InternalError("a process that tried to enter the sandbox died");
  if (!answer.ok) return absl::InternalError(absl::StrCat("this system's sandbox fails: ", answer.error));
  return answer.features;
}

absl::StatusOr<SandboxFeatures> EnterSandbox(SandboxMode mode, const SandboxOptions& options) {
  if (mode == SandboxMode::kOff) return SandboxFeatures{};
  RETURN_IF_ERROR(CheckOneThread());
  RETURN_IF_ERROR(LimitResources(LimitsFor(options)));
  ASSIGN_OR_RETURN(const SandboxFeatures got, Enter(options.folder, SandboxThreads(options.threads)));
  if (mode == SandboxMode::kOn && !got.Complete()) {
    return absl::FailedPreconditionError(absl::StrCat("the sandbox is not complete: ", got.Missing()));
  }
  return got;
}

}  // namespace quant
