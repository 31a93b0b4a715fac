// SPDX-License-Identifier: Apache-2.0
// What clients see: submit, list, watch, cancel, retry, delete, report.
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using QueueClientsTest = QueueTest;

std::vector<std::string> IdsOf(const absl::StatusOr<v1::ListJobsResponse>& page) {
  std::vector<std::string> ids;
  if (page.ok()) {
    for (const v1::Job& job : page->jobs()) ids.push_back(job.id());
  }
  return ids;
}

TEST_F(QueueClientsTest, SubmitStoresAQueuedJobWithDefaults) {
  const v1::Job job = Submit();
  EXPECT_THAT(job.id(), testing::MatchesRegex("j-[a-z0-9]{16}"));
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(job.sequence(), 1);
  EXPECT_EQ(job.attempt(), 0);
  EXPECT_EQ(job.spec().priority(), 3);
  EXPECT_EQ(FromProto(job.create_time()), clock_.Now());
  EXPECT_EQ(store_.Get(job.id())->job.SerializeAsString(), job.SerializeAsString());
}

TEST_F(QueueClientsTest, SubmitRefusesABadSpecAndStoresNothing) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->mutable_quantize()->set_model_id("m-none");
  EXPECT_THAT(queue_->Submit(OpenPrincipal(), request), StatusIs(absl::StatusCode::kNotFound));
  request = Request();
  request.mutable_spec()->set_priority(9);
  EXPECT_THAT(queue_->Submit(OpenPrincipal(), request), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), {})), IsEmpty());
}

TEST_F(QueueClientsTest, ARepeatedRequestIdReturnsTheFirstAnswer) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id("8d0f1c0e-5c1b-4a63-9d0a-2f3f7a0f9b11");
  (*request.mutable_spec()->mutable_labels())["a"] = "1";
  (*request.mutable_spec()->mutable_labels())["b"] = "2";
  const v1::Job first = Submit(request);
  catalog_.RemoveModel("m-1");  // the repeat is answered all the same
  Restart();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(Submit(request), first));
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), {})), ElementsAre(first.id()));
}

TEST_F(QueueClientsTest, ARepeatOutlivesTheDeletedJobAndMakesNoSecondOne) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id("r-1");
  const v1::Job first = Submit(request);
  ASSERT_THAT(queue_->Delete(OpenPrincipal(), first.id()), IsOk());
  EXPECT_EQ(Submit(request).id(), first.id());
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), {})), IsEmpty());
}

TEST_F(QueueClientsTest, ARequestIdWithAnotherBodyIsRefused) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id("r-1");
  Submit(request);
  request.mutable_spec()->set_priority(1);
  EXPECT_THAT(queue_->Submit(OpenPrincipal(), request),
              FailsWith(absl::StatusCode::kInvalidArgument, "REQUEST_ID_REUSED"));
}

TEST_F(QueueClientsTest, RequestIdsAreRememberedForTwoDays) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id("r-1");
  const v1::Job first = Submit(request);
  Advance(absl::Hours(47));
  EXPECT_EQ(Submit(request).id(), first.id());
  Advance(absl::Hours(2));
  EXPECT_NE(Submit(request).id(), first.id());
}

TEST_F(QueueClientsTest, AMalformedRequestIdIsRefused) {
  v1::SubmitJobRequest request = Request();
  request.set_request_id(std::string(65, 'a'));
  EXPECT_THAT(queue_->Submit(OpenPrincipal(), request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("request_id")));
  request.set_request_id("a b");
  EXPECT_THAT(queue_->Submit(OpenPrincipal(), request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("request_id")));
}

TEST_F(QueueClientsTest, AFullQueueSaysWhenToTryAgainAndFreesUpAsJobsEnd) {
  options_.max_unfinished = 2;
  Restart();
  const v1::Job first = Submit();
  Submit();
  const auto refused = queue_->Submit(OpenPrincipal(), Request());
  EXPECT_THAT(refused, FailsWith(absl::StatusCode::kResourceExhausted, "QUEUE_FULL"));
  EXPECT_GT(RetryAfterOf(refused.status()), absl::ZeroDuration());
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), first.id()), IsOk());
  Submit();
}

