// SPDX-License-Identifier: Apache-2.0
// The same work is done once.
#include <string>
#include <vector>

#include "server/queue/cache_key.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using testing::HasSubstr;

class QueueCacheTest : public QueueTest {
 protected:
  explicit QueueCacheTest(bool shared = false) : QueueTest(/*with_metrics=*/true, shared) {}
  static v1::SubmitJobRequest Request() {
    v1::SubmitJobRequest request = QueueTest::Request();
    request.set_no_cache(false);
    return request;
  }
  v1::Job Submit(const v1::SubmitJobRequest& request = Request()) { return QueueTest::Submit(request); }
  // Info of QueueTest has no build and no ISA, so neither has an engine.
  static v1::CompleteJobRequest Done(const v1::Lease& lease, const std::string& isa = "") {
    v1::CompleteJobRequest request = Success("w-1", lease);
    request.mutable_success()->mutable_report()->mutable_provenance()->set_isa(isa);
    return request;
  }
  // A job that ran and succeeded.
  v1::Job Ran(const std::string& isa = "") {
    const v1::Job job = Submit();
    const v1::Lease lease = Lease("w-1");
    EXPECT_EQ(lease.job().id(), job.id());
    EXPECT_THAT(queue_->Complete(Done(lease, isa)), IsOk());
    return Get(job.id());
  }
  double Count(const std::string& outcome) {
    const std::string line = "quant_dedup_requests_total{outcome=\"" + outcome + "\"} ";
    const std::string text = metrics_->Serialize();
    const size_t at = text.find(line);
    return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size()));
  }
};

TEST_F(QueueCacheTest, TheKeyIsTheContentAndNothingElse) {
  const auto key = [&](const v1::SubmitJobRequest& request, const std::string& salt = "",
                       const std::string& tenant = "t") {
    return CacheKey(tenant, salt, request.spec(), &catalog_).value();
  };
  v1::SubmitJobRequest same = Request();
  same.mutable_spec()->set_priority(1);
  same.mutable_spec()->set_max_attempts(9);
  same.mutable_spec()->mutable_attempt_timeout()->set_seconds(7);
  (*same.mutable_spec()->mutable_labels())["a"] = "b";
  same.mutable_spec()->mutable_quantize()->set_output_name("other");
  EXPECT_EQ(key(same), key(Request()));
  EXPECT_EQ(key(Request()).size(), 64u);

  std::vector<v1::SubmitJobRequest> others(4, Request());
  catalog_.AddModel("m-2");
  catalog_.AddDataset("d-2");
  others[0].mutable_spec()->mutable_quantize()->set_model_id("m-2");
  others[1].mutable_spec()->mutable_quantize()->set_calibration_dataset_id("d-2");
  others[2].mutable_spec()->mutable_quantize()->set_evaluation_dataset_id("d-1");
  others[3].mutable_spec()->mutable_quantize()->mutable_recipe()->set_seed(5);
  for (const v1::SubmitJobRequest& other : others) EXPECT_NE(key(other), key(Request())) << other.DebugString();
  EXPECT_NE(key(Request(), "salt"), key(Request()));
  EXPECT_NE(key(Request(), "", "another tenant"), key(Request()));

  v1::SubmitJobRequest tune;
  tune.mutable_spec()->mutable_tune()->set_model_id("m-1");
  tune.mutable_spec()->mutable_tune()->set_evaluation_dataset_id("d-1");
  v1::SubmitJobRequest named = tune, stricter = tune;
  named.mutable_spec()->mutable_tune()->set_output_name("other");
  stricter.mutable_spec()->mutable_tune()->set_max_drop(0);
  EXPECT_EQ(key(named), key(tune));
  EXPECT_NE(key(stricter), key(tune)) << "0 is not the default";
  EXPECT_NE(key(tune), key(Request()));

  v1::JobSpec benchmark;
  benchmark.mutable_benchmark()->set_model_id("m-1");
  EXPECT_EQ(CacheKey("t", "", benchmark, &catalog_).value(), "");
}

TEST_F(QueueCacheTest, ARepeatedJobIsDoneAtOnceWithAModelOfItsOwn) {
  const v1::Job first = Ran();
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_quantize()->set_output_name("again");
  const v1::Job second = Submit(request);
  EXPECT_EQ(second.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(second.cached_from(), first.id());
  EXPECT_EQ(second.attempt(), 0);
  EXPECT_TRUE(second.has_end_time());
  EXPECT_FALSE(second.result_model_id().empty());
  EXPECT_NE(second.result_model_id(), first.result_model_id());
  EXPECT_EQ(queue_->GetReport(OpenPrincipal(), second.id())->SerializeAsString(),
            queue_->GetReport(OpenPrincipal(), first.id())->SerializeAsString());
  EXPECT_TRUE(HasNoJob("w-1"));
  EXPECT_EQ(Count("miss"), 1);
  EXPECT_EQ(Count("hit"), 1);
  EXPECT_EQ(Watch(second.id())->Story(), "SUCCEEDED OK");
  // The answer outlives what it came from.
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), first.id()), IsOk());
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), second.id()), IsOk());
  EXPECT_EQ(Submit().cached_from(), second.id());
}

