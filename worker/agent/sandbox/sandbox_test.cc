// SPDX-License-Identifier: Apache-2.0
// Break-outs: a real job process (testing/fake_child.cc) tries what a hostile one would. Each attempt is made twice,
// without the sandbox, where it must succeed, so that a refusal says something, and inside, where it must not.
#include "worker/agent/sandbox/sandbox.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/child_process.h"
#include "worker/agent/job_folder.h"
#include "worker/agent/orphans.h"
#include "worker/agent/supervisor.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using ::testing::AnyOf;
using ::testing::HasSubstr;

// What the kernel and Landlock answer, by what is asked.
MATCHER(IsRefused, "is refused") {
  return arg == EACCES || arg == EPERM || arg == ENOSYS || arg == EXDEV || arg == EROFS || arg == ESRCH;
}

class SandboxTest : public ::testing::Test {
 protected:
  SandboxTest() : root_(fs::path(::testing::TempDir()) / absl::StrCat("sandbox_test.", ::getpid())) {
    fs::remove_all(root_);
    for (const char* part : {"blobs", "jobs", "resume"}) fs::create_directories(root_ / part);
    blob_ = root_ / "blobs/b10b";
    std::ofstream(blob_) << "the model";
    ::chmod(blob_.c_str(), 0444);
    folder_.emplace(*JobFolder::Create(root_ / "jobs", root_ / "resume", "j-1", 1));
    other_.emplace(*JobFolder::Create(root_ / "jobs", root_ / "resume", "j-2", 2));
    EXPECT_THAT(folder_->Link("model", "model.onnx", blob_), IsOk());
    std::ofstream(other_->path() / "output/result") << "of another tenant";
    limits_.usage_poll = absl::Milliseconds(5);
    limits_.hang_timeout = absl::Seconds(20);
  }
  ~SandboxTest() override {
    folder_.reset();
    other_.reset();
    fs::remove_all(root_);
  }

  static SandboxFeatures Detect() {
    const absl::StatusOr<SandboxFeatures> found = DetectSandbox();
    EXPECT_THAT(found, IsOk());
    return *found;
  }
  static bool IsRoot() { return ::geteuid() == 0; }

  // Runs a job's process in `mode` that makes the attempts (testing/attempts.h) in turn; returns the errno of each.
  std::vector<int> Try(SandboxMode mode, const std::vector<std::string>& attempts) {
    std::string script;
    for (size_t i = 0; i < attempts.size(); ++i) absl::StrAppend(&script, "try answer-", i, " ", attempts[i], "\n");
    Run(mode, script);
    std::vector<int> answers;
    for (size_t i = 0; i < attempts.size(); ++i) {
      std::ifstream in(folder_->path() / absl::StrCat("output/answer-", i));
      int answer = -1;
      in >> answer;
      EXPECT_GE(answer, 0) << attempts[i] << ": no answer; its output: " << result_.output_tail;
      answers.push_back(answer);
    }
    return answers;
  }

  void Run(SandboxMode mode, const std::string& script) {
    fs::remove(folder_->path() / "model/script.txt");
    std::ofstream(folder_->path() / "model/script.txt") << script;
    const ChildProcess::Command command{
        .argv = {FAKE_CHILD, "--run-job", folder_->path().string(), "--threads", "1", "--memory",
                 absl::StrCat(int64_t{100} << 20), "--sandbox", SandboxModeName(mode)},
        .environment = ChildEnvironment(),
        .folder = folder_->path()};
    absl::StatusOr<ChildResult> result = RunChild(command, limits_, lease_, {});
    ASSERT_THAT(result, IsOk());
    result_ = *std::move(result);
  }

  // Each attempt succeeds outside and is refused inside.
  void ExpectRefused(const std::vector<std::string>& attempts) {
    for (const std::string& attempt : attempts) {
      EXPECT_EQ(Try(SandboxMode::kOff, {attempt})[0], 0) << attempt << ", without the sandbox";
    }
    ExpectRefusedInside(attempts);
  }
  void ExpectRefusedInside(const std::vector<std::string>& attempts) {
    const std::vector<int> inside = Try(SandboxMode::kBestEffort, attempts);
    for (size_t i = 0; i < attempts.size(); ++i) EXPECT_THAT(inside[i], IsRefused()) << attempts[i];
  }

