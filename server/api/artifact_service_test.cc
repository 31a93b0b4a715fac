// SPDX-License-Identifier: Apache-2.0
// ArtifactService as clients see it: over a real gRPC server on a loopback port.
#include "server/api/artifact_service.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/random_id.h"
#include "common/strings.h"
#include "common/transfer/raw_call.h"
#include "quant/v1/artifacts.grpc.pb.h"
#include "server/auth/gate.h"
#include "server/blobs/file_blob_store.h"
#include "server/metrics/grpc_metrics.h"
#include "server/metrics/server_metrics.h"
#include "server/store/artifact_store.h"
#include "server/store/sqlite.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ArtifactServiceTest : public ::testing::Test {
 protected:
  ArtifactServiceTest() { Start({}); }
  ~ArtifactServiceTest() override {
    Stop();
    fs::remove_all(dir_);
  }

  void Start(ArtifactServiceOptions options) {
    blobs_ = FileBlobStore::Open(dir_, {.reserve_bytes = 0,
                                        .max_blob_bytes = 64 << 20,
                                        .free_bytes =
                                            [this](const fs::path&) {
                                              absl::SleepFor(absl::Milliseconds(slow_ms_.load()));
                                              return free_.load();
                                            }})
                 .value();
    db_ = Database::Open(dir_ / "artifacts.db").value();
    store_ = ArtifactStore::Create(db_.get(), blobs_.get(), &metrics_, &SystemClock()).value();
    service_ = std::make_unique<ArtifactService>(blobs_.get(), store_.get(), &metrics_, options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_->service());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(MakeMetricsInterceptor(&metrics_));
    interceptors.push_back(InstallGate(&builder, {}));
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = v1::ArtifactService::NewStub(channel_);
  }
  void Stop() {
    service_->Shutdown();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server_.reset();
    service_.reset();
    store_.reset();
    db_.reset();
    blobs_.reset();
  }

  static v1::Digest DigestOf(const std::string& bytes) {
    v1::Digest digest;
    digest.set_sha256(Sha256Hex(bytes));
    digest.set_size_bytes(static_cast<int64_t>(bytes.size()));
    return digest;
  }

  struct WriteResult {
    absl::Status status;
    v1::WriteBlobResponse response;
  };
  // One stream: `bytes` from `offset` on in messages of `piece`; with `finish` the last one says so.
  WriteResult Write(const v1::Digest& digest, const std::string& bytes, int64_t offset = 0, bool finish = true,
                    size_t piece = 1 << 20, const std::string& upload = "up") {
    WriteResult result;
    grpc::ClientContext context;
    auto writer = stub_->WriteBlob(&context, &result.response);
    size_t at = static_cast<size_t>(offset);
    bool first = true;
    do {
      v1::WriteBlobRequest request;
      if (first) {
        request.set_upload_id(upload);
        *request.mutable_digest() = digest;
        first = false;
      }
      request.set_write_offset(static_cast<int64_t>(at));
      request.set_data(bytes.substr(at, piece));
      at += request.data().size();
      request.set_finish_write(finish && at >= bytes.size());
      if (!writer->Write(request)) break;
    } while (at < bytes.size());
    writer->WritesDone();
    result.status = FromGrpc(writer->Finish());
    return result;
  }
  absl::StatusOr<std::string> Read(const v1::Digest& digest, int64_t offset = 0, int64_t limit = 0) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    v1::ReadBlobRequest request;
    *request.mutable_digest() = digest;
    request.set_read_offset(offset);
    request.set_read_limit(limit);
    auto reader = stub_->ReadBlob(&context, request);
    std::string bytes;
    v1::ReadBlobResponse response;
    while (reader->Read(&response)) {
      EXPECT_LE(response.data().size(), size_t{1} << 20);
      bytes += response.data();
    }
    absl::Status status = FromGrpc(reader->Finish());
    if (!status.ok()) return status;
    return bytes;
  }
  v1::QueryWriteStatusResponse Query(const v1::Digest& digest, const std::string& upload = "up") {
    grpc::ClientContext context;
    v1::QueryWriteStatusRequest request;
    request.set_upload_id(upload);
    *request.mutable_digest() = digest;
    v1::QueryWriteStatusResponse response;
    EXPECT_TRUE(stub_->QueryWriteStatus(&context, request, &response).ok());
    return response;
  }
  absl::StatusOr<v1::Model> CreateModel(const std::string& name, const std::string& path, const v1::Digest& digest) {
    grpc::ClientContext context;
    v1::CreateModelRequest request;
    request.set_name(name);
    v1::File* const file = request.add_files();
    file->set_path(path);
    *file->mutable_digest() = digest;
    v1::CreateModelResponse response;
    absl::Status status = FromGrpc(stub_->CreateModel(&context, request, &response));
    if (!status.ok()) return status;
    return response.model();
  }

  const fs::path dir_ = fs::path(testing::TempDir()) / RandomId("service-");
  std::atomic<int64_t> free_{int64_t{1} << 40};
  std::atomic<int> slow_ms_{0};  // what the disk takes to begin an upload
  ServerMetrics metrics_;
  std::unique_ptr<FileBlobStore> blobs_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ArtifactStore> store_;
  std::unique_ptr<ArtifactService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ArtifactService::Stub> stub_;
};

