// SPDX-License-Identifier: Apache-2.0
// Attacks on a whole server over the wire: every rpc without credentials and with the wrong ones, other tenants'
// things, certificates that change, connections that say nothing.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "common/client_auth.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/random_id.h"
#include "common/unique_fd.h"
#include "quant/v1/artifacts.grpc.pb.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/report.pb.h"
#include "quant/v1/workers.grpc.pb.h"
#include "server/auth/credential_file.h"
#include "server/auth/method_table.h"
#include "server/server.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::Not;

class SecurityTest : public ::testing::Test {
 protected:
  SecurityTest() {
    fs::create_directories(dir_);
    ann_ = Add("ann", "acme", Role::kUser);
    bob_ = Add("bob", "zoo", Role::kUser);
    worker_ = Add("w", "default", Role::kWorker);
    scaler_ = Add("keda", "default", Role::kScaler);
    operator_ = Add("op", "default", Role::kOperator);
    options_ = {
        .listen = {"127.0.0.1", 0}, .data = dir_ / "data", .reserve_bytes = 0, .drain_timeout = absl::Seconds(3)};
    options_.tokens = dir_ / "tokens";
    options_.audit = dir_ / "audit";
  }
  ~SecurityTest() override {
    server_.reset();
    fs::remove_all(dir_);
  }
  std::string Add(const std::string& name, const std::string& tenant, Role role,
                  absl::Time expires = absl::InfiniteFuture(), const std::string& certificate = "") {
    Credential credential{.principal = {.tenant = tenant, .name = name, .role = role}, .created = absl::Now()};
    credential.expires = expires;
    const std::string token = MakeToken(&credential);
    if (!certificate.empty()) {
      credential.sha256.clear();
      credential.certificate = certificate;
    }
    EXPECT_THAT(AddCredential(dir_ / "tokens", credential), IsOk());
    return token;
  }
  void Start() {
    auto server = Server::Start(options_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->address().ToString(), grpc::InsecureChannelCredentials());
  }

