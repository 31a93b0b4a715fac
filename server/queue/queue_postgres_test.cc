// SPDX-License-Identifier: Apache-2.0
// Two servers on one PostgreSQL, with threads and real time: what queue_peers_test.cc shows step by step must also hold
// when everything happens at once, when a server dies, and when the database does.
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/log/globals.h"
#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/proto_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/queue/fake_artifact_catalog.h"
#include "server/queue/queue.h"
#include "server/store/postgres.h"
#include "server/store/postgres_job_store.h"
#include "server/store/testing/postgres_server.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;

// One quantd, as far as jobs go.
struct Front {
  std::unique_ptr<Postgres> db;
  std::unique_ptr<PostgresJobStore> store;
  std::unique_ptr<JobQueue> queue;
};

bool WaitUntil(const std::function<bool()>& done, absl::Duration limit = absl::Seconds(20)) {
  const absl::Time until = absl::Now() + limit;
  while (!done()) {
    if (absl::Now() > until) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

class QueuePostgresTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::SetMinLogLevel(absl::LogSeverityAtLeast::kError);
    const auto server = PostgresServer::Shared();
    if (absl::IsNotFound(server.status())) GTEST_SKIP() << server.status();
    ASSERT_THAT(server, IsOk());
    server_ = *server;
    const auto url = server_->NewSchema();
    ASSERT_THAT(url, IsOk());
    url_ = *url;
    catalog_.AddModel("m-1");
    catalog_.AddDataset("d-1");
    a_ = Start();
    b_ = Start();
  }
  Front Start() {
    Front front;
    auto db = Postgres::Open({.url = url_});
    EXPECT_THAT(db, IsOk());
    front.db = *std::move(db);
    auto store = PostgresJobStore::Create(front.db.get());
    EXPECT_THAT(store, IsOk());
    front.store = *std::move(store);
    QueueOptions options;
    options.heartbeat_interval = absl::Milliseconds(400);
    auto queue = JobQueue::Create(front.store.get(), &catalog_, nullptr, &SystemClock(), options);
    EXPECT_THAT(queue, IsOk());
    front.queue = *std::move(queue);
    front.queue->Start();
    return front;
  }
  static void Stop(Front* front) {
    front->queue.reset();
    front->store.reset();
    front->db.reset();
  }

  static v1::SubmitJobRequest Request(const std::string& request_id = "") {
    v1::SubmitJobRequest request;
    request.set_no_cache(true);  // all alike, and each is to run
    v1::QuantizeSpec* spec = request.mutable_spec()->mutable_quantize();
    spec->set_model_id("m-1");
    spec->set_calibration_dataset_id("d-1");
    spec->mutable_recipe()->mutable_static_int8();
    request.set_request_id(request_id);
    return request;
  }
  static v1::WorkerInfo Info(const std::string& worker) {
    v1::WorkerInfo info;
    info.set_id(worker);
    info.set_slots(1);
    return info;
  }
  struct Call {
    std::atomic<bool> answered = false;
    absl::StatusOr<v1::LeaseJobResponse> answer = absl::UnknownError("none");
  };
  static std::shared_ptr<Call> Ask(JobQueue* queue, const std::string& worker, absl::Duration wait) {
    auto call = std::make_shared<Call>();
    v1::LeaseJobRequest request;
    *request.mutable_worker() = Info(worker);
    SetProto(wait, request.mutable_wait());
    queue->Lease(request, [call](absl::StatusOr<v1::LeaseJobResponse> answer) {
      call->answer = std::move(answer);
      call->answered = true;
    });
    return call;
  }
  static absl::StatusOr<v1::HeartbeatResponse> Beat(JobQueue* queue, const std::string& worker,
                                                    const v1::Lease& lease) {
    v1::HeartbeatRequest request;
    *request.mutable_worker() = Info(worker);
    v1::LeaseProgress* entry = request.add_leases();
    entry->set_job_id(lease.job().id());
    entry->set_token(lease.token());
    return queue->Heartbeat(request);
  }
  static v1::CompleteJobRequest Success(const std::string& worker, const v1::Lease& lease) {
    v1::CompleteJobRequest request;
    request.set_worker_id(worker);
    request.set_job_id(lease.job().id());
    request.set_token(lease.token());
    request.mutable_success()->mutable_report();
    v1::File* file = request.mutable_success()->add_files();
    file->set_path("model.onnx");
    file->mutable_digest()->set_sha256("blob of " + worker);
    return request;
  }
  v1::JobState State(JobQueue* queue, const std::string& id) {
    const auto job = queue->Get(OpenPrincipal(), id);
    return job.ok() ? job->state() : v1::JOB_STATE_UNSPECIFIED;
  }

  PostgresServer* server_ = nullptr;
  std::string url_;
  FakeArtifactCatalog catalog_;
  Front a_;
  Front b_;
};