  static bool Unlocked(const fs::path& file, absl::Duration patience) {
    UniqueFd fd(::open(file.c_str(), O_RDWR));
    for (const SteadyTime end = SteadyNow() + patience; fd.valid() && SteadyNow() < end;) {
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }

  static std::string Content(const fs::path& file) {
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  const fs::path root_;
  fs::path blob_;
  std::optional<JobFolder> folder_, other_;
  ChildLimits limits_;
  ActiveLease lease_{"j-1", 1};
  ChildResult result_;
};

#define SKIP_WITHOUT(condition, what) \
  if (!(condition)) GTEST_SKIP() << "this kernel, or this process's rights in it, have no " << what

TEST_F(SandboxTest, TheJobCanDoItsWork) {
  const std::string output = folder_->path() / "output", work = folder_->path() / "work";
  const std::string resume = folder_->path() / "resume";
  const std::vector<std::string> attempts = {
      absl::StrCat("read ", (folder_->path() / "model/model.onnx").string()),
      absl::StrCat("list ", folder_->path().string()),
      absl::StrCat("create ", output, "/a"),
      absl::StrCat("write ", output, "/a"),
      absl::StrCat("truncate ", output, "/a"),
      absl::StrCat("rename ", output, "/a ", work, "/b"),
      absl::StrCat("remove ", work, "/b"),
      absl::StrCat("create ", resume, "/c"),
      "read /proc/self/status",
      "list /proc/self/task",
      "read /proc/cpuinfo",
      "read /sys/devices/system/cpu/online",
      "read /dev/urandom",
      "write /dev/null",
      "threads 10",
  };
  const std::vector<int> answers = Try(SandboxMode::kBestEffort, attempts);
  for (size_t i = 0; i < attempts.size(); ++i) EXPECT_EQ(answers[i], 0) << attempts[i];
}

TEST_F(SandboxTest, NoNetwork) {
  SKIP_WITHOUT(Detect().network || Detect().syscalls, "network namespaces or seccomp");
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  ExpectRefused({absl::StrCat("connect ", ntohs(address.sin_port)), "socket"});
}

TEST_F(SandboxTest, NoReadingOfWhatIsNotTheJobs) {
  SKIP_WITHOUT(Detect().landlock > 0, "Landlock");
  ExpectRefused({"read /etc/passwd", "read /proc/self/root/etc/passwd", "list /", "list /etc", "list /proc",
                 "list /tmp", absl::StrCat("read ", (other_->path() / "output/result").string()),
                 absl::StrCat("list ", (root_ / "jobs").string()), absl::StrCat("list ", (root_ / "resume").string()),
                 absl::StrCat("read ", blob_.string()), absl::StrCat("list ", (root_ / "blobs").string()),
                 absl::StrCat("read /proc/", ::getpid(), "/cmdline")});
}

TEST_F(SandboxTest, NoWritingButInItsOwnFolders) {
  SKIP_WITHOUT(Detect().landlock >= 3, "Landlock 3");
  const std::string job = folder_->path(), other = other_->path();
  const auto contents = [&] { return Content(blob_); };
  ExpectRefusedInside({
      absl::StrCat("write ", blob_.string()),            // the cache,
      absl::StrCat("write ", job, "/model/model.onnx"),  // and the same file by its other name
      absl::StrCat("truncate ", job, "/model/model.onnx"),
      absl::StrCat("remove ", job, "/model/model.onnx"),
      absl::StrCat("remove ", blob_.string()),
      absl::StrCat("rename ", job, "/model/model.onnx ", job, "/output/m"),
      absl::StrCat("create ", job, "/model/new"),
      absl::StrCat("create ", job, "/lease.pb"),
      absl::StrCat("remove ", job, "/resume"),
      absl::StrCat("write ", other, "/output/result"),
      absl::StrCat("create ", other, "/work/outcome.pb"),
      absl::StrCat("create ", (root_ / "x").string()),
      "create /tmp/quant-sandbox-test",
      "create /etc/quant-sandbox-test",
      "create /dev/shm/quant-sandbox-test",
  });
  EXPECT_EQ(contents(), "the model");
  // Without the sandbox the same is possible, as root even through mode 0444: in an order that leaves each its file.
  if (!IsRoot()) return;
  const std::vector<std::string> outside = {absl::StrCat("write ", job, "/model/model.onnx"),
                                            absl::StrCat("write ", other, "/output/result"),
                                            absl::StrCat("create ", job, "/model/new"),
                                            absl::StrCat("create ", (root_ / "x").string()),
                                            absl::StrCat("rename ", job, "/model/model.onnx ", job, "/output/m"),
                                            absl::StrCat("truncate ", blob_.string()),
                                            absl::StrCat("remove ", blob_.string())};
  for (const std::string& attempt : outside) EXPECT_EQ(Try(SandboxMode::kOff, {attempt})[0], 0) << attempt;
}

TEST_F(SandboxTest, NoLinksAndNoModes) {
  SKIP_WITHOUT(Detect().syscalls, "seccomp");
  const std::string job = folder_->path();
  ExpectRefused({absl::StrCat("link ", job, "/model/model.onnx ", job, "/output/hard"),
                 absl::StrCat("symlink /etc/passwd ", job, "/output/soft"),
                 absl::StrCat("chmod ", job, "/model/model.onnx")});
}

TEST_F(SandboxTest, ASymbolicLinkToABlobIsReadableAndNothingBesideIt) {
  SKIP_WITHOUT(Detect().landlock > 0, "Landlock");
  std::ofstream(root_ / "blobs/other") << "another model";
  fs::create_symlink(blob_, folder_->path() / "model/linked.onnx");  // as JobFolder does where there are no hard links
  const std::vector<int> answers =
      Try(SandboxMode::kBestEffort, {absl::StrCat("read ", (folder_->path() / "model/linked.onnx").string()),
                                     absl::StrCat("write ", (folder_->path() / "model/linked.onnx").string()),
                                     absl::StrCat("read ", (root_ / "blobs/other").string())});
  EXPECT_EQ(answers[0], 0);
  EXPECT_THAT(answers[1], IsRefused());
  EXPECT_THAT(answers[2], IsRefused());
}

TEST_F(SandboxTest, NoHandOnOtherProcesses) {
  SKIP_WITHOUT(Detect().syscalls, "seccomp");
  const std::vector<std::string> attempts = {absl::StrCat("kill ", ::getpid()), absl::StrCat("ptrace ", ::getpid()),
                                             absl::StrCat("readmem ", ::getpid())};
  // Under Yama a child may not trace its parent anyway.
  if (IsRoot()) {
    ExpectRefused(attempts);
  } else {
    ExpectRefusedInside(attempts);
  }
}

TEST_F(SandboxTest, NoNewProcesses) {
  SKIP_WITHOUT(Detect().syscalls, "seccomp");
  ExpectRefused({"forks 1", "forks 50", "exec /bin/true"});
}

TEST_F(SandboxTest, NoProcessOutlivesTheJob) {
  SKIP_WITHOUT(Detect().syscalls, "seccomp");
  const fs::path lock = root_ / "jobs/j-1-1/work/lock";
  EXPECT_THAT(Try(SandboxMode::kBestEffort, {absl::StrCat("detach ", lock.string())})[0], IsRefused());
  EXPECT_TRUE(Unlocked(lock, absl::Seconds(2)));
}

TEST_F(SandboxTest, WithoutSeccompADetachedProcessIsKilledAsAnOrphan) {
  const fs::path lock = root_ / "jobs/j-1-1/work/lock";
  const std::vector<std::string> attempt = {absl::StrCat("detach ", lock.string())};
  AdoptOrphans();  // for the rest of this program: none of its tests has children but jobs
  EXPECT_EQ(Try(SandboxMode::kOff, attempt)[0], 0);
  EXPECT_TRUE(Unlocked(lock, absl::Seconds(2)));
}

TEST_F(SandboxTest, NoGiantFile) {
  // Sparse: nothing is written.
  ASSERT_EQ(Try(SandboxMode::kOff, {"file 64"})[0], 0);
  const std::vector<int> inside = Try(SandboxMode::kBestEffort, {"file 64", "file 3"});
  EXPECT_EQ(inside[0], EFBIG);
  EXPECT_EQ(inside[1], 0);
}

TEST_F(SandboxTest, NoGiantAllocation) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's shadow memory leaves no room for a cap of the address space";
#endif
  ASSERT_EQ(Try(SandboxMode::kOff, {"memory 200"})[0], 0);
  const std::vector<int> inside = Try(SandboxMode::kBestEffort, {"memory 200", "memory 1"});
  EXPECT_EQ(inside[0], ENOMEM);
  EXPECT_EQ(inside[1], 0);
}

TEST_F(SandboxTest, TooManyThreadsEndTheJob) {
  limits_.threads = SandboxThreads(1);
  Run(SandboxMode::kBestEffort, "try answer threads 500\nsleep 2000\n");
  // A user namespace's limit refuses them; else the supervisor sees them.
  if (Content(folder_->path() / "output/answer") == "0") {
    EXPECT_EQ(result_.stopped, StopCause::kThreads);
    EXPECT_THAT(result_.stop_detail, HasSubstr("at most 72"));
  }
}

TEST_F(SandboxTest, DangerousSystemCallsAreUnknown) {
  SKIP_WITHOUT(Detect().syscalls, "seccomp");
  std::vector<std::string> attempts;
  for (const char* call :
       {"add_key",        "bpf",         "clone3",     "finit_module",      "init_module",       "io_uring_enter",
        "io_uring_setup", "kexec_load",  "keyctl",     "io_uring_register", "memfd_create",      "mount",
        "pidfd_open",     "pidfd_getfd", "pivot_root", "open_by_handle_at", "perf_event_open",   "reboot",
        "seccomp",        "setns",       "setpgid",    "process_madvise",   "process_vm_writev", "setsid",
        "setxattr",       "shmget",      "socketpair", "pidfd_send_signal", "rt_sigqueueinfo",   "umount2",
        "unshare",        "userfaultfd", "utimensat"}) {
    attempts.push_back(absl::StrCat("call ", call));
  }
  const std::vector<int> inside = Try(SandboxMode::kBestEffort, attempts);
  const std::vector<int> outside = Try(SandboxMode::kOff, attempts);
  int known = 0;  // outside, the kernel looks at the arguments
  for (size_t i = 0; i < attempts.size(); ++i) {
    EXPECT_THAT(inside[i], AnyOf(ENOSYS, EPERM)) << attempts[i];
    known += outside[i] != ENOSYS && outside[i] != EPERM && outside[i] != EDOM ? 1 : 0;
  }
  EXPECT_GE(known, 10);
}

}  // namespace
}  // namespace quant
