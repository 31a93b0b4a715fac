// SPDX-License-Identifier: Apache-2.0
// A quantd that dies and comes back finds everything in the store, wherever it died.
#include <string>

#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using QueueRestartTest = QueueTest;

TEST_F(QueueRestartTest, ARunningJobGoesOnUnderItsToken) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  Restart();
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Get(job.id()).attempt(), 1);
}

TEST_F(QueueRestartTest, WorkersHaveThreeIntervalsToBeHeardAgain) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  clock_.Advance(absl::Minutes(10));  // quantd was down for long
  Restart();
  Advance(absl::Milliseconds(2999));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  Advance(absl::Seconds(3));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
}

TEST_F(QueueRestartTest, TheAttemptsDeadlineIsNotProlonged) {
  v1::SubmitJobRequest request = Request();
  SetProto(absl::Seconds(10), request.mutable_spec()->mutable_attempt_timeout());
  const v1::Job job = Submit(request);
  const v1::Lease lease = Lease("w-1");
  clock_.Advance(absl::Seconds(9));
  Restart();
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  Advance(absl::Seconds(1));
  EXPECT_EQ(Get(job.id()).error().reason(), "TIMEOUT");
}

TEST_F(QueueRestartTest, ACancellationIsRemembered) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  clock_.Advance(absl::Seconds(59));
  Restart();
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CANCEL);
  Advance(absl::Seconds(1));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_CANCELLED);
}

TEST_F(QueueRestartTest, QueuedAndWaitingJobsKeepTheirOrderAndTime) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_RETRYABLE)), IsOk());
  Restart();
  EXPECT_EQ(State(first.id()), v1::JOB_STATE_RETRY_WAIT);
  Advance(absl::Seconds(1));
  EXPECT_EQ(Lease("w-1").job().id(), first.id());
  EXPECT_EQ(Lease("w-2").job().id(), second.id());
}

TEST_F(QueueRestartTest, TokensNeverFall) {
  Submit();
  Submit();
  const v1::Lease lease = Lease("w-1");
  Restart();
  EXPECT_GT(Lease("w-2").token(), lease.token());
}

TEST_F(QueueRestartTest, TheSequenceNeverFallsThoughProgressWasNotStored) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  for (int i = 1; i < 50; ++i) {
    v1::Progress progress;
    progress.set_fraction(i / 50.0);
    Beat("w-1", lease, progress);
  }
  const int64_t seen = Get(job.id()).sequence();
  Restart();
  const auto watcher = Watch(job.id(), seen);
  EXPECT_THAT(watcher->events, SizeIs(1));
}

TEST_F(QueueRestartTest, TheSequenceNeverFallsThoughAServerDiedSoonAfterItsStart) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  Restart();
  v1::Progress progress;
  progress.set_fraction(0.5);
  Beat("w-1", lease, progress);
  const int64_t seen = Get(job.id()).sequence();
  Restart();
  EXPECT_GT(Get(job.id()).sequence(), seen);
}

TEST_F(QueueRestartTest, AStartOnAFullDiskStillServes) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  store_.SetFaultForTest([](v1::JobState) { return absl::ResourceExhaustedError("disk full"); });
  Restart();
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
}

TEST_F(QueueRestartTest, TheSequenceNeverFallsThoughAServerDiedOnAFullDisk) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  store_.SetFaultForTest([](v1::JobState) { return absl::ResourceExhaustedError("disk full"); });
  Restart();
  v1::Progress progress;
  progress.set_fraction(0.5);
  Beat("w-1", lease, progress);
  const int64_t seen = Get(job.id()).sequence();
  store_.SetFaultForTest(nullptr);
  Restart();
  EXPECT_GE(Get(job.id()).sequence(), seen);
  Beat("w-1", lease, progress);
  EXPECT_GT(Get(job.id()).sequence(), seen) << "progress is told again once it can be stored";
}

TEST_F(QueueRestartTest, ProgressIsToldOnceAFullDiskHasRoomAgain) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  store_.SetFaultForTest([](v1::JobState) { return absl::ResourceExhaustedError("disk full"); });
  Restart();
  v1::Progress progress;
  progress.set_fraction(0.5);
  Beat("w-1", lease, progress);
  EXPECT_EQ(Get(job.id()).progress().fraction(), 0);
  store_.SetFaultForTest(nullptr);
  Advance(absl::Seconds(1));
  Beat("w-1", lease, progress);
  EXPECT_EQ(Get(job.id()).progress().fraction(), 0.5);
}

TEST_F(QueueRestartTest, RepeatingACompletionAfterARestartIsAnsweredOk) {
  Submit();
  const v1::Lease lease = Lease("w-1");
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  Restart();
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(catalog_.Published(), SizeIs(1));
}

// The three points at which a completion can be cut in two.

TEST_F(QueueRestartTest, ACrashBeforeTheResultIsStoredChangesNothing) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  store_.SetFaultForTest([](v1::JobState) { return absl::UnavailableError("crash"); });
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  store_.SetFaultForTest(nullptr);
  Restart();
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  EXPECT_THAT(catalog_.Published(), IsEmpty());
}

TEST_F(QueueRestartTest, ACrashBeforeTheModelIsMadeIsRepairedAtTheStart) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.FailPublish(absl::UnavailableError("crash"));
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  catalog_.FailPublish(absl::OkStatus());
  Restart();
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(catalog_.Published(), SizeIs(1));
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), job.id()), IsOk());
}

TEST_F(QueueRestartTest, ACrashBetweenModelAndStateIsRepairedAtTheStart) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  store_.SetFaultForTest([](v1::JobState next) {
    return next == v1::JOB_STATE_SUCCEEDED ? absl::UnavailableError("crash") : absl::OkStatus();
  });
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  EXPECT_THAT(catalog_.Published(), SizeIs(1));
  store_.SetFaultForTest(nullptr);
  Restart();
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_SUCCEEDED);
  ASSERT_THAT(catalog_.Published(), SizeIs(1));
  EXPECT_EQ(Get(job.id()).result_model_id(), catalog_.Published()[0].id());
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueueRestartTest, AStoredResultWinsThoughItsWorkerIsSilentAfterwards) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.FailPublish(absl::UnavailableError("disk trouble"));
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  Advance(absl::Seconds(3));  // the worker dies; trouble goes on
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  catalog_.FailPublish(absl::OkStatus());
  Advance(absl::Seconds(3));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(catalog_.Published(), SizeIs(1));
}

TEST_F(QueueRestartTest, AStoredResultThatCannotBePublishedCostsTheAttempt) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.SetMissing("b1", true);
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  Advance(absl::Seconds(3));  // the worker dies before it uploads the file
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
  EXPECT_THAT(Get(job.id()).error().message(), testing::HasSubstr("published"));
  Advance(absl::Seconds(1));
  const v1::Lease again = Lease("w-2");
  EXPECT_EQ(again.job().attempt(), 2);
  EXPECT_EQ(queue_->Complete(Success("w-2", again, "b2"))->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(catalog_.Published(), SizeIs(1));
}

TEST_F(QueueRestartTest, AnOldAttemptsStoredResultIsNotTakenForTheNewOnes) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.SetMissing("b1", true);
  ASSERT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  Advance(absl::Seconds(3));
  Advance(absl::Seconds(1));
  Lease("w-2");
  catalog_.SetMissing("b1", false);
  Restart();
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  EXPECT_THAT(catalog_.Published(), IsEmpty());
}

}  // namespace
}  // namespace quant
