// SPDX-License-Identifier: Apache-2.0
// Each layer of the sandbox alone, since together one hides another; and systems that lack some.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/sandbox/isolation.h"
#include "worker/agent/sandbox/landlock.h"
#include "worker/agent/sandbox/sandbox.h"
#include "worker/agent/sandbox/syscall_filter.h"
#include "worker/agent/testing/attempts.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;

constexpr int kBroken = 200;  // a step before the one in question failed

// The answer of `body` (0 to 255) in a process of its own.
int InFork(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status)) << "wait status " << status;
  return WEXITSTATUS(status);
}

// A port of this process that accepts connections.
class Listener {
 public:
  Listener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address_);
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address_), size), 0);
    EXPECT_EQ(::listen(fd_.get(), 5), 0);
    EXPECT_EQ(::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&address_), &size), 0);
  }
  std::string port() const { return absl::StrCat(ntohs(address_.sin_port)); }

 private:
  UniqueFd fd_;
  sockaddr_in address_ = {};
};

// As a kernel without Landlock and without namespaces, or without network namespaces only, would answer.
void TakeAway(const std::vector<const char*>& calls) {
  const scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
  for (const char* call : calls) {
    seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), seccomp_syscall_resolve_name(call), 0);
  }
  if (seccomp_load(context) != 0) ::_exit(kBroken);
  seccomp_release(context);
}

TEST(NetworkNamespace, AloneKeepsFromLoopback) {
  const Listener listener;
  ASSERT_EQ(InFork([&] { return Attempt({"connect", listener.port()}); }), 0);
  const int answer = InFork([&] { return LeaveNetwork() ? Attempt({"connect", listener.port()}) : kBroken; });
  if (answer == kBroken) GTEST_SKIP() << "no network namespaces here";
  EXPECT_EQ(answer, ENETUNREACH);
}

TEST(NetworkNamespace, KeepsTheUser) {
  const int uid = static_cast<int>(::geteuid() % 100);
  EXPECT_EQ(InFork([] {
              LeaveNetwork();
              return static_cast<int>(::geteuid() % 100);
            }),
            uid);
}

TEST(Capabilities, AreGone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root has any to drop";
  ASSERT_EQ(InFork([] { return ::unshare(CLONE_NEWUTS) == 0 ? 0 : errno; }), 0);
  EXPECT_EQ(InFork([] {
              if (!DropCapabilities().ok()) return kBroken;
              return ::unshare(CLONE_NEWUTS) == 0 ? 0 : errno;
            }),
            EPERM);
}

TEST(Landlock, AloneKeepsFromFilesAndTcpAndSignals) {
  const int abi = LandlockAbi();
  if (abi == 0) GTEST_SKIP() << "this kernel has no Landlock";
  const Listener listener;
  const auto under = [&](const std::vector<std::string>& attempt) {
    return InFork([&] {
      absl::StatusOr<LandlockRules> rules = LandlockRules::Create(abi);
      if (!rules.ok() || !rules->Allow("/proc", LandlockRules::Access::kRead).ok()) return kBroken;
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      return rules->Enforce().ok() ? Attempt(attempt) : kBroken;
    });
  };
  EXPECT_EQ(under({"read", "/proc/self/status"}), 0);
  EXPECT_EQ(under({"write", "/proc/self/comm"}), EACCES);
  EXPECT_EQ(under({"read", "/etc/passwd"}), EACCES);
  EXPECT_EQ(under({"exec", "/bin/true"}), EACCES);
  if (abi >= 4) {
    EXPECT_EQ(under({"connect", listener.port()}), EACCES);
  }
  if (abi >= 6) {
    EXPECT_EQ(under({"kill", absl::StrCat(::getpid())}), EPERM);
  }
}

// As in containers, where the server, other workers and their jobs run as one user. Without privileges of its own, with
// or without a user namespace, the job's limit of threads must not count what others have.
TEST(Sandbox, ThreadsOfOthersOfItsUserDoNotCount) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may become a user that nobody else is";
  const int answer = InFork([] {
    if (::setresgid(54321, 54321, 54321) != 0 || ::setresuid(54321, 54321, 54321) != 0) return kBroken;
    int go[2];
    if (::pipe(go) != 0) return kBroken;
    // Forked before there are threads: what one of them holds at that moment, the child could never release.
    const pid_t job = ::fork();
    if (job == 0) {
      char byte;
      if (::read(go[0], &byte, 1) != 1) ::_exit(kBroken);
      const bool entered = EnterSandbox(SandboxMode::kBestEffort, {.folder = "", .threads = 1}).ok();
      ::_exit(entered ? Attempt({"threads", "3"}) : kBroken);
    }
    std::vector<std::thread> others;
    others.reserve(2 * SandboxThreads(1));
    for (int i = 0; i < 2 * SandboxThreads(1); ++i) others.emplace_back([] { ::pause(); });
    if (::write(go[1], "x", 1) != 1) return kBroken;
    int status = 0;
    if (::waitpid(job, &status, 0) != job || !WIFEXITED(status)) return kBroken;
    ::_exit(WEXITSTATUS(status));  // `others` never end
  });
  EXPECT_EQ(answer, 0) << std::strerror(answer);
}

