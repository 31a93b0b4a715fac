// SPDX-License-Identifier: Apache-2.0
// A whole quantd in this process, on loopback ports.
#include "server/server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/grpc_status.h"
#include "common/random_id.h"
#include "common/unique_fd.h"
#include "quant/v1/artifacts.grpc.pb.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/workers.grpc.pb.h"
#include "server/store/testing/postgres_server.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() { Start(); }
  ~ServerTest() override {
    server_.reset();
    fs::remove_all(dir_);
  }
  ServerOptions Options() const {
    return {.listen = {"127.0.0.1", 0},
            .metrics = HostPort{"127.0.0.1", 0},
            .data = dir_ / "data",
            .reserve_bytes = 0,
            .drain_timeout = absl::Seconds(3)};
  }
  void Start() {
    auto server = Server::Start(Options());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address().ToString(), grpc::InsecureChannelCredentials());
  }
  std::string Http(const std::string& path) const {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->metrics_address()->port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "no connection";
    const std::string request = absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(::write(fd.get(), request.data(), request.size()), std::ssize(request));
    std::string answer;
    char buffer[8192];
    for (ssize_t n; (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0;) answer.append(buffer, static_cast<size_t>(n));
    return answer;
  }
  // True once /metrics has the line; the queue's gauges follow its timer, up to a second behind.
  bool MetricsSay(const std::string& line) const {
    for (int i = 0; i < 500; ++i) {
      if (Http("/metrics").find(line + "\n") != std::string::npos) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  // A unary call by name with raw bytes: health and methods that do not exist need no stub.
  grpc::Status Call(const std::string& method, const std::string& request, std::string* response) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    grpc::CompletionQueue queue;
    const grpc::Slice slice(request);
    auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer reply;
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
    std::vector<grpc::Slice> slices;
    if (status.ok() && reply.Dump(&slices).ok()) {
      for (const grpc::Slice& s : slices) response->append(reinterpret_cast<const char*>(s.begin()), s.size());
    }
    return status;
  }
  v1::Model Upload(const std::string& bytes) {
    const auto stub = v1::ArtifactService::NewStub(channel_);
    v1::WriteBlobRequest request;
    request.set_upload_id("up");
    request.mutable_digest()->set_sha256(Sha256Hex(bytes));
    request.mutable_digest()->set_size_bytes(std::ssize(bytes));
    request.set_data(bytes);
    request.set_finish_write(true);
    v1::CreateModelRequest create;
    create.add_files()->set_path("m.onnx");
    *create.mutable_files(0)->mutable_digest() = request.digest();
    grpc::ClientContext write_context;
    v1::WriteBlobResponse written;
    auto writer = stub->WriteBlob(&write_context, &written);
    writer->Write(request);
    writer->WritesDone();
    EXPECT_TRUE(writer->Finish().ok());
    grpc::ClientContext create_context;
    v1::CreateModelResponse created;
    EXPECT_TRUE(stub->CreateModel(&create_context, create, &created).ok());
    return created.model();
  }
  absl::StatusOr<v1::Job> Submit(const std::string& model_id) {
    v1::SubmitJobRequest request;
    request.mutable_spec()->mutable_quantize()->set_model_id(model_id);
    request.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
    grpc::ClientContext context;
    v1::SubmitJobResponse response;
    absl::Status status = FromGrpc(v1::JobService::NewStub(channel_)->SubmitJob(&context, request, &response));
    if (!status.ok()) return status;
    return response.job();
  }

  const fs::path dir_ = fs::path(testing::TempDir()) / RandomId("server-");
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ServerTest, ServesHealthReflectionMetricsAndNamesUnknownMethodsOther) {
  std::string response;
  EXPECT_TRUE(Call("/grpc.health.v1.Health/Check", "", &response).ok());
  EXPECT_EQ(response, std::string("\x08\x01", 2));  // status: SERVING
  response.clear();
  const std::string service = "quant.v1.JobService";
  EXPECT_TRUE(Call("/grpc.health.v1.Health/Check",
                   absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service), &response)
                  .ok());
  EXPECT_EQ(response, std::string("\x08\x01", 2));
  response.clear();
  // ServerReflectionRequest{list_services: "*"}
  EXPECT_TRUE(Call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "\x3a\x01*", &response).ok());
  EXPECT_THAT(response, HasSubstr("quant.v1.WorkerService"));
  EXPECT_EQ(Call("/quant.v1.JobService/NoSuchMethod", "", &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Call("/evil.Service/Method", "", &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(Http("/healthz"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Http("/readyz"), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(MetricsSay(
      "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Check\",grpc_service=\"grpc.health.v1.Health\","
      "grpc_type=\"unary\"} 2"));
  EXPECT_TRUE(
      MetricsSay("grpc_server_started_total{grpc_method=\"other\",grpc_service=\"other\",grpc_type=\"unary\"} 2"));
  EXPECT_EQ(Http("/metrics").find("evil"), std::string::npos);
  EXPECT_NE(Http("/metrics").find("quant_build_info{"), std::string::npos);
}

TEST_F(ServerTest, SecondServerOnTheFolderOrThePortIsRefused) {
  const absl::Status folder = Server::Start(Options()).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(folder.message()), HasSubstr("another quantd"));
  ServerOptions options = Options();
  options.data = dir_ / "other";
  options.listen.port = server_->address().port;
  EXPECT_EQ(Server::Start(options).status().code(), absl::StatusCode::kUnavailable);
  options = Options();
  options.data = dir_ / "third";
  options.blobs = dir_ / "data";
  EXPECT_EQ(Server::Start(options).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ServerTest, RestartLosesNothingAcknowledged) {
  const v1::Model model = Upload("graph");
  const auto job = Submit(model.id());
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_QUEUED);
  EXPECT_TRUE(MetricsSay("quant_jobs{state=\"queued\"} 1"));
  server_.reset();
  Start();
  grpc::ClientContext context;
  v1::GetJobRequest get;
  get.set_id(job->id());
  v1::GetJobResponse got;
  ASSERT_TRUE(v1::JobService::NewStub(channel_)->GetJob(&context, get, &got).ok());
  EXPECT_EQ(got.job().state(), v1::JOB_STATE_QUEUED);
  // the gauges are rebuilt
  for (const char* line : {"quant_jobs{state=\"queued\"} 1", "quant_artifacts{kind=\"model\"} 1", "quant_cas_objects 1",
                           "quant_cas_bytes 5"}) {
    EXPECT_TRUE(MetricsSay(line)) << line;
  }
}

TEST_F(ServerTest, ModelOfAQueuedJobCannotBeDeleted) {
  const v1::Model model = Upload("graph");
  const auto job = Submit(model.id());
  ASSERT_TRUE(job.ok()) << job.status();
  v1::DeleteModelRequest request;
  request.set_id(model.id());
  v1::DeleteModelResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(v1::ArtifactService::NewStub(channel_)->DeleteModel(&context, request, &response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServerTest, StopEndsWatchesAndParkedLeasesAtOnceAndSaysSo) {
  const v1::Model model = Upload("graph");
  const auto job = Submit(model.id());
  ASSERT_TRUE(job.ok()) << job.status();
  // takes the only job, so that the second call parks
  const auto lease = [&](absl::Status* status) {
    v1::LeaseJobRequest request;
    request.mutable_worker()->set_id("w1");
    request.mutable_worker()->set_slots(2);
    request.mutable_wait()->set_seconds(60);
    v1::LeaseJobResponse response;
    grpc::ClientContext context;
    *status = FromGrpc(v1::WorkerService::NewStub(channel_)->LeaseJob(&context, request, &response));
  };
  absl::Status first;
  lease(&first);
  ASSERT_TRUE(first.ok()) << first;
  absl::Status parked;
  std::thread waiter([&] { lease(&parked); });
  absl::Status watched;
  std::atomic<int> states{0};
  std::thread watcher([&] {
    v1::WatchJobRequest request;
    request.set_id(job->id());
    grpc::ClientContext context;
    auto reader = v1::JobService::NewStub(channel_)->WatchJob(&context, request);
    v1::WatchJobResponse response;
    while (reader->Read(&response)) ++states;
    watched = FromGrpc(reader->Finish());
  });
  grpc::ClientContext health_context;  // an open health Watch must not keep the server from stopping (grpc #7755)
  grpc::GenericStub health(channel_);
  grpc::CompletionQueue queue;
  auto health_watch = health.PrepareCall(&health_context, "/grpc.health.v1.Health/Watch", &queue);
  health_watch->StartCall(nullptr);
  while (states == 0) absl::SleepFor(absl::Milliseconds(1));
  absl::SleepFor(absl::Milliseconds(100));  // the lease call is parked by now; were it not, it is answered the same
  const absl::Time start = absl::Now();
  server_->Shutdown();
  waiter.join();
  watcher.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  EXPECT_EQ(parked.code(), absl::StatusCode::kUnavailable) << parked;
  EXPECT_EQ(watched.code(), absl::StatusCode::kUnavailable) << watched;
  health_context.TryCancel();
  queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
}

TEST_F(ServerTest, ManyParkedCallsDoNotHoldThreads) {
  constexpr int kWatchers = 200;
  const v1::Model model = Upload("graph");
  const auto job = Submit(model.id());
  ASSERT_TRUE(job.ok()) << job.status();
  struct Watch {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::WatchJobResponse>> reader;
  };
  const auto stub = v1::JobService::NewStub(channel_);
  v1::WatchJobRequest request;
  request.set_id(job->id());
  std::vector<Watch> watches(kWatchers);
  v1::WatchJobResponse state;
  for (Watch& watch : watches) {
    watch.reader = stub->WatchJob(&watch.context, request);
    ASSERT_TRUE(watch.reader->Read(&state));
  }
  int threads = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/task")) ++threads;
  EXPECT_LT(threads, 100);
  grpc::ClientContext context;
  v1::CancelJobRequest cancel;
  cancel.set_id(job->id());
  v1::CancelJobResponse cancelled;
  ASSERT_TRUE(stub->CancelJob(&context, cancel, &cancelled).ok());
  for (Watch& watch : watches) {
    while (watch.reader->Read(&state)) {
    }
    EXPECT_EQ(state.job().state(), v1::JOB_STATE_CANCELLED);
    EXPECT_TRUE(watch.reader->Finish().ok());
  }
}

TEST_F(ServerTest, IsReadyOnlyWhileThePostgresServerAnswers) {
  const auto postgres = PostgresServer::Start();
  if (absl::IsNotFound(postgres.status())) GTEST_SKIP() << postgres.status();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  ServerOptions options = Options();
  options.data = dir_ / "front";
  options.postgres = *(*postgres)->NewSchema();
  auto server = Server::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  EXPECT_THAT(Http("/readyz"), StartsWith("HTTP/1.1 200"));
  (*postgres)->Kill();
  // The process behind a connection may answer once more before it notices.
  for (int i = 0; i < 1000 && absl::StartsWith(Http("/readyz"), "HTTP/1.1 200"); ++i) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_THAT(Http("/readyz"), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("PostgreSQL does not answer")));
  EXPECT_THAT(Http("/healthz"), StartsWith("HTTP/1.1 200"));  // a restart would not help
  ASSERT_TRUE((*postgres)->Restart().ok());
  // A failed attempt to connect is not repeated at once.
  for (int i = 0; i < 1000 && !absl::StartsWith(Http("/readyz"), "HTTP/1.1 200"); ++i) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_THAT(Http("/readyz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, TwoServersShareOneDatabaseAndOneFolderOfBlobs) {
  const auto postgres = PostgresServer::Shared();
  if (absl::IsNotFound(postgres.status())) GTEST_SKIP() << postgres.status();
  ASSERT_TRUE(postgres.ok()) << postgres.status();
  const std::string url = *(*postgres)->NewSchema();
  std::unique_ptr<Server> servers[2];
  std::shared_ptr<grpc::Channel> channels[2];
  for (int i = 0; i < 2; ++i) {
    ServerOptions options = Options();
    options.data = dir_ / absl::StrCat("front", i);
    options.blobs = dir_ / "shared";
    options.postgres = url;
    auto server = Server::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    servers[i] = *std::move(server);
    channels[i] = grpc::CreateChannel(servers[i]->address().ToString(), grpc::InsecureChannelCredentials());
  }
  ServerOptions alone = Options();  // a server with a database of its own must not sweep these blobs
  alone.data = dir_ / "alone";
  alone.blobs = dir_ / "shared";
  EXPECT_EQ(Server::Start(alone).status().code(), absl::StatusCode::kFailedPrecondition);

  channel_ = channels[0];
  const v1::Model model = Upload("graph");
  const auto job = Submit(model.id());
  ASSERT_TRUE(job.ok()) << job.status();

  // A worker at the other server gets it, with the manifest, and delivers there.
  const auto workers = v1::WorkerService::NewStub(channels[1]);
  v1::LeaseJobRequest ask;
  ask.mutable_worker()->set_id("w-1");
  ask.mutable_worker()->set_slots(1);
  ask.mutable_wait()->set_seconds(10);
  grpc::ClientContext ask_context;
  v1::LeaseJobResponse leased;
  ASSERT_TRUE(workers->LeaseJob(&ask_context, ask, &leased).ok());
  ASSERT_EQ(leased.lease().job().id(), job->id());
  EXPECT_EQ(leased.lease().model().files(0).digest().sha256(), model.files(0).digest().sha256());
  channel_ = channels[1];
  const v1::Model made = Upload("quantized graph");
  v1::CompleteJobRequest end;
  end.set_worker_id("w-1");
  end.set_job_id(job->id());
  end.set_token(leased.lease().token());
  end.mutable_success()->mutable_report();
  *end.mutable_success()->add_files() = made.files(0);
  grpc::ClientContext end_context;
  v1::CompleteJobResponse ended;
  const grpc::Status completed = workers->CompleteJob(&end_context, end, &ended);
  EXPECT_TRUE(completed.ok()) << completed.error_message();

  servers[1].reset();  // and goes away
  v1::GetJobRequest get;
  get.set_id(job->id());
  grpc::ClientContext get_context;
  v1::GetJobResponse got;
  ASSERT_TRUE(v1::JobService::NewStub(channels[0])->GetJob(&get_context, get, &got).ok());
  EXPECT_EQ(got.job().state(), v1::JOB_STATE_SUCCEEDED);
  v1::GetModelRequest get_model;
  get_model.set_id(got.job().result_model_id());
  grpc::ClientContext model_context;
  v1::GetModelResponse result;
  ASSERT_TRUE(v1::ArtifactService::NewStub(channels[0])->GetModel(&model_context, get_model, &result).ok());
  EXPECT_EQ(result.model().source_job_id(), job->id());
}

}  // namespace
}  // namespace quant
