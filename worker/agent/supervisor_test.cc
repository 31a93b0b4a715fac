// SPDX-License-Identifier: Apache-2.0
// Real child processes (testing/fake_child.cc) in every way of going wrong, up to the outcome that is reported.
#include "worker/agent/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/v1/workers.pb.h"
#include "worker/agent/job_folder.h"
#include "worker/agent/outcome.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() : root_(fs::path(::testing::TempDir()) / absl::StrCat("supervisor_test.", ::getpid())) {
    fs::remove_all(root_);
    fs::create_directories(root_);
    folder_.emplace(*JobFolder::Create(root_, root_ / "resume", "j-1", 7));
    limits_.cancel_grace = absl::Milliseconds(200);
    limits_.release_grace = absl::Milliseconds(200);
    limits_.usage_poll = absl::Milliseconds(5);
  }
  ~SupervisorTest() override {
    folder_.reset();
    fs::remove_all(root_);
  }

  ChildProcess::Command Command(const std::string& script) {
    std::ofstream(folder_->path() / "model/script.txt") << script;
    return {.argv = {FAKE_CHILD, "--run-job", folder_->path().string(), "--threads", "1", "--memory", "0"},
            .environment = ChildEnvironment(),
            .folder = folder_->path()};
  }

  // Runs `script` to its end and judges it.
  void Run(const std::string& script) {
    const ChildEvents events{.progress = [&](std::string_view payload) {
      v1::Progress progress;
      if (!progress.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
        return absl::InvalidArgumentError("no Progress");
      }
      lease_.SetProgress(progress.phase(), progress.fraction(), progress.message());
      if (on_progress_) on_progress_();
      return absl::OkStatus();
    }};
    absl::StatusOr<ChildResult> result = RunChild(Command(script), limits_, lease_, events);
    ASSERT_THAT(result, IsOk());
    result_ = *std::move(result);
    v1::CompleteJobRequest outcome;
    const absl::Status told = folder_->ReadOutcome(outcome);
    done_.Clear();
    JudgeChild({.child = result_,
                .outcome_status = told,
                .outcome = outcome,
                .order = lease_.order(),
                .phase = lease_.state().phase,
                .attempt_timeout = absl::Seconds(3)},
               done_);
  }

  // Whether a process that locked `file` is gone, or goes within two seconds (a killed process ends in its own time).
  static bool Unlocked(const fs::path& file) {
    UniqueFd fd(::open(file.c_str(), O_RDWR));
    if (!fd.valid()) return false;
    for (int i = 0; i < 400; ++i) {
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }

  const fs::path root_;
  std::optional<JobFolder> folder_;
  ChildLimits limits_;
  ActiveLease lease_{"j-1", 7};
  std::function<void()> on_progress_;
  ChildResult result_;
  v1::CompleteJobRequest done_;
};

TEST_F(SupervisorTest, ASuccessIsPassedOn) {
  Run("progress calibrate 0.5 halfway there\noutput model.onnx bytes\nsucceed\n");
  EXPECT_TRUE(done_.has_success());
  EXPECT_EQ(done_.success().report().size().original_bytes(), 42);
  EXPECT_EQ(lease_.state().phase, "calibrate");
  EXPECT_EQ(lease_.state().fraction, 0.5);
  EXPECT_EQ(lease_.state().message, "halfway there");
  EXPECT_EQ(result_.stopped, StopCause::kNone);
  EXPECT_GT(result_.exit.peak_rss_bytes, 0);
}

TEST_F(SupervisorTest, AFailureIsPassedOn) {
  Run("progress load 0 x\nfail OPERATOR_UNSUPPORTED node n3: Foo\n");
  EXPECT_EQ(done_.failure().reason(), "OPERATOR_UNSUPPORTED");
  EXPECT_EQ(done_.failure().message(), "node n3: Foo");
  EXPECT_EQ(done_.failure().error_class(), v1::ERROR_CLASS_FINAL);
  EXPECT_EQ(done_.failure().phase(), "load");
}

