// SPDX-License-Identifier: Apache-2.0
// What workers see: leases, heartbeats, completion, losses, drain.
#include <atomic>
#include <string>

#include "absl/time/clock.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using QueueWorkersTest = QueueTest;

// ---------------------------------------------------------------- leasing

TEST_F(QueueWorkersTest, ALeaseCarriesAllTheWorkerNeeds) {
  catalog_.AddDataset("d-2");
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_quantize()->set_evaluation_dataset_id("d-2");
  SetProto(absl::Minutes(10), request.mutable_spec()->mutable_attempt_timeout());
  const v1::Job job = Submit(request);
  const auto call = Ask("w-1");
  ASSERT_THAT(call->answer, IsOk());
  const v1::Lease& lease = call->answer->lease();
  EXPECT_EQ(lease.job().id(), job.id());
  EXPECT_EQ(lease.job().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(lease.job().worker_id(), "w-1");
  EXPECT_EQ(lease.job().attempt(), 1);
  EXPECT_GT(lease.token(), 0);
  EXPECT_EQ(lease.model().id(), "m-1");
  EXPECT_EQ(lease.calibration_dataset().id(), "d-1");
  EXPECT_EQ(lease.evaluation_dataset().id(), "d-2");
  EXPECT_EQ(FromProto(lease.deadline()), clock_.Now() + absl::Minutes(10));
  EXPECT_EQ(FromProto(call->answer->heartbeat_interval()), absl::Seconds(1));
}

TEST_F(QueueWorkersTest, ABenchmarkLeaseCarriesTheBaseline) {
  catalog_.AddModel("m-2");
  v1::SubmitJobRequest request;
  v1::BenchmarkSpec* spec = request.mutable_spec()->mutable_benchmark();
  spec->set_model_id("m-2");
  spec->set_baseline_model_id("m-1");
  spec->set_dataset_id("d-1");
  Submit(request);
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.model().id(), "m-2");
  EXPECT_EQ(lease.baseline_model().id(), "m-1");
  EXPECT_EQ(lease.evaluation_dataset().id(), "d-1");
  v1::CompleteJobRequest end = End("w-1", lease);
  end.mutable_success()->mutable_report();
  EXPECT_EQ(queue_->Complete(end)->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(catalog_.Published(), IsEmpty());
}

TEST_F(QueueWorkersTest, TokensGrowOverAllJobs) {
  int64_t token = 0;
  for (int i = 0; i < 5; ++i) {
    Submit();
    const v1::Lease lease = Lease("w-" + std::to_string(i));
    EXPECT_GT(lease.token(), token);
    token = lease.token();
  }
}

TEST_F(QueueWorkersTest, PriorityComesFirstThenAge) {
  const auto submit = [&](int priority) {
    v1::SubmitJobRequest request = Request();
    request.mutable_spec()->set_priority(priority);
    return Submit(request).id();
  };
  const std::string low = submit(5), middle = submit(3), high = submit(1), high2 = submit(1), middle2 = submit(3);
  std::vector<std::string> order;
  order.reserve(5);
  for (int i = 0; i < 5; ++i) order.push_back(Lease("w-" + std::to_string(i)).job().id());
  EXPECT_THAT(order, ElementsAre(high, high2, middle, middle2, low));
}

TEST_F(QueueWorkersTest, AParkedCallIsAnsweredBySubmitItself) {
  const auto call = Ask("w-1", absl::Seconds(30));
  EXPECT_EQ(call->answers, 0);
  const v1::Job job = Submit();
  ASSERT_EQ(call->answers, 1);
  EXPECT_EQ(call->answer->lease().job().id(), job.id());
}

TEST_F(QueueWorkersTest, TheCallParkedLongestIsAnsweredFirst) {
  const auto first = Ask("w-1", absl::Seconds(30));
  const auto second = Ask("w-2", absl::Seconds(30));
  Submit();
  EXPECT_EQ(first->answers, 1);
  EXPECT_EQ(second->answers, 0);
}

TEST_F(QueueWorkersTest, ASilentWorkersCallIsPassedOver) {
  const auto silent = Ask("w-1", absl::Seconds(60));
  Advance(absl::Seconds(4));
  const auto live = Ask("w-2", absl::Seconds(60));
  Submit();
  EXPECT_EQ(silent->answers, 0);
  EXPECT_EQ(live->answers, 1);
  Submit();  // better a silent worker than none
  EXPECT_EQ(silent->answers, 1);
}

TEST_F(QueueWorkersTest, AParkedCallEndsEmptyWhenItsWaitIsOver) {
  const auto call = Ask("w-1", absl::Seconds(5));
  EXPECT_LE(queue_->NextDue(), clock_.Now() + absl::Seconds(5));
  Advance(absl::Milliseconds(4999));
  EXPECT_EQ(call->answers, 0);
  Advance(absl::Milliseconds(1));
  ASSERT_EQ(call->answers, 1);
  ASSERT_THAT(call->answer, IsOk());
  EXPECT_FALSE(call->answer->has_lease());
  EXPECT_EQ(FromProto(call->answer->heartbeat_interval()), absl::Seconds(1));
  Submit();
  EXPECT_EQ(call->answers, 1);
}

TEST_F(QueueWorkersTest, AWaitIsAtMostAMinute) {
  const auto call = Ask("w-1", absl::Hours(1));
  Advance(absl::Seconds(60));
  EXPECT_EQ(call->answers, 1);
}

TEST_F(QueueWorkersTest, AnAbandonedCallGetsNoJob) {
  const auto call = Ask("w-1", absl::Seconds(30));
  queue_->AbandonLease(call->handle);
  EXPECT_EQ(call->answers, 1);
  EXPECT_THAT(call->answer, StatusIs(absl::StatusCode::kCancelled));
  const v1::Job job = Submit();
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_QUEUED);
  queue_->AbandonLease(call->handle);  // no effect
  EXPECT_EQ(call->answers, 1);
}

