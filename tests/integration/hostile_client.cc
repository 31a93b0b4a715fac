// SPDX-License-Identifier: Apache-2.0
// Calls that no client of ours makes, against the quantd at $QUANT_SERVER (bad_input_test.py starts it): each must be
// refused with the code and reason that the contract names, and leave nothing behind.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/status_matchers.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "quant/v1/artifacts.grpc.pb.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/workers.grpc.pb.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using testing::AnyOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class HostileClient : public testing::Test {
 protected:
  void SetUp() override {
    const char* server = std::getenv("QUANT_SERVER");
    if (server == nullptr) GTEST_SKIP() << "QUANT_SERVER is not set: bad_input_test.py runs this";
    const auto channel = grpc::CreateChannel(server, grpc::InsecureChannelCredentials());
    artifacts_ = v1::ArtifactService::NewStub(channel);
    jobs_ = v1::JobService::NewStub(channel);
    workers_ = v1::WorkerService::NewStub(channel);
  }

  static void Limit(grpc::ClientContext& context) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  }

  // One unary call.
  template <typename Stub, typename Request, typename Response>
  static absl::Status Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                           const Request& request, Response* response) {
    grpc::ClientContext context;
    Limit(context);
    return FromGrpc((stub.*method)(&context, request, response));
  }

  // An upload in the given messages.
  absl::Status Write(const std::vector<v1::WriteBlobRequest>& messages, v1::WriteBlobResponse* response) {
    grpc::ClientContext context;
    Limit(context);
    auto stream = artifacts_->WriteBlob(&context, response);
    for (const v1::WriteBlobRequest& m : messages) {
      if (!stream->Write(m)) break;
    }
    stream->WritesDone();
    return FromGrpc(stream->Finish());
  }
  absl::Status Write(const v1::WriteBlobRequest& message) {
    v1::WriteBlobResponse response;
    return Write(std::vector<v1::WriteBlobRequest>{message}, &response);
  }

  static v1::Digest DigestOf(std::string_view bytes) {
    v1::Digest digest;
    digest.set_sha256(Sha256Hex(bytes));
    digest.set_size_bytes(static_cast<int64_t>(bytes.size()));
    return digest;
  }
  // A whole upload in one message.
  static v1::WriteBlobRequest Upload(std::string_view id, const v1::Digest& digest, std::string_view data) {
    v1::WriteBlobRequest m;
    m.set_upload_id(std::string(id));
    *m.mutable_digest() = digest;
    m.set_data(std::string(data));
    m.set_finish_write(true);
    return m;
  }
  bool IsMissing(const v1::Digest& digest) {
    v1::FindMissingBlobsRequest request;
    *request.add_digests() = digest;
    v1::FindMissingBlobsResponse response;
    EXPECT_THAT(Call(*artifacts_, &v1::ArtifactService::Stub::FindMissingBlobs, request, &response), IsOk());
    return response.missing_size() == 1;
  }
  int64_t Committed(std::string_view id, const v1::Digest& digest) {
    v1::QueryWriteStatusRequest request;
    request.set_upload_id(std::string(id));
    *request.mutable_digest() = digest;
    v1::QueryWriteStatusResponse response;
    EXPECT_THAT(Call(*artifacts_, &v1::ArtifactService::Stub::QueryWriteStatus, request, &response), IsOk());
    return response.committed_size();
  }
  // CreateModel of one file.
  absl::Status CreateModel(std::string_view path, const v1::Digest& digest) {
    v1::CreateModelRequest request;
    v1::File& file = *request.add_files();
    file.set_path(std::string(path));
    *file.mutable_digest() = digest;
    v1::CreateModelResponse response;
    return Call(*artifacts_, &v1::ArtifactService::Stub::CreateModel, request, &response);
  }

  std::unique_ptr<v1::ArtifactService::Stub> artifacts_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::WorkerService::Stub> workers_;
};

TEST_F(HostileClient, BytesThatDoNotHashToTheirDigestAreRefusedAndDropped) {
  const v1::Digest digest = DigestOf("what was promised");
  const absl::Status status = Write(Upload("wrong-digest", digest, "what was deliver!"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(digest.sha256())));
  EXPECT_EQ(ReasonOf(status), "BLOB_DIGEST_MISMATCH");
  EXPECT_TRUE(IsMissing(digest));
  EXPECT_EQ(Committed("wrong-digest", digest), 0);
  EXPECT_THAT(Write(Upload("wrong-digest", digest, "what was promised")), IsOk()) << "the right bytes afterwards";
  EXPECT_FALSE(IsMissing(digest));
}

TEST_F(HostileClient, MoreOrFewerBytesThanDeclaredAreRefused) {
  const v1::Digest digest = DigestOf("exactly so long");
  for (const char* bytes : {"exactly so", "exactly so long, and then some"}) {
    const absl::Status status = Write(Upload("wrong-size", digest, bytes));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument)) << bytes;
    EXPECT_EQ(ReasonOf(status), "BLOB_DIGEST_MISMATCH") << bytes;
  }
  EXPECT_TRUE(IsMissing(digest));
}

