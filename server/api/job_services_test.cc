// SPDX-License-Identifier: Apache-2.0
// JobService and WorkerService over a real connection, with SQLite and the real clock: what the queue's own tests
// cannot show. Loopback, port 0.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/proto_time.h"
#include "common/random_id.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/workers.grpc.pb.h"
#include "server/api/job_service.h"
#include "server/api/worker_service.h"
#include "server/auth/gate.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/fake_artifact_catalog.h"
#include "server/queue/queue.h"
#include "server/store/sqlite_job_store.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::HasSubstr;

// quantd without its artifacts.
class Server {
 public:
  Server(const std::filesystem::path& file, FakeArtifactCatalog* catalog, const QueueOptions& options) {
    db_ = *Database::Open(file);
    store_ = *SqliteJobStore::Create(db_.get());
    queue_ = *JobQueue::Create(store_.get(), catalog, &metrics_, &SystemClock(), options);
    jobs_ = std::make_unique<JobService>(queue_.get());
    workers_ = std::make_unique<WorkerService>(queue_.get());
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(jobs_->service());
    builder.RegisterService(workers_->service());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(InstallGate(&builder, {}));
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    server_ = builder.BuildAndStart();
    queue_->Start();
  }
  ~Server() { Stop(); }
  void Stop() {
    if (server_ == nullptr) return;
    jobs_->Shutdown();
    workers_->Shutdown();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server_->Wait();
    server_ = nullptr;
    queue_->Shutdown();
  }
  std::shared_ptr<grpc::Channel> NewChannel() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // A small fixed window, so that a client that does not read is felt by the server.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16 << 10);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_), grpc::InsecureChannelCredentials(),
                                     arguments);
  }
  JobService& jobs() { return *jobs_; }
  WorkerService& workers() { return *workers_; }

 private:
  ServerMetrics metrics_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<SqliteJobStore> store_;
  std::unique_ptr<JobQueue> queue_;
  std::unique_ptr<JobService> jobs_;
  std::unique_ptr<WorkerService> workers_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

v1::WorkerInfo Info(const std::string& id, int slots = 1) {
  v1::WorkerInfo info;
  info.set_id(id);
  info.set_slots(slots);
  return info;
}

class JobServicesTest : public testing::Test {
 protected:
  JobServicesTest() {
    dir_ = std::filesystem::temp_directory_path() / RandomId("job_services_test-");
    std::filesystem::create_directories(dir_);
    catalog_.AddModel("m-1");
    Start();
  }
  ~JobServicesTest() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Start() {
    server_ = std::make_unique<Server>(dir_ / "jobs.db", &catalog_, options_);
    channel_ = server_->NewChannel();
    jobs_ = v1::JobService::NewStub(channel_);
    workers_ = v1::WorkerService::NewStub(channel_);
  }
  void Restart() {
    server_.reset();
    Start();
  }