TEST_F(QueueWorkersTest, ShutdownAnswersParkedCallsAndRefusesNewOnes) {
  const auto call = Ask("w-1", absl::Seconds(30));
  queue_->Shutdown();
  EXPECT_THAT(call->answer, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Ask("w-1")->answer, StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(QueueWorkersTest, AWorkerWithoutIdOrSlotsIsRefused) {
  EXPECT_THAT(Ask("")->answer, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("worker.id")));
  EXPECT_THAT(Ask("a b")->answer, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("worker.id")));
  EXPECT_THAT(Ask(std::string(129, 'w'))->answer, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("128")));
  EXPECT_THAT(Ask("w-1", absl::ZeroDuration(), 0)->answer,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("slots")));
}

TEST_F(QueueWorkersTest, AWorkerGetsNoMoreJobsThanSlots) {
  Submit();
  Submit();
  Submit();
  const v1::Lease a = Lease("w-1", 2);
  const v1::Lease b = Lease("w-1", 2);
  Beat("w-1", a);
  Beat("w-1", b);
  EXPECT_THAT(Ask("w-1", absl::ZeroDuration(), 2)->answer,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 slots")));
  ASSERT_THAT(queue_->Complete(Success("w-1", a)), IsOk());
  Lease("w-1", 2);
}

TEST_F(QueueWorkersTest, ALeaseThatNeverArrivedGoesBackWhenItsWorkerAsksAgain) {
  const v1::Job job = Submit();
  const v1::Lease lost = Lease("w-1");
  const v1::Lease again = Lease("w-1");  // it would not ask, had the first answer reached it
  EXPECT_EQ(again.job().id(), job.id());
  EXPECT_GT(again.token(), lost.token());
  EXPECT_EQ(again.job().attempt(), 1);
  EXPECT_EQ(Beat("w-1", lost), v1::LEASE_COMMAND_LEASE_LOST);
}

TEST_F(QueueWorkersTest, ASecondCallOfAOneSlotWorkerReplacesTheFirst) {
  const auto broken = Ask("w-1", absl::Seconds(30));
  const auto call = Ask("w-1", absl::Seconds(30));
  EXPECT_EQ(broken->answers, 1);
  EXPECT_FALSE(broken->answer->has_lease());
  Submit();
  EXPECT_EQ(call->answers, 1);
  EXPECT_TRUE(call->answer->has_lease());
}

TEST_F(QueueWorkersTest, AJobWhoseModelVanishedFailsInsteadOfBlockingTheQueue) {
  const v1::Job job = Submit();
  catalog_.RemoveModel("m-1");
  EXPECT_TRUE(HasNoJob("w-1"));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_FAILED);
  EXPECT_THAT(Get(job.id()).error().message(), HasSubstr("m-1"));
}