TEST_F(QueueCacheTest, AResultWhoseModelIsGoneIsNotBroughtBack) {
  const v1::Job first = Ran();
  catalog_.RemoveModel(first.result_model_id());  // it expired, or was deleted
  const v1::Job second = Submit();
  EXPECT_EQ(second.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(second.cached_from(), "");
  EXPECT_EQ(catalog_.Published().size(), 1u);
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.job().id(), second.id());
  EXPECT_THAT(queue_->Complete(Done(lease)), IsOk());
  EXPECT_EQ(Submit().cached_from(), second.id());
}

TEST_F(QueueCacheTest, NoCacheRunsAndServesLaterOnes) {
  Ran();
  v1::SubmitJobRequest request = Request();
  request.set_no_cache(true);
  const v1::Job second = Submit(request);
  EXPECT_EQ(second.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(second.cached_from() + second.attached_to(), "");
  EXPECT_EQ(Count("bypass"), 1);
  EXPECT_THAT(queue_->Complete(Done(Lease("w-1"))), IsOk());
  EXPECT_EQ(Submit().cached_from(), second.id());
}

TEST_F(QueueCacheTest, OnlyAnEngineThatIsConnectedAnswers) {
  Ran("avx512_amx");
  const v1::Job second = Submit();
  EXPECT_EQ(second.state(), v1::JOB_STATE_QUEUED) << "no worker has that instruction set";
  EXPECT_THAT(queue_->Complete(Done(Lease("w-1"))), IsOk());
  EXPECT_EQ(Submit().cached_from(), second.id());
  Advance(absl::Minutes(1));  // w-1 is silent
  EXPECT_EQ(Submit().cached_from(), "");
}

TEST_F(QueueCacheTest, AnotherSaltRetiresWhatIsThere) {
  Ran();
  options_.cache_salt = "2";
  Restart();
  EXPECT_TRUE(HasNoJob("w-1"));
  EXPECT_EQ(Submit().cached_from(), "");
}

TEST_F(QueueCacheTest, AResultWhoseBlobsAreGoneIsNoAnswer) {
  const v1::Job first = Ran();
  catalog_.FailPublish(absl::FailedPreconditionError("blob missing"));
  const v1::Job second = Submit();
  EXPECT_EQ(second.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(second.cached_from(), "");
  catalog_.FailPublish(absl::OkStatus());
  EXPECT_EQ(Lease("w-1").job().id(), second.id());
}

TEST_F(QueueCacheTest, TheSameWorkInFlightIsWaitedFor) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  EXPECT_EQ(second.attached_to(), first.id());
  EXPECT_EQ(Count("merged"), 1);
  const auto watcher = Watch(second.id());
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.job().id(), first.id());
  EXPECT_TRUE(HasNoJob("w-2")) << "the second waits";
  EXPECT_EQ(Submit().attached_to(), first.id()) << "a running one is waited for too";
  EXPECT_THAT(queue_->Complete(Done(lease)), IsOk());
  EXPECT_EQ(State(second.id()), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Get(second.id()).cached_from(), first.id());
  EXPECT_EQ(Get(second.id()).attached_to(), "");
  EXPECT_THAT(watcher->Story(), HasSubstr("SUCCEEDED OK"));
  EXPECT_EQ(catalog_.Published().size(), 3u);
}

TEST_F(QueueCacheTest, AMoreUrgentJobDoesNotWaitForOneInTheQueue) {
  Submit();
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_priority(1);
  const v1::Job urgent = Submit(request);
  EXPECT_EQ(urgent.attached_to(), "");
  EXPECT_EQ(Lease("w-1").job().id(), urgent.id());
}

TEST_F(QueueCacheTest, WhenTheFirstFailsTheNextRunsAndTheOthersWaitForIt) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  const v1::Job third = Submit();
  EXPECT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_FINAL)), IsOk());
  EXPECT_EQ(State(first.id()), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Get(second.id()).attached_to(), "");
  EXPECT_EQ(Get(third.id()).attached_to(), second.id());
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.job().id(), second.id());
  EXPECT_THAT(queue_->Complete(Done(lease)), IsOk());
  EXPECT_EQ(Get(third.id()).cached_from(), second.id());
}