TEST_F(QueueClientsTest, AFailureOfTheStoreFailsTheSubmitAndLeavesNoJob) {
  store_.SetFaultForTest([](v1::JobState) { return absl::ResourceExhaustedError("disk full"); });
  EXPECT_THAT(queue_->Submit(OpenPrincipal(), Request()), StatusIs(absl::StatusCode::kResourceExhausted));
  store_.SetFaultForTest(nullptr);
  EXPECT_TRUE(HasNoJob("w-1"));
}

TEST_F(QueueClientsTest, EndedJobsExpireNotBeforeTheTimeTheyName) {
  const v1::Job ended = Submit();
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), ended.id()), IsOk());
  const v1::Job retried = Submit();
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), retried.id()), IsOk());
  const absl::Time expires = FromProto(Get(ended.id()).expire_time());
  EXPECT_EQ(expires, clock_.Now() + options_.job_retention);
  EXPECT_THAT(queue_->Retry(OpenPrincipal(), retried.id()), IsOk());
  EXPECT_FALSE(Get(retried.id()).has_expire_time());
  Advance(options_.job_retention);
  EXPECT_EQ(State(ended.id()), v1::JOB_STATE_CANCELLED);
  Advance(absl::Minutes(2));
  EXPECT_THAT(queue_->Get(OpenPrincipal(), ended.id()), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(State(retried.id()), v1::JOB_STATE_QUEUED);
}

TEST_F(QueueClientsTest, ManyExpiredJobsGoAFewAtATime) {
  for (int i = 0; i < 250; ++i) EXPECT_THAT(queue_->Cancel(OpenPrincipal(), Submit().id()), IsOk());
  clock_.Advance(options_.job_retention + absl::Minutes(2));
  for (const int left : {150, 50, 0}) {
    queue_->Tick();
    EXPECT_EQ((*store_.CountByState())[v1::JOB_STATE_CANCELLED], left);
  }
}

TEST_F(QueueClientsTest, ListPagesNewestFirst) {
  std::vector<std::string> ids;
  ids.reserve(5);
  for (int i = 0; i < 5; ++i) ids.push_back(Submit().id());
  v1::ListJobsRequest request;
  request.set_page_size(2);
  auto page = queue_->List(OpenPrincipal(), request);
  EXPECT_THAT(IdsOf(page), ElementsAre(ids[4], ids[3]));
  Submit();  // does not disturb the pages that follow
  request.set_page_token(page->next_page_token());
  page = queue_->List(OpenPrincipal(), request);
  EXPECT_THAT(IdsOf(page), ElementsAre(ids[2], ids[1]));
  request.set_page_token(page->next_page_token());
  request.set_page_size(500);  // another size is no other filter
  page = queue_->List(OpenPrincipal(), request);
  EXPECT_THAT(IdsOf(page), ElementsAre(ids[0]));
  EXPECT_EQ(page->next_page_token(), "");
}

TEST_F(QueueClientsTest, AFullLastPageHasNoToken) {
  Submit();
  Submit();
  v1::ListJobsRequest request;
  request.set_page_size(2);
  EXPECT_EQ(queue_->List(OpenPrincipal(), request)->next_page_token(), "");
}

TEST_F(QueueClientsTest, AHugePageSizeIsTakenAs500) {
  for (int i = 0; i < 501; ++i) Submit();
  v1::ListJobsRequest request;
  request.set_page_size(1'000'000);
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), request)), SizeIs(500));
  request.set_page_size(0);
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), request)), SizeIs(50));
}