// ---------------------------------------------------------------- heartbeats and losses

TEST_F(QueueWorkersTest, HeartbeatsKeepALeaseForAnyTime) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  for (int i = 0; i < 100; ++i) {
    Advance(absl::Seconds(1));
    ASSERT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  }
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
}

TEST_F(QueueWorkersTest, ALeaseIsLostAfterThreeSilentIntervals) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  EXPECT_LE(queue_->NextDue(), clock_.Now() + absl::Seconds(3));
  Advance(absl::Milliseconds(2999));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  Advance(absl::Milliseconds(1));
  const v1::Job lost = Get(job.id());
  EXPECT_EQ(lost.state(), v1::JOB_STATE_RETRY_WAIT);
  EXPECT_EQ(lost.error().reason(), "LEASE_LOST");
  EXPECT_EQ(lost.error().error_class(), v1::ERROR_CLASS_RETRYABLE);
  EXPECT_THAT(lost.error().message(), HasSubstr("w-1"));
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_LEASE_LOST);
}

TEST_F(QueueWorkersTest, AfterALostWorkerTheFirstRetryIsQuick) {
  const v1::Job job = Submit();
  Lease("w-1");
  Advance(absl::Seconds(3));
  EXPECT_LE(FromProto(Get(job.id()).retry_time()) - clock_.Now(), absl::Milliseconds(200));
  const auto parked = Ask("w-2", absl::Seconds(30));
  EXPECT_LE(queue_->NextDue(), clock_.Now() + absl::Milliseconds(200));
  Advance(absl::Milliseconds(200));
  ASSERT_EQ(parked->answers, 1);  // by the tick that queued it
  EXPECT_EQ(parked->answer->lease().job().attempt(), 2);
  EXPECT_FALSE(parked->answer->lease().job().has_error());
}

TEST_F(QueueWorkersTest, AServerThatStoodStillDoesNotBlameTheWorkers) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  std::atomic<int> answers = 0;
  v1::LeaseJobRequest request;
  *request.mutable_worker() = Info("w-2");
  SetProto(absl::Seconds(10), request.mutable_wait());
  queue_->Lease(request, [&](const absl::StatusOr<v1::LeaseJobResponse>&) { ++answers; });
  queue_->Start();  // its first wake-up is at most a second away …
  absl::SleepFor(absl::Milliseconds(100));
  clock_.Advance(absl::Seconds(20));                           // … and finds that twenty have passed
  while (answers == 0) absl::SleepFor(absl::Milliseconds(1));  // the end of the wait tells that the scanner ran
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  clock_.Advance(absl::Milliseconds(2999));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
}

TEST_F(QueueWorkersTest, AClockSetBackDoesNotKeepALeaseAlive) {
  const v1::Job job = Submit();
  Lease("w-1");
  Advance(-absl::Hours(1));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  Advance(absl::Seconds(3));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
}

TEST_F(QueueWorkersTest, ABackoffEndsThoughTheClockWasSetBack) {
  const v1::Job job = Submit();
  Lease("w-1");
  Advance(absl::Hours(5));
  ASSERT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
  Advance(-absl::Hours(5));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_QUEUED);
}