// Bytes that differ from place to place, so that a misplaced piece is noticed.
std::string Pattern(size_t size) {
  std::string bytes(size, '\0');
  uint32_t x = 12345;
  for (char& c : bytes) {
    x = x * 1664525u + 1013904223u;
    c = static_cast<char>(x >> 24);
  }
  return bytes;
}

TEST_F(ArtifactServiceTest, UploadCreateListDownloadDelete) {
  const std::string bytes = Pattern((20 << 20) + 17);
  const v1::Digest digest = DigestOf(bytes);
  {
    grpc::ClientContext context;
    v1::FindMissingBlobsRequest request;
    *request.add_digests() = digest;
    v1::FindMissingBlobsResponse response;
    ASSERT_TRUE(stub_->FindMissingBlobs(&context, request, &response).ok());
    ASSERT_EQ(response.missing_size(), 1);
    EXPECT_EQ(response.missing(0).sha256(), digest.sha256());
  }
  const WriteResult written = Write(digest, bytes);
  ASSERT_TRUE(written.status.ok()) << written.status;
  EXPECT_TRUE(written.response.complete());
  EXPECT_EQ(written.response.committed_size(), digest.size_bytes());
  EXPECT_EQ(Read(digest).value(), bytes);
  EXPECT_EQ(Read(digest, 1000, 10).value(), bytes.substr(1000, 10));
  EXPECT_EQ(Read(digest, digest.size_bytes()).value(), "");
  EXPECT_EQ(Read(digest, 5).value().size(), bytes.size() - 5);

  const auto model = CreateModel("net", "m.onnx", digest);
  ASSERT_TRUE(model.ok()) << model.status();
  grpc::ClientContext list_context;
  v1::ListModelsResponse list;
  ASSERT_TRUE(stub_->ListModels(&list_context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  EXPECT_EQ(list.models(0).id(), model->id());

  v1::DeleteModelRequest remove;
  remove.set_id(model->id());
  v1::DeleteModelResponse removed;
  grpc::ClientContext delete_context;
  EXPECT_TRUE(stub_->DeleteModel(&delete_context, remove, &removed).ok());
  v1::GetModelRequest get;
  get.set_id(model->id());
  v1::GetModelResponse got;
  grpc::ClientContext get_context;
  EXPECT_EQ(stub_->GetModel(&get_context, get, &got).error_code(), grpc::StatusCode::NOT_FOUND);

  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr(absl::StrCat("quant_upload_bytes_total ", bytes.size())));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"NOT_FOUND\",grpc_method=\"GetModel\","
                              "grpc_service=\"quant.v1.ArtifactService\",grpc_type=\"unary\"} 1"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"WriteBlob\","
                              "grpc_service=\"quant.v1.ArtifactService\",grpc_type=\"client_stream\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_cas_objects 1"));
}