TEST_F(QueueCacheTest, CancellingOneDoesNotTouchTheOther) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  const v1::Job third = Submit();
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), second.id()), IsOk());
  EXPECT_EQ(State(second.id()), v1::JOB_STATE_CANCELLED);
  const v1::Lease lease = Lease("w-1");
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), first.id()), IsOk());  // CANCELLING: its result may never come
  EXPECT_EQ(Lease("w-2").job().id(), third.id());
  // A job that was cancelled while it waited runs by itself when it is retried.
  EXPECT_THAT(queue_->Retry(OpenPrincipal(), second.id()), IsOk());
  EXPECT_EQ(Get(second.id()).attached_to(), "");
}

TEST_F(QueueCacheTest, DeletingAQueuedOneLetsTheNextRun) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), first.id()), IsOk());
  EXPECT_EQ(Lease("w-1").job().id(), second.id());
}

TEST_F(QueueCacheTest, SurvivesRestartsAtEveryStep) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  Restart();
  EXPECT_EQ(Get(second.id()).attached_to(), first.id());
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.job().id(), first.id());
  // The catalog is down when the second is to be published: it neither runs nor is lost.
  catalog_.FailPublish(absl::UnavailableError("catalog is down"), second.id());
  EXPECT_THAT(queue_->Complete(Done(lease)), IsOk());
  EXPECT_EQ(State(second.id()), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(Get(second.id()).cached_from(), first.id());
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), second.id()), absl_testing::StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), first.id()), IsOk()) << "the result is the second's own by now";
  Restart();
  catalog_.FailPublish(absl::OkStatus());
  EXPECT_TRUE(HasNoJob("w-1"));
  Advance(absl::Seconds(2));
  EXPECT_EQ(State(second.id()), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), second.id()), IsOk());
}

TEST_F(QueueCacheTest, AStoreInTroubleDelaysAndLosesNothing) {
  const v1::Job first = Submit();
  const v1::Job second = Submit();
  const v1::Lease lease = Lease("w-1");
  int refusals = 0;
  store_.SetFaultForTest([&](v1::JobState next) {
    if (next != v1::JOB_STATE_QUEUED || ++refusals > 1) return absl::OkStatus();
    return absl::UnavailableError("disk full");
  });
  EXPECT_THAT(queue_->Complete(Failure("w-1", lease, v1::ERROR_CLASS_FINAL)), IsOk());
  EXPECT_EQ(refusals, 1);
  EXPECT_EQ(Get(second.id()).attached_to(), first.id());
  Advance(absl::Seconds(2));
  EXPECT_EQ(Get(second.id()).attached_to(), "");
  EXPECT_EQ(Lease("w-1").job().id(), second.id());
}

// ---------------------------------------------------------------- two servers on one store

class QueueCachePeersTest : public QueueCacheTest {
 protected:
  QueueCachePeersTest() : QueueCacheTest(/*shared=*/true) {
    At(1);
    At(0);
  }
};

TEST_F(QueueCachePeersTest, AnEarlierResultAnswersAtAServerThatHasNoWorker) {
  const v1::Job first = Ran();
  At(1);
  const v1::Job second = Submit();
  EXPECT_EQ(second.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(second.cached_from(), first.id());
  At(0);
  EXPECT_EQ(Get(second.id()).SerializeAsString(), second.SerializeAsString());
}

TEST_F(QueueCachePeersTest, AJobAttachedAtOneServerIsAnsweredWhenItsLeaderEndsAtAnother) {
  const v1::Job first = Submit();
  const v1::Lease lease = Lease("w-1");
  At(1);
  queue_->Follow(false);
  const v1::Job second = Submit();
  EXPECT_EQ(second.attached_to(), first.id());
  queue_->Follow(false);
  const auto watcher = Watch(second.id());
  At(0);
  ASSERT_THAT(queue_->Complete(Done(lease)), IsOk());
  At(1);
  queue_->Follow(false);
  Advance(absl::Seconds(1));
  EXPECT_EQ(State(second.id()), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(watcher->Story(), "QUEUED QUEUED SUCCEEDED OK");
  At(0);
  EXPECT_EQ(Get(second.id()).cached_from(), first.id());
}

TEST_F(QueueCachePeersTest, AJobWhoseLeaderIsCancelledAtAnotherServerRuns) {
  const v1::Job first = Submit();
  At(1);
  queue_->Follow(false);
  const v1::Job second = Submit();
  EXPECT_EQ(second.attached_to(), first.id());
  At(0);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), first.id()), IsOk());
  At(1);
  queue_->Follow(false);
  Advance(absl::Seconds(1));
  EXPECT_EQ(Lease("w-2").job().id(), second.id());
}

}  // namespace
}  // namespace quant