TEST_F(QueueWorkersTest, AClockSetBackDoesNotStopGaugesWaitsAndKeepalives) {
  Advance(absl::Hours(5));
  const v1::Job job = Submit();
  const auto watcher = Watch(job.id());
  const auto waiting = Ask("w-1", absl::Seconds(10));
  ASSERT_EQ(waiting->answers, 1);  // it got the job
  const auto second = Ask("w-2", absl::Seconds(10));
  ASSERT_EQ(second->answers, 0);
  const size_t told = watcher->events.size();
  Advance(-absl::Hours(5));
  Advance(absl::Seconds(2));
  Submit();  // answers the second
  EXPECT_EQ(second->answers, 1);
  const auto third = Ask("w-3", absl::Seconds(10));
  Advance(-absl::Hours(5));
  Advance(absl::Seconds(16));
  EXPECT_EQ(third->answers, 1) << "the wait of 10 s is over";
  EXPECT_GT(watcher->events.size(), told) << "a watch is told something every 15 s";
}

TEST_F(QueueWorkersTest, AStoreInTroubleIsNotAskedInATightLoop) {
  const v1::Job job = Submit();
  Lease("w-1");
  int asked = 0;
  store_.SetFaultForTest([&](v1::JobState) {
    ++asked;
    return absl::ResourceExhaustedError("disk full");
  });
  Advance(absl::Seconds(3));
  ASSERT_EQ(asked, 1);
  for (int i = 0; i < 100; ++i) Advance(absl::Milliseconds(2));
  EXPECT_EQ(asked, 1);
  EXPECT_GT(queue_->NextDue() - clock_.Now(), absl::Milliseconds(500));
  store_.SetFaultForTest(nullptr);
  Advance(absl::Seconds(1));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
}

TEST_F(QueueWorkersTest, AHeartbeatOfTheWorkerThatDoesNotNameTheLeaseDoesNotKeepIt) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  for (int i = 0; i < 3; ++i) {
    Advance(absl::Seconds(1));
    v1::HeartbeatRequest request;
    *request.mutable_worker() = Info("w-1");
    ASSERT_THAT(queue_->Heartbeat(request), IsOk());
  }
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
}

TEST_F(QueueWorkersTest, ALeaseIsOnlyItsWorkersOwn) {
  Submit();
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(Beat("w-2", lease), v1::LEASE_COMMAND_LEASE_LOST);
  EXPECT_THAT(queue_->Complete(Success("w-2", lease)), FailsWith(absl::StatusCode::kFailedPrecondition, "LEASE_STALE"));
}

TEST_F(QueueWorkersTest, AttemptsAreUsedUpIntoDead) {
  const v1::Job job = Submit();
  for (int attempt = 1; attempt <= 3; ++attempt) {
    const v1::Lease lease = Lease("w-1");
    EXPECT_EQ(lease.job().attempt(), attempt);
    ASSERT_THAT(queue_->Complete(Failure("w-1", lease, v1::ERROR_CLASS_POISON, "CHILD_CRASHED")), IsOk());
    if (attempt < 3) {
      EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
      EXPECT_TRUE(HasNoJob("w-1"));
      Advance(absl::Minutes(5));
    }
  }
  const v1::Job dead = Get(job.id());
  EXPECT_EQ(dead.state(), v1::JOB_STATE_DEAD);
  EXPECT_EQ(dead.error().reason(), "CHILD_CRASHED");
  EXPECT_EQ(dead.attempt(), 3);
  EXPECT_TRUE(HasNoJob("w-1"));
}

TEST_F(QueueWorkersTest, TheBackoffDoublesWithJitterUpToFiveMinutes) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_max_attempts(10);
  const v1::Job job = Submit(request);
  const int seconds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
  for (const int full : seconds) {
    ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_RETRYABLE)), IsOk());
    const absl::Duration delay = FromProto(Get(job.id()).retry_time()) - clock_.Now();
    EXPECT_GE(delay, absl::Seconds(full) / 2);
    EXPECT_LE(delay, absl::Seconds(full));
    Advance(delay);
    EXPECT_EQ(State(job.id()), v1::JOB_STATE_QUEUED);
  }
}