TEST_F(ArtifactServiceTest, UploadResumesWhereItBroke) {
  const std::string bytes = Pattern(3 << 20);
  const v1::Digest digest = DigestOf(bytes);
  EXPECT_EQ(Query(digest).committed_size(), 0);
  const WriteResult part = Write(digest, bytes.substr(0, 1'500'000), 0, /*finish=*/false);
  ASSERT_TRUE(part.status.ok()) << part.status;
  EXPECT_EQ(part.response.committed_size(), 1'500'000);
  EXPECT_FALSE(part.response.complete());
  EXPECT_EQ(Query(digest).committed_size(), 1'500'000);
  const WriteResult wrong = Write(digest, bytes, 0);
  EXPECT_EQ(wrong.status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(MetadataOf(wrong.status, "committed"), "1500000");
  const WriteResult rest = Write(digest, bytes, 1'500'000);
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_TRUE(Query(digest).complete());
  EXPECT_EQ(Query(digest).committed_size(), digest.size_bytes());
  EXPECT_EQ(Read(digest).value(), bytes);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_upload_resumed_total 1"));
}

TEST_F(ArtifactServiceTest, CancelledStreamKeepsWhatArrived) {
  const std::string bytes = Pattern(1000);
  {
    grpc::ClientContext context;
    v1::WriteBlobResponse response;
    auto writer = stub_->WriteBlob(&context, &response);
    v1::WriteBlobRequest request;
    request.set_upload_id("up");
    *request.mutable_digest() = DigestOf(bytes);
    request.set_data(bytes.substr(0, 400));
    ASSERT_TRUE(writer->Write(request));
    // Until the server has the message. (Trying to open the upload ourselves would sometimes take it from the server.)
    const auto arrived = [&] { return absl::StrContains(metrics_.Serialize(), "quant_upload_bytes_total 400"); };
    for (int i = 0; i < 10'000 && !arrived(); ++i) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_TRUE(arrived());
    context.TryCancel();
    writer->Finish();
  }
  for (int i = 0; i < 5000 && Query(DigestOf(bytes)).committed_size() == 0; ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(Query(DigestOf(bytes)).committed_size(), 400);
  // The server's writer may still be there for a moment after its commit.
  absl::Status status = Write(DigestOf(bytes), bytes, 400).status;
  for (int i = 0; i < 5000 && ReasonOf(status) == "UPLOAD_BUSY"; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
    status = Write(DigestOf(bytes), bytes, 400).status;
  }
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ArtifactServiceTest, StoredBlobIsAnsweredEarly) {
  const std::string bytes = Pattern(30 << 20);
  ASSERT_TRUE(Write(DigestOf(bytes), bytes).status.ok());
  const WriteResult again = Write(DigestOf(bytes), bytes, 0, true, 1 << 20, "second");
  ASSERT_TRUE(again.status.ok()) << again.status;
  EXPECT_TRUE(again.response.complete());
  EXPECT_EQ(again.response.committed_size(), std::ssize(bytes));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr(absl::StrCat("quant_upload_bytes_total ", bytes.size())));  // once
}

TEST_F(ArtifactServiceTest, WrongBytesAreDropped) {
  const std::string bytes = Pattern(5000);
  std::string wrong = bytes;
  wrong[4000] ^= 1;
  const WriteResult result = Write(DigestOf(bytes), wrong);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(result.status), "BLOB_DIGEST_MISMATCH");
  EXPECT_EQ(Query(DigestOf(bytes)).committed_size(), 0);
  EXPECT_EQ(Read(DigestOf(bytes)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(Write(DigestOf(bytes), bytes + "more").status), "BLOB_DIGEST_MISMATCH");
  EXPECT_EQ(ReasonOf(Write(DigestOf(bytes), bytes.substr(1)).status), "BLOB_DIGEST_MISMATCH");
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_upload_digest_mismatch_total 3"));
  EXPECT_TRUE(Write(DigestOf(bytes), bytes).status.ok());
}

TEST_F(ArtifactServiceTest, MalformedStreamsAreRefused) {
  const std::string bytes = Pattern(100);
  EXPECT_EQ(Write({}, bytes).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Write(DigestOf(bytes), bytes, 0, true, 1 << 20, "../x").status.code(), absl::StatusCode::kInvalidArgument);
  const std::string large = Pattern((2 << 20) + 1);
  EXPECT_THAT(std::string(Write(DigestOf(large), large, 0, true, large.size()).status.message()), HasSubstr("2097152"));
  EXPECT_EQ(Read(DigestOf(bytes), -1).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Write(DigestOf(bytes), bytes).status.ok());
  EXPECT_EQ(Read(DigestOf(bytes), 101).status().code(), absl::StatusCode::kOutOfRange);
  grpc::ClientContext context;
  v1::WriteBlobResponse response;
  auto writer = stub_->WriteBlob(&context, &response);
  writer->WritesDone();
  EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// Both rpcs take their messages apart themselves.
TEST_F(ArtifactServiceTest, BytesThatAreNoMessageAreRefused) {
  const grpc::Slice truncated(std::string("\x22\x7f", 2));
  const grpc::Slice nothing(std::string("\x08"));
  grpc::GenericStub raw(channel_);
  for (const auto& [method, slice] : {std::pair{"WriteBlob", truncated}, std::pair{"ReadBlob", nothing}}) {
    grpc::ClientContext context;
    transfer_internal::RawCall call(&raw, absl::StrCat("/quant.v1.ArtifactService/", method), &context);
    EXPECT_TRUE(call.Write(grpc::ByteBuffer(&slice, 1)));
    call.WritesDone();
    grpc::ByteBuffer answer;
    EXPECT_FALSE(call.Read(&answer));
    const absl::Status status = call.End();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(StdView(status.message())), HasSubstr(absl::StrCat(method, "Request")));
  }
}

TEST_F(ArtifactServiceTest, SizesOfBlobMessagesAreCounted) {
  metrics_.EnableA66();
  const std::string bytes = Pattern(3'000'000);
  ASSERT_TRUE(Write(DigestOf(bytes), bytes).status.ok());
  ASSERT_EQ(Read(DigestOf(bytes)).value(), bytes);
  const std::string text = metrics_.Serialize();
  const auto sum = [&](const std::string& name) {
    const size_t at = text.find(absl::StrCat(name, "_total_compressed_message_size_bytes_sum{grpc_method=\"quant.v1.",
                                             "ArtifactService/", name.ends_with("rcvd") ? "WriteBlob" : "ReadBlob"));
    return at == std::string::npos ? 0.0 : std::stod(text.substr(text.find("} ", at) + 2));
  };
  EXPECT_THAT(sum("grpc_server_call_rcvd"), testing::AllOf(testing::Ge(3'000'000), testing::Le(3'001'000)));
  EXPECT_THAT(sum("grpc_server_call_sent"), testing::AllOf(testing::Ge(3'000'000), testing::Le(3'001'000)));
}

TEST_F(ArtifactServiceTest, GapInAStreamIsAnErrorAndKeepsWhatCameBefore) {
  const std::string bytes = Pattern(1000);
  grpc::ClientContext context;
  v1::WriteBlobResponse response;
  auto writer = stub_->WriteBlob(&context, &response);
  v1::WriteBlobRequest request;
  request.set_upload_id("up");
  *request.mutable_digest() = DigestOf(bytes);
  request.set_data(bytes.substr(0, 300));
  ASSERT_TRUE(writer->Write(request));
  request.Clear();
  request.set_write_offset(301);
  request.set_data("x");
  writer->Write(request);
  writer->WritesDone();
  EXPECT_EQ(ReasonOf(FromGrpc(writer->Finish())), "UPLOAD_OFFSET_MISMATCH");
  EXPECT_EQ(Query(DigestOf(bytes)).committed_size(), 300);
}

TEST_F(ArtifactServiceTest, FullDiskAndTooLargeBlobsAreReasonedErrors) {
  free_ = 100;
  const std::string bytes = Pattern(1000);
  const WriteResult full = Write(DigestOf(bytes), bytes);
  EXPECT_EQ(full.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full.status), "DISK_FULL");
  v1::Digest huge = DigestOf(bytes);
  huge.set_size_bytes(int64_t{1} << 40);
  EXPECT_EQ(ReasonOf(Write(huge, bytes).status), "BLOB_TOO_LARGE");
  const std::string text = metrics_.Serialize();
  EXPECT_THAT(text, HasSubstr("quant_quota_rejections_total{resource=\"disk\",tenant=\"default\"} 1"));
  EXPECT_THAT(text, HasSubstr("quant_quota_rejections_total{resource=\"blob_size\",tenant=\"default\"} 1"));
}

TEST_F(ArtifactServiceTest, HostileManifestsAreRefusedOverTheWire) {
  const std::string bytes = Pattern(10);
  ASSERT_TRUE(Write(DigestOf(bytes), bytes).status.ok());
  for (const char* path : {"/m.onnx", "../m.onnx", "a\\m.onnx", "a//m.onnx", ""}) {
    EXPECT_EQ(CreateModel("n", path, DigestOf(bytes)).status().code(), absl::StatusCode::kInvalidArgument) << path;
  }
  const auto missing = CreateModel("n", "m.onnx", DigestOf("never uploaded"));
  EXPECT_EQ(ReasonOf(missing.status()), "BLOB_MISSING");
}

// The first piece must not wait in the connection until something else is sent on it, as a ping every 30 s.
TEST_F(ArtifactServiceTest, APieceThatIsReadyLateIsSentAtOnce) {
  Stop();
  Start({.threads = 1});
  const std::string bytes = Pattern(3000);
  ASSERT_TRUE(Write(DigestOf(bytes), bytes).status.ok());
  slow_ms_ = 1000;
  // The one thread is busy with an upload on another connection, so that this one is silent when the piece is ready.
  grpc::ChannelArguments another;
  another.SetInt("another connection", 1);
  const auto channel = grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), another);
  const auto stub = v1::ArtifactService::NewStub(channel);
  const std::string other = Pattern(4000);
  grpc::ClientContext context;
  v1::WriteBlobResponse response;
  const auto writer = stub->WriteBlob(&context, &response);
  v1::WriteBlobRequest request;
  request.set_upload_id("slow");
  *request.mutable_digest() = DigestOf(other);
  request.set_data(other);
  ASSERT_TRUE(writer->Write(request));
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Time start = absl::Now();
  EXPECT_EQ(Read(DigestOf(bytes)).value(), bytes);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  context.TryCancel();
  writer->Finish();
}