TEST(Landlock, AMissingPathIsNotFound) {
  if (LandlockAbi() == 0) GTEST_SKIP() << "this kernel has no Landlock";
  absl::StatusOr<LandlockRules> rules = LandlockRules::Create(LandlockAbi());
  ASSERT_THAT(rules, IsOk());
  EXPECT_THAT(rules->Allow("/nonexistent", LandlockRules::Access::kRead), StatusIs(absl::StatusCode::kNotFound));
}

TEST(SyscallFilter, AloneKeepsFromSocketsProcessesAndPrograms) {
  if (!HasSyscallFilters()) GTEST_SKIP() << "this kernel has no seccomp filters";
  const Listener listener;
  const auto under = [&](const std::vector<std::string>& attempt) {
    return InFork([&] { return FilterSyscalls().ok() ? Attempt(attempt) : kBroken; });
  };
  EXPECT_EQ(under({"connect", listener.port()}), EPERM);
  EXPECT_EQ(under({"kill", absl::StrCat(::getpid())}), ENOSYS);
  EXPECT_EQ(under({"exec", "/bin/true"}), EPERM);
  EXPECT_EQ(under({"threads", "3"}), 0);
  EXPECT_EQ(under({"read", "/etc/passwd"}), 0);  // files are Landlock's matter
}

TEST(SyscallFilter, ASignalToOneselfStillWorks) {
  if (!HasSyscallFilters()) GTEST_SKIP() << "this kernel has no seccomp filters";
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (FilterSyscalls().ok()) std::abort();
    ::_exit(kBroken);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) << "wait status " << status;
}

TEST(Limits, HoldAndDoNotKill) {
  EXPECT_EQ(InFork([] {
              if (!LimitResources({.file_size = 1 << 20, .open_files = 16}).ok()) return kBroken;
              int fd = 0;
              for (int i = 0; i < 20 && fd >= 0; ++i) fd = ::dup(0);
              return fd < 0 ? errno : 0;
            }),
            EMFILE);
}

TEST(Sandbox, ASystemThatLacksPartsSaysWhich) {
  if (!HasSyscallFilters()) GTEST_SKIP() << "this kernel has no seccomp filters";
  const auto missing_without = [](const std::vector<const char*>& calls) {
    std::string text;
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    InFork([&] {
      TakeAway(calls);
      const absl::StatusOr<SandboxFeatures> found = DetectSandbox();
      const std::string said = found.ok() ? found->Missing() : std::string(found.status().message());
      return ::write(ends[1], said.data(), said.size()) < 0 ? 1 : 0;
    });
    ::close(ends[1]);
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
    ::close(ends[0]);
    return text;
  };
  EXPECT_THAT(missing_without({"landlock_create_ruleset"}), HasSubstr("no Landlock: a job can read and write"));
  EXPECT_THAT(missing_without({"unshare"}), HasSubstr("only the system call filter keeps a job from the network"));
  EXPECT_THAT(missing_without({"unshare", "seccomp"}), HasSubstr("a job can use the network"));
}

TEST(Sandbox, OnRefusesWhatBestEffortTakes) {
  if (!HasSyscallFilters()) GTEST_SKIP() << "this kernel has no seccomp filters";
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / absl::StrCat("layers_test.", ::getpid());
  for (const char* part : {"output", "work"}) std::filesystem::create_directories(folder / part);
  const auto enter = [&](SandboxMode mode) {
    return InFork([&] {
      TakeAway({"unshare"});
      const absl::StatusOr<SandboxFeatures> got = EnterSandbox(mode, {.folder = folder});
      return got.ok() ? 0 : static_cast<int>(got.status().code());
    });
  };
  EXPECT_EQ(enter(SandboxMode::kOn), static_cast<int>(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(enter(SandboxMode::kBestEffort), 0);
  std::filesystem::remove_all(folder);
}

TEST(Sandbox, ModesHaveNames) {
  for (SandboxMode mode : {SandboxMode::kOff, SandboxMode::kBestEffort, SandboxMode::kOn}) {
    EXPECT_EQ(*ParseSandboxMode(SandboxModeName(mode)), mode);
  }
  EXPECT_THAT(ParseSandboxMode("yes"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("best-effort")));
}

}  // namespace
}  // namespace quant
