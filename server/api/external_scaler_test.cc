// SPDX-License-Identifier: Apache-2.0
// ExternalScaler over a real connection, as KEDA calls it, on a queue with a fake clock. Loopback, port 0.
#include "server/api/external_scaler.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "common/grpc_status.h"
#include "externalscaler/externalscaler.grpc.pb.h"
#include "server/auth/gate.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;
using ::absl_testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
namespace pb = ::externalscaler;

class ExternalScalerTest : public QueueTest {
 protected:
  ExternalScalerTest() {
    scaler_ = std::make_unique<ExternalScaler>(queue_.get(), absl::Milliseconds(5));
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(scaler_->service());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(InstallGate(&builder, {}));
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    server_ = builder.BuildAndStart();
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
    stub_ = pb::ExternalScaler::NewStub(channel_);
  }
  ~ExternalScalerTest() override {
    scaler_->Shutdown();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(10));
    server_->Wait();
  }

  using Metadata = std::map<std::string, std::string>;
  static pb::ScaledObjectRef Ref(const Metadata& metadata = {}) {
    pb::ScaledObjectRef ref;
    ref.set_name("worker");
    ref.set_namespace_("quant");
    ref.mutable_scalermetadata()->insert(metadata.begin(), metadata.end());
    return ref;
  }
  bool IsActive(const Metadata& metadata = {}) {
    grpc::ClientContext context;
    pb::IsActiveResponse response;
    EXPECT_THAT(FromGrpc(stub_->IsActive(&context, Ref(metadata), &response)), IsOk());
    return response.result();
  }
  absl::StatusOr<pb::MetricSpec> Spec(const Metadata& metadata) {
    grpc::ClientContext context;
    pb::GetMetricSpecResponse response;
    absl::Status status = FromGrpc(stub_->GetMetricSpec(&context, Ref(metadata), &response));
    if (!status.ok()) return status;
    EXPECT_EQ(response.metricspecs_size(), 1);
    return response.metricspecs(0);
  }
  absl::StatusOr<double> Metric(const std::string& name = "quantd-jobs") {
    grpc::ClientContext context;
    pb::GetMetricsRequest request;
    *request.mutable_scaledobjectref() = Ref();
    request.set_metricname(name);
    pb::GetMetricsResponse response;
    absl::Status status = FromGrpc(stub_->GetMetrics(&context, request, &response));
    if (!status.ok()) return status;
    EXPECT_EQ(response.metricvalues_size(), 1);
    EXPECT_EQ(response.metricvalues(0).metricname(), "quantd-jobs");
    EXPECT_EQ(static_cast<double>(response.metricvalues(0).metricvalue()), response.metricvalues(0).metricvaluefloat());
    return response.metricvalues(0).metricvaluefloat();
  }

  std::unique_ptr<ExternalScaler> scaler_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::ExternalScaler::Stub> stub_;
};

TEST_F(ExternalScalerTest, TheMetricIsJobsThatNeedASlotFromSubmitToTheEnd) {
  EXPECT_FALSE(IsActive());
  EXPECT_EQ(Metric().value(), 0);
  Submit();
  const v1::Job second = Submit();
  EXPECT_TRUE(IsActive());
  EXPECT_EQ(Metric().value(), 2);
  const v1::Lease lease = Lease("w-1");  // running counts: its worker is needed
  EXPECT_EQ(Metric().value(), 2);
  ASSERT_THAT(queue_->Complete(Failure("w-1", lease, v1::ERROR_CLASS_RETRYABLE)), IsOk());
  ASSERT_EQ(State(lease.job().id()), v1::JOB_STATE_RETRY_WAIT);  // it comes back in seconds
  EXPECT_EQ(Metric().value(), 2);
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), lease.job().id()), IsOk());
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), second.id()), IsOk());
  EXPECT_EQ(Metric().value(), 0);
  EXPECT_FALSE(IsActive());
}

TEST_F(ExternalScalerTest, AJobThatWaitsForTheSameWorkNeedsNoSlot) {
  v1::SubmitJobRequest same = Request();
  same.set_no_cache(false);
  Submit(same);
  Submit(same);  // attached to the first
  EXPECT_EQ(Metric().value(), 1);
}