TEST_F(QueuePostgresTest, AWorkerParkedAtTheOtherServerGetsTheJobAtOnce) {
  const auto parked = Ask(b_.queue.get(), "w-1", absl::Seconds(30));
  const absl::Time start = absl::Now();
  ASSERT_THAT(a_.queue->Submit(OpenPrincipal(), Request()), IsOk());
  ASSERT_TRUE(WaitUntil([&] { return parked->answered.load(); }));
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(900))
      << "found by the poll of each second, not by the notification";
  EXPECT_THAT(parked->answer, IsOk());
}

TEST_F(QueuePostgresTest, AWatchSeesTheEndAndACancellationArrives) {
  const auto job = a_.queue->Submit(OpenPrincipal(), Request());
  ASSERT_THAT(job, IsOk());
  std::atomic<int> cancelled = 0;
  const auto handle = b_.queue->Watch(OpenPrincipal(), job->id(), 0, [&](const WatchEvent& event) {
    if (event.end.has_value() && event.job != nullptr && event.job->state() == v1::JOB_STATE_CANCELLED) ++cancelled;
  });
  ASSERT_THAT(handle, IsOk());
  const auto call = Ask(a_.queue.get(), "w-1", absl::Seconds(5));
  ASSERT_TRUE(WaitUntil([&] { return call->answered.load(); }));
  ASSERT_THAT(call->answer, IsOk());
  const v1::Lease lease = call->answer->lease();
  ASSERT_THAT(b_.queue->Cancel(OpenPrincipal(), job->id()), IsOk());
  ASSERT_TRUE(WaitUntil([&] {
    const auto beat = Beat(a_.queue.get(), "w-1", lease);
    return beat.ok() && beat->instructions(0).command() == v1::LEASE_COMMAND_CANCEL;
  }));
  v1::CompleteJobRequest end = Success("w-1", lease);
  end.mutable_cancelled();
  ASSERT_THAT(a_.queue->Complete(end), IsOk());
  EXPECT_TRUE(WaitUntil([&] { return cancelled == 1; }));
  Stop(&b_);  // before what the watch refers to goes
}

// Workers that go to whichever server, some of which die with their lease; both servers scan.
TEST_F(QueuePostgresTest, EachJobIsPublishedOnceHoweverWorkersRoam) {
  constexpr int kJobs = 60;
  std::vector<std::string> ids;
  for (int i = 0; i < kJobs; ++i) {
    const auto job = (i % 2 == 0 ? a_ : b_).queue->Submit(OpenPrincipal(), Request());
    ASSERT_THAT(job, IsOk());
    ids.push_back(job->id());
  }
  std::atomic<bool> stop = false;
  std::atomic<int64_t> refused = 0;
  std::vector<std::thread> workers;
  workers.reserve(6);
  for (int w = 0; w < 6; ++w) {
    workers.emplace_back([&, w] {
      JobQueue* const fronts[] = {a_.queue.get(), b_.queue.get()};
      const std::string id = absl::StrCat("w-", w);
      for (int turn = 0; !stop; ++turn) {
        const auto call = Ask(fronts[(w + turn) % 2], id, absl::Milliseconds(50));
        if (!WaitUntil([&] { return call->answered.load(); }) || !call->answer.ok() || !call->answer->has_lease()) {
          absl::SleepFor(absl::Milliseconds(5));
          continue;
        }
        const v1::Lease lease = call->answer->lease();
        Beat(fronts[(w + turn + 1) % 2], id, lease).IgnoreError();
        if (turn % 7 == 3) absl::SleepFor(absl::Milliseconds(2000));  // silent for too long: the lease is lost
        if (!fronts[(w + turn + 1) % 2]->Complete(Success(id, lease)).ok()) ++refused;
      }
    });
  }
  EXPECT_TRUE(WaitUntil(
      [&] {
        return std::all_of(ids.begin(), ids.end(), [&](const std::string& id) {
          return State(a_.queue.get(), id) == v1::JOB_STATE_SUCCEEDED ||
                 State(a_.queue.get(), id) == v1::JOB_STATE_DEAD;
        });
      },
      absl::Seconds(60)));
  stop = true;
  for (std::thread& worker : workers) worker.join();
  std::set<std::string> published;
  for (const v1::Model& model : catalog_.Published()) {
    EXPECT_TRUE(published.insert(model.source_job_id()).second) << "published twice: " << model.source_job_id();
  }
  for (const std::string& id : ids) {
    EXPECT_EQ(published.contains(id), State(b_.queue.get(), id) == v1::JOB_STATE_SUCCEEDED) << id;
  }
  EXPECT_GT(refused, 0) << "no lease was ever lost: the test shows too little";
}

