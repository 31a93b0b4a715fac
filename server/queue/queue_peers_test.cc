// SPDX-License-Identifier: Apache-2.0
// Two servers on one store, step by step on a fake clock: A is server 0, B server 1. A server knows of the other's
// changes only when the test lets it Follow. queue_postgres_test.cc has the same on a real database, with threads.
#include <string>

#include "absl/strings/str_cat.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;

constexpr int kA = 0;
constexpr int kB = 1;

class QueuePeersTest : public QueueTest {
 protected:
  QueuePeersTest() : QueueTest(/*with_metrics=*/true, /*shared=*/true) {
    At(kB);
    At(kA);
  }
  void FollowAt(int server) {
    At(server);
    queue_->Follow(false);
  }
};

TEST_F(QueuePeersTest, AJobSubmittedAtOneServerGoesToTheWorkerParkedAtTheOther) {
  At(kB);
  const auto parked = Ask("w-1", absl::Seconds(30));
  At(kA);
  const v1::Job job = Submit();
  EXPECT_EQ(parked->answers, 0);
  FollowAt(kB);
  ASSERT_EQ(parked->answers, 1);
  ASSERT_THAT(parked->answer, IsOk());
  EXPECT_EQ(parked->answer->lease().job().id(), job.id());
  At(kA);
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);  // before A has followed
}

TEST_F(QueuePeersTest, AJobIsLeasedOnceThoughBothServersThinkItIsReady) {
  const v1::Job job = Submit();
  FollowAt(kB);
  At(kA);
  EXPECT_EQ(Lease("w-1").job().id(), job.id());
  At(kB);
  EXPECT_TRUE(HasNoJob("w-2"));  // it had not followed: the compare-and-set told it
  const v1::Job next = Submit();
  EXPECT_EQ(Lease("w-2").job().id(), next.id());
}

TEST_F(QueuePeersTest, TheNextJobIsTriedWhenTheFirstWasTakenElsewhere) {
  Submit();
  const v1::Job second = Submit();
  FollowAt(kB);
  At(kA);
  Lease("w-1");
  At(kB);
  EXPECT_EQ(Lease("w-2").job().id(), second.id());
}

TEST_F(QueuePeersTest, AWatchAtOneServerHearsOfEachStateAtTheOtherAndEnds) {
  const v1::Job job = Submit();
  At(kB);
  const auto watcher = Watch(job.id());
  At(kA);
  const v1::Lease lease = Lease("w-1");
  FollowAt(kB);
  FollowAt(kB);  // nothing twice
  At(kA);
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  FollowAt(kB);
  EXPECT_EQ(watcher->Story(), "QUEUED RUNNING SUCCEEDED OK");
}

TEST_F(QueuePeersTest, AStateTellsAGreaterSequenceThanAnyProgressOfAnotherServer) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  const auto watcher = Watch(job.id());
  FollowAt(kB);
  At(kA);
  for (int i = 0; i < 100; ++i) {
    v1::Progress progress;
    progress.set_message(absl::StrCat(i));
    Beat("w-1", lease, progress);
  }
  const int64_t told = watcher->events.back().job->sequence();
  At(kB);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  FollowAt(kA);
  EXPECT_EQ(watcher->events.back().job->state(), v1::JOB_STATE_CANCELLING);
  EXPECT_GT(watcher->events.back().job->sequence(), told);
}

TEST_F(QueuePeersTest, ACancellationAtOneServerReachesTheWorkerAtTheOther) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  At(kB);
  EXPECT_EQ(queue_->Cancel(OpenPrincipal(), job.id())->state(), v1::JOB_STATE_CANCELLING);
  At(kA);
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);  // not yet known here
  FollowAt(kA);
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CANCEL);
  v1::CompleteJobRequest end = End("w-1", lease);
  end.mutable_cancelled();
  EXPECT_EQ(queue_->Complete(end)->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(QueuePeersTest, AHeartbeatCountsWhereverItArrives) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  for (int i = 0; i < 10; ++i) {
    clock_.Advance(absl::Seconds(2));
    At(kB);  // which does not even know the lease yet
    EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
    queue_->Tick();
    At(kA);
    queue_->Tick();
    EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING) << "after " << 2 * (i + 1) << " s";
  }
  clock_.Advance(absl::Seconds(4));
  queue_->Tick();
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
}