TEST_F(QueueClientsTest, APageOfLargeJobsStaysBelowTheMessageLimit) {
  v1::SubmitJobRequest large = Request();
  for (int i = 0; i < 120; ++i) {
    v1::LayerRule* rule = large.mutable_spec()->mutable_quantize()->mutable_recipe()->add_rules();
    rule->set_name(std::string(500, 'x'));
    rule->set_skip(true);
  }
  constexpr int kJobs = 100;  // 6 MB
  for (int i = 0; i < kJobs; ++i) Submit(large);
  v1::ListJobsRequest request;
  request.set_page_size(500);
  int jobs = 0;
  do {
    const auto page = queue_->List(OpenPrincipal(), request);
    ASSERT_THAT(page, IsOk());
    ASSERT_GT(page->jobs_size(), 0);
    EXPECT_LT(page->ByteSizeLong(), 4u << 20);
    jobs += page->jobs_size();
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(jobs, kJobs);
}

TEST_F(QueueClientsTest, BadListRequestsAreRefused) {
  Submit();
  Submit();
  v1::ListJobsRequest request;
  request.set_page_size(-1);
  EXPECT_THAT(queue_->List(OpenPrincipal(), request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_size is -1")));
  request.set_page_size(1);
  const std::string token = queue_->List(OpenPrincipal(), request)->next_page_token();
  ASSERT_NE(token, "");
  request.set_page_token(token);
  request.set_kind("benchmark");
  EXPECT_THAT(queue_->List(OpenPrincipal(), request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")));
  request.clear_kind();
  for (const char* bad : {"x", "%%%", "MTIz", "AAAA"}) {
    request.set_page_token(bad);
    EXPECT_THAT(queue_->List(OpenPrincipal(), request),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("page_token")))
        << bad;
  }
  request.clear_page_token();
  request.set_kind("bake");
  EXPECT_THAT(queue_->List(OpenPrincipal(), request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kind")));
  request.clear_kind();
  request.add_states(static_cast<v1::JobState>(77));
  EXPECT_THAT(queue_->List(OpenPrincipal(), request),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("states")));
}

TEST_F(QueueClientsTest, ListFiltersByStateKindAndLabel) {
  v1::SubmitJobRequest labelled = Request();
  (*labelled.mutable_spec()->mutable_labels())["team"] = "vision";
  const v1::Job a = Submit(labelled);
  v1::SubmitJobRequest benchmark;
  benchmark.mutable_spec()->mutable_benchmark()->set_model_id("m-1");
  const v1::Job b = Submit(benchmark);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), b.id()), IsOk());
  v1::ListJobsRequest request;
  request.add_states(v1::JOB_STATE_CANCELLED);
  request.add_states(v1::JOB_STATE_CANCELLED);
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), request)), ElementsAre(b.id()));
  request.Clear();
  request.set_kind("quantize");
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), request)), ElementsAre(a.id()));
  request.Clear();
  (*request.mutable_labels())["team"] = "vision";
  EXPECT_THAT(IdsOf(queue_->List(OpenPrincipal(), request)), ElementsAre(a.id()));
}

TEST_F(QueueClientsTest, ListShowsProgressThatIsNotStoredYet) {
  const v1::Job job = Submit();
  v1::Progress progress;
  progress.set_phase("calibrate");
  const v1::Lease lease = Lease("w-1");
  Beat("w-1", lease, progress);
  EXPECT_EQ(queue_->List(OpenPrincipal(), {})->jobs(0).progress().phase(), "calibrate");
}

TEST_F(QueueClientsTest, UnknownJobsAreNotFound) {
  const std::string id = "j-0000000000000000";
  EXPECT_THAT(queue_->Get(OpenPrincipal(), id), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), id), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(queue_->Retry(OpenPrincipal(), id), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), id), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), id), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(queue_->Watch(OpenPrincipal(), id, 0, [](const WatchEvent&) {}), StatusIs(absl::StatusCode::kNotFound));
}

// ---------------------------------------------------------------- tenants

TEST_F(QueueClientsTest, AnotherTenantsJobIsAsOneThatIsNotThere) {
  const Principal ann{.tenant = "acme", .name = "ann", .role = Role::kUser};
  const Principal bob{.tenant = "zoo", .name = "bob", .role = Role::kUser};
  catalog_.AddModel("m-1", v1::MODEL_FORMAT_ONNX, "acme");
  catalog_.AddDataset("d-1", "acme");
  const auto job = queue_->Submit(ann, Request());
  ASSERT_THAT(job, IsOk());
  const auto no_watch = [](const WatchEvent&) {};
  for (const std::string& id : {job->id(), std::string("j-0000000000000000")}) {
    const auto denied = FailsWith(absl::StatusCode::kPermissionDenied, "NOT_VISIBLE");
    EXPECT_THAT(queue_->Get(bob, id), denied);
    EXPECT_THAT(queue_->Cancel(bob, id), denied);
    EXPECT_THAT(queue_->Retry(bob, id), denied);
    EXPECT_THAT(queue_->Delete(bob, id), denied);
    EXPECT_THAT(queue_->GetReport(bob, id), denied);
    EXPECT_THAT(queue_->Watch(bob, id, 0, no_watch), denied);
    EXPECT_EQ(queue_->Get(bob, id).status().message(), absl::StrCat("tenant \"zoo\" has no job \"", id, "\""));
  }
  EXPECT_EQ(queue_->List(bob, {})->jobs_size(), 0);
  EXPECT_EQ(queue_->List(ann, {})->jobs_size(), 1);
  EXPECT_EQ(queue_->List(OpenPrincipal(), {})->jobs_size(), 1);
  EXPECT_THAT(queue_->Get(ann, job->id()), IsOk());
  // Nor may Bob's job read Ann's model.
  EXPECT_THAT(queue_->Submit(bob, Request()), FailsWith(absl::StatusCode::kPermissionDenied, "NOT_VISIBLE"));
  // What the job makes is Ann's, whoever runs it.
  const v1::Lease lease = Lease("w-1");
  const auto done = queue_->Complete(Success("w-1", lease));
  ASSERT_THAT(done, IsOk());
  EXPECT_EQ(catalog_.OwnerOf(done->result_model_id()), "acme");
}