  using Headers = std::vector<std::pair<std::string, std::string>>;
  static Headers Bearer(const std::string& token) { return {{"authorization", "Bearer " + token}}; }
  // Any rpc by its name with an empty request: gets as far as the handler's own checks.
  absl::Status Raw(const std::string& method, const Headers& headers) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    for (const auto& [key, value] : headers) context.AddMetadata(key, value);
    grpc::CompletionQueue queue;
    const grpc::Slice slice("");
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
    return FromGrpc(status);
  }
  // A unary call of a stub on behalf of the owner of `token`.
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const std::string& token, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    context.AddMetadata("authorization", "Bearer " + token);
    return FromGrpc((stub.*method)(&context, request, response));
  }
  static v1::Digest DigestOf(const std::string& bytes) {
    v1::Digest digest;
    digest.set_sha256(Sha256Hex(bytes));
    digest.set_size_bytes(static_cast<int64_t>(bytes.size()));
    return digest;
  }
  absl::Status Upload(const std::string& token, const v1::Digest& digest, const std::string& bytes, bool finish = true,
                      v1::WriteBlobResponse* response = nullptr) {
    const auto stub = v1::ArtifactService::NewStub(channel_);
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    v1::WriteBlobResponse ignored;
    const auto writer = stub->WriteBlob(&context, response == nullptr ? &ignored : response);
    for (size_t at = 0; at == 0 || at < bytes.size(); at += 1 << 20) {
      v1::WriteBlobRequest request;
      if (at == 0) {
        request.set_upload_id("up");
        *request.mutable_digest() = digest;
      }
      request.set_write_offset(static_cast<int64_t>(at));
      request.set_data(bytes.substr(at, 1 << 20));
      request.set_finish_write(finish && at + (1 << 20) >= bytes.size());
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    return FromGrpc(writer->Finish());
  }
  absl::Status Read(const std::string& token, const v1::Digest& digest) {
    const auto stub = v1::ArtifactService::NewStub(channel_);
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    v1::ReadBlobRequest request;
    *request.mutable_digest() = digest;
    const auto reader = stub->ReadBlob(&context, request);
    v1::ReadBlobResponse response;
    while (reader->Read(&response)) {
    }
    return FromGrpc(reader->Finish());
  }
  int Missing(const std::string& token, const v1::Digest& digest) {
    const auto stub = v1::ArtifactService::NewStub(channel_);
    v1::FindMissingBlobsRequest request;
    *request.add_digests() = digest;
    v1::FindMissingBlobsResponse response;
    EXPECT_THAT(Call(*stub, &v1::ArtifactService::Stub::FindMissingBlobs, token, request, &response), IsOk());
    return response.missing_size();
  }
  absl::StatusOr<v1::Model> MakeModel(const std::string& token, const v1::Digest& digest) {
    const auto stub = v1::ArtifactService::NewStub(channel_);
    v1::CreateModelRequest request;
    request.add_files()->set_path("m.onnx");
    *request.mutable_files(0)->mutable_digest() = digest;
    v1::CreateModelResponse response;
    absl::Status status = Call(*stub, &v1::ArtifactService::Stub::CreateModel, token, request, &response);
    if (!status.ok()) return status;
    return response.model();
  }
  // A lease for the worker w-1, which must be there at once.
  v1::Lease LeaseOf(v1::WorkerService::Stub& workers, const std::string& token) {
    v1::LeaseJobRequest request;
    request.mutable_worker()->set_id("w-1");
    request.mutable_worker()->set_slots(1);
    v1::LeaseJobResponse response;
    EXPECT_THAT(Call(workers, &v1::WorkerService::Stub::LeaseJob, token, request, &response), IsOk());
    EXPECT_TRUE(response.has_lease());
    return response.lease();
  }
  std::string Audit() {
    std::ifstream in(dir_ / "audit");
    return {std::istreambuf_iterator<char>(in), {}};
  }

  // ---- certificates, made with openssl
  void Shell(const std::string& command) {
    ASSERT_EQ(std::system(absl::StrCat("cd ", dir_.native(), " && (", command, ") >/dev/null 2>&1").c_str()), 0)
        << command;
  }
  void MakeAuthority(const std::string& name) {
    Shell(absl::StrCat("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=", name,
                       " -keyout ", name, ".key -out ", name, ".pem"));
  }
  void MakeCertificate(const std::string& authority, const std::string& name, const std::string& san) {
    Shell(absl::StrCat("printf 'subjectAltName=", san, "' > ext && openssl req -newkey ec -pkeyopt ",
                       "ec_paramgen_curve:P-256 -nodes -subj /CN=", name, " -keyout ", name, ".key -out ", name,
                       ".csr && openssl x509 -req -in ", name, ".csr -CA ", authority, ".pem -CAkey ", authority,
                       ".key -CAcreateserial -days 2 -extfile ext -out ", name, ".pem"));
  }
  TlsFiles ServerFiles(const std::string& authority) {
    return {.ca = authority.empty() ? "" : (dir_ / (authority + ".pem")).native(),
            .cert = (dir_ / "server.pem").native(),
            .key = (dir_ / "server.key").native()};
  }
  // Lists models over a connection of its own.
  absl::Status List(const std::string& authority, const std::string& certificate, const std::string& token) {
    ClientAuthOptions options;
    if (!authority.empty()) options.tls.ca = (dir_ / (authority + ".pem")).native();
    if (!certificate.empty()) {
      options.tls.cert = (dir_ / (certificate + ".pem")).native();
      options.tls.key = (dir_ / (certificate + ".key")).native();
    }
    options.token = token;
    const auto auth = ClientAuth::Create(options, "localhost");
    if (!auth.ok()) return auth.status();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel = grpc::CreateCustomChannel(absl::StrCat("localhost:", server_->address().port),
                                                   (*auth)->channel_credentials(), arguments);
    const auto stub = v1::ArtifactService::NewStub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    (*auth)->Prepare(context);
    v1::ListModelsResponse response;
    return FromGrpc(stub->ListModels(&context, {}, &response));
  }

  const fs::path dir_ = fs::path(testing::TempDir()) / RandomId("security-");
  std::string ann_, bob_, worker_, scaler_, operator_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(SecurityTest, NoRpcIsOpenToACallerWithoutAGoodToken) {
  const std::string expired = Add("old", "acme", Role::kOperator, absl::Now() - absl::Seconds(1));
  const std::string revoked = Add("gone", "acme", Role::kOperator);
  ASSERT_THAT(RevokeCredential(dir_ / "tokens", "gone"), IsOk());
  Start();
  const std::vector<Headers> bad = {
      {},
      Bearer("x"),
      Bearer(expired),
      Bearer(revoked),
      Bearer(operator_.substr(0, 40)),
      {{"authorization", operator_}},
      {{"x-authorization", "Bearer " + operator_}},
      {{"authorization", "Basic " + operator_}},
      {{"authorization", "Bearer " + operator_}, {"authorization", "Bearer " + operator_}}};
  for (const MethodRule& rule : MethodTable()) {
    if (rule.anyone) {
      EXPECT_THAT(Raw("/grpc.health.v1.Health/Check", {}), IsOk());
      continue;
    }
    for (const Headers& headers : bad) {
      EXPECT_THAT(Raw(std::string(rule.method), headers), StatusIs(absl::StatusCode::kUnauthenticated)) << rule.method;
    }
  }
  EXPECT_THAT(Audit(), HasSubstr("TOKEN_EXPIRED"));
  EXPECT_THAT(Audit(), Not(HasSubstr(operator_.substr(19))));
}

TEST_F(SecurityTest, EveryRpcAsksForTheRoleThatTheTableSays) {
  Start();
  for (const MethodRule& rule : MethodTable()) {
    if (rule.anyone) continue;
    for (const auto& [token, role] : {std::pair{ann_, Role::kUser},
                                      {worker_, Role::kWorker},
                                      {scaler_, Role::kScaler},
                                      {operator_, Role::kOperator}}) {
      const absl::Status status = Raw(std::string(rule.method), Bearer(token));
      EXPECT_EQ(ReasonOf(status) == "ROLE_FORBIDS", !Allows(rule, role)) << rule.method << RoleName(role) << status;
      EXPECT_NE(status.code(), absl::StatusCode::kUnauthenticated) << rule.method << RoleName(role);
      if (!Allows(rule, role)) {
        EXPECT_THAT(status, StatusIs(absl::StatusCode::kPermissionDenied));
      }
    }
  }
}

TEST_F(SecurityTest, HeadersThatOnlyLookGoodAreNot) {
  Start();
  const std::string list = "/quant.v1.ArtifactService/ListModels";
  // gRPC's own client refuses to send a line break; what it does send must not be taken for a token, however long.
  for (const std::string& value :
       {std::string("Bearer x, Bearer ") + ann_, std::string("Bearer x authorization: Bearer ") + ann_,
        std::string(20'000, 'A'), std::string("Bearer ") + ann_ + std::string(9'000, ' ')}) {
    EXPECT_FALSE(Raw(list, {{"authorization", value}}).ok());
  }
  // What looks like ours from inside is not believed.
  EXPECT_FALSE(Raw(list, {{"x-quant-tenant", "acme"}, {"x-quant-role", "operator"}, {"x-forwarded-user", "op"}}).ok());
  EXPECT_THAT(Raw(list, Bearer(ann_)), IsOk());  // the connection is still good
}

TEST_F(SecurityTest, ADigestOpensNothingAndAnUploadProves) {
  Start();
  const std::string bytes(100'000, 'm');
  const v1::Digest digest = DigestOf(bytes);
  ASSERT_THAT(Upload(ann_, digest, bytes), IsOk());
  const auto model = MakeModel(ann_, digest);
  ASSERT_THAT(model, IsOk());
  EXPECT_THAT(Read(ann_, digest), IsOk());
  EXPECT_EQ(Missing(ann_, digest), 0);

  EXPECT_EQ(Missing(bob_, digest), 1);
  EXPECT_THAT(Read(bob_, digest), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(absl::StrReplaceAll(std::string(Read(bob_, digest).message()), {{digest.sha256(), "X"}}),
            absl::StrReplaceAll(std::string(Read(bob_, DigestOf("nobody's")).message()),
                                {{DigestOf("nobody's").sha256(), "X"}}));
  EXPECT_EQ(ReasonOf(MakeModel(bob_, digest).status()), "BLOB_MISSING");
  // Nor does an upload that is cut short by "already there", or that has other bytes.
  EXPECT_EQ(ReasonOf(Upload(bob_, digest, std::string(100'000, 'x'))), "BLOB_DIGEST_MISMATCH");
  v1::WriteBlobResponse half;
  EXPECT_THAT(Upload(bob_, digest, bytes.substr(0, 1000), /*finish=*/false, &half), IsOk());
  EXPECT_FALSE(half.complete());
  EXPECT_EQ(Missing(bob_, digest), 1);
  EXPECT_EQ(ReasonOf(MakeModel(bob_, digest).status()), "BLOB_MISSING");

  EXPECT_THAT(Read(worker_, digest), StatusIs(absl::StatusCode::kPermissionDenied));  // no lease: see below
  EXPECT_THAT(Read(operator_, digest), IsOk());
  // An upload under the same name and digest is another one for each tenant: Ann's begins at 0.
  const auto stub = v1::ArtifactService::NewStub(channel_);
  const std::string secret = "not yet whole";
  ASSERT_THAT(Upload(ann_, DigestOf(secret), secret.substr(0, 4), /*finish=*/false), IsOk());
  v1::QueryWriteStatusRequest query;
  query.set_upload_id("up");
  *query.mutable_digest() = DigestOf(secret);
  v1::QueryWriteStatusResponse state;
  ASSERT_THAT(Call(*stub, &v1::ArtifactService::Stub::QueryWriteStatus, ann_, query, &state), IsOk());
  EXPECT_EQ(state.committed_size(), 4);
  ASSERT_THAT(Call(*stub, &v1::ArtifactService::Stub::QueryWriteStatus, bob_, query, &state), IsOk());
  EXPECT_EQ(state.committed_size(), 0);
}

TEST_F(SecurityTest, TheSameBytesUploadedByTwoAreHeldByBoth) {
  Start();
  const std::string bytes(50'000, 'm');
  ASSERT_THAT(Upload(ann_, DigestOf(bytes), bytes), IsOk());
  ASSERT_THAT(Upload(bob_, DigestOf(bytes), bytes), IsOk());
  EXPECT_EQ(Missing(bob_, DigestOf(bytes)), 0);
  EXPECT_THAT(MakeModel(bob_, DigestOf(bytes)), IsOk());
}

TEST_F(SecurityTest, AnotherTenantsIdsAreAsUnknownOnes) {
  Start();
  const std::string bytes = "graph";
  ASSERT_THAT(Upload(ann_, DigestOf(bytes), bytes), IsOk());
  const auto model = MakeModel(ann_, DigestOf(bytes));
  ASSERT_THAT(model, IsOk());
  const auto jobs = v1::JobService::NewStub(channel_);
  v1::SubmitJobRequest submit;
  submit.mutable_spec()->mutable_quantize()->set_model_id(model->id());
  submit.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  v1::SubmitJobResponse submitted;
  EXPECT_THAT(Call(*jobs, &v1::JobService::Stub::SubmitJob, bob_, submit, &submitted),
              StatusIs(absl::StatusCode::kPermissionDenied));
  ASSERT_THAT(Call(*jobs, &v1::JobService::Stub::SubmitJob, ann_, submit, &submitted), IsOk());
  for (const std::string& id : {submitted.job().id(), std::string("j-aaaaaaaaaaaaaaaa")}) {
    v1::GetJobRequest get;
    get.set_id(id);
    v1::GetJobResponse got;
    const absl::Status status = Call(*jobs, &v1::JobService::Stub::GetJob, bob_, get, &got);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kPermissionDenied));
    EXPECT_EQ(status.message(), absl::StrCat("tenant \"zoo\" has no job \"", id, "\""));
    v1::CancelJobRequest cancel;
    cancel.set_id(id);
    v1::CancelJobResponse cancelled;
    EXPECT_THAT(Call(*jobs, &v1::JobService::Stub::CancelJob, bob_, cancel, &cancelled),
                StatusIs(absl::StatusCode::kPermissionDenied));
  }
  const auto artifacts = v1::ArtifactService::NewStub(channel_);
  for (const std::string& id : {model->id(), std::string("m-aaaaaaaaaaaaaaaa")}) {
    v1::SetRetentionRequest pin;
    pin.set_id(id);
    pin.set_pinned(true);
    v1::SetRetentionResponse pinned;
    const absl::Status status = Call(*artifacts, &v1::ArtifactService::Stub::SetRetention, bob_, pin, &pinned);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kPermissionDenied));
    EXPECT_EQ(status.message(), absl::StrCat("tenant \"zoo\" has no model \"", id, "\""));
  }
  v1::GetStorageResponse storage;
  ASSERT_THAT(Call(*artifacts, &v1::ArtifactService::Stub::GetStorage, ann_, {}, &storage), IsOk());
  EXPECT_EQ(storage.tenant_bytes(), 5);
  EXPECT_FALSE(storage.has_server());  // what others store is no business of hers
  ASSERT_THAT(Call(*artifacts, &v1::ArtifactService::Stub::GetStorage, operator_, {}, &storage), IsOk());
  EXPECT_TRUE(storage.has_server());
  v1::ListJobsResponse page;
  ASSERT_THAT(Call(*jobs, &v1::JobService::Stub::ListJobs, bob_, {}, &page), IsOk());
  EXPECT_EQ(page.jobs_size(), 0);
  ASSERT_THAT(Call(*jobs, &v1::JobService::Stub::ListJobs, operator_, {}, &page), IsOk());
  EXPECT_EQ(page.jobs_size(), 1);
  EXPECT_THAT(Audit(), HasSubstr(submitted.job().id()));
}

TEST_F(SecurityTest, AWorkerReadsTheInputsOfItsLeasesAndNothingElse) {
  const std::string other = Add("w2", "default", Role::kWorker);
  options_.heartbeat_interval = absl::Minutes(1);  // the lease is not to run out
  Start();
  const std::string wanted = "graph", loose = "another graph";
  for (const std::string& bytes : {wanted, loose}) ASSERT_THAT(Upload(ann_, DigestOf(bytes), bytes), IsOk());
  const auto model = MakeModel(ann_, DigestOf(wanted));
  ASSERT_THAT(model, IsOk());
  ASSERT_THAT(MakeModel(ann_, DigestOf(loose)), IsOk());
  const auto jobs = v1::JobService::NewStub(channel_);
  v1::SubmitJobRequest submit;
  submit.mutable_spec()->mutable_quantize()->set_model_id(model->id());
  submit.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  v1::SubmitJobResponse submitted;
  ASSERT_THAT(Call(*jobs, &v1::JobService::Stub::SubmitJob, ann_, submit, &submitted), IsOk());
  EXPECT_EQ(ReasonOf(Read(worker_, DigestOf(wanted))), "NOT_VISIBLE");  // queued, not yet leased
  const auto workers = v1::WorkerService::NewStub(channel_);
  const auto lease = LeaseOf(*workers, worker_);
  ASSERT_EQ(lease.job().id(), submitted.job().id());
  EXPECT_THAT(Read(worker_, DigestOf(wanted)), IsOk());
  EXPECT_EQ(ReasonOf(Read(worker_, DigestOf(loose))), "NOT_VISIBLE");
  EXPECT_EQ(ReasonOf(Read(worker_, DigestOf("nobody's"))), "NOT_VISIBLE");
  EXPECT_EQ(ReasonOf(Read(other, DigestOf(wanted))), "NOT_VISIBLE");
  // Whose the lease is was forgotten by a restart; that there is one was not.
  server_.reset();
  Start();
  EXPECT_THAT(Read(worker_, DigestOf(wanted)), IsOk());
  EXPECT_EQ(ReasonOf(Read(worker_, DigestOf(loose))), "NOT_VISIBLE");
  v1::CompleteJobRequest done;
  done.set_worker_id("w-1");
  done.set_job_id(lease.job().id());
  done.set_token(lease.token());
  done.mutable_failure()->set_error_class(v1::ERROR_CLASS_FINAL);
  done.mutable_failure()->set_reason("BAD_MODEL");
  v1::CompleteJobResponse ended;
  const auto again = v1::WorkerService::NewStub(channel_);
  ASSERT_THAT(Call(*again, &v1::WorkerService::Stub::CompleteJob, worker_, done, &ended), IsOk());
  EXPECT_EQ(ReasonOf(Read(worker_, DigestOf(wanted))), "NOT_VISIBLE");
}

TEST_F(SecurityTest, OpenWatchesAndLeasesEndWhenTheirTokenIsRevoked) {
  const std::string eve = Add("eve", "acme", Role::kUser);
  options_.heartbeat_interval = absl::Minutes(1);  // the lease is not to run out
  Start();
  ASSERT_THAT(Upload(ann_, DigestOf("graph"), "graph"), IsOk());
  const auto model = MakeModel(ann_, DigestOf("graph"));
  ASSERT_THAT(model, IsOk());
  const auto jobs = v1::JobService::NewStub(channel_);
  v1::SubmitJobRequest submit;
  submit.mutable_spec()->mutable_quantize()->set_model_id(model->id());
  submit.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  v1::SubmitJobResponse submitted;
  ASSERT_THAT(Call(*jobs, &v1::JobService::Stub::SubmitJob, ann_, submit, &submitted), IsOk());
  const auto workers = v1::WorkerService::NewStub(channel_);
  ASSERT_EQ(LeaseOf(*workers, worker_).job().id(), submitted.job().id());  // the queue is empty now

  const auto watch = [&](const std::string& token, grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context->AddMetadata("authorization", "Bearer " + token);
    v1::WatchJobRequest request;
    request.set_id(submitted.job().id());
    auto reader = jobs->WatchJob(context, request);
    v1::WatchJobResponse state;
    EXPECT_TRUE(reader->Read(&state));
    return reader;
  };
  grpc::ClientContext eves, anns;
  const auto revoked = watch(eve, &eves);
  const auto kept = watch(ann_, &anns);
  absl::Status parked;
  std::thread waiting([&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context.AddMetadata("authorization", "Bearer " + worker_);
    v1::LeaseJobRequest request;
    request.mutable_worker()->set_id("w-2");
    request.mutable_worker()->set_slots(1);
    request.mutable_wait()->set_seconds(50);
    v1::LeaseJobResponse response;
    parked = FromGrpc(workers->LeaseJob(&context, request, &response));
  });
  ASSERT_THAT(RevokeCredential(dir_ / "tokens", "eve"), IsOk());
  ASSERT_THAT(RevokeCredential(dir_ / "tokens", "w"), IsOk());
  v1::WatchJobResponse state;
  while (revoked->Read(&state)) {
  }
  EXPECT_EQ(ReasonOf(FromGrpc(revoked->Finish())), "TOKEN_REVOKED");
  waiting.join();
  EXPECT_EQ(ReasonOf(parked), "TOKEN_REVOKED");
  // Others are not touched: the next state comes.
  v1::CancelJobRequest cancel;
  cancel.set_id(submitted.job().id());
  v1::CancelJobResponse cancelled;
  ASSERT_THAT(Call(*jobs, &v1::JobService::Stub::CancelJob, ann_, cancel, &cancelled), IsOk());
  do {
    ASSERT_TRUE(kept->Read(&state));
  } while (state.job().state() != v1::JOB_STATE_CANCELLING);
  anns.TryCancel();
  while (kept->Read(&state)) {
  }
}

TEST_F(SecurityTest, OpenUploadsAndDownloadsEndWhenTheirTokenIsRevoked) {
  const std::string eve = Add("eve", "acme", Role::kUser);
  Start();
  const std::string big(size_t{64} << 20, 'x');  // more than waits on the way
  ASSERT_THAT(Upload(ann_, DigestOf(big), big), IsOk());
  const auto stub = v1::ArtifactService::NewStub(channel_);
  const auto prepare = [&](grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    context->AddMetadata("authorization", "Bearer " + eve);
  };

  grpc::ClientContext down;
  prepare(&down);
  v1::ReadBlobRequest wanted;
  *wanted.mutable_digest() = DigestOf(big);
  const auto reader = stub->ReadBlob(&down, wanted);
  v1::ReadBlobResponse piece;
  ASSERT_TRUE(reader->Read(&piece));

  grpc::ClientContext up;
  prepare(&up);
  v1::WriteBlobRequest first;
  first.set_upload_id("idle");
  *first.mutable_digest() = DigestOf("two halves");
  first.set_data("two ");
  v1::WriteBlobResponse response;
  const auto writer = stub->WriteBlob(&up, &response);
  ASSERT_TRUE(writer->Write(first));

  ASSERT_THAT(RevokeCredential(dir_ / "tokens", "eve"), IsOk());
  // The upload ends though nothing more is sent; the download before all of it came.
  EXPECT_EQ(ReasonOf(FromGrpc(writer->Finish())), "TOKEN_REVOKED");
  size_t read = piece.data().size();
  while (reader->Read(&piece)) read += piece.data().size();
  EXPECT_EQ(ReasonOf(FromGrpc(reader->Finish())), "TOKEN_REVOKED");
  EXPECT_LT(read, big.size());

  // What arrived is kept for the tenant.
  v1::QueryWriteStatusRequest query;
  query.set_upload_id("idle");
  *query.mutable_digest() = DigestOf("two halves");
  v1::QueryWriteStatusResponse kept;
  ASSERT_THAT(Call(*stub, &v1::ArtifactService::Stub::QueryWriteStatus, ann_, query, &kept), IsOk());
  EXPECT_EQ(kept.committed_size(), 4);
}

TEST_F(SecurityTest, ARevokedTokenIsRefusedWithoutARestart) {
  Start();
  const std::string list = "/quant.v1.JobService/ListJobs";
  ASSERT_THAT(Raw(list, Bearer(ann_)), IsOk());
  ASSERT_THAT(RevokeCredential(dir_ / "tokens", "ann"), IsOk());
  const std::string next = Add("ann", "acme", Role::kUser);
  absl::SleepFor(absl::Milliseconds(1100));
  EXPECT_EQ(ReasonOf(Raw(list, Bearer(ann_))), "TOKEN_REVOKED");
  EXPECT_THAT(Raw(list, Bearer(next)), IsOk());
}

TEST_F(SecurityTest, QuotasAreRefusalsWithReasonsAndUploadsAreSlowed) {
  options_.limits = dir_ / "limits";
  std::ofstream(options_.limits) << R"({"tenants": {"acme": {"max_stored_bytes": 5000000, "max_model_bytes": 4000000,
      "upload_bytes_per_second": 1048576}, "zoo": {"requests_per_second": 2}}})";
  Start();
  const std::string three(3 << 20, '3');
  const absl::Time begun = absl::Now();
  ASSERT_THAT(Upload(ann_, DigestOf(three), three), IsOk());
  EXPECT_GT(absl::Now() - begun,
            absl::Milliseconds(900));  // two more seconds' worth, one of them after the last message
  absl::Status status = Upload(ann_, DigestOf(std::string(4'000'001, '4')), std::string(4'000'001, '4'));
  EXPECT_EQ(ReasonOf(status), "QUOTA_EXCEEDED");
  EXPECT_EQ(MetadataOf(status, "resource"), "model_bytes");
  status = Upload(ann_, DigestOf(std::string(2'000'000, '2')), std::string(2'000'000, '2'));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(MetadataOf(status, "resource"), "stored_bytes");
  EXPECT_THAT(Upload(bob_, DigestOf(std::string(2'000'000, '2')), std::string(2'000'000, '2')), IsOk());

  status = absl::OkStatus();
  for (int i = 0; i < 20 && status.ok(); ++i) status = Raw("/quant.v1.JobService/ListJobs", Bearer(bob_));
  EXPECT_EQ(ReasonOf(status), "RATE_LIMITED");
  EXPECT_GT(RetryAfterOf(status), absl::ZeroDuration());
  EXPECT_THAT(Raw("/quant.v1.JobService/ListJobs", Bearer(operator_)), IsOk());
}