TEST_F(ExternalScalerTest, TheTargetIsJobsOfAWholeWorker) {
  EXPECT_EQ(Spec({})->metricname(), "quantd-jobs");
  EXPECT_EQ(Spec({})->targetsizefloat(), 1);
  const auto spec = Spec({{"slotsPerWorker", "4"}, {"jobsPerSlot", "1.5"}, {"scalerAddress", "quantd:9000"}});
  EXPECT_EQ(spec->targetsizefloat(), 6);
  EXPECT_EQ(spec->targetsize(), 6);
  EXPECT_EQ(Spec({{"jobsPerSlot", "0.25"}})->targetsizefloat(), 0.25);
  EXPECT_EQ(Spec({{"jobsPerSlot", "0.25"}})->targetsize(), 1);  // 0 would be no target
}

TEST_F(ExternalScalerTest, WrongMetadataIsRefusedWithTheKeyAndItsRange) {
  using Code = absl::StatusCode;
  EXPECT_THAT(Spec({{"slotsPerWorkers", "4"}}),
              StatusIs(Code::kInvalidArgument, AllOf(HasSubstr("slotsPerWorkers"), HasSubstr("activationJobs"))));
  for (const char* value : {"", "0", "-1", "1.5", "1025", "x", "nan"}) {
    EXPECT_THAT(Spec({{"slotsPerWorker", value}}), StatusIs(Code::kInvalidArgument, HasSubstr("from 1 to 1024")))
        << value;
  }
  for (const char* value : {"0", "1001", "inf"}) {
    EXPECT_THAT(Spec({{"jobsPerSlot", value}}), StatusIs(Code::kInvalidArgument, HasSubstr("from 0.01 to 1000")));
  }
  EXPECT_THAT(Metric("other"), StatusIs(Code::kInvalidArgument, HasSubstr("quantd-jobs")));
  grpc::ClientContext context;
  pb::IsActiveResponse response;
  EXPECT_THAT(FromGrpc(stub_->IsActive(&context, pb::ScaledObjectRef(), &response)),
              StatusIs(Code::kInvalidArgument, HasSubstr("name is empty")));
}

TEST_F(ExternalScalerTest, FewJobsMayLeaveItInactive) {
  Submit();
  EXPECT_TRUE(IsActive());
  EXPECT_FALSE(IsActive({{"activationJobs", "1"}}));
  Submit();
  EXPECT_TRUE(IsActive({{"activationJobs", "1"}}));
}

TEST_F(ExternalScalerTest, AStreamTellsTheStateAtOnceAndEachChange) {
  grpc::ClientContext context;
  const auto stream = stub_->StreamIsActive(&context, Ref());
  pb::IsActiveResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_FALSE(response.result());
  const v1::Job job = Submit();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.result());
  const v1::Job other = Submit();  // no change: not told
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), job.id()), IsOk());
  ASSERT_THAT(queue_->Cancel(OpenPrincipal(), other.id()), IsOk());
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_FALSE(response.result());
  scaler_->Shutdown();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_THAT(FromGrpc(stream->Finish()), StatusIs(absl::StatusCode::kUnavailable));
  grpc::ClientContext late;
  EXPECT_THAT(FromGrpc(stub_->StreamIsActive(&late, Ref())->Finish()), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ExternalScalerTest, AListenerThatLeavesAndOneWithWrongMetadata) {
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    const auto stream = stub_->StreamIsActive(&context, Ref());
    pb::IsActiveResponse response;
    ASSERT_TRUE(stream->Read(&response));
    context.TryCancel();
    EXPECT_THAT(FromGrpc(stream->Finish()), StatusIs(absl::StatusCode::kCancelled));
  }
  grpc::ClientContext context;
  const auto stream = stub_->StreamIsActive(&context, Ref({{"typo", "1"}}));
  EXPECT_THAT(FromGrpc(stream->Finish()), StatusIs(absl::StatusCode::kInvalidArgument));
}

// Newer versions of KEDA ask for StreamMetricSpec too, and go on without it when they hear UNIMPLEMENTED.
TEST_F(ExternalScalerTest, ARpcThatItDoesNotHaveIsUnimplemented) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice("");
  const auto call = stub.PrepareUnaryCall(&context, "/externalscaler.ExternalScaler/StreamMetricSpec",
                                          grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

}  // namespace
}  // namespace quant