TEST_F(QueueWorkersTest, AnAttemptOutOfTimeEndsWithItsOwnReason) {
  v1::SubmitJobRequest request = Request();
  SetProto(absl::Seconds(10), request.mutable_spec()->mutable_attempt_timeout());
  request.mutable_spec()->set_max_attempts(1);
  const v1::Job job = Submit(request);
  Advance(absl::Hours(10));  // waiting in the queue does not count
  const v1::Lease lease = Lease("w-1");
  for (int i = 0; i < 9; ++i) {
    Advance(absl::Seconds(1));
    ASSERT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  }
  Advance(absl::Seconds(1));
  const v1::Job dead = Get(job.id());
  EXPECT_EQ(dead.state(), v1::JOB_STATE_DEAD);
  EXPECT_EQ(dead.error().reason(), "TIMEOUT");
  EXPECT_THAT(dead.error().message(), HasSubstr("10s"));
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_LEASE_LOST);
}

TEST_F(QueueWorkersTest, AWorkerThatIgnoresACancellationIsCutOffAfterAMinute) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  for (int i = 0; i < 59; ++i) {
    Advance(absl::Seconds(1));
    ASSERT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CANCEL);
  }
  Advance(absl::Seconds(1));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_LEASE_LOST);
  EXPECT_THAT(queue_->Complete(Success("w-1", lease)), FailsWith(absl::StatusCode::kFailedPrecondition, "LEASE_STALE"));
  EXPECT_THAT(catalog_.Published(), IsEmpty());
}

TEST_F(QueueWorkersTest, ACancelledJobWhoseWorkerDiesIsCancelledNotRetried) {
  const v1::Job job = Submit();
  Lease("w-1");
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  Advance(absl::Seconds(3));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(Get(job.id()).has_error());
}

TEST_F(QueueWorkersTest, ProgressIsKeptInsideTheContractsLimits) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  v1::Progress progress;
  progress.set_phase(std::string(100, 'p'));
  progress.set_fraction(7);
  std::string message;
  for (int i = 0; i < 200; ++i) message += "ä";
  progress.set_message(message);
  Beat("w-1", lease, progress);
  const v1::Progress kept = Get(job.id()).progress();
  EXPECT_EQ(kept.fraction(), 1);
  EXPECT_LE(kept.phase().size(), 32u);
  EXPECT_EQ(kept.message(), message.substr(0, 256));
  progress.set_fraction(std::numeric_limits<double>::quiet_NaN());
  Beat("w-1", lease, progress);
  EXPECT_EQ(Get(job.id()).progress().fraction(), 0);
}

TEST_F(QueueWorkersTest, ProgressIsStoredAtMostEveryFiveSeconds) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  int writes = 0;
  store_.SetFaultForTest([&](v1::JobState) {
    ++writes;
    return absl::OkStatus();
  });
  for (int i = 1; i <= 20; ++i) {
    Advance(absl::Seconds(1));
    v1::Progress progress;
    progress.set_fraction(i / 100.0);
    Beat("w-1", lease, progress);
  }
  EXPECT_EQ(writes, 4);
  EXPECT_EQ(store_.Get(job.id())->job.progress().fraction(), 0.2);
}

// ---------------------------------------------------------------- completion

TEST_F(QueueWorkersTest, SuccessPublishesTheModelOnceAndIsIdempotent) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  const v1::CompleteJobRequest success = Success("w-1", lease);
  const auto done = queue_->Complete(success);
  ASSERT_THAT(done, IsOk());
  EXPECT_EQ(done->state(), v1::JOB_STATE_SUCCEEDED);
  ASSERT_THAT(catalog_.Published(), SizeIs(1));
  EXPECT_EQ(done->result_model_id(), catalog_.Published()[0].id());
  EXPECT_EQ(catalog_.Published()[0].name(), "name of m-1-static");
  EXPECT_EQ(catalog_.Published()[0].source_job_id(), job.id());
  EXPECT_EQ(queue_->Complete(success)->SerializeAsString(), done->SerializeAsString());
  EXPECT_EQ(queue_->Complete(Failure("w-1", lease, v1::ERROR_CLASS_FINAL))->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(catalog_.Published(), SizeIs(1));
}

TEST_F(QueueWorkersTest, TheOutputNameIsTheSubmitters) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_quantize()->set_output_name("mine");
  Submit(request);
  ASSERT_THAT(queue_->Complete(Success("w-1", Lease("w-1"))), IsOk());
  EXPECT_EQ(catalog_.Published()[0].name(), "mine");
}

