// SPDX-License-Identifier: Apache-2.0
// One contract for every JobStore.
#include "server/store/job_store.h"

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/proto_time.h"
#include "common/random_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/memory_job_store.h"
#include "server/store/postgres_job_store.h"
#include "server/store/sqlite_job_store.h"
#include "server/store/testing/postgres_server.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr int64_t kNewest = std::numeric_limits<int64_t>::max();
const absl::Time kStart = absl::FromUnixSeconds(1'800'000'000);

JobRow MakeRow(const std::string& id, const std::string& kind = "quantize") {
  JobRow row;
  row.job.set_id(id);
  row.job.set_state(v1::JOB_STATE_QUEUED);
  row.job.set_sequence(1);
  row.job.mutable_spec()->set_priority(3);
  if (kind == "quantize") row.job.mutable_spec()->mutable_quantize()->set_model_id("m-1");
  if (kind == "benchmark") row.job.mutable_spec()->mutable_benchmark()->set_model_id("m-1");
  SetProto(kStart, row.job.mutable_create_time());
  return row;
}

std::vector<std::string> IdsOf(const absl::StatusOr<std::vector<JobRow>>& rows) {
  std::vector<std::string> ids;
  if (rows.ok()) {
    for (const JobRow& row : *rows) ids.push_back(row.job.id());
  }
  return ids;
}

class JobStoreTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "sqlite") {
      dir_ = std::filesystem::temp_directory_path() / RandomId("job_store_test-");
      std::filesystem::create_directories(dir_);
    }
    if (GetParam() == "postgres") {
      const auto server = PostgresServer::Shared();
      if (absl::IsNotFound(server.status())) GTEST_SKIP() << server.status();
      ASSERT_THAT(server, IsOk());
      const auto url = (*server)->NewSchema();
      ASSERT_THAT(url, IsOk());
      url_ = *url;
    }
    Reopen();
  }
  void TearDown() override {
    store_.reset();
    db_.reset();
    postgres_.reset();
    if (!dir_.empty()) std::filesystem::remove_all(dir_);
  }
  // A new process, as far as the database can tell; the fake just stays.
  void Reopen() {
    if (GetParam() == "memory") {
      if (store_ == nullptr) store_ = std::make_unique<MemoryJobStore>(&clock_);
      return;
    }
    store_.reset();
    db_.reset();
    if (GetParam() == "postgres") {
      postgres_.reset();
      auto postgres = Postgres::Open({.url = url_});
      ASSERT_THAT(postgres, IsOk());
      postgres_ = *std::move(postgres);
      auto made = PostgresJobStore::Create(postgres_.get());
      ASSERT_THAT(made, IsOk());
      store_ = *std::move(made);
      return;
    }
    auto db = Database::Open(dir_ / "jobs.db");
    ASSERT_THAT(db, IsOk());
    db_ = *std::move(db);
    auto store = SqliteJobStore::Create(db_.get());
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }
  JobRow Inserted(const std::string& id, const std::string& kind = "quantize") {
    JobRow row = MakeRow(id, kind);
    EXPECT_THAT(store_->Insert(&row, {}), IsOk());
    return row;
  }
  // Moves a job to `state`, and returns it.
  JobRow Moved(JobRow row, v1::JobState state) {
    const JobVersion before = VersionOf(row);
    row.job.set_state(state);
    EXPECT_THAT(store_->Update(row, before), IsOk());
    return row;
  }

  std::filesystem::path dir_;
  FakeClock clock_{kStart};  // of the fake
  std::string url_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<Postgres> postgres_;
  std::unique_ptr<JobStore> store_;
};