TEST_F(QueueClientsTest, EachTenantHasItsOwnRequestIds) {
  const Principal bob{.tenant = "zoo", .name = "bob", .role = Role::kUser};
  catalog_.AddModel("m-2", v1::MODEL_FORMAT_ONNX, "zoo");
  v1::SubmitJobRequest request = Request();
  request.set_request_id("r-1");
  const v1::Job ours = Submit(request);
  request.mutable_spec()->mutable_quantize()->set_model_id("m-2");
  request.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  request.mutable_spec()->mutable_quantize()->clear_calibration_dataset_id();
  const auto theirs = queue_->Submit(bob, request);
  ASSERT_THAT(theirs, IsOk());  // not REQUEST_ID_REUSED, which would tell of our job
  EXPECT_NE(theirs->id(), ours.id());
}

// ---------------------------------------------------------------- cancel, retry, delete

TEST_F(QueueClientsTest, CancelOfAQueuedJobIsAtOnceAndIdempotent) {
  const v1::Job job = Submit();
  const auto cancelled = queue_->Cancel(OpenPrincipal(), job.id());
  ASSERT_THAT(cancelled, IsOk());
  EXPECT_EQ(cancelled->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(cancelled->has_end_time());
  EXPECT_EQ(queue_->Cancel(OpenPrincipal(), job.id())->SerializeAsString(), cancelled->SerializeAsString());
  EXPECT_TRUE(HasNoJob("w-1"));
}

TEST_F(QueueClientsTest, CancelOfARunningJobWaitsForItsWorker) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CONTINUE);
  EXPECT_EQ(queue_->Cancel(OpenPrincipal(), job.id())->state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(queue_->Cancel(OpenPrincipal(), job.id())->state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_CANCEL);
  v1::CompleteJobRequest end = End("w-1", lease);
  end.mutable_cancelled();
  EXPECT_EQ(queue_->Complete(end)->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(Beat("w-1", lease), v1::LEASE_COMMAND_LEASE_LOST);
}

TEST_F(QueueClientsTest, ALateResultWinsOverACancellation) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  EXPECT_EQ(queue_->Complete(Success("w-1", lease))->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), job.id()),
              FailsWith(absl::StatusCode::kFailedPrecondition, "JOB_STATE_FORBIDS"));
}

TEST_F(QueueClientsTest, CancelWorksInRetryWaitAndDead) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_max_attempts(2);
  const v1::Job job = Submit(request);
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_RETRYABLE)), IsOk());
  ASSERT_EQ(State(job.id()), v1::JOB_STATE_RETRY_WAIT);
  EXPECT_EQ(queue_->Cancel(OpenPrincipal(), job.id())->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(Get(job.id()).has_error());
  EXPECT_FALSE(Get(job.id()).has_retry_time());
  ASSERT_THAT(queue_->Retry(OpenPrincipal(), job.id()), IsOk());
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_POISON)), IsOk());
  Advance(absl::Minutes(5));
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_POISON)), IsOk());
  ASSERT_EQ(State(job.id()), v1::JOB_STATE_DEAD);
  EXPECT_EQ(queue_->Cancel(OpenPrincipal(), job.id())->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(QueueClientsTest, CancelOfAFailedJobIsRefused) {
  const v1::Job job = Submit();
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_FINAL)), IsOk());
  EXPECT_THAT(queue_->Cancel(OpenPrincipal(), job.id()),
              FailsWith(absl::StatusCode::kFailedPrecondition, "JOB_STATE_FORBIDS"));
}

