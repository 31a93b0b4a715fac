// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "worker/agent/orphans.h"

namespace quant {
namespace {

// Descriptors of the child; kError closes when exec succeeds, and carries the error when it does not.
constexpr int kProgress = 3;
constexpr int kError = 4;
// The agent's ends are moved above this, so that putting them in place cannot overwrite another of them.
constexpr int kAbove = 10;

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

absl::StatusOr<UniqueFd> MoveUp(UniqueFd fd) {
  UniqueFd up(::fcntl(fd.get(), F_DUPFD_CLOEXEC, kAbove));
  if (!up.valid()) return absl::ErrnoToStatus(errno, "fcntl(F_DUPFD_CLOEXEC)");
  return up;
}

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  Pipe pipe{.read = UniqueFd(fds[0]), .write = UniqueFd(fds[1])};
  ASSIGN_OR_RETURN(pipe.write, MoveUp(std::move(pipe.write)));
  return pipe;
}

// All that the child needs between fork and exec, made before the fork.
struct Launch {
  const char* file;
  char* const* argv;
  char* const* envp;
  const char* folder;
  pid_t parent;
  int null_fd;
  int output_fd;
  int progress_fd;
  int error_fd;
  int max_fd;
};

// What failed in the child, as sent through the error pipe.
struct LaunchError {
  int error;
  char call[28];
};

// Runs in the forked child of a process with threads, any of which may have held any lock: only async-signal-safe
// calls.
[[noreturn]] void RunInChild(const Launch& launch) {
  int error_fd = launch.error_fd;
  const auto fail = [&error_fd](const char* call) {
    LaunchError report{.error = errno, .call = {}};
    for (size_t i = 0; i + 1 < sizeof(report.call) && call[i] != '\0'; ++i) report.call[i] = call[i];
    [[maybe_unused]] const ssize_t n = ::write(error_fd, &report, sizeof(report));
    ::_exit(127);
  };

  if (::setpgid(0, 0) != 0) fail("setpgid");
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("prctl(PR_SET_PDEATHSIG)");
  if (::getppid() != launch.parent) ::_exit(127);  // the agent died before the line above

  // exec keeps ignored signals ignored and the mask as it is: undo what the agent set for itself.
  struct sigaction by_default = {};
  by_default.sa_handler = SIG_DFL;
  for (int s = 1; s < NSIG; ++s) ::sigaction(s, &by_default, nullptr);  // fails for SIGKILL, SIGSTOP: as it should
  sigset_t none;
  ::sigemptyset(&none);
  if (::sigprocmask(SIG_SETMASK, &none, nullptr) != 0) fail("sigprocmask");

  if (::dup2(launch.null_fd, 0) < 0 || ::dup2(launch.output_fd, 1) < 0 || ::dup2(launch.output_fd, 2) < 0 ||
      ::dup2(launch.progress_fd, kProgress) < 0 || ::dup3(launch.error_fd, kError, O_CLOEXEC) < 0) {
    fail("dup2");
  }
  error_fd = kError;
  // Libraries may have opened descriptors without close-on-exec.
  if (::syscall(SYS_close_range, kError + 1, ~0U, 0) != 0) {
    for (int fd = kError + 1; fd < launch.max_fd; ++fd) ::close(fd);  // before Linux 5.9
  }

  const struct rlimit no_core = {.rlim_cur = 0, .rlim_max = 0};
  if (::setrlimit(RLIMIT_CORE, &no_core) != 0) fail("setrlimit(RLIMIT_CORE)");
  const int oom = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (oom >= 0) {  // best effort: the memory guard is what counts
    [[maybe_unused]] const ssize_t n = ::write(oom, "500", 3);
    ::close(oom);
  }
  if (::chdir(launch.folder) != 0) fail("chdir");
  ::execve(launch.file, launch.argv, launch.envp);
  fail("execve");
  ::_exit(127);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

// A number of /proc/PID/status, "RssAnon:      1234 kB"; -1: there is no such line.
int64_t StatusField(std::string_view status, std::string_view name) {
  const size_t at = status.find(name);
  if (at == std::string_view::npos) return -1;
  int64_t value = 0;
  bool digits = false;
  for (char c : status.substr(at + name.size())) {
    if (c >= '0' && c <= '9') {
      value = value * 10 + (c - '0');
      digits = true;
    } else if (digits) {
      break;
    }
  }
  return value;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const Command& command) {
  CHECK(!command.argv.empty());
  const std::vector<char*> argv = Pointers(command.argv);
  const std::vector<char*> envp = Pointers(command.environment);
  ASSIGN_OR_RETURN(UniqueFd null_fd, MoveUp(UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC))));
  ASSIGN_OR_RETURN(Pipe output, MakePipe());
  ASSIGN_OR_RETURN(Pipe progress, MakePipe());
  ASSIGN_OR_RETURN(Pipe error, MakePipe());
  struct rlimit files = {};
  ::getrlimit(RLIMIT_NOFILE, &files);
  const Launch launch{.file = argv[0],
                      .argv = argv.data(),
                      .envp = envp.data(),
                      .folder = command.folder.c_str(),
                      .parent = ::getpid(),
                      .null_fd = null_fd.get(),
                      .output_fd = output.write.get(),
                      .progress_fd = progress.write.get(),
                      .error_fd = error.write.get(),
                      .max_fd = files.rlim_cur < 65536 ? static_cast<int>(files.rlim_cur) : 65536};
  const pid_t pid = ForkChild();
  if (pid < 0) return absl::ErrnoToStatus(errno, "cannot fork a process for the job");
  if (pid == 0) RunInChild(launch);