TEST_P(JobStoreTest, KeepsEveryFieldOfARowOverAReopen) {
  JobRow row = MakeRow("j-1");
  row.tenant = "acme";
  (*row.job.mutable_spec()->mutable_labels())["team"] = "vision";
  ASSERT_THAT(store_->Insert(&row, {}), IsOk());
  const JobVersion queued = VersionOf(row);
  row.job.set_state(v1::JOB_STATE_CANCELLING);
  row.job.set_worker_id("w-1");
  row.job.mutable_progress()->set_phase("calibrate");
  row.completed_token = 7;
  row.deadline = kStart + absl::Hours(6) + absl::Nanoseconds(3);
  row.cancel_time = kStart + absl::Seconds(5);
  ASSERT_THAT(store_->Update(row, queued), IsOk());
  Reopen();
  const auto read = store_->Get("j-1");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->job.SerializeAsString(), row.job.SerializeAsString());
  EXPECT_EQ(read->tenant, "acme");
  EXPECT_EQ(read->ordinal, row.ordinal);
  EXPECT_EQ(read->completed_token, 7);
  EXPECT_EQ(read->deadline, row.deadline);
  EXPECT_EQ(read->cancel_time, row.cancel_time);
}

TEST_P(JobStoreTest, FindsJobsByTheirCacheKey) {
  for (const char* id : {"j-1", "j-2", "j-3"}) {
    JobRow row = MakeRow(id);
    row.cache_key = std::string_view(id) == "j-2" ? "other" : "same";
    ASSERT_THAT(store_->Insert(&row, {}), IsOk());
  }
  Inserted("j-4");
  Reopen();
  EXPECT_EQ(store_->Get("j-1")->cache_key, "same");
  EXPECT_EQ(store_->Get("j-4")->cache_key, "");
  EXPECT_THAT(IdsOf(store_->List({.cache_key = "same"}, kNewest, 9)), ElementsAre("j-3", "j-1"));
  EXPECT_THAT(IdsOf(store_->List({.states = {v1::JOB_STATE_DEAD}, .cache_key = "same"}, kNewest, 9)), IsEmpty());
}

TEST_P(JobStoreTest, AJobThatWasNeverLeasedMayHaveAResult) {  // an answer from an earlier job
  JobRow row = Inserted("j-1");
  ASSERT_THAT(store_->PutResult("j-1", VersionOf(row), "r"), IsOk());
  EXPECT_EQ(store_->GetResult("j-1")->token, 0);
  EXPECT_EQ(store_->GetResult("j-1")->bytes, "r");
  const JobVersion before = VersionOf(row);
  row.job.set_cached_from("j-0");
  EXPECT_THAT(store_->Update(row, before), IsOk());
  EXPECT_EQ(store_->Get("j-1")->job.cached_from(), "j-0");
}

TEST_P(JobStoreTest, KeepsTimesThatAreInfinite) {
  Inserted("j-1");
  Reopen();
  const auto read = store_->Get("j-1");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->deadline, absl::InfiniteFuture());
  EXPECT_EQ(read->cancel_time, absl::InfinitePast());
}

TEST_P(JobStoreTest, OrdinalsGrowAndAreNotReusedAfterADelete) {
  Inserted("j-1");
  const JobRow second = Inserted("j-2");
  ASSERT_THAT(store_->Delete("j-2", VersionOf(second)), IsOk());
  Reopen();
  EXPECT_GT(Inserted("j-3").ordinal, second.ordinal);
}