TEST_F(QueueClientsTest, RetryStartsAgainWithAttemptsAtZero) {
  const v1::Job job = Submit();
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_FINAL)), IsOk());
  const v1::Job failed = Get(job.id());
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.attempt(), 1);
  EXPECT_EQ(failed.error().reason(), "OUT_OF_MEMORY");
  const auto again = queue_->Retry(OpenPrincipal(), job.id());
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(again->attempt(), 0);
  EXPECT_FALSE(again->has_error());
  EXPECT_FALSE(again->has_end_time());
  EXPECT_GT(again->sequence(), failed.sequence());
  EXPECT_EQ(Lease("w-2").job().attempt(), 1);
}

TEST_F(QueueClientsTest, RetryIsForFailedCancelledAndDeadOnly) {
  const v1::Job job = Submit();
  const auto forbidden = FailsWith(absl::StatusCode::kFailedPrecondition, "JOB_STATE_FORBIDS");
  EXPECT_THAT(queue_->Retry(OpenPrincipal(), job.id()), forbidden);
  const v1::Lease lease = Lease("w-1");
  EXPECT_THAT(queue_->Retry(OpenPrincipal(), job.id()), forbidden);
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  EXPECT_THAT(queue_->Retry(OpenPrincipal(), job.id()), forbidden);
}

TEST_F(QueueClientsTest, DeleteIsRefusedWhileAWorkerHoldsTheJob) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  const auto forbidden = FailsWith(absl::StatusCode::kFailedPrecondition, "JOB_STATE_FORBIDS");
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), job.id()), forbidden);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), job.id()), forbidden);
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  EXPECT_THAT(queue_->Delete(OpenPrincipal(), job.id()), IsOk());
  EXPECT_THAT(queue_->Get(OpenPrincipal(), job.id()), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(catalog_.Published(), SizeIs(1));  // models it made stay
}

TEST_F(QueueClientsTest, ADeletedQueuedJobIsNotLeased) {
  ASSERT_THAT(queue_->Delete(OpenPrincipal(), Submit().id()), IsOk());
  EXPECT_TRUE(HasNoJob("w-1"));
}

TEST_F(QueueClientsTest, TheReportIsThereOnceTheJobSucceeded) {
  const v1::Job job = Submit();
  EXPECT_THAT(queue_->GetReport(OpenPrincipal(), job.id()),
              FailsWith(absl::StatusCode::kFailedPrecondition, "NO_REPORT"));
  ASSERT_THAT(queue_->Complete(Success("w-1", Lease("w-1"))), IsOk());
  Restart();
  const auto report = queue_->GetReport(OpenPrincipal(), job.id());
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(report->size().original_bytes(), 1000);
}

TEST_F(QueueClientsTest, UnfinishedJobsKeepTheirInputsInUse) {
  const v1::Job job = Submit();
  EXPECT_EQ(queue_->UnfinishedJobUsing("m-1"), job.id());
  EXPECT_EQ(queue_->UnfinishedJobUsing("d-1"), job.id());
  EXPECT_EQ(queue_->UnfinishedJobUsing("m-2", job.id()), job.id()) << "what it is making";
  EXPECT_EQ(queue_->UnfinishedJobUsing("m-2", "j-other"), std::nullopt);
  EXPECT_EQ(queue_->UnfinishedJobUsing("m-2"), std::nullopt);
  EXPECT_EQ(queue_->UnfinishedJobUsing(""), std::nullopt);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  EXPECT_EQ(queue_->UnfinishedJobUsing("m-1"), std::nullopt);
}

// ---------------------------------------------------------------- watch

TEST_F(QueueClientsTest, AWatchTellsTheStateAtOnceThenEachChangeAndEnds) {
  const v1::Job job = Submit();
  const auto watcher = Watch(job.id());
  const v1::Lease lease = Lease("w-1");
  ASSERT_THAT(queue_->Complete(Success("w-1", lease)), IsOk());
  EXPECT_EQ(watcher->Story(), "QUEUED RUNNING SUCCEEDED OK");
  int64_t sequence = 0;
  for (const WatchEvent& event : watcher->events) {
    EXPECT_GT(event.job->sequence(), sequence);
    sequence = event.job->sequence();
  }
}