TEST_F(SupervisorTest, ACrashIsPoisonWithSignalAndOutput) {
  Run("progress quantize 0.1 x\nprint the last words\ncrash\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_CRASHED");
  EXPECT_EQ(done_.failure().error_class(), v1::ERROR_CLASS_POISON);
  EXPECT_EQ(done_.failure().phase(), "quantize");
  EXPECT_THAT(done_.failure().message(), AllOf(HasSubstr("SIGSEGV"), HasSubstr("the last words")));
  EXPECT_TRUE(WIFSIGNALED(result_.exit.wait_status));
}

TEST_F(SupervisorTest, AnExitWithoutOutcomeIsACrash) {
  Run("exit 3\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_CRASHED");
  EXPECT_THAT(done_.failure().message(), HasSubstr("exit status 3"));
  Run("");
  EXPECT_EQ(done_.failure().reason(), "CHILD_CRASHED");
  EXPECT_THAT(done_.failure().message(), HasSubstr("without an outcome"));
}

TEST_F(SupervisorTest, ATornOutcomeIsACrash) {
  Run("torn\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_CRASHED");
  EXPECT_THAT(done_.failure().message(), HasSubstr("outcome.pb"));
}

TEST_F(SupervisorTest, ACompleteOutcomeCountsWhateverTheExit) {
  Run("succeed\nexit 1\n");
  EXPECT_TRUE(done_.has_success());
}

TEST_F(SupervisorTest, SilenceIsAHang) {
  limits_.hang_timeout = absl::Milliseconds(100);
  Run("progress calibrate 0 x\nhang\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_HUNG");
  EXPECT_EQ(done_.failure().error_class(), v1::ERROR_CLASS_POISON);
  EXPECT_THAT(done_.failure().message(), AllOf(HasSubstr("100ms"), HasSubstr("calibrate")));
  EXPECT_EQ(result_.stopped, StopCause::kHang);
}

TEST_F(SupervisorTest, ProgressKeepsTheHangGuardAway) {
  limits_.hang_timeout = absl::Milliseconds(400);
  std::string script;
  for (int i = 0; i < 12; ++i) absl::StrAppend(&script, "sleep 50\nprogress calibrate 0 sample ", i, "\n");
  Run(script + "succeed\n");
  EXPECT_TRUE(done_.has_success());
}

TEST_F(SupervisorTest, TellingTheSameAgainAndAgainIsAHangToo) {
  limits_.hang_timeout = absl::Milliseconds(300);
  std::string script;
  for (int i = 0; i < 100; ++i) script += "sleep 20\nprogress calibrate 0.5 x\n";
  Run(script + "succeed\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_HUNG");
  EXPECT_THAT(done_.failure().message(),
              AllOf(HasSubstr("alive but stuck"), HasSubstr("300ms"), HasSubstr("calibrate")));
}

TEST_F(SupervisorTest, APhaseHasItsOwnHangTimeout) {
  limits_.hang_timeout = absl::Milliseconds(150);
  limits_.phase_timeouts = {{"export", absl::Minutes(1)}, {"verify", absl::Milliseconds(50)}};
  Run("progress export 0 x\nsleep 400\nprogress verify 0 x\nhang\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_HUNG");
  EXPECT_THAT(done_.failure().message(), AllOf(HasSubstr("no sign of life for 50ms"), HasSubstr("verify")));
}

TEST_F(SupervisorTest, TheEndOfTheAttemptIsATimeout) {
  limits_.end = SteadyNow() + absl::Milliseconds(100);
  Run("hang\n");
  EXPECT_EQ(done_.failure().reason(), "TIMEOUT");
  EXPECT_EQ(done_.failure().error_class(), v1::ERROR_CLASS_RETRYABLE);
  EXPECT_THAT(done_.failure().message(), AllOf(HasSubstr("3s"), HasSubstr("attempt_timeout")));
}