TEST_F(QueueWorkersTest, ATuneJobIsLeasedWithItsDataAndMakesAModel) {
  v1::SubmitJobRequest request;
  v1::TuneSpec* tune = request.mutable_spec()->mutable_tune();
  tune->set_model_id("m-1");
  tune->set_calibration_dataset_id("d-1");
  tune->set_evaluation_dataset_id("d-1");
  Submit(request);
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.model().id(), "m-1");
  EXPECT_EQ(lease.calibration_dataset().id(), "d-1");
  EXPECT_EQ(lease.evaluation_dataset().id(), "d-1");
  v1::CompleteJobRequest empty = Success("w-1", lease);
  empty.mutable_success()->clear_files();
  EXPECT_THAT(queue_->Complete(empty), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tune job")));
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  EXPECT_EQ(catalog_.Published()[0].name(), "name of m-1-tuned");
  tune->set_output_name("mine");
  request.set_no_cache(true);
  Submit(request);
  ASSERT_THAT(queue_->Complete(Success("w-1", Lease("w-1"), "b2")), IsOk());
  EXPECT_EQ(catalog_.Published()[1].name(), "mine");
}

TEST_F(QueueWorkersTest, AMissingBlobCanBeUploadedAndTheCallRepeated) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.SetMissing("b1", true);
  EXPECT_THAT(queue_->Complete(Success("w-1", lease)),
              FailsWith(absl::StatusCode::kFailedPrecondition, "BLOB_MISSING"));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), job.id()),
              FailsWith(absl::StatusCode::kFailedPrecondition, "NO_REPORT"));
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  catalog_.SetMissing("b1", false);
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueueWorkersTest, AWorkerMayFailTheJobAfterItsResultWasRefused) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.SetMissing("b1", true);
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  EXPECT_EQ(queue_->Complete(Failure("w-1", lease, v1::ERROR_CLASS_FINAL))->state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), job.id()),
              FailsWith(absl::StatusCode::kFailedPrecondition, "NO_REPORT"));
}

TEST_F(QueueWorkersTest, AQuantizeResultNeedsFilesAndABenchmarkHasNone) {
  Submit();
  v1::CompleteJobRequest empty = Success("w-1", Lease("w-1"));
  empty.mutable_success()->clear_files();
  EXPECT_THAT(queue_->Complete(empty), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("files")));
  v1::SubmitJobRequest benchmark;
  benchmark.mutable_spec()->mutable_benchmark()->set_model_id("m-1");
  Submit(benchmark);
  EXPECT_THAT(queue_->Complete(Success("w-2", Lease("w-2"))),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("makes no model")));
}

TEST_F(QueueWorkersTest, AnOutcomeIsRequired) {
  Submit();
  EXPECT_THAT(queue_->Complete(End("w-1", Lease("w-1"))),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("outcome")));
}