  std::unique_ptr<ChildProcess> child(new ChildProcess(pid, std::move(output.read), std::move(progress.read)));
  output.write.reset();
  progress.write.reset();
  error.write.reset();
  LaunchError failed = {};
  ssize_t n;
  do {
    n = ::read(error.read.get(), &failed, sizeof(failed));  // 0: exec closed it
  } while (n < 0 && errno == EINTR);
  if (n == 0) return child;
  failed.call[sizeof(failed.call) - 1] = '\0';
  return absl::ErrnoToStatus(n == static_cast<ssize_t>(sizeof(failed)) ? failed.error : EIO,
                             absl::StrCat("cannot start ", command.argv[0], ": ", failed.call));
}

ChildProcess::ChildProcess(pid_t pid, UniqueFd output, UniqueFd progress)
    : pid_(pid),
      output_(std::move(output)),
      progress_(std::move(progress)),
      exit_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {  // close-on-exec by definition
  for (int fd : {output_.get(), progress_.get()}) PCHECK(::fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
}

ChildProcess::~ChildProcess() {
  if (!reaped_) Reap();
}

void ChildProcess::Signal(int signal) {
  if (!reaped_) ::kill(-pid_, signal);
}

bool ChildProcess::Exited() const {
  siginfo_t info = {};
  // WNOWAIT leaves the zombie, and with it the process group's number, until Reap.
  return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid_;
}

ChildUsage ChildProcess::ReadUsage() const {
  const std::string path = absl::StrCat("/proc/", pid_, "/status");
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[8192];
  const ssize_t n = fd.valid() ? ::read(fd.get(), buffer, sizeof(buffer)) : 0;
  if (n <= 0) return {};
  const std::string_view status(buffer, static_cast<size_t>(n));
  const int64_t kib = StatusField(status, "\nVmRSS:");
  if (kib < 0) return {};  // a zombie has no memory
  const int64_t threads = StatusField(status, "\nThreads:");
  const int64_t anonymous = StatusField(status, "\nRssAnon:");
  const int64_t shared = StatusField(status, "\nRssShmem:");
  const int64_t owned = anonymous >= 0 && shared >= 0 ? anonymous + shared : kib;
  return {.rss = kib * 1024, .owned = owned * 1024, .threads = threads};
}

ChildExit ChildProcess::Reap() {
  CHECK(!reaped_);
  ::kill(-pid_, SIGKILL);  // the process itself if it lives, and whatever it left behind
  ChildExit exit;
  struct rusage usage = {};
  pid_t got;
  do {
    got = ::wait4(pid_, &exit.wait_status, 0, &usage);
  } while (got < 0 && errno == EINTR);
  PCHECK(got == pid_) << "wait4 of child " << pid_;
  reaped_ = true;
  ForgetChild(pid_);
  KillOrphans();
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  exit.peak_rss_bytes = int64_t{usage.ru_maxrss} * 1024;
  exit.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  return exit;
}

std::vector<std::string> ChildEnvironment() {
  static constexpr const char* kNames[] = {"PATH=",         "LANG=",          "LD_LIBRARY_PATH=", "GLIBC_TUNABLES=",
                                           "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=",    "LSAN_OPTIONS="};
  static constexpr const char* kPrefixes[] = {"OMP_", "GOMP_", "ONEDNN_", "DNNL_", "OPENBLAS_"};
  std::vector<std::string> out;
  for (char** e = environ; *e != nullptr; ++e) {
    bool keep = false;
    for (const char* name : kNames) keep |= absl::StartsWith(*e, name);
    for (const char* prefix : kPrefixes) keep |= absl::StartsWith(*e, prefix);
    if (keep) out.emplace_back(*e);
  }
  // libgomp reads this before main. Its default spins for some 10 ms at every barrier, which on a machine with other
  // work makes a model that runs in 0.5 ms take 100; this is about 0.05 ms, longer than a pause between two operators.
  const auto sets = [&](const char* name) {
    return std::any_of(out.begin(), out.end(), [&](const std::string& e) { return absl::StartsWith(e, name); });
  };
  if (!sets("OMP_WAIT_POLICY=") && !sets("GOMP_SPINCOUNT=")) out.emplace_back("GOMP_SPINCOUNT=1500");
  // Matrices of tens of megabytes come and go with every layer: in pages of 2 MB their memory costs a fraction
  // (bench/README.md, "Memory and speed at 7B").
  if (!sets("GLIBC_TUNABLES=")) out.emplace_back("GLIBC_TUNABLES=glibc.malloc.hugetlb=1");
  return out;
}

}  // namespace quant