TEST_F(SupervisorTest, TooMuchMemoryIsOutOfMemory) {
  limits_.memory_bytes = int64_t{100} << 20;
  Run("eat 2000\nsucceed\n");
  EXPECT_EQ(done_.failure().reason(), "OUT_OF_MEMORY");
  EXPECT_EQ(done_.failure().error_class(), v1::ERROR_CLASS_FINAL);
  EXPECT_THAT(done_.failure().message(), AllOf(HasSubstr("--memory"), HasSubstr("limit is 100 MiB")));
  EXPECT_GT(result_.exit.peak_rss_bytes, limits_.memory_bytes);
  EXPECT_LT(result_.exit.peak_rss_bytes, int64_t{1500} << 20) << "it was noticed late";
}

TEST_F(SupervisorTest, MemoryBelowTheLimitIsFine) {
  limits_.memory_bytes = int64_t{200} << 20;
  Run("eat 20\nsucceed\n");
  EXPECT_TRUE(done_.has_success());
}

TEST_F(SupervisorTest, GarbageProgressEndsTheChild) {
  Run("garbage\nhang\n");
  EXPECT_EQ(done_.failure().reason(), "CHILD_CRASHED");
  EXPECT_THAT(done_.failure().message(), HasSubstr("malformed progress"));
  EXPECT_EQ(result_.stopped, StopCause::kProtocol);
}

TEST_F(SupervisorTest, CancelStopsThePoliteChildBySigterm) {
  on_progress_ = [this] { lease_.Give(LeaseOrder::kCancel); };
  limits_.cancel_grace = absl::Minutes(1);
  Run("progress calibrate 0 x\nhang\n");
  EXPECT_TRUE(done_.has_cancelled());
  EXPECT_EQ(WTERMSIG(result_.exit.wait_status), SIGTERM);
}

TEST_F(SupervisorTest, CancelKillsTheChildThatIgnoresSigterm) {
  on_progress_ = [this] { lease_.Give(LeaseOrder::kCancel); };
  Run("ignore_term\nprogress calibrate 0 x\nhang\n");
  EXPECT_TRUE(done_.has_cancelled());
  EXPECT_EQ(WTERMSIG(result_.exit.wait_status), SIGKILL);
}

TEST_F(SupervisorTest, ASuccessFinishedDuringCancelWins) {
  on_progress_ = [this] { lease_.Give(LeaseOrder::kCancel); };
  limits_.cancel_grace = absl::Minutes(1);
  Run("on_term_succeed\nprogress calibrate 0 x\nhang\n");
  EXPECT_TRUE(done_.has_success());
}

TEST_F(SupervisorTest, ReleaseHandsTheJobBack) {
  on_progress_ = [this] { lease_.Give(LeaseOrder::kRelease); };
  Run("progress calibrate 0 x\nhang\n");
  EXPECT_TRUE(done_.has_released());
}

TEST_F(SupervisorTest, ALostLeaseKillsAtOnce) {
  on_progress_ = [this] { lease_.Give(LeaseOrder::kLost); };
  limits_.cancel_grace = absl::Minutes(1);
  Run("ignore_term\nprogress calibrate 0 x\nhang\n");
  EXPECT_EQ(result_.stopped, StopCause::kLost);
  EXPECT_EQ(WTERMSIG(result_.exit.wait_status), SIGKILL);
}

TEST_F(SupervisorTest, AnOrderFromAnotherThreadIsObeyedAtOnce) {
  std::thread canceller([this] {
    absl::SleepFor(absl::Milliseconds(50));
    lease_.Give(LeaseOrder::kCancel);
  });
  const SteadyTime start = SteadyNow();
  Run("hang\n");
  canceller.join();
  EXPECT_TRUE(done_.has_cancelled());
  EXPECT_LT(SteadyNow() - start, absl::Seconds(1));
}

TEST_F(SupervisorTest, AChildStoppedByAStrangerMayBeTriedAgain) {
  Run("progress calibrate 0 x\ncancelled\n");
  EXPECT_EQ(done_.failure().reason(), "INTERNAL");
  EXPECT_EQ(done_.failure().error_class(), v1::ERROR_CLASS_RETRYABLE);
}

