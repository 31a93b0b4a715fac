// SPDX-License-Identifier: Apache-2.0
// The queue under load, over gRPC on loopback, in one process: durable submits per second, submit to start, and what
// 10,000 queued jobs and 200 watchers cost. bench/queue.py runs it for each store.
//
//   queue_bench sqlite DIR | postgres     (postgres: a server of its own, as in the tests, and two front ends on it)
#include "server/queue/queue.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "absl/log/globals.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/proto_time.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/workers.grpc.pb.h"
#include "server/api/job_service.h"
#include "server/api/worker_service.h"
#include "server/auth/gate.h"
#include "server/queue/fake_artifact_catalog.h"
#include "server/store/postgres_job_store.h"
#include "server/store/sqlite_job_store.h"
#include "server/store/testing/postgres_server.h"

namespace quant {
namespace {

constexpr absl::Duration kRun = absl::Seconds(4);
constexpr int kStarts = 400;
constexpr int kQueued = 10'000;
constexpr int kWatchers = 200;

// One front end: everything of quantd that a job passes through, without artifacts.
struct Front {
  std::unique_ptr<Database> sqlite;
  std::unique_ptr<Postgres> postgres;
  std::unique_ptr<JobStore> store;
  std::unique_ptr<JobQueue> queue;
  std::unique_ptr<JobService> jobs;
  std::unique_ptr<WorkerService> workers;
  std::unique_ptr<grpc::Server> server;
  std::string address;

  ~Front() {
    if (workers) workers->Shutdown();
    if (jobs) jobs->Shutdown();
    if (server) server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  }
};

std::unique_ptr<Front> Start(const std::string& where, ArtifactCatalog* catalog) {
  auto front = std::make_unique<Front>();
  if (where.starts_with("postgres://")) {
    auto db = Postgres::Open({.url = where});
    CHECK(db.ok()) << db.status();
    front->postgres = *std::move(db);
    auto store = PostgresJobStore::Create(front->postgres.get());
    CHECK(store.ok()) << store.status();
    front->store = *std::move(store);
  } else {
    auto db = Database::Open(where);
    CHECK(db.ok()) << db.status();
    front->sqlite = *std::move(db);
    auto store = SqliteJobStore::Create(front->sqlite.get());
    CHECK(store.ok()) << store.status();
    front->store = *std::move(store);
  }
  QueueOptions options;
  options.max_unfinished = 1'000'000;
  auto queue = JobQueue::Create(front->store.get(), catalog, nullptr, &SystemClock(), options);
  CHECK(queue.ok()) << queue.status();
  front->queue = *std::move(queue);
  front->queue->Start();
  front->jobs = std::make_unique<JobService>(front->queue.get());
  front->workers = std::make_unique<WorkerService>(front->queue.get());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(front->jobs->service());
  builder.RegisterService(front->workers->service());
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(InstallGate(&builder, {}));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  front->server = builder.BuildAndStart();
  CHECK(front->server != nullptr);
  front->address = absl::StrCat("127.0.0.1:", port);
  return front;
}

std::shared_ptr<grpc::Channel> Connect(const Front& front, int number) {
  grpc::ChannelArguments arguments;
  arguments.SetInt("quant.connection", number);  // channels with equal arguments share a connection
  return grpc::CreateCustomChannel(front.address, grpc::InsecureChannelCredentials(), arguments);
}

v1::SubmitJobRequest Request() {
  v1::SubmitJobRequest request;
  request.set_no_cache(true);  // all alike, and each is to run
  request.mutable_spec()->mutable_quantize()->set_model_id("m-1");
  request.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  return request;
}

v1::Job Submit(v1::JobService::Stub* stub) {
  grpc::ClientContext context;
  v1::SubmitJobResponse response;
  const grpc::Status status = stub->SubmitJob(&context, Request(), &response);
  CHECK(status.ok()) << status.error_message();
  return response.job();
}

struct Latencies {
  std::vector<double> ms;
  void Add(absl::Duration time) { ms.push_back(absl::ToDoubleMilliseconds(time)); }
  std::string Text() {
    std::sort(ms.begin(), ms.end());
    const auto at = [&](double q) { return ms[std::min(ms.size() - 1, static_cast<size_t>(q * ms.size()))]; };
    char text[100];
    std::snprintf(text, sizeof text, "p50 %.2f ms, p99 %.2f ms, max %.1f ms", at(0.5), at(0.99), ms.back());
    return text;
  }
};

double RssMb() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with("VmRSS:")) return std::stod(line.substr(6)) / 1024;
  }
  return 0;
}

