// SPDX-License-Identifier: Apache-2.0
// The agent against a fake server on loopback, with testing/fake_child.cc as the job's process.
#include "worker/agent/agent.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/proto_time.h"
#include "common/transfer/fake_artifact_service.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/agent/sandbox/landlock.h"
#include "worker/agent/steady.h"
#include "worker/agent/testing/fake_worker_service.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr absl::Duration kInterval = absl::Milliseconds(100);

class AgentTest : public ::testing::Test {
 protected:
  AgentTest() : root_(fs::path(::testing::TempDir()) / absl::StrCat("agent_test.", ::getpid())) {
    fs::remove_all(root_);
    fs::create_directories(root_);
    options_.server = server_.address();
    options_.cache = root_ / "cache";
    options_.name = "worker-1";
    options_.drain_grace = absl::Seconds(10);
    options_.cancel_grace = absl::Milliseconds(300);
    options_.release_grace = absl::Milliseconds(300);
    options_.child_command = {FAKE_CHILD};
    options_.sandbox = SandboxMode::kOff;  // its scripts meet the test at files outside; sandbox_test has the sandbox
  }
  ~AgentTest() override {
    Stop();
    server_.Stop();
    fs::remove_all(root_);
  }

  void Start() {
    absl::StatusOr<std::unique_ptr<Agent>> agent = Agent::Create(options_, metrics_);
    ASSERT_THAT(agent, IsOk());
    agent_ = *std::move(agent);
    thread_ = std::thread([this] { agent_->Run([this] { ready_ = true; }); });
  }
  void Stop() {
    if (!thread_.joinable()) return;
    agent_->Drain();
    thread_.join();
  }
  // Waits until the agent has ended by itself.
  void Join() { thread_.join(); }

  // A lease whose model is `script` for fake_child.
  v1::Lease Lease(int64_t token, const std::string& script) {
    v1::Lease lease;
    lease.mutable_job()->set_id(absl::StrCat("j-", token));
    lease.set_token(token);
    SetProto(absl::Now(), lease.mutable_job()->mutable_start_time());
    SetProto(absl::Now() + absl::Minutes(5), lease.mutable_deadline());
    Add("script.txt", script, *lease.mutable_model()->mutable_files());
    return lease;
  }
  void Add(const std::string& path, const std::string& bytes, google::protobuf::RepeatedPtrField<v1::File>& files) {
    v1::File& file = *files.Add();
    file.set_path(path);
    *file.mutable_digest() = artifacts_.Put(bytes);
  }