TEST_F(QueueClientsTest, AWatchTellsOfProgress) {
  const v1::Job job = Submit();
  const v1::Lease lease = Lease("w-1");
  const auto watcher = Watch(job.id());
  v1::Progress progress;
  progress.set_phase("calibrate");
  progress.set_fraction(0.25);
  Beat("w-1", lease, progress);
  Beat("w-1", lease, progress);  // the same again is no change
  ASSERT_THAT(watcher->events, SizeIs(2));
  EXPECT_EQ(watcher->events[1].job->progress().fraction(), 0.25);
}

TEST_F(QueueClientsTest, AWatchFromAKnownSequenceIsSilentUntilAChange) {
  const v1::Job job = Submit();
  const auto watcher = Watch(job.id(), job.sequence());
  EXPECT_THAT(watcher->events, IsEmpty());
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  EXPECT_EQ(watcher->Story(), "CANCELLED OK");
}

TEST_F(QueueClientsTest, AWatchOfAFinalStateAlreadySeenJustEnds) {
  const v1::Job job = Submit();
  const auto cancelled = queue_->Cancel(OpenPrincipal(), job.id());
  EXPECT_EQ(Watch(job.id(), cancelled->sequence())->Story(), "OK");
  EXPECT_EQ(Watch(job.id(), cancelled->sequence() - 1)->Story(), "CANCELLED OK");
}

TEST_F(QueueClientsTest, AWatchIsToldTheSameAgainEvery15Seconds) {
  const v1::Job job = Submit();
  const auto watcher = Watch(job.id());
  Advance(absl::Seconds(14));
  EXPECT_EQ(watcher->Story(), "QUEUED");
  EXPECT_LE(queue_->NextDue() - clock_.Now(), absl::Seconds(1));
  Advance(absl::Seconds(1));
  EXPECT_EQ(watcher->Story(), "QUEUED QUEUED");
  Advance(absl::Seconds(15));
  EXPECT_EQ(watcher->Story(), "QUEUED QUEUED QUEUED");
}

TEST_F(QueueClientsTest, AWatchEndsWithDeadAndWithDelete) {
  v1::SubmitJobRequest once = Request();
  once.mutable_spec()->set_max_attempts(1);
  const v1::Job dead = Submit(once);
  const auto first = Watch(dead.id());
  ASSERT_THAT(queue_->Complete(Failure("w-1", Lease("w-1"), v1::ERROR_CLASS_RETRYABLE)), IsOk());
  EXPECT_EQ(first->Story(), "QUEUED RUNNING DEAD OK");
  const v1::Job deleted = Submit();
  const auto second = Watch(deleted.id());
  ASSERT_THAT(queue_->Delete(OpenPrincipal(), deleted.id()), IsOk());
  EXPECT_EQ(second->Story(), "QUEUED NOT_FOUND");
}

TEST_F(QueueClientsTest, AnUnwatchedWatchIsNotCalledAgain) {
  const v1::Job job = Submit();
  const auto watcher = Watch(job.id());
  queue_->Unwatch(watcher->handle);
  queue_->Unwatch(watcher->handle);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  EXPECT_EQ(watcher->Story(), "QUEUED");
}

TEST_F(QueueClientsTest, ShutdownEndsWatchesAndRefusesNewOnes) {
  const v1::Job job = Submit();
  const auto watcher = Watch(job.id());
  queue_->Shutdown();
  EXPECT_EQ(watcher->Story(), "QUEUED UNAVAILABLE");
  EXPECT_THAT(queue_->Watch(OpenPrincipal(), job.id(), 0, [](const WatchEvent&) {}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("reconnect")));
}

TEST_F(QueueClientsTest, WatchesAreBounded) {
  options_.max_watches = 1;
  Restart();
  const v1::Job job = Submit();
  Watch(job.id());
  EXPECT_THAT(queue_->Watch(OpenPrincipal(), job.id(), 0, [](const WatchEvent&) {}),
              FailsWith(absl::StatusCode::kResourceExhausted, "TOO_MANY_WATCHES"));
}

}  // namespace
}  // namespace quant