TEST_F(QueuePostgresTest, TheOtherServerGoesOnWhenOneDies) {
  const auto job = a_.queue->Submit(OpenPrincipal(), Request());
  ASSERT_THAT(job, IsOk());
  const auto call = Ask(a_.queue.get(), "w-1", absl::Seconds(5));
  ASSERT_TRUE(WaitUntil([&] { return call->answered.load(); }));
  const v1::Lease lease = call->answer->lease();
  Stop(&a_);
  // The worker, cut off for less than it takes to be lost, goes on at B.
  const auto beat = Beat(b_.queue.get(), "w-1", lease);
  ASSERT_THAT(beat, IsOk());
  EXPECT_EQ(beat->instructions(0).command(), v1::LEASE_COMMAND_CONTINUE);
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_THAT(b_.queue->Complete(Success("w-1", lease)), IsOk());
  EXPECT_EQ(State(b_.queue.get(), job->id()), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(QueuePostgresTest, NothingAcknowledgedIsLostWhenThePostmasterIsKilled) {
  std::vector<std::string> acknowledged;
  Mutex mu;
  std::atomic<bool> stop = false;
  std::atomic<int> unavailable = 0;
  std::vector<std::thread> clients;
  clients.reserve(2);
  for (int c = 0; c < 2; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; !stop; ++i) {
        const auto job = (c == 0 ? a_ : b_).queue->Submit(OpenPrincipal(), Request(absl::StrCat("r-", c, "-", i)));
        if (job.ok()) {
          MutexLock lock(&mu);
          acknowledged.push_back(job->id());
        } else {
          EXPECT_EQ(job.status().code(), absl::StatusCode::kUnavailable) << job.status();
          ++unavailable;
          absl::SleepFor(absl::Milliseconds(20));
        }
      }
    });
  }
  const auto call = Ask(a_.queue.get(), "w-1", absl::Seconds(5));
  ASSERT_TRUE(WaitUntil([&] { return call->answered.load(); }));
  ASSERT_THAT(call->answer, IsOk());
  const v1::Lease lease = call->answer->lease();
  std::thread heart([&] {
    while (!stop) {
      Beat(a_.queue.get(), "w-1", lease).IgnoreError();
      absl::SleepFor(absl::Milliseconds(100));
    }
  });
  absl::SleepFor(absl::Milliseconds(300));
  for (int kill = 0; kill < 3; ++kill) {
    server_->Kill();
    absl::SleepFor(absl::Milliseconds(1500));  // longer than a silent worker has
    ASSERT_THAT(server_->Restart(), IsOk());
    absl::SleepFor(absl::Milliseconds(700));
  }
  const size_t before = [&] {
    MutexLock lock(&mu);
    return acknowledged.size();
  }();
  EXPECT_TRUE(WaitUntil([&] {
    MutexLock lock(&mu);
    return acknowledged.size() > before + 10;
  })) << "no work after the database came back";
  // The worker lived all the while: its lease is as it was, though signs of life could not be shared.
  EXPECT_THAT(b_.queue->Complete(Success("w-1", lease)), IsOk());
  stop = true;
  for (std::thread& client : clients) client.join();
  heart.join();
  EXPECT_GT(unavailable, 0);
  for (const std::string& id : acknowledged) {
    EXPECT_NE(State(a_.queue.get(), id), v1::JOB_STATE_UNSPECIFIED) << id << " was acknowledged and is lost";
  }
  // And both still hear of each other.
  const auto parked = Ask(b_.queue.get(), "w-2", absl::Seconds(5));
  EXPECT_TRUE(WaitUntil([&] { return parked->answered.load(); }));
}

}  // namespace
}  // namespace quant