  bool WaitCompletions(size_t n) {
    return workers_.WaitUntil([n](const auto& w) { return w.completions.size() >= n; });
  }
  // Waits until the child of `token` has sent phase `phase`.
  bool WaitPhase(int64_t token, const std::string& phase) {
    return workers_.WaitUntil([&](const auto& w) {
      const auto it = w.phases.find(token);
      return it != w.phases.end() && !it->second.empty() && it->second.back() == phase;
    });
  }
  bool WaitClaiming() {
    return workers_.WaitUntil([](const auto& w) { return w.waiting > 0; });
  }
  // Whether the child that locked `file` is gone within two seconds.
  static bool Unlocked(const fs::path& file) {
    UniqueFd fd(::open(file.c_str(), O_RDWR));
    for (int i = 0; fd.valid() && i < 400; ++i) {
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }
  // A child that holds a lock on `file` (through a process it forked), tells phase "calibrate", and never ends.
  std::string HangingScript(const fs::path& file) {
    return absl::StrCat("orphan ", file.string(), "\nprogress calibrate 0.5 x\nhang\n");
  }

  const fs::path root_;
  FakeArtifactService artifacts_;
  FakeWorkerService workers_{kInterval};
  LoopbackServer server_{{&artifacts_, &workers_}};
  AgentOptions options_;
  AgentMetrics metrics_;
  std::unique_ptr<Agent> agent_;
  std::atomic<bool> ready_{false};
  std::thread thread_;
};

TEST_F(AgentTest, RunsAJobAndPublishesItsFiles) {
  v1::Lease lease =
      Lease(5, "progress calibrate 0.5 x\noutput sub/model.onnx weights\noutput notes.txt hello\nsucceed\n");
  Add("cal/x.npy", "calibration", *lease.mutable_calibration_dataset()->mutable_files());
  workers_.Offer(lease);
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_TRUE(ready_);
  const v1::CompleteJobRequest& done = workers_.completions[0];
  EXPECT_EQ(done.worker_id(), agent_->worker_id());
  EXPECT_THAT(done.worker_id(), StartsWith("worker-1-"));
  EXPECT_EQ(done.job_id(), "j-5");
  EXPECT_EQ(done.token(), 5);
  ASSERT_EQ(done.success().files_size(), 2);
  EXPECT_EQ(done.success().files(0).path(), "notes.txt");
  EXPECT_EQ(done.success().files(1).path(), "sub/model.onnx");
  EXPECT_EQ(artifacts_.blobs[done.success().files(1).digest().sha256()], "weights");
  const v1::Report& report = done.success().report();
  ASSERT_EQ(report.phases_size(), 3);
  EXPECT_EQ(report.phases(0).name(), "fetch");
  EXPECT_EQ(report.phases(1).name(), "load");
  EXPECT_EQ(report.phases(2).name(), "upload");
  EXPECT_GT(report.peak_memory_bytes(), 0);
  EXPECT_TRUE(fs::is_empty(root_ / "cache/jobs"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("quant_worker_jobs_total{outcome=\"succeeded\",reason=\"\"} 1\n"));
}

TEST_F(AgentTest, JobsRunInTheSandbox) {
  if (LandlockAbi() == 0) GTEST_SKIP() << "this kernel has no Landlock";
  options_.sandbox = SandboxMode::kBestEffort;
  workers_.Offer(Lease(5, "try answer read /etc/passwd\nsucceed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  ASSERT_EQ(workers_.completions[0].success().files_size(), 1);
  EXPECT_EQ(artifacts_.blobs[workers_.completions[0].success().files(0).digest().sha256()], absl::StrCat(EACCES));
}

TEST_F(AgentTest, OneDownloadServesManyJobsAndSlots) {
  options_.slots = 3;
  for (int64_t token = 1; token <= 9; ++token) workers_.Offer(Lease(token, "sleep 20\nsucceed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(9));
  Stop();
  EXPECT_EQ(artifacts_.read_calls, 1);
}

TEST_F(AgentTest, HeartbeatsCarryProgressOfEveryLease) {
  options_.slots = 2;
  const std::string go = root_ / "go";
  for (int64_t token : {1, 2}) {
    workers_.Offer(Lease(token, absl::StrCat("progress quantize 0.25 layer ", token, "\nwait ", go, "\nsucceed\n")));
  }
  Start();
  ASSERT_TRUE(workers_.WaitUntil([](const auto& w) {
    return !w.heartbeats.empty() && w.heartbeats.back().leases_size() == 2 &&
           w.heartbeats.back().leases(0).progress().phase() == "quantize" &&
           w.heartbeats.back().leases(1).progress().phase() == "quantize";
  }));
  std::ofstream(go).put('x');
  ASSERT_TRUE(WaitCompletions(2));
  Stop();
}

TEST_F(AgentTest, AChildThatCrashesFailsTheJobAndTheAgentLivesOn) {
  workers_.Offer(Lease(1, "crash\n"));
  workers_.Offer(Lease(2, "succeed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(2));
  Stop();
  EXPECT_EQ(workers_.completions[0].failure().reason(), "CHILD_CRASHED");
  EXPECT_TRUE(workers_.completions[1].has_success());
}

TEST_F(AgentTest, CancelStopsTheJob) {
  const std::string lock = root_ / "lock";
  workers_.Offer(Lease(1, HangingScript(lock)));
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  workers_.Command(1, v1::LEASE_COMMAND_CANCEL);
  ASSERT_TRUE(WaitCompletions(1));
  EXPECT_TRUE(workers_.completions[0].has_cancelled());
  EXPECT_TRUE(Unlocked(lock));
  Stop();
}

TEST_F(AgentTest, ALostLeaseIsDiscardedSilently) {
  const std::string lock = root_ / "lock";
  workers_.Offer(Lease(1, HangingScript(lock)));
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  workers_.Command(1, v1::LEASE_COMMAND_LEASE_LOST);
  ASSERT_TRUE(WaitClaiming());  // the slot is free again
  EXPECT_TRUE(Unlocked(lock));
  Stop();
  EXPECT_TRUE(workers_.completions.empty());
  EXPECT_THAT(metrics_.Text(), HasSubstr("quant_worker_jobs_total{outcome=\"lost\",reason=\"\"} 1\n"));
  EXPECT_THAT(metrics_.Text(), HasSubstr("quant_worker_children_killed_total{cause=\"lost\"} 1\n"));
}

TEST_F(AgentTest, AStaleLeaseAtTheEndDiscardsTheResult) {
  workers_.RefuseComplete(WithReason(absl::FailedPreconditionError("not the newest lease"), "LEASE_STALE"));
  workers_.Offer(Lease(1, "output a b\nsucceed\n"));
  workers_.Offer(Lease(2, "succeed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_EQ(workers_.completions[0].token(), 2);
}

TEST_F(AgentTest, CompletionIsRepeatedWhileTheServerIsAway) {
  for (int i = 0; i < 3; ++i) workers_.RefuseComplete(absl::UnavailableError("restarting"));
  workers_.Offer(Lease(1, "succeed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_TRUE(workers_.completions[0].has_success());
}

TEST_F(AgentTest, AMissingBlobIsUploadedAgain) {
  workers_.RefuseComplete(WithReason(absl::FailedPreconditionError("no such blob"), "BLOB_MISSING"));
  workers_.Offer(Lease(1, "output a b\nsucceed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_TRUE(workers_.completions[0].has_success());
  EXPECT_EQ(workers_.completions[0].success().report().phases_size(), 3);
}

TEST_F(AgentTest, AResultTheServerRefusesEndsTheJobWithItsWords) {
  workers_.RefuseComplete(absl::InvalidArgumentError("no file that any reader knows"));
  workers_.Offer(Lease(1, "output a b\nsucceed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_EQ(workers_.completions[0].failure().reason(), "INTERNAL");
  EXPECT_THAT(workers_.completions[0].failure().message(), HasSubstr("no file that any reader knows"));
}

TEST_F(AgentTest, ARestartOfTheServerKeepsTheJobRunning) {
  const std::string go = root_ / "go";
  workers_.Offer(Lease(1, absl::StrCat("progress calibrate 0 x\nwait ", go, "\noutput m w\nsucceed\n")));
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  server_.Stop();
  absl::SleepFor(kInterval);
  server_.Start();
  const size_t before = workers_.heartbeats.size();
  ASSERT_TRUE(workers_.WaitUntil([&](const auto& w) { return w.heartbeats.size() > before; }));
  std::ofstream(go).put('x');
  ASSERT_TRUE(WaitCompletions(1));
  EXPECT_TRUE(workers_.completions[0].has_success());
  EXPECT_EQ(workers_.completions[0].token(), 1);
  workers_.Offer(Lease(2, "succeed\n"));  // and it claims again
  ASSERT_TRUE(WaitCompletions(2));
  Stop();
}

TEST_F(AgentTest, WithoutHeartbeatsItStopsItsChildrenAndClaimsNothing) {
  const std::string lock = root_ / "lock";
  workers_.Offer(Lease(1, HangingScript(lock)));
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  workers_.SetDeaf(true);
  EXPECT_TRUE(Unlocked(lock));  // the child is killed once the lease has run out
  const auto text = [this] { return metrics_.Text(); };
  for (int i = 0; i < 200 && text().find("outcome=\"lost\",reason=\"\"} 1") == std::string::npos; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_THAT(text(), HasSubstr("quant_worker_connected 0\n"));
  const int calls = workers_.lease_calls;
  workers_.Offer(Lease(2, "succeed\n"));
  absl::SleepFor(2 * kInterval);
  EXPECT_EQ(workers_.lease_calls, calls) << "it asked for work although nobody hears it";
  workers_.SetDeaf(false);
  ASSERT_TRUE(WaitCompletions(1));
  EXPECT_EQ(workers_.completions[0].token(), 2);
  Stop();
}

TEST_F(AgentTest, ADrainLetsTheRunningJobFinish) {
  const std::string go = root_ / "go";
  workers_.Offer(Lease(1, absl::StrCat("progress calibrate 0 x\nwait ", go, "\nsucceed\n")));
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  agent_->Drain();
  ASSERT_TRUE(workers_.WaitUntil([](const auto& w) { return w.heartbeats.back().draining(); }));
  std::ofstream(go).put('x');
  Join();
  ASSERT_EQ(workers_.completions.size(), 1u);
  EXPECT_TRUE(workers_.completions[0].has_success());
}

TEST_F(AgentTest, ADrainHandsBackWhatDoesNotFinish) {
  options_.drain_grace = absl::Milliseconds(100);
  const std::string lock = root_ / "lock";
  workers_.Offer(Lease(1, HangingScript(lock)));
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  agent_->Drain();
  Join();
  ASSERT_EQ(workers_.completions.size(), 1u);
  EXPECT_TRUE(workers_.completions[0].has_released());
  EXPECT_TRUE(Unlocked(lock));
  EXPECT_TRUE(fs::is_empty(root_ / "cache/jobs"));
}

TEST_F(AgentTest, AnIdleWorkerDrainsAtOnceByItsOwnOrTheServersWord) {
  Start();
  ASSERT_TRUE(WaitClaiming());
  SteadyTime start = SteadyNow();
  Stop();
  EXPECT_LT(SteadyNow() - start, absl::Seconds(2));
  agent_.reset();  // frees the cache folder
  Start();
  ASSERT_TRUE(WaitClaiming());
  start = SteadyNow();
  workers_.SetDrain();
  Join();
  EXPECT_LT(SteadyNow() - start, absl::Seconds(2));
}

TEST_F(AgentTest, ItWaitsForAServerThatIsNotThereYet) {
  server_.Stop();
  Start();
  absl::SleepFor(kInterval);
  EXPECT_FALSE(ready_);
  server_.Start();
  workers_.Offer(Lease(1, "succeed\n"));
  ASSERT_TRUE(WaitCompletions(1));
  EXPECT_TRUE(ready_);
  Stop();
}

TEST_F(AgentTest, ADrainEndsAlsoWhenTheServerIsGone) {
  workers_.Offer(Lease(1, "progress calibrate 0 x\nhang\n"));
  options_.drain_grace = absl::Milliseconds(100);
  Start();
  ASSERT_TRUE(WaitPhase(1, "calibrate"));
  server_.Stop();
  const SteadyTime start = SteadyNow();
  Stop();
  EXPECT_LT(SteadyNow() - start, absl::Seconds(5));
}

TEST_F(AgentTest, AHostileManifestPathFailsTheJob) {
  v1::Lease lease = Lease(1, "succeed\n");
  Add("../../../escape.txt", "payload", *lease.mutable_model()->mutable_files());
  workers_.Offer(lease);
  v1::Lease data = Lease(2, "succeed\n");
  Add("/etc/x", "payload", *data.mutable_evaluation_dataset()->mutable_files());
  workers_.Offer(data);
  Start();
  ASSERT_TRUE(WaitCompletions(2));
  Stop();
  EXPECT_EQ(workers_.completions[0].failure().reason(), "MODEL_INVALID");
  EXPECT_EQ(workers_.completions[0].failure().error_class(), v1::ERROR_CLASS_FINAL);
  EXPECT_EQ(workers_.completions[0].failure().phase(), "fetch");
  EXPECT_EQ(workers_.completions[1].failure().reason(), "DATA_MISMATCH");
  EXPECT_FALSE(fs::exists(root_ / "escape.txt"));
}

TEST_F(AgentTest, AHostileOutputIsNotUploaded) {
  workers_.Offer(Lease(1, "link secret /etc/passwd\nsucceed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_EQ(workers_.completions[0].failure().reason(), "INTERNAL");
  EXPECT_EQ(workers_.completions[0].failure().phase(), "upload");
  EXPECT_EQ(artifacts_.bytes_received, 0);
}

TEST_F(AgentTest, DamagedBytesFromTheServerAreNotUsed) {
  artifacts_.faults.damage_reads = true;
  workers_.Offer(Lease(1, "succeed\n"));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_EQ(workers_.completions[0].failure().reason(), "INTERNAL");
  EXPECT_EQ(workers_.completions[0].failure().error_class(), v1::ERROR_CLASS_RETRYABLE);
  EXPECT_EQ(workers_.completions[0].failure().phase(), "fetch");
}

TEST_F(AgentTest, InputsLargerThanTheCacheSaySo) {
  options_.cache_bytes = 100;
  workers_.Offer(Lease(1, std::string(101, '\n')));
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_THAT(workers_.completions[0].failure().message(), HasSubstr("--cache-bytes"));
}

TEST_F(AgentTest, TheLeasesDeadlineEndsTheAttempt) {
  v1::Lease lease = Lease(1, "progress calibrate 0 x\nhang\n");
  SetProto(FromProto(lease.job().start_time()) + absl::Milliseconds(300), lease.mutable_deadline());
  workers_.Offer(lease);
  Start();
  ASSERT_TRUE(WaitCompletions(1));
  Stop();
  EXPECT_EQ(workers_.completions[0].failure().reason(), "TIMEOUT");
}

TEST_F(AgentTest, BadOptionsAreRefused) {
  AgentOptions bad = options_;
  bad.server.clear();
  EXPECT_THAT(Agent::Create(bad, metrics_), StatusIs(absl::StatusCode::kInvalidArgument));
  bad = options_;
  bad.name = "has space";
  EXPECT_THAT(Agent::Create(bad, metrics_), StatusIs(absl::StatusCode::kInvalidArgument));
  bad = options_;
  bad.phase_timeouts["exports"] = absl::Minutes(1);
  EXPECT_THAT(Agent::Create(bad, metrics_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("export, verify")));
  Start();
  EXPECT_THAT(Agent::Create(options_, metrics_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("in use by another")));
}

}  // namespace
}  // namespace quant