TEST_F(QueuePeersTest, ALeaseOfAServerThatDiedIsEndedByTheOther) {
  const v1::Job job = Submit();
  Lease("w-1");
  FollowAt(kB);
  other_.reset();  // kill -9 of A; the worker dies with it
  Advance(absl::Seconds(4));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
  Advance(absl::Seconds(1));
  const v1::Lease again = Lease("w-2");
  EXPECT_EQ(again.job().id(), job.id());
  EXPECT_THAT(queue_->Complete(Success("w-2", again)), IsOk());
}

TEST_F(QueuePeersTest, AResultDeliveredToAServerThatDiedIsPublishedByTheOther) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  FollowAt(kB);
  At(kA);
  catalog_.FailPublish(absl::UnavailableError("died here"));
  EXPECT_THAT(queue_->Complete(Success("w-1", lease)), absl_testing::StatusIs(absl::StatusCode::kUnavailable));
  catalog_.FailPublish(absl::OkStatus());
  At(kB);
  other_.reset();
  Advance(absl::Seconds(4));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(catalog_.Published().size(), 1u);
  // The worker's repeat is answered as if nothing had happened.
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueuePeersTest, AnAttemptThatWonAtOneServerIsNotEndedAtTheOther) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  catalog_.FailPublish(absl::UnavailableError("not yet"));
  EXPECT_FALSE(queue_->Complete(Success("w-1", lease)).ok());
  catalog_.FailPublish(absl::OkStatus());
  At(kB);
  EXPECT_THAT(queue_->Complete(Failure("w-1", lease, v1::ERROR_CLASS_FINAL)),
              absl_testing::StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(State(job.id()), v1::JOB_STATE_RUNNING);
  At(kA);
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(catalog_.Published().size(), 1u);
}

TEST_F(QueuePeersTest, ALeaseMayBeCompletedAtAServerThatHasNotHeardOfIt) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  At(kB);
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
  // Nor is its slot taken at A, which has not followed.
  At(kA);
  const v1::Job next = Submit();
  EXPECT_EQ(Lease("w-1").job().id(), next.id());
}

TEST_F(QueuePeersTest, ALeaseThatItsWorkerNamedElsewhereIsNotTakenBack) {
  Submit();
  const v1::Lease lease = Lease("w-1");
  At(kB);
  Beat("w-1", lease);
  At(kA);
  EXPECT_THAT(Ask("w-1")->answer, absl_testing::StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(State(lease.job().id()), v1::JOB_STATE_RUNNING);
}

TEST_F(QueuePeersTest, ADeletionEndsTheWatchesOfTheOther) {
  const v1::Job job = Submit();
  At(kB);
  const auto watcher = Watch(job.id());
  At(kA);
  ASSERT_THAT(queue_->Delete(OpenPrincipal(), job.id()), IsOk());
  FollowAt(kB);
  EXPECT_EQ(watcher->Story(), "QUEUED NOT_FOUND");
  EXPECT_TRUE(HasNoJob("w-1"));
}

TEST_F(QueuePeersTest, AReloadFindsWhatTheFeedDidNotTell) {
  const v1::Job running = Submit();
  const v1::Job gone = Submit();
  const v1::Lease lease = Lease("w-1");
  At(kB);
  queue_->Follow(true);
  const auto watcher = Watch(running.id());
  const auto orphan = Watch(gone.id());
  At(kA);
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  ASSERT_THAT(queue_->Delete(OpenPrincipal(), gone.id()), IsOk());
  const v1::Job fresh = Submit();
  At(kB);
  queue_->Follow(true);
  EXPECT_EQ(watcher->Story(), "RUNNING SUCCEEDED OK");
  EXPECT_EQ(orphan->Story(), "QUEUED NOT_FOUND");
  EXPECT_EQ(Lease("w-2").job().id(), fresh.id());
}

TEST_F(QueuePeersTest, AWorkerToldToDrainAtOneServerHearsOfItAtTheOther) {
  EXPECT_TRUE(HasNoJob("w-1"));
  At(kB);
  const auto drained = queue_->DrainWorker("w-1");
  ASSERT_THAT(drained, IsOk());
  EXPECT_TRUE(drained->draining());
  EXPECT_EQ(queue_->ListWorkers().workers_size(), 1);
  EXPECT_THAT(queue_->DrainWorker("w-0"), absl_testing::StatusIs(absl::StatusCode::kNotFound));
  At(kA);
  EXPECT_THAT(Ask("w-1")->answer, FailsWith(absl::StatusCode::kFailedPrecondition, "WORKER_DRAINING"));
  v1::HeartbeatRequest beat;
  *beat.mutable_worker() = Info("w-1");
  EXPECT_TRUE(queue_->Heartbeat(beat)->drain());
}

}  // namespace
}  // namespace quant