TEST_F(QueueWorkersTest, AStaleTokenChangesNothing) {
  const v1::Job job = Submit();
  const v1::Lease stale = Lease("w-1");
  Advance(absl::Seconds(3));
  Advance(absl::Seconds(1));
  const v1::Lease lease = Lease("w-2");
  const std::string before = Get(job.id()).SerializeAsString();
  const auto refused = FailsWith(absl::StatusCode::kFailedPrecondition, "LEASE_STALE");
  v1::CompleteJobRequest released = End("w-1", stale), cancelled = End("w-1", stale);
  released.mutable_released();
  cancelled.mutable_cancelled();
  EXPECT_THAT(queue_->Complete(Success("w-1", stale)), refused);
  EXPECT_THAT(queue_->Complete(Failure("w-1", stale, v1::ERROR_CLASS_FINAL)), refused);
  EXPECT_THAT(queue_->Complete(released), refused);
  EXPECT_THAT(queue_->Complete(cancelled), refused);
  EXPECT_EQ(Beat("w-1", stale), v1::LEASE_COMMAND_LEASE_LOST);
  EXPECT_EQ(Get(job.id()).SerializeAsString(), before);
  EXPECT_THAT(catalog_.Published(), IsEmpty());
  EXPECT_EQ(queue_->Complete(Success("w-2", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueueWorkersTest, TheSameWorkersOldTokenIsStaleToo) {
  Submit();
  const v1::Lease old = Lease("w-1");
  Advance(absl::Seconds(3));
  Advance(absl::Seconds(1));
  const v1::Lease lease = Lease("w-1");
  EXPECT_THAT(queue_->Complete(Success("w-1", old)), FailsWith(absl::StatusCode::kFailedPrecondition, "LEASE_STALE"));
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueueWorkersTest, CompletingADeletedOrUnknownJobIsStale) {
  v1::Lease lease;
  lease.mutable_job()->set_id("j-none");
  lease.set_token(1);
  EXPECT_THAT(queue_->Complete(Success("w-1", lease)), FailsWith(absl::StatusCode::kFailedPrecondition, "LEASE_STALE"));
}

TEST_F(QueueWorkersTest, AReleasedLeaseCostsNoAttempt) {
  const v1::Job job = Submit();
  for (int i = 0; i < 5; ++i) {
    const v1::Lease lease = Lease("w-1");
    EXPECT_EQ(lease.job().attempt(), 1);
    v1::CompleteJobRequest release = End("w-1", lease);
    release.mutable_released();
    EXPECT_EQ(queue_->Complete(release)->state(), v1::JOB_STATE_QUEUED);
    EXPECT_EQ(queue_->Complete(release)->attempt(), 0);  // a repeat gives nothing back twice
  }
  EXPECT_EQ(Get(job.id()).attempt(), 0);
}

TEST_F(QueueWorkersTest, AWorkerMayNotCancelUnasked) {
  const v1::Job job = Submit();
  v1::CompleteJobRequest end = End("w-1", Lease("w-1"));
  end.mutable_cancelled();
  EXPECT_THAT(queue_->Complete(end), FailsWith(absl::StatusCode::kFailedPrecondition, "JOB_STATE_FORBIDS"));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
}

TEST_F(QueueWorkersTest, AFinalErrorFailsAtOnceAndIsKeptInsideLimits) {
  const v1::Job job = Submit();
  v1::CompleteJobRequest end = Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_FINAL, "not a constant");
  end.mutable_failure()->set_message(std::string(10'000, 'x'));
  ASSERT_THAT(queue_->Complete(end), IsOk());
  const v1::Job failed = Get(job.id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().reason(), "INTERNAL");
  EXPECT_EQ(failed.error().message().size(), 4096u);
  EXPECT_EQ(failed.attempt(), 1);
}

TEST_F(QueueWorkersTest, AStoreThatFailsLeavesTheLeaseForARepeat) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  store_.SetFaultForTest([](v1::JobState) { return absl::UnavailableError("I/O error"); });
  EXPECT_THAT(queue_->Complete(Success("w-1", lease)), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  store_.SetFaultForTest(nullptr);
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueueWorkersTest, AStoreThatFailsALeaseKeepsTheCallParkedAndTriesAgain) {
  Submit();
  store_.SetFaultForTest([](v1::JobState) { return absl::UnavailableError("I/O error"); });
  const auto call = Ask("w-1", absl::Seconds(30));
  Advance(absl::Seconds(2));
  EXPECT_EQ(call->answers, 0);
  store_.SetFaultForTest(nullptr);
  Advance(absl::Seconds(2));
  EXPECT_EQ(call->answers, 1);
  EXPECT_TRUE(call->answer->has_lease());
}

// ---------------------------------------------------------------- workers

TEST_F(QueueWorkersTest, WorkersAreListedWithTheirJobsAndHealth) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-b");
  HasNoJob("w-a");
  Advance(absl::Seconds(2));
  Beat("w-b", lease);
  Advance(absl::Seconds(1));
  const v1::ListWorkersResponse workers = queue_->ListWorkers();
  ASSERT_EQ(workers.workers_size(), 2);
  EXPECT_EQ(workers.workers(0).info().id(), "w-a");
  EXPECT_TRUE(workers.workers(0).lost());
  EXPECT_THAT(workers.workers(0).job_ids(), IsEmpty());
  EXPECT_EQ(workers.workers(1).info().id(), "w-b");
  EXPECT_FALSE(workers.workers(1).lost());
  EXPECT_THAT(workers.workers(1).job_ids(), ElementsAre(job.id()));
  Advance(absl::Hours(1) + absl::Seconds(1));
  EXPECT_EQ(queue_->ListWorkers().workers_size(), 0);
}

TEST_F(QueueWorkersTest, ADrainingWorkerGetsNothingMoreButFinishesItsJob) {
  Submit();
  const v1::Lease lease = Lease("w-1", 2);
  const auto parked = Ask("w-1", absl::Seconds(30), 2);
  EXPECT_THAT(queue_->DrainWorker("w-none"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_TRUE(queue_->DrainWorker("w-1")->draining());
  const auto refused = FailsWith(absl::StatusCode::kFailedPrecondition, "WORKER_DRAINING");
  EXPECT_THAT(parked->answer, refused);
  EXPECT_THAT(Ask("w-1")->answer, refused);
  v1::HeartbeatRequest beat;
  *beat.mutable_worker() = Info("w-1");
  EXPECT_TRUE(queue_->Heartbeat(beat)->drain());
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueueWorkersTest, AWorkerThatSaysItDrainsGetsNothingMore) {
  v1::HeartbeatRequest beat;
  *beat.mutable_worker() = Info("w-1");
  beat.set_draining(true);
  EXPECT_TRUE(queue_->Heartbeat(beat)->drain());
  EXPECT_THAT(Ask("w-1")->answer, FailsWith(absl::StatusCode::kFailedPrecondition, "WORKER_DRAINING"));
}

TEST_F(QueueWorkersTest, RememberedWorkersAreBounded) {
  options_.max_workers = 2;
  Restart();
  HasNoJob("w-1");
  HasNoJob("w-2");
  EXPECT_THAT(Ask("w-3")->answer, FailsWith(absl::StatusCode::kResourceExhausted, "TOO_MANY_WORKERS"));
  Advance(absl::Hours(1) + absl::Seconds(1));
  EXPECT_TRUE(HasNoJob("w-3"));
}

TEST_F(QueueWorkersTest, ParkedCallsAreBounded) {
  options_.max_parked = 1;
  Restart();
  const auto parked = Ask("w-1", absl::Seconds(30));
  EXPECT_THAT(Ask("w-2", absl::Seconds(30))->answer, FailsWith(absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS"));
  Submit();
  EXPECT_EQ(parked->answers, 1);
}

TEST_F(QueueWorkersTest, MetricsFollowTheEdges) {
  const v1::Job job = Submit();
  const v1::Lease lost = Lease("w-1");
  Advance(absl::Seconds(3));
  EXPECT_EQ(Beat("w-1", lost), v1::LEASE_COMMAND_LEASE_LOST);
  Advance(absl::Seconds(1));
  ASSERT_THAT(queue_->Complete(Success("w-1", Lease("w-1"))), IsOk());
  Submit();
  Advance(absl::Seconds(7));
  const std::string text = metrics_->Serialize();
  for (const char* line : {
           "quant_jobs_submitted_total{kind=\"quantize\",method=\"static\"} 2",
           "quant_lease_expirations_total{cause=\"heartbeat\"} 1",
           "quant_job_retries_total{reason=\"LEASE_LOST\"} 1",
           "quant_jobs{state=\"queued\"} 1",
           "quant_jobs{state=\"running\"} 0",
           "quant_jobs{state=\"succeeded\"} 1",
           "quant_queue_depth{priority=\"3\"} 1",
           "quant_queue_oldest_age_seconds 7",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, testing::ContainsRegex("quant_jobs_finished_total\\{[^}]*succeeded[^}]*\\} 1"));
  EXPECT_THAT(text, testing::ContainsRegex("quant_stale_reports_rejected_total\\{[^}]*heartbeat[^}]*\\} 1"));
}

}  // namespace
}  // namespace quant