TEST_F(SecurityTest, TheClientWaitsOutALimitThatSaysHowLong) {
  options_.limits = dir_ / "limits";
  std::ofstream(options_.limits) << R"({"default": {"requests_per_second": 20}})";
  Start();
  auto client = Client::Create({.server = server_->address().ToString(), .auth = {.token = ann_}});
  ASSERT_THAT(client, IsOk());
  bool more = false;
  const absl::Time begun = absl::Now();
  for (int i = 0; i < 60; ++i) ASSERT_THAT(client->ListModels(1, &more), IsOk()) << i;  // 40 at once, 20 in a second
  EXPECT_GT(absl::Now() - begun, absl::Milliseconds(900));
}

TEST_F(SecurityTest, AWatchGoesOnOverARestartOfTheServer) {
  Start();
  ASSERT_THAT(Upload(ann_, DigestOf("graph"), "graph"), IsOk());
  const auto model = MakeModel(ann_, DigestOf("graph"));
  ASSERT_THAT(model, IsOk());
  auto client = Client::Create({.server = server_->address().ToString(), .auth = {.token = ann_}});
  ASSERT_THAT(client, IsOk());
  v1::SubmitJobRequest submit;
  submit.set_request_id("r-1");
  submit.mutable_spec()->mutable_quantize()->set_model_id(model->id());
  submit.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  const auto job = client->SubmitJob(submit);
  ASSERT_THAT(job, IsOk());
  std::atomic<int> notes{0};
  std::atomic<int> states{0};
  absl::StatusOr<v1::Job> end;
  std::thread watcher([&] {
    end = client->WatchJob(job->id(),
                           {.job = [&](const v1::Job&) { ++states; }, .note = [&](const std::string&) { ++notes; }});
  });
  while (states == 0) absl::SleepFor(absl::Milliseconds(5));
  absl::SleepFor(absl::Milliseconds(200));  // the stream is open
  options_.listen.port = server_->address().port;
  server_.reset();
  absl::SleepFor(absl::Milliseconds(500));
  Start();
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (notes < 2 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(20));  // lost, and back
  EXPECT_THAT(client->CancelJob(job->id()), IsOk());
  watcher.join();
  ASSERT_THAT(end, IsOk());
  EXPECT_EQ(end->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(notes, 2);
}

TEST_F(SecurityTest, TokensAreNotServedInTheClearBeyondTheMachine) {
  options_.listen.host = "";
  EXPECT_THAT(Server::Start(options_), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--insecure-tokens")));
  EXPECT_THAT(ClientAuth::Create({.token = "t"}, "10.1.2.3"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--tls-ca")));
  EXPECT_THAT(ClientAuth::Create({.token = "t"}, "127.0.0.1"), IsOk());
  EXPECT_THAT(ClientAuth::Create({.token = "t", .insecure_tokens = true}, "10.1.2.3"), IsOk());
  EXPECT_THAT(ClientAuth::Create({.token = "a\nb"}, "127.0.0.1"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(SecurityTest, TlsProtectsTheTokenAndTheServersNameIsChecked) {
  MakeAuthority("ca");
  MakeAuthority("other");
  MakeCertificate("ca", "server", "DNS:localhost,IP:127.0.0.1");
  options_.tls = ServerFiles("");
  Start();
  EXPECT_THAT(List("ca", "", ann_), IsOk());
  EXPECT_THAT(List("ca", "", ""), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_FALSE(List("", "", ann_).ok());       // in the clear
  EXPECT_FALSE(List("other", "", ann_).ok());  // an authority that did not sign it
  server_.reset();
  MakeCertificate("ca", "server", "DNS:elsewhere.example");
  Start();
  EXPECT_FALSE(List("ca", "", ann_).ok());
}

TEST_F(SecurityTest, ARenewedCertificateCountsWithoutARestart) {
  MakeAuthority("ca");
  MakeAuthority("next");
  MakeCertificate("ca", "server", "DNS:localhost");
  options_.tls = ServerFiles("");
  Start();
  ASSERT_THAT(List("ca", "", ann_), IsOk());
  MakeCertificate("next", "server", "DNS:localhost");
  absl::Status status = absl::UnknownError("");
  for (int i = 0; i < 50 && !status.ok(); ++i) {
    absl::SleepFor(absl::Milliseconds(200));
    status = List("next", "", ann_);
  }
  EXPECT_THAT(status, IsOk());
  EXPECT_FALSE(List("ca", "", ann_).ok());
}

TEST_F(SecurityTest, ClientCertificatesArePrincipals) {
  MakeAuthority("ca");
  MakeAuthority("evil");
  MakeCertificate("ca", "server", "DNS:localhost");
  MakeCertificate("ca", "ci", "URI:spiffe://acme/ci");
  MakeCertificate("ca", "nobody", "URI:spiffe://nobody");
  MakeCertificate("evil", "forged", "URI:spiffe://acme/ci");
  Add("ci", "acme", Role::kUser, absl::InfiniteFuture(), "spiffe://acme/ci");
  options_.tls = ServerFiles("ca");
  Start();
  EXPECT_THAT(List("ca", "ci", ""), IsOk());
  EXPECT_EQ(ReasonOf(List("ca", "nobody", "")), "CERTIFICATE_UNKNOWN");
  EXPECT_FALSE(List("ca", "forged", "").ok());
  EXPECT_THAT(List("ca", "", ""), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(List("ca", "", ann_), IsOk());  // a token does as well
  server_.reset();
  options_.tokens = "";  // now the authority alone decides
  Start();
  EXPECT_THAT(List("ca", "nobody", ""), IsOk());
  EXPECT_FALSE(List("ca", "", "").ok());
  EXPECT_FALSE(List("ca", "forged", "").ok());
}

TEST_F(SecurityTest, BadTlsFilesAreRefusedAtTheStart) {
  MakeAuthority("ca");
  MakeCertificate("ca", "server", "DNS:localhost");
  Shell("cp ca.key server.key");  // not the certificate's
  options_.tls = ServerFiles("");
  EXPECT_THAT(Server::Start(options_), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("server.key")));
  options_.tls.cert = "/nonexistent";
  EXPECT_THAT(Server::Start(options_), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(SecurityTest, ConnectionsThatSayNothingAreClosedAndHarmNobody) {
  options_.handshake_timeout = absl::Seconds(1);
  Start();
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 200; ++i) {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->address().port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    if (i % 2 == 1) {  // half of HTTP/2's first words
      ASSERT_EQ(::write(fd.get(), "PRI * HT", 8), 8);
    }
    silent.push_back(std::move(fd));
  }
  EXPECT_THAT(Raw("/quant.v1.JobService/ListJobs", Bearer(ann_)), IsOk());
  const absl::Time limit = absl::Now() + absl::Seconds(15);
  for (const UniqueFd& fd : silent) {
    char buffer[1024];
    while (true) {
      pollfd wait{.fd = fd.get(), .events = POLLIN, .revents = 0};
      ASSERT_LT(absl::Now(), limit) << "a silent connection is still open";
      if (::poll(&wait, 1, 100) == 1 && ::read(fd.get(), buffer, sizeof(buffer)) <= 0) break;
    }
  }
}

}  // namespace
}  // namespace quant