TEST_F(SupervisorTest, NothingOfTheGroupIsLeftRunning) {
  const std::string lock = root_ / "lock";
  for (const char* end : {"succeed\n", "crash\n", "exit 1\n"}) {
    fs::remove(folder_->path() / "work/outcome.pb");
    Run(absl::StrCat("orphan ", lock, "\n", end));
    EXPECT_TRUE(Unlocked(lock)) << end;
  }
  on_progress_ = [this] { lease_.Give(LeaseOrder::kCancel); };
  Run(absl::StrCat("orphan ", lock, "\nprogress calibrate 0 x\nhang\n"));
  EXPECT_TRUE(done_.has_cancelled());
  EXPECT_TRUE(Unlocked(lock));
}

TEST_F(SupervisorTest, FloodsOfOutputAreBounded) {
  std::string script;
  for (int i = 0; i < 2000; ++i) absl::StrAppend(&script, "print ", std::string(200, 'x'), i, "\n");
  Run(script + "exit 1\n");
  EXPECT_EQ(result_.output_tail.size(), 16u * 1024);
  EXPECT_THAT(result_.output_tail, HasSubstr("x1999\n"));
  EXPECT_LE(done_.failure().message().size(), 4096u);
}

TEST_F(SupervisorTest, TheChildInheritsNothingButWhatItShould) {
  ::setenv("QUANT_TOKEN", "secret", 1);
  ::setenv("OMP_WAIT_POLICY", "passive", 1);
  UniqueFd leaky(::open("/dev/null", O_RDONLY));  // without close-on-exec
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
  const auto old = ::signal(SIGPIPE, SIG_IGN);
  Run("inspect\nsucceed\n");
  ::signal(SIGPIPE, old);
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
  ::unsetenv("QUANT_TOKEN");
  std::ifstream in(folder_->path() / "output/inspect.txt");
  const std::string seen{std::istreambuf_iterator<char>(in), {}};
  EXPECT_THAT(seen, Not(HasSubstr("secret")));
  EXPECT_THAT(seen, HasSubstr("env OMP_WAIT_POLICY=passive\n"));
  std::vector<std::string> fds;
  std::istringstream lines(seen);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("fd ", 0) == 0) fds.push_back(line.substr(3));
  }
  // 4 is the script that fake_child has open.
  EXPECT_THAT(fds, ::testing::UnorderedElementsAre("0", "1", "2", "3", "4")) << seen;
  EXPECT_THAT(seen, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(seen, HasSubstr("SigIgn:\t0000000000000000"));
  EXPECT_THAT(seen, HasSubstr(absl::StrCat("cwd ", fs::canonical(folder_->path()).string())));
  EXPECT_THAT(seen, HasSubstr("group own"));
}

TEST_F(SupervisorTest, DescriptorsAreNotLeaked) {
  const auto count = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()); };
  Run("succeed\n");
  const auto before = count();
  for (int i = 0; i < 5; ++i) Run("crash\n");
  EXPECT_EQ(count(), before);
}

TEST_F(SupervisorTest, AProgramThatCannotStartIsAnError) {
  ChildProcess::Command command = Command("");
  command.argv[0] = "/nonexistent/program";
  EXPECT_THAT(RunChild(command, limits_, lease_, {}),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("/nonexistent/program"), HasSubstr("execve"))));
  command = Command("");
  command.folder = "/nonexistent/folder";
  EXPECT_THAT(RunChild(command, limits_, lease_, {}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("chdir")));
}

TEST_F(SupervisorTest, TheChildDiesWithTheThreadThatStartedIt) {
  // As when the agent is killed: nobody reaps, nobody signals.
  const std::string lock = root_ / "lock";
  std::ofstream(lock).put('x');
  const pid_t agent = ::fork();
  if (agent == 0) {
    const ChildProcess::Command command{.argv = {"/usr/bin/flock", "--no-fork", lock, "/bin/sleep", "60"},
                                        .folder = "/"};
    auto child = ChildProcess::Start(command);
    if (!child.ok()) ::_exit(1);
    UniqueFd fd(::open(lock.c_str(), O_RDWR | O_CLOEXEC));
    while (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::flock(fd.get(), LOCK_UN);  // until the child holds it
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(agent, &status, 0), agent);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(Unlocked(lock));
}

}  // namespace
}  // namespace quant