TEST_F(HostileClient, AWriteAtAnotherOffsetIsRefusedAndWhatWasThereStays) {
  const v1::Digest digest = DigestOf("0123456789");
  v1::WriteBlobRequest part = Upload("offsets", digest, "0123");
  part.set_finish_write(false);
  EXPECT_THAT(Write(part), IsOk());
  EXPECT_EQ(Committed("offsets", digest), 4);
  for (int64_t offset : {int64_t{0}, int64_t{3}, int64_t{5}, int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    v1::WriteBlobRequest rest = Upload("offsets", digest, "456789");
    rest.set_write_offset(offset);
    const absl::Status status = Write(rest);
    EXPECT_THAT(status, StatusIs(AnyOf(absl::StatusCode::kOutOfRange, absl::StatusCode::kInvalidArgument))) << offset;
    if (offset >= 0) {
      EXPECT_EQ(ReasonOf(status), "UPLOAD_OFFSET_MISMATCH") << offset;
    }
    EXPECT_EQ(Committed("offsets", digest), 4) << offset;
  }
  v1::WriteBlobRequest rest = Upload("offsets", digest, "456789");
  rest.set_write_offset(4);
  EXPECT_THAT(Write(rest), IsOk());
  EXPECT_FALSE(IsMissing(digest));
}

TEST_F(HostileClient, ADeclaredSizeBeyondTheDiskIsRefusedBeforeAnythingIsWritten) {
  v1::Digest digest = DigestOf("small");
  digest.set_size_bytes(int64_t{1} << 60);
  const absl::Status status = Write(Upload("huge", digest, "small"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(ReasonOf(status), AnyOf("DISK_FULL", "BLOB_TOO_LARGE"));
  EXPECT_EQ(Committed("huge", digest), 0);
}

TEST_F(HostileClient, MalformedNamesOfBlobsAndUploadsAreRefused) {
  const v1::Digest good = DigestOf("x");
  for (const char* id : {"", "../../etc/cron.d/x", "a/b", "with blank", "\x01"}) {
    EXPECT_THAT(Write(Upload(id, good, "x")), StatusIs(absl::StatusCode::kInvalidArgument)) << id;
  }
  EXPECT_THAT(Write(Upload(std::string(65, 'a'), good, "x")), StatusIs(absl::StatusCode::kInvalidArgument));
  for (const std::string& sha : {std::string(), std::string("abc"), std::string(64, 'G'), std::string(64, 'A'),
                                 "../../../../" + std::string(52, 'a')}) {
    v1::Digest bad = good;
    bad.set_sha256(sha);
    EXPECT_THAT(Write(Upload("names", bad, "x")), StatusIs(absl::StatusCode::kInvalidArgument)) << sha;
    v1::ReadBlobRequest read;
    *read.mutable_digest() = bad;
    grpc::ClientContext context;
    Limit(context);
    auto stream = artifacts_->ReadBlob(&context, read);
    v1::ReadBlobResponse piece;
    EXPECT_FALSE(stream->Read(&piece)) << sha;
    EXPECT_THAT(FromGrpc(stream->Finish()),
                StatusIs(AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kNotFound)))
        << sha;
  }
  v1::Digest negative = good;
  negative.set_size_bytes(-1);
  EXPECT_THAT(Write(Upload("names", negative, "x")), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(HostileClient, AMessageBeyondTheLimitIsRefused) {
  const std::string bytes(size_t{8} << 20, 'x');
  EXPECT_THAT(Write(Upload("large-message", DigestOf(bytes), bytes)),
              StatusIs(AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kResourceExhausted)));
}

TEST_F(HostileClient, AStreamWithoutAFirstMessageIsRefused) {
  v1::WriteBlobResponse response;
  EXPECT_THAT(Write({}, &response), StatusIs(absl::StatusCode::kInvalidArgument));
  v1::WriteBlobRequest nameless;
  nameless.set_data("x");
  EXPECT_THAT(Write(nameless), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(HostileClient, PathsThatLeaveTheFolderAreRefused) {
  const v1::Digest digest = DigestOf("a blob for paths");
  EXPECT_THAT(Write(Upload("paths", digest, "a blob for paths")), IsOk());
  for (const std::string& path :
       {std::string("../model.onnx"), std::string("/etc/model.onnx"), std::string("a/../../model.onnx"),
        std::string("a/./model.onnx"), std::string("a//model.onnx"), std::string("a\\model.onnx"),
        std::string("a\x1b[31m.onnx"), std::string("a\n.onnx"), std::string("a\0.onnx", 7), std::string(""),
        std::string(600, 'a') + ".onnx"}) {
    EXPECT_THAT(CreateModel(path, digest), StatusIs(absl::StatusCode::kInvalidArgument))
        << testing::PrintToString(path);
  }
  // No string of protobuf: gRPC itself cannot read the request.
  EXPECT_THAT(CreateModel("\xff\xfe.onnx", digest), Not(IsOk()));
  EXPECT_THAT(CreateModel("model.onnx", digest), IsOk());
}

TEST_F(HostileClient, ModelsOfMissingBlobsOrOfNoFilesAreRefused) {
  const absl::Status missing = CreateModel("model.onnx", DigestOf("never uploaded"));
  EXPECT_THAT(missing, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReasonOf(missing), "BLOB_MISSING");
  v1::CreateModelResponse response;
  EXPECT_THAT(Call(*artifacts_, &v1::ArtifactService::Stub::CreateModel, v1::CreateModelRequest(), &response),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(HostileClient, ReadsOutsideABlobAreRefused) {
  const v1::Digest digest = DigestOf("ten bytes.");
  EXPECT_THAT(Write(Upload("reads", digest, "ten bytes.")), IsOk());
  const auto read = [&](int64_t offset, int64_t limit) {
    v1::ReadBlobRequest request;
    *request.mutable_digest() = digest;
    request.set_read_offset(offset);
    request.set_read_limit(limit);
    grpc::ClientContext context;
    Limit(context);
    auto stream = artifacts_->ReadBlob(&context, request);
    std::string bytes;
    for (v1::ReadBlobResponse piece; stream->Read(&piece);) bytes += piece.data();
    const absl::Status status = FromGrpc(stream->Finish());
    return status.ok() ? absl::StatusOr<std::string>(bytes) : absl::StatusOr<std::string>(status);
  };
  EXPECT_THAT(read(4, 3), absl_testing::IsOkAndHolds("byt"));
  EXPECT_THAT(read(10, 0), absl_testing::IsOkAndHolds(""));
  EXPECT_THAT(read(11, 0), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(read(-1, 0), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(read(0, -1), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(read(5, std::numeric_limits<int64_t>::max()), absl_testing::IsOkAndHolds("ytes."));
}

TEST_F(HostileClient, JobsThatCannotBeAreRefused) {
  v1::SubmitJobRequest request;
  v1::SubmitJobResponse response;
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::SubmitJob, request, &response),
              StatusIs(absl::StatusCode::kInvalidArgument));
  request.mutable_spec()->mutable_benchmark()->set_model_id("m-0000000000000000");
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::SubmitJob, request, &response),
              StatusIs(absl::StatusCode::kNotFound));
  request.mutable_spec()->mutable_benchmark()->set_model_id("'; DROP TABLE jobs; --");
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::SubmitJob, request, &response),
              StatusIs(AnyOf(absl::StatusCode::kNotFound, absl::StatusCode::kInvalidArgument)));
  v1::ListJobsRequest list;
  v1::ListJobsResponse page;
  list.set_page_size(-1);
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::ListJobs, list, &page), StatusIs(absl::StatusCode::kInvalidArgument));
  list.set_page_size(10);
  list.set_page_token("not a token");
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::ListJobs, list, &page), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(HostileClient, AWorkerCannotWriteWithoutALease) {
  v1::LeaseJobResponse lease;
  EXPECT_THAT(Call(*workers_, &v1::WorkerService::Stub::LeaseJob, v1::LeaseJobRequest(), &lease),
              StatusIs(absl::StatusCode::kInvalidArgument));
  v1::CompleteJobRequest complete;
  complete.set_worker_id("nobody");
  complete.set_job_id("j-0000000000000000");
  complete.set_token(1);
  v1::CompleteJobResponse completed;
  EXPECT_THAT(Call(*workers_, &v1::WorkerService::Stub::CompleteJob, complete, &completed),
              StatusIs(absl::StatusCode::kInvalidArgument))
      << "no outcome";
  complete.mutable_success();
  const absl::Status stale = Call(*workers_, &v1::WorkerService::Stub::CompleteJob, complete, &completed);
  EXPECT_THAT(stale, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReasonOf(stale), "LEASE_STALE");
  v1::HeartbeatRequest beat;
  v1::HeartbeatResponse answer;
  EXPECT_THAT(Call(*workers_, &v1::WorkerService::Stub::Heartbeat, beat, &answer),
              StatusIs(absl::StatusCode::kInvalidArgument));
  beat.mutable_worker()->set_id("nobody");
  beat.mutable_worker()->set_slots(1);
  v1::LeaseProgress& progress = *beat.add_leases();
  progress.set_job_id("j-0000000000000000");
  progress.set_token(1);
  ASSERT_THAT(Call(*workers_, &v1::WorkerService::Stub::Heartbeat, beat, &answer), IsOk());
  ASSERT_EQ(answer.instructions_size(), 1);
  EXPECT_EQ(answer.instructions(0).command(), v1::LEASE_COMMAND_LEASE_LOST);
}

}  // namespace
}  // namespace quant