void MeasureSubmits(const std::vector<Front*>& fronts, int clients) {
  std::atomic<int64_t> count = 0;
  std::vector<Latencies> latencies(static_cast<size_t>(clients));
  std::vector<std::thread> threads;
  const absl::Time start = absl::Now();
  for (int c = 0; c < clients; ++c) {
    threads.emplace_back([&, c] {
      const Front& front = *fronts[static_cast<size_t>(c) % fronts.size()];
      const auto stub = v1::JobService::NewStub(Connect(front, c % 8));
      while (absl::Now() - start < kRun) {
        const absl::Time before = absl::Now();
        Submit(stub.get());
        latencies[static_cast<size_t>(c)].Add(absl::Now() - before);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  Latencies all;
  for (const Latencies& one : latencies) all.ms.insert(all.ms.end(), one.ms.begin(), one.ms.end());
  std::printf("submits, %d clients, %zu front ends: %.0f per second, %s\n", clients, fronts.size(),
              static_cast<double>(count) / seconds, all.Text().c_str());
  std::fflush(stdout);
}

// Time from before SubmitJob at `submit` to the lease in the hands of a worker that was parked at `work`.
void MeasureStarts(const Front& submit, const Front& work, const char* what) {
  const auto jobs = v1::JobService::NewStub(Connect(submit, 1));
  const auto workers = v1::WorkerService::NewStub(Connect(work, 2));
  Latencies latencies;
  for (int i = 0; i < kStarts; ++i) {
    v1::LeaseJobRequest request;
    request.mutable_worker()->set_id("w-1");
    request.mutable_worker()->set_slots(1);
    SetProto(absl::Seconds(20), request.mutable_wait());
    v1::LeaseJobResponse lease;
    absl::Time started;
    std::thread parked([&] {
      grpc::ClientContext context;
      const grpc::Status status = workers->LeaseJob(&context, request, &lease);
      started = absl::Now();
      CHECK(status.ok() && lease.has_lease()) << status.error_message();
    });
    absl::SleepFor(absl::Milliseconds(5));  // parked by now
    const absl::Time before = absl::Now();
    Submit(jobs.get());
    parked.join();
    latencies.Add(started - before);
    v1::CompleteJobRequest end;
    end.set_worker_id("w-1");
    end.set_job_id(lease.lease().job().id());
    end.set_token(lease.lease().token());
    end.mutable_failure()->set_error_class(v1::ERROR_CLASS_FINAL);
    end.mutable_failure()->set_reason("BENCH");
    grpc::ClientContext context;
    v1::CompleteJobResponse response;
    CHECK(workers->CompleteJob(&context, end, &response).ok());
  }
  std::printf("submit to start, %s: %s\n", what, latencies.Text().c_str());
  std::fflush(stdout);
}

void MeasureDepth(const Front& front) {
  const double empty = RssMb();
  std::vector<std::thread> fill;
  const absl::Time start = absl::Now();
  for (int c = 0; c < 16; ++c) {
    fill.emplace_back([&, c] {
      const auto stub = v1::JobService::NewStub(Connect(front, c % 8));
      for (int i = 0; i < kQueued / 16; ++i) Submit(stub.get());
    });
  }
  for (std::thread& thread : fill) thread.join();
  const absl::Duration filled = absl::Now() - start;
  const auto stub = v1::JobService::NewStub(Connect(front, 1));
  Latencies submits, gets, lists;
  std::string id;
  for (int i = 0; i < 300; ++i) {
    absl::Time before = absl::Now();
    id = Submit(stub.get()).id();
    submits.Add(absl::Now() - before);
    {
      grpc::ClientContext context;
      v1::GetJobRequest get;
      get.set_id(id);
      v1::GetJobResponse response;
      before = absl::Now();
      CHECK(stub->GetJob(&context, get, &response).ok());
      gets.Add(absl::Now() - before);
    }
    grpc::ClientContext context;
    v1::ListJobsResponse response;
    before = absl::Now();
    CHECK(stub->ListJobs(&context, v1::ListJobsRequest(), &response).ok());
    lists.Add(absl::Now() - before);
  }
  std::printf("%d queued in %.1f s, %.1f MB more resident\n", kQueued, absl::ToDoubleSeconds(filled), RssMb() - empty);
  std::printf("with them, submit: %s\n", submits.Text().c_str());
  std::printf("with them, get: %s\n", gets.Text().c_str());
  std::printf("with them, list of 50: %s\n", lists.Text().c_str());
  std::fflush(stdout);

  // 200 watchers of one job; the time until the last of them has heard of its cancellation.
  const double before_watching = RssMb();
  std::atomic<int> watching = 0;
  Latencies told;
  Mutex mu;
  absl::Time cancelled;
  std::vector<std::thread> watchers;
  for (int w = 0; w < kWatchers; ++w) {
    watchers.emplace_back([&, w] {
      const auto own = v1::JobService::NewStub(Connect(front, w % 8));
      grpc::ClientContext context;
      v1::WatchJobRequest request;
      request.set_id(id);
      const auto stream = own->WatchJob(&context, request);
      v1::WatchJobResponse event;
      CHECK(stream->Read(&event));
      ++watching;
      while (event.job().state() != v1::JOB_STATE_CANCELLED) CHECK(stream->Read(&event));
      const absl::Time now = absl::Now();
      MutexLock lock(&mu);
      told.Add(now - cancelled);
    });
  }
  while (watching < kWatchers) absl::SleepFor(absl::Milliseconds(5));
  const double watched = RssMb();
  {
    MutexLock lock(&mu);
    cancelled = absl::Now();
  }
  grpc::ClientContext context;
  v1::CancelJobRequest cancel;
  cancel.set_id(id);
  v1::CancelJobResponse response;
  CHECK(stub->CancelJob(&context, cancel, &response).ok());
  for (std::thread& thread : watchers) thread.join();
  std::printf("%d watchers (and their clients, in this process) %.1f MB; a change reaches them: %s\n", kWatchers,
              watched - before_watching, told.Text().c_str());
}

int Main(int argc, char** argv) {
  absl::SetMinLogLevel(absl::LogSeverityAtLeast::kError);
  FakeArtifactCatalog catalog;
  catalog.AddModel("m-1");
  const std::string kind = argc > 1 ? argv[1] : "";
  if (kind == "sqlite" && argc == 3) {
    const auto front = Start((std::filesystem::path(argv[2]) / "jobs.db").string(), &catalog);
    MeasureStarts(*front, *front, "one server");
    for (const int clients : {1, 8, 64}) MeasureSubmits({front.get()}, clients);
    const auto fresh = Start((std::filesystem::path(argv[2]) / "depth.db").string(), &catalog);
    MeasureDepth(*fresh);
    return 0;
  }
  if (kind == "postgres" && argc == 2) {
    const auto server = PostgresServer::Shared();
    CHECK(server.ok()) << server.status();
    const std::string url = *(*server)->NewSchema();
    const auto a = Start(url, &catalog);
    const auto b = Start(url, &catalog);
    MeasureStarts(*a, *a, "the same server");
    MeasureStarts(*a, *b, "from one server to a worker at the other");
    for (const int clients : {1, 8, 64}) MeasureSubmits({a.get()}, clients);
    MeasureSubmits({a.get(), b.get()}, 64);
    const auto fresh = Start(*(*server)->NewSchema(), &catalog);
    MeasureDepth(*fresh);
    return 0;
  }
  std::fprintf(stderr, "usage: queue_bench sqlite DIR | postgres\n");
  return 2;
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) { return quant::Main(argc, argv); }