TEST_P(JobStoreTest, AnUnknownJobIsNotFound) {
  EXPECT_THAT(store_->Get("j-0"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Update(MakeRow("j-0"), {v1::JOB_STATE_QUEUED, 0}), StatusIs(absl::StatusCode::kNotFound));
  JobRow row = MakeRow("j-0");
  EXPECT_THAT(store_->Claim(&row, {v1::JOB_STATE_QUEUED, 0}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Delete("j-0", {v1::JOB_STATE_QUEUED, 0}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->PutResult("j-0", {v1::JOB_STATE_QUEUED, 0}, "r"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->GetResult("j-0"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, ATakenIdIsRefused) {
  Inserted("j-1");
  JobRow again = MakeRow("j-1");
  EXPECT_THAT(store_->Insert(&again, {}), StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_P(JobStoreTest, AChangeHappensOnlyFromTheExpectedStateAndToken) {
  JobRow row = Inserted("j-1");
  JobRow changed = row;
  changed.job.set_state(v1::JOB_STATE_CANCELLED);
  EXPECT_THAT(store_->Update(changed, {v1::JOB_STATE_RUNNING, 0}), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->Update(changed, {v1::JOB_STATE_QUEUED, 1}), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->Delete("j-1", {v1::JOB_STATE_QUEUED, 1}), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->PutResult("j-1", {v1::JOB_STATE_RUNNING, 0}, "r"), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->Claim(&changed, {v1::JOB_STATE_RUNNING, 0}), StatusIs(absl::StatusCode::kAborted));
  const auto read = store_->Get("j-1");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->job.SerializeAsString(), row.job.SerializeAsString());
  EXPECT_THAT(store_->GetResult("j-1"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, EachClaimGetsAGreaterTokenOverAllJobsAndReopens) {
  JobRow first = Inserted("j-1");
  JobRow second = Inserted("j-2");
  first.job.set_state(v1::JOB_STATE_RUNNING);
  ASSERT_THAT(store_->Claim(&first, {v1::JOB_STATE_QUEUED, 0}), IsOk());
  EXPECT_GT(first.token, 0);
  Reopen();
  second.job.set_state(v1::JOB_STATE_RUNNING);
  ASSERT_THAT(store_->Claim(&second, {v1::JOB_STATE_QUEUED, 0}), IsOk());
  EXPECT_GT(second.token, first.token);
  const int64_t old = first.token;
  ASSERT_THAT(store_->Claim(&first, {v1::JOB_STATE_RUNNING, old}), IsOk());
  EXPECT_GT(first.token, second.token);
  EXPECT_THAT(store_->Update(first, {v1::JOB_STATE_RUNNING, old}), StatusIs(absl::StatusCode::kAborted));
  ASSERT_THAT(store_->Get("j-1"), IsOk());
  EXPECT_EQ(store_->Get("j-1")->token, first.token);
}

TEST_P(JobStoreTest, ARequestIdIsTakenOnceAndOutlivesItsJob) {
  JobRow row = MakeRow("j-1");
  ASSERT_THAT(store_->Insert(&row, {.request_id = "r", .body_digest = "d"}), IsOk());
  JobRow other = MakeRow("j-2");
  EXPECT_THAT(store_->Insert(&other, {.request_id = "r", .body_digest = "d"}),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(store_->Get("j-2"), StatusIs(absl::StatusCode::kNotFound));  // all or nothing
  ASSERT_THAT(store_->Delete("j-1", VersionOf(row)), IsOk());
  Reopen();
  const auto stored = store_->FindRequest(kDefaultTenant, "r");
  ASSERT_THAT(stored, IsOk());
  ASSERT_TRUE(stored->has_value());
  EXPECT_EQ((*stored)->body_digest, "d");
  EXPECT_EQ((*stored)->first_answer.id(), "j-1");
}

TEST_P(JobStoreTest, EachTenantHasItsOwnRequestIds) {
  JobRow ours = MakeRow("j-1");
  JobRow theirs = MakeRow("j-2");
  theirs.tenant = "acme";
  ASSERT_THAT(store_->Insert(&ours, {.request_id = "r", .body_digest = "d"}), IsOk());
  EXPECT_FALSE(store_->FindRequest("acme", "r")->has_value());
  ASSERT_THAT(store_->Insert(&theirs, {.request_id = "r", .body_digest = "e"}), IsOk());
  EXPECT_EQ((*store_->FindRequest("acme", "r"))->first_answer.id(), "j-2");
  EXPECT_EQ((*store_->FindRequest(kDefaultTenant, "r"))->first_answer.id(), "j-1");
}

TEST_P(JobStoreTest, ListsTheJobsOfOneTenantOrOfAll) {
  for (const char* id : {"j-1", "j-2", "j-3"}) {
    JobRow row = MakeRow(id);
    row.tenant = id == std::string("j-2") ? "acme" : kDefaultTenant;
    ASSERT_THAT(store_->Insert(&row, {}), IsOk());
  }
  EXPECT_THAT(IdsOf(store_->List({.tenant = "acme"}, kNewest, 9)), ElementsAre("j-2"));
  EXPECT_THAT(IdsOf(store_->List({.tenant = kDefaultTenant}, kNewest, 9)), ElementsAre("j-3", "j-1"));
  EXPECT_THAT(IdsOf(store_->List({}, kNewest, 9)), ElementsAre("j-3", "j-2", "j-1"));
}

TEST_P(JobStoreTest, PurgeForgetsOnlyOldRequests) {
  JobRow row = MakeRow("j-1");
  ASSERT_THAT(store_->Insert(&row, {.request_id = "r", .body_digest = "d"}), IsOk());
  ASSERT_THAT(store_->PurgeRequests(kStart), IsOk());
  EXPECT_TRUE(store_->FindRequest(kDefaultTenant, "r")->has_value());
  ASSERT_THAT(store_->PurgeRequests(kStart + absl::Nanoseconds(1)), IsOk());
  EXPECT_FALSE(store_->FindRequest(kDefaultTenant, "r")->has_value());
  EXPECT_THAT(store_->Get("j-1"), IsOk());
}

TEST_P(JobStoreTest, ListsNewestFirstInPages) {
  for (const char* id : {"j-1", "j-2", "j-3"}) Inserted(id);
  const auto page = store_->List({}, kNewest, 2);
  EXPECT_THAT(IdsOf(page), ElementsAre("j-3", "j-2"));
  EXPECT_THAT(IdsOf(store_->List({}, page->back().ordinal, 2)), ElementsAre("j-1"));
  EXPECT_THAT(IdsOf(store_->List({}, 1, 2)), IsEmpty());
}

TEST_P(JobStoreTest, ListFiltersByStateKindAndLabels) {
  JobRow labelled = MakeRow("j-1");
  (*labelled.job.mutable_spec()->mutable_labels())["team"] = "vision";
  (*labelled.job.mutable_spec()->mutable_labels())["run"] = "7";
  ASSERT_THAT(store_->Insert(&labelled, {}), IsOk());
  Moved(Inserted("j-2", "benchmark"), v1::JOB_STATE_FAILED);
  Moved(Inserted("j-3"), v1::JOB_STATE_DEAD);
  EXPECT_THAT(IdsOf(store_->List({.states = {v1::JOB_STATE_DEAD, v1::JOB_STATE_FAILED}}, kNewest, 9)),
              ElementsAre("j-3", "j-2"));
  EXPECT_THAT(IdsOf(store_->List({.kind = "quantize"}, kNewest, 9)), ElementsAre("j-3", "j-1"));
  EXPECT_THAT(IdsOf(store_->List({.labels = {{"team", "vision"}}}, kNewest, 9)), ElementsAre("j-1"));
  EXPECT_THAT(IdsOf(store_->List({.labels = {{"run", "7"}, {"team", "vision"}}}, kNewest, 9)), ElementsAre("j-1"));
  EXPECT_THAT(IdsOf(store_->List({.labels = {{"run", "8"}, {"team", "vision"}}}, kNewest, 9)), IsEmpty());
  EXPECT_THAT(IdsOf(store_->List({.states = {v1::JOB_STATE_DEAD}, .kind = "benchmark"}, kNewest, 9)), IsEmpty());
}

TEST_P(JobStoreTest, LoadsUnfinishedOldestFirstAndCountsStates) {
  for (int state = v1::JOB_STATE_QUEUED; state <= v1::JOB_STATE_DEAD; ++state) {
    Moved(Inserted(absl::StrCat("j-", state)), static_cast<v1::JobState>(state));
  }
  Moved(Inserted("j-9"), v1::JOB_STATE_DEAD);
  Reopen();
  EXPECT_THAT(IdsOf(store_->LoadUnfinished()), ElementsAre("j-1", "j-2", "j-3", "j-4"));
  const auto counts = store_->CountByState();
  ASSERT_THAT(counts, IsOk());
  EXPECT_THAT(*counts, UnorderedElementsAre(Pair(v1::JOB_STATE_QUEUED, 1), Pair(v1::JOB_STATE_RUNNING, 1),
                                            Pair(v1::JOB_STATE_RETRY_WAIT, 1), Pair(v1::JOB_STATE_CANCELLING, 1),
                                            Pair(v1::JOB_STATE_SUCCEEDED, 1), Pair(v1::JOB_STATE_FAILED, 1),
                                            Pair(v1::JOB_STATE_CANCELLED, 1), Pair(v1::JOB_STATE_DEAD, 2)));
}

TEST_P(JobStoreTest, AResultIsKeptUnderItsTokenReplacedAndDeletedWithTheJob) {
  JobRow row = Inserted("j-1");
  row.job.set_state(v1::JOB_STATE_RUNNING);
  ASSERT_THAT(store_->Claim(&row, {v1::JOB_STATE_QUEUED, 0}), IsOk());
  const std::string bytes("a\0b", 3);
  ASSERT_THAT(store_->PutResult("j-1", VersionOf(row), "first"), IsOk());
  ASSERT_THAT(store_->PutResult("j-1", VersionOf(row), bytes), IsOk());
  Reopen();
  const auto result = store_->GetResult("j-1");
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->token, row.token);
  EXPECT_EQ(result->bytes, bytes);
  ASSERT_THAT(store_->Delete("j-1", VersionOf(row)), IsOk());
  EXPECT_THAT(store_->GetResult("j-1"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store_->Get("j-1"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_P(JobStoreTest, FindsExpiredJobsOldestFirst) {
  const auto expiring = [&](const std::string& id, absl::Time time) {
    JobRow row = Inserted(id);
    const JobVersion before = VersionOf(row);
    row.job.set_state(v1::JOB_STATE_SUCCEEDED);
    SetProto(time, row.job.mutable_expire_time());
    EXPECT_THAT(store_->Update(row, before), IsOk());
  };
  expiring("j-1", kStart + absl::Seconds(2));
  expiring("j-2", kStart + absl::Seconds(1));
  expiring("j-3", kStart + absl::Seconds(9));
  Inserted("j-4");
  Reopen();
  EXPECT_THAT(IdsOf(store_->Expired(kStart + absl::Seconds(9), 9)), ElementsAre("j-2", "j-1"));
  EXPECT_THAT(IdsOf(store_->Expired(kStart + absl::Seconds(9), 1)), ElementsAre("j-2"));
  EXPECT_THAT(IdsOf(store_->Expired(kStart, 9)), IsEmpty());
}

TEST_P(JobStoreTest, AJobExpectedUndeliveredIsNotChangedOnceItsResultIsStored) {
  JobRow row = Inserted("j-1");
  row.job.set_state(v1::JOB_STATE_RUNNING);
  ASSERT_THAT(store_->Claim(&row, {v1::JOB_STATE_QUEUED, 0}), IsOk());
  JobVersion undelivered = VersionOf(row);
  undelivered.undelivered = true;
  ASSERT_THAT(store_->Update(row, undelivered), IsOk());
  ASSERT_THAT(store_->PutResult("j-1", VersionOf(row), "r"), IsOk());
  JobRow lost = row;
  lost.job.set_state(v1::JOB_STATE_RETRY_WAIT);
  EXPECT_THAT(store_->Update(lost, undelivered), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->Update(lost, VersionOf(row)), IsOk());
  // The result of an earlier lease does not count.
  const JobVersion waiting = VersionOf(lost);
  lost.job.set_state(v1::JOB_STATE_RUNNING);
  ASSERT_THAT(store_->Claim(&lost, waiting), IsOk());
  undelivered = VersionOf(lost);
  undelivered.undelivered = true;
  EXPECT_THAT(store_->Update(lost, undelivered), IsOk());
}

TEST_P(JobStoreTest, AnExpectedSequenceTellsAJobThatCameBackToItsState) {
  JobRow row = Inserted("j-1");
  row.job.set_sequence(5);
  ASSERT_THAT(store_->Update(row, VersionOf(row)), IsOk());
  JobVersion old = VersionOf(row);
  old.sequence = 4;
  JobVersion now = VersionOf(row);
  now.sequence = 5;
  EXPECT_THAT(store_->Update(row, old), StatusIs(absl::StatusCode::kAborted));
  row.job.set_state(v1::JOB_STATE_RUNNING);
  EXPECT_THAT(store_->Claim(&row, old), StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(store_->Claim(&row, now), IsOk());
}

// ---------------------------------------------------------------- what several servers tell each other

class JobPeersTest : public JobStoreTest {};

TEST_P(JobPeersTest, TheFeedTellsEveryChangeAndDeletionSinceItsCursor) {
  JobPeers* const peers = store_->peers();
  Inserted("j-1");
  const JobRow second = Inserted("j-2");
  const auto ids = [&](int64_t* cursor) {
    const auto changes = peers->ChangesSince(*cursor);
    EXPECT_THAT(changes, IsOk());
    if (!changes.ok()) return std::string("failed");
    *cursor = changes->cursor;
    std::string text;
    for (const JobRow& row : changes->rows) absl::StrAppend(&text, row.job.id(), "=", row.job.state(), " ");
    for (const std::string& id : changes->deleted) absl::StrAppend(&text, "-", id, " ");
    return text;
  };
  int64_t cursor = 0;
  EXPECT_EQ(ids(&cursor), "j-1=1 j-2=1 ");
  EXPECT_EQ(ids(&cursor), "");
  Moved(*store_->Get("j-1"), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(ids(&cursor), "j-1=7 ");
  ASSERT_THAT(store_->Delete("j-2", VersionOf(second)), IsOk());
  EXPECT_EQ(ids(&cursor), "-j-2 ");
  EXPECT_EQ(ids(&cursor), "");
}

TEST_P(JobPeersTest, ALeaseIsHeardOfFromItsClaimUntilItsEnd) {
  JobPeers* const peers = store_->peers();
  v1::WorkerInfo worker;
  worker.set_id("w-1");
  worker.set_slots(3);
  EXPECT_THAT(*peers->HeardOf(), IsEmpty());
  JobRow row = Inserted("j-1");
  row.job.set_state(v1::JOB_STATE_RUNNING);
  ASSERT_THAT(store_->Claim(&row, {v1::JOB_STATE_QUEUED, 0}), IsOk());
  auto heard = peers->HeardOf();
  ASSERT_THAT(heard, IsOk());
  ASSERT_TRUE(heard->contains("j-1"));
  EXPECT_EQ((*heard)["j-1"].token, row.token);
  EXPECT_FALSE((*heard)["j-1"].confirmed);
  EXPECT_LT((*heard)["j-1"].ago, absl::Seconds(10));

  EXPECT_FALSE(*peers->Hear(worker, false, {{"j-1", row.token - 1}}));  // an older lease proves nothing
  EXPECT_FALSE((*peers->HeardOf())["j-1"].confirmed);
  EXPECT_FALSE(*peers->Hear(worker, false, {{"j-1", row.token}}));
  EXPECT_TRUE((*peers->HeardOf())["j-1"].confirmed);

  Moved(row, v1::JOB_STATE_FAILED);
  EXPECT_THAT(*peers->HeardOf(), IsEmpty());
  ASSERT_THAT(peers->Remember({"j-1", 9}), IsOk());
  EXPECT_TRUE((*peers->HeardOf())["j-1"].confirmed);
}

TEST_P(JobPeersTest, AWorkerToldToDrainHearsOfItWithItsNextSignOfLife) {
  JobPeers* const peers = store_->peers();
  v1::WorkerInfo worker;
  worker.set_id("w-1");
  worker.set_slots(3);
  EXPECT_THAT(peers->Drain("w-1"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(*peers->Hear(worker, false, {}));
  ASSERT_THAT(peers->Drain("w-1"), IsOk());
  EXPECT_TRUE(*peers->Hear(worker, false, {}));
  const auto workers = peers->Workers(absl::Hours(1));
  ASSERT_THAT(workers, IsOk());
  ASSERT_EQ(workers->size(), 1u);
  EXPECT_EQ((*workers)[0].info.slots(), 3);
  EXPECT_TRUE((*workers)[0].draining);
  worker.set_id("w-0");
  EXPECT_TRUE(*peers->Hear(worker, true, {}));  // it says so itself
  clock_.Advance(absl::Milliseconds(2));
  absl::SleepFor(absl::Milliseconds(2));
  EXPECT_THAT(*peers->Workers(absl::Milliseconds(1)), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Stores, JobPeersTest, testing::Values("memory", "postgres"),
                         [](const auto& param) { return param.param; });

TEST_P(JobStoreTest, HostileTextIsOnlyData) {
  JobRow row = MakeRow("j-1");
  (*row.job.mutable_spec()->mutable_labels())["'; DROP TABLE job; --"] = "%_\"'";
  ASSERT_THAT(store_->Insert(&row, {}), IsOk());
  EXPECT_THAT(store_->Get("j-1' OR '1'='1"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(IdsOf(store_->List({.labels = {{"'; DROP TABLE job; --", "%_\"'"}}}, kNewest, 9)), ElementsAre("j-1"));
  EXPECT_THAT(IdsOf(store_->List({.kind = "quantize' OR 1=1 --"}, kNewest, 9)), IsEmpty());
}

// A database from before there were tenants: what it holds becomes the default tenant's.
TEST(SqliteJobStore, JobsWithoutATenantBecomeTheDefaultTenants) {
  const std::filesystem::path dir = std::filesystem::temp_directory_path() / RandomId("job_store_test-");
  std::filesystem::create_directories(dir);
  auto db = Database::Open(dir / "jobs.db");
  ASSERT_THAT(db, IsOk());
  {
    MutexLock lock((*db)->mutex());
    ASSERT_THAT((*db)->Migrate("jobs", {R"sql(
      CREATE TABLE job (ordinal INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, state INTEGER NOT NULL,
        kind TEXT NOT NULL, priority INTEGER NOT NULL, create_time INTEGER NOT NULL, retry_time INTEGER NOT NULL,
        worker_id TEXT NOT NULL, token INTEGER NOT NULL, completed_token INTEGER NOT NULL, deadline INTEGER NOT NULL,
        cancel_time INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
      CREATE TABLE job_request (request_id TEXT PRIMARY KEY, body_digest TEXT NOT NULL, create_time INTEGER NOT NULL,
        first_answer BLOB NOT NULL) WITHOUT ROWID, STRICT;
      CREATE INDEX job_request_by_time ON job_request (create_time);
      INSERT INTO job VALUES (7, 'j-1', 1, 'quantize', 3, 0, 0, '', 0, 0, 0, 0, x'');
      INSERT INTO job_request VALUES ('r', 'd', 5, x'');)sql"}),
                IsOk());
  }
  const auto store = SqliteJobStore::Create(db->get());
  ASSERT_THAT(store, IsOk());
  EXPECT_EQ((*store)->Get("j-1")->tenant, kDefaultTenant);
  EXPECT_TRUE((*store)->FindRequest(kDefaultTenant, "r")->has_value());
  std::filesystem::remove_all(dir);
}

INSTANTIATE_TEST_SUITE_P(Stores, JobStoreTest, testing::Values("memory", "sqlite", "postgres"),
                         [](const auto& param) { return param.param; });

// What arrived before the wait, and was taken out of the socket by alive(), is not waited for again.
TEST(PgSession, ANotificationThatCameBeforeIsToldAtOnce) {
  const auto server = PostgresServer::Shared();
  if (!server.ok()) GTEST_SKIP() << server.status();
  const auto db = Postgres::Open({.url = (*server)->NewSchema().value()});
  ASSERT_THAT(db, IsOk());
  auto session = (*db)->Connect();
  ASSERT_THAT(session, IsOk());
  ASSERT_THAT((*session)->Execute("LISTEN quant_test"), IsOk());
  ASSERT_THAT((*db)->Run("NOTIFY quant_test").status(), IsOk());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE((*session)->alive());
    absl::SleepFor(absl::Milliseconds(10));
  }
  const absl::Time start = absl::Now();
  const absl::StatusOr<bool> came = (*session)->AwaitNotification(-1, /*own_pid=*/0, absl::Seconds(30));
  ASSERT_THAT(came, IsOk());
  EXPECT_TRUE(*came);
  EXPECT_LT(absl::Now() - start, absl::Seconds(20)) << "it was waited for";
}

}  // namespace
}  // namespace quant