TEST_F(ArtifactServiceTest, ManyUploadsAtOnce) {
  constexpr int kClients = 16;
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  clients.reserve(kClients);
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      const std::string bytes = absl::StrCat(i) + Pattern(3 << 20);
      if (Write(DigestOf(bytes), bytes, 0, true, 300'000, absl::StrCat("up", i)).status.ok() &&
          Read(DigestOf(bytes)).value_or("") == bytes) {
        ++good;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, kClients);
}

TEST_F(ArtifactServiceTest, StreamsAreBoundedAndStoppingIsTold) {
  Stop();
  Start({.max_streams = 1});
  const std::string bytes = Pattern(100);
  grpc::ClientContext context;
  v1::WriteBlobResponse response;
  auto open = stub_->WriteBlob(&context, &response);
  v1::WriteBlobRequest request;
  request.set_upload_id("up");
  *request.mutable_digest() = DigestOf(bytes);
  request.set_data(bytes.substr(0, 40));
  ASSERT_TRUE(open->Write(request));
  absl::SleepFor(absl::Milliseconds(300));  // the write takes the one place before the first read asks for it
  absl::Status busy;
  for (int i = 0; i < 5000 && busy.code() != absl::StatusCode::kUnavailable; ++i) busy = Read(DigestOf(bytes)).status();
  EXPECT_EQ(ReasonOf(busy), "SERVER_BUSY");
  EXPECT_GT(RetryAfterOf(busy), absl::ZeroDuration());
  service_->Shutdown();
  request.Clear();
  request.set_write_offset(40);
  request.set_data(bytes.substr(40, 10));
  open->Write(request);
  open->WritesDone();
  const absl::Status stopped = FromGrpc(open->Finish());
  EXPECT_EQ(stopped.code(), absl::StatusCode::kUnavailable) << stopped;
  Stop();
  Start({});
  EXPECT_EQ(Query(DigestOf(bytes)).committed_size(), 40);
}

}  // namespace
}  // namespace quant