  static v1::SubmitJobRequest Request() {
    v1::SubmitJobRequest request;
    request.set_no_cache(true);  // most tests want several alike
    request.mutable_spec()->mutable_quantize()->set_model_id("m-1");
    request.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
    return request;
  }
  absl::StatusOr<v1::Job> Submit(const v1::SubmitJobRequest& request = Request()) {
    grpc::ClientContext context;
    v1::SubmitJobResponse response;
    absl::Status status = FromGrpc(jobs_->SubmitJob(&context, request, &response));
    if (!status.ok()) return status;
    return response.job();
  }
  absl::StatusOr<v1::Job> Get(const std::string& id) {
    grpc::ClientContext context;
    v1::GetJobRequest request;
    request.set_id(id);
    v1::GetJobResponse response;
    absl::Status status = FromGrpc(jobs_->GetJob(&context, request, &response));
    if (!status.ok()) return status;
    return response.job();
  }
  absl::StatusOr<v1::Job> Cancel(const std::string& id) {
    grpc::ClientContext context;
    v1::CancelJobRequest request;
    request.set_id(id);
    v1::CancelJobResponse response;
    absl::Status status = FromGrpc(jobs_->CancelJob(&context, request, &response));
    if (!status.ok()) return status;
    return response.job();
  }
  absl::StatusOr<v1::LeaseJobResponse> Lease(const std::string& worker, absl::Duration wait = absl::ZeroDuration(),
                                             grpc::ClientContext* context = nullptr) {
    grpc::ClientContext own;
    v1::LeaseJobRequest request;
    *request.mutable_worker() = Info(worker);
    SetProto(wait, request.mutable_wait());
    v1::LeaseJobResponse response;
    absl::Status status = FromGrpc(workers_->LeaseJob(context == nullptr ? &own : context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
  v1::LeaseCommand Beat(const std::string& worker, const v1::Lease& lease) {
    grpc::ClientContext context;
    v1::HeartbeatRequest request;
    *request.mutable_worker() = Info(worker);
    request.add_leases()->set_job_id(lease.job().id());
    request.mutable_leases(0)->set_token(lease.token());
    v1::HeartbeatResponse response;
    EXPECT_THAT(FromGrpc(workers_->Heartbeat(&context, request, &response)), IsOk());
    return response.instructions_size() == 1 ? response.instructions(0).command() : v1::LEASE_COMMAND_UNSPECIFIED;
  }
  absl::StatusOr<v1::Job> Complete(v1::CompleteJobRequest request) {
    grpc::ClientContext context;
    v1::CompleteJobResponse response;
    absl::Status status = FromGrpc(workers_->CompleteJob(&context, request, &response));
    if (!status.ok()) return status;
    return response.job();
  }
  static v1::CompleteJobRequest Success(const std::string& worker, const v1::Lease& lease) {
    v1::CompleteJobRequest request;
    request.set_worker_id(worker);
    request.set_job_id(lease.job().id());
    request.set_token(lease.token());
    request.mutable_success()->mutable_report()->add_notes("measured");
    request.mutable_success()->add_files()->set_path("model.onnx");
    return request;
  }

  std::filesystem::path dir_;
  FakeArtifactCatalog catalog_;
  QueueOptions options_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
};

TEST_F(JobServicesTest, AJobRunsFromSubmitToReport) {
  const auto job = Submit();
  ASSERT_THAT(job, IsOk());
  const auto answer = Lease("w-1");
  ASSERT_THAT(answer, IsOk());
  ASSERT_EQ(answer->lease().job().id(), job->id());
  EXPECT_EQ(Beat("w-1", answer->lease()), v1::LEASE_COMMAND_CONTINUE);
  const auto done = Complete(Success("w-1", answer->lease()));
  ASSERT_THAT(done, IsOk());
  EXPECT_EQ(done->state(), v1::JOB_STATE_SUCCEEDED);

  grpc::ClientContext context;
  v1::GetJobReportRequest request;
  request.set_id(job->id());
  v1::GetJobReportResponse response;
  ASSERT_THAT(FromGrpc(jobs_->GetJobReport(&context, request, &response)), IsOk());
  EXPECT_EQ(response.report().notes(0), "measured");

  grpc::ClientContext list_context;
  v1::ListJobsResponse page;
  ASSERT_THAT(FromGrpc(jobs_->ListJobs(&list_context, {}, &page)), IsOk());
  EXPECT_EQ(page.jobs_size(), 1);

  grpc::ClientContext delete_context;
  v1::DeleteJobRequest remove;
  remove.set_id(job->id());
  v1::DeleteJobResponse removed;
  ASSERT_THAT(FromGrpc(jobs_->DeleteJob(&delete_context, remove, &removed)), IsOk());
  EXPECT_THAT(Get(job->id()), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(JobServicesTest, ErrorsCarryCodeMessageReasonAndRetryTime) {
  v1::SubmitJobRequest request = Request();
  request.mutable_spec()->set_priority(8);
  EXPECT_THAT(Submit(request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("priority is 8")));
  request = Request();
  request.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_smoothquant();
  EXPECT_EQ(ReasonOf(Submit(request).status()), "NOT_BUILT");
  request = Request();
  request.set_request_id("one");
  const auto first = Submit(request);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(Submit(request)->id(), first->id());
  request.mutable_spec()->set_priority(1);
  EXPECT_EQ(ReasonOf(Submit(request).status()), "REQUEST_ID_REUSED");

  options_.max_unfinished = 1;
  Restart();
  const absl::Status full = Submit().status();
  EXPECT_EQ(ReasonOf(full), "QUEUE_FULL");
  EXPECT_GT(RetryAfterOf(full), absl::ZeroDuration());
}

TEST_F(JobServicesTest, AWatchStreamsChangesAndEndsWithTheJob) {
  const auto job = Submit();
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_id(job->id());
  const auto stream = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse message;
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(message.job().state(), v1::JOB_STATE_QUEUED);
  const auto answer = Lease("w-1");
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(message.job().state(), v1::JOB_STATE_RUNNING);
  const int64_t running = message.job().sequence();
  ASSERT_THAT(Complete(Success("w-1", answer->lease())), IsOk());
  ASSERT_TRUE(stream->Read(&message));
  EXPECT_EQ(message.job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_THAT(FromGrpc(stream->Finish()), IsOk());

  grpc::ClientContext later_context;
  request.set_after_sequence(running);
  const auto later = jobs_->WatchJob(&later_context, request);
  ASSERT_TRUE(later->Read(&message));
  EXPECT_EQ(message.job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_FALSE(later->Read(&message));
  EXPECT_THAT(FromGrpc(later->Finish()), IsOk());
}

TEST_F(JobServicesTest, AWatchOfAnUnknownJobIsNotFound) {
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_id("j-none");
  v1::WatchJobResponse message;
  const auto stream = jobs_->WatchJob(&context, request);
  EXPECT_FALSE(stream->Read(&message));
  EXPECT_THAT(FromGrpc(stream->Finish()), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(JobServicesTest, AnIdleWatchIsKeptAliveAndAClientMayLeave) {
  options_.watch_keepalive = absl::Milliseconds(50);
  Restart();
  const auto job = Submit();
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_id(job->id());
  const auto stream = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse message;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(stream->Read(&message));
    EXPECT_EQ(message.job().state(), v1::JOB_STATE_QUEUED);
  }
  context.TryCancel();
  while (stream->Read(&message)) {
  }
  EXPECT_THAT(FromGrpc(stream->Finish()), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(Get(job->id())->state(), v1::JOB_STATE_QUEUED);  // it changed nothing
}

TEST_F(JobServicesTest, ASlowReaderGetsTheNewestStateNotEach) {
  const auto job = Submit();
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_id(job->id());
  const auto stream = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse message;
  ASSERT_TRUE(stream->Read(&message));
  const auto answer = Lease("w-1");
  constexpr int kChanges = 5000;
  for (int i = 1; i <= kChanges; ++i) {  // far more than the transport's buffers hold
    grpc::ClientContext beat_context;
    v1::HeartbeatRequest beat;
    *beat.mutable_worker() = Info("w-1");
    v1::LeaseProgress* lease = beat.add_leases();
    lease->set_job_id(job->id());
    lease->set_token(answer->lease().token());
    lease->mutable_progress()->set_message(std::string(200, 'x') + std::to_string(i));
    v1::HeartbeatResponse response;
    ASSERT_THAT(FromGrpc(workers_->Heartbeat(&beat_context, beat, &response)), IsOk());
  }
  ASSERT_THAT(Complete(Success("w-1", answer->lease())), IsOk());
  int64_t sequence = message.job().sequence();
  int messages = 0;
  while (stream->Read(&message)) {
    EXPECT_GT(message.job().sequence(), sequence);
    sequence = message.job().sequence();
    ++messages;
  }
  EXPECT_THAT(FromGrpc(stream->Finish()), IsOk());
  EXPECT_EQ(message.job().state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_LT(messages, kChanges);
}

TEST_F(JobServicesTest, ShutdownEndsWatchesAndParkedLeasesWithUnavailable) {
  const auto job = Submit();
  ASSERT_THAT(Lease("w-0"), IsOk());  // takes the job away
  grpc::ClientContext watch_context;
  v1::WatchJobRequest request;
  request.set_id(job->id());
  const auto stream = jobs_->WatchJob(&watch_context, request);
  v1::WatchJobResponse message;
  ASSERT_TRUE(stream->Read(&message));
  absl::Status parked;
  std::thread poller([&] { parked = Lease("w-1", absl::Seconds(60)).status(); });
  while (true) {  // until the call is parked
    grpc::ClientContext context;
    v1::ListWorkersResponse workers;
    ASSERT_THAT(FromGrpc(workers_->ListWorkers(&context, {}, &workers)), IsOk());
    if (workers.workers_size() == 2) break;
  }
  const absl::Time begun = absl::Now();
  server_->jobs().Shutdown();
  server_->workers().Shutdown();
  poller.join();
  EXPECT_THAT(parked, StatusIs(absl::StatusCode::kUnavailable));
  while (stream->Read(&message)) {
  }
  EXPECT_THAT(FromGrpc(stream->Finish()), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("reconnect")));
  EXPECT_THAT(Get(job->id()), IsOk());  // other calls go on
  server_->Stop();
  EXPECT_LT(absl::Now() - begun, absl::Seconds(3));
}

TEST_F(JobServicesTest, AJobGivenToACallWhoseClientLeftIsNotLost) {
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    std::thread poller([&] { Lease("w-gone", absl::Seconds(60), &context).IgnoreError(); });
    const absl::Duration pause = absl::Milliseconds(i % 5);
    absl::SleepFor(pause);
    context.TryCancel();
    const auto job = Submit();  // races with the cancellation
    poller.join();
    ASSERT_THAT(job, IsOk());
    const absl::Time limit = absl::Now() + absl::Seconds(10);
    while (true) {
      const auto answer = Lease("w-here", absl::Seconds(1));
      ASSERT_THAT(answer, IsOk());
      if (answer->has_lease()) {
        EXPECT_EQ(answer->lease().job().id(), job->id());
        ASSERT_THAT(Complete(Success("w-here", answer->lease())), IsOk());
        break;
      }
      ASSERT_LT(absl::Now(), limit);
    }
  }
}

TEST_F(JobServicesTest, ALostHeartbeatRequeuesAndTheStaleTokenIsRefused) {
  options_.heartbeat_interval = absl::Milliseconds(200);
  Restart();
  const auto job = Submit();
  const auto lost = Lease("w-1");
  ASSERT_TRUE(lost->has_lease());
  const auto again = Lease("w-2", absl::Seconds(10));  // parked until the loss is noticed: 0.6 s
  ASSERT_THAT(again, IsOk());
  ASSERT_EQ(again->lease().job().id(), job->id());
  EXPECT_EQ(again->lease().job().attempt(), 2);
  const auto stale = Complete(Success("w-1", lost->lease()));
  EXPECT_THAT(stale, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReasonOf(stale.status()), "LEASE_STALE");
  EXPECT_EQ(Beat("w-1", lost->lease()), v1::LEASE_COMMAND_LEASE_LOST);
  EXPECT_EQ(Complete(Success("w-2", again->lease()))->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobServicesTest, ARunningLeaseGoesOnOverARestart) {
  const auto job = Submit();
  const auto answer = Lease("w-1");
  ASSERT_TRUE(answer->has_lease());
  Restart();
  EXPECT_EQ(Beat("w-1", answer->lease()), v1::LEASE_COMMAND_CONTINUE);
  const auto done = Complete(Success("w-1", answer->lease()));
  ASSERT_THAT(done, IsOk());
  EXPECT_EQ(done->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done->attempt(), 1);
  Restart();
  EXPECT_EQ(Get(job->id())->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobServicesTest, CancelReachesTheWorkerWithItsNextHeartbeat) {
  const auto queued = Submit();
  EXPECT_EQ(Cancel(queued->id())->state(), v1::JOB_STATE_CANCELLED);
  const auto running = Submit();
  const auto answer = Lease("w-1");
  EXPECT_EQ(Cancel(running->id())->state(), v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(Beat("w-1", answer->lease()), v1::LEASE_COMMAND_CANCEL);
  v1::CompleteJobRequest end = Success("w-1", answer->lease());
  end.mutable_cancelled();
  EXPECT_EQ(Complete(end)->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(JobServicesTest, AReleasedJobIsQueuedAgainUncounted) {
  const auto job = Submit();
  const auto answer = Lease("w-1");
  v1::CompleteJobRequest end = Success("w-1", answer->lease());
  end.mutable_released();
  EXPECT_EQ(Complete(end)->state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(Lease("w-2")->lease().job().attempt(), 1);
}

TEST_F(JobServicesTest, DrainEndsTheParkedCall) {
  absl::StatusOr<v1::LeaseJobResponse> parked;
  std::thread poller([&] { parked = Lease("w-1", absl::Seconds(60)); });
  absl::Status drained = absl::NotFoundError("");
  while (absl::IsNotFound(drained)) {
    grpc::ClientContext context;
    v1::DrainWorkerRequest request;
    request.set_id("w-1");
    v1::DrainWorkerResponse response;
    drained = FromGrpc(workers_->DrainWorker(&context, request, &response));
  }
  EXPECT_THAT(drained, IsOk());
  poller.join();
  EXPECT_EQ(ReasonOf(parked.status()), "WORKER_DRAINING");
}

// The bar of the issue: 200 jobs, one at a time, an idle worker parked: submit-to-start below 50 ms at p99. Start is
// when the worker has the lease in its hands; SQLite fsyncs both the submit and the lease.
TEST_F(JobServicesTest, AnIdleWorkerStartsEveryJobAndTheTimesArePrinted) {
  constexpr int kJobs = 200;
  std::atomic<int64_t> leased_at{0};
  std::thread worker([&] {
    for (int done = 0; done < kJobs;) {
      const auto answer = Lease("w-1", absl::Seconds(30));
      if (!answer.ok() || !answer->has_lease()) continue;
      leased_at = absl::GetCurrentTimeNanos();
      Complete(Success("w-1", answer->lease())).IgnoreError();
      ++done;
    }
  });
  absl::SleepFor(absl::Milliseconds(200));
  std::vector<double> milliseconds;
  for (int i = 0; i < kJobs; ++i) {
    leased_at = 0;
    const int64_t begun = absl::GetCurrentTimeNanos();
    ASSERT_THAT(Submit(), IsOk());
    while (leased_at == 0) absl::SleepFor(absl::Microseconds(100));
    milliseconds.push_back(static_cast<double>(leased_at - begun) / 1e6);
    absl::SleepFor(absl::Milliseconds(10));  // the worker completes and parks again
  }
  worker.join();
  std::sort(milliseconds.begin(), milliseconds.end());
  const double p50 = milliseconds[kJobs / 2 - 1];
  const double p99 = milliseconds[kJobs * 99 / 100 - 1];
  std::cout << "submit to start over " << kJobs << " jobs: p50 " << p50 << " ms, p99 " << p99 << " ms, max "
            << milliseconds.back() << " ms\n";
  RecordProperty("p50_ms", std::to_string(p50));
  RecordProperty("p99_ms", std::to_string(p99));
}

TEST_F(JobServicesTest, TwoHundredWatchersCostNoThreadEach) {
  const auto job = Submit();
  const auto threads = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
  };
  const auto before = threads();
  constexpr int kWatchers = 200;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::WatchJobResponse>>> streams;
  v1::WatchJobRequest request;
  request.set_id(job->id());
  v1::WatchJobResponse message;
  for (int i = 0; i < kWatchers; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(jobs_->WatchJob(contexts.back().get(), request));
    ASSERT_TRUE(streams.back()->Read(&message));
  }
  EXPECT_LT(threads() - before, 20);
  ASSERT_THAT(Cancel(job->id()), IsOk());
  for (auto& stream : streams) {
    ASSERT_TRUE(stream->Read(&message));
    EXPECT_EQ(message.job().state(), v1::JOB_STATE_CANCELLED);
    EXPECT_FALSE(stream->Read(&message));
    EXPECT_THAT(FromGrpc(stream->Finish()), IsOk());
  }
}

}  // namespace
}  // namespace quant
