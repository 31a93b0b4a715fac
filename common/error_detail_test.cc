// SPDX-License-Identifier: Apache-2.0
#include "common/error_detail.h"

#include <gtest/gtest.h>

#include <string>

#include "common/grpc_status.h"
#include "common/strings.h"

namespace quant {
namespace {

TEST(ErrorDetail, ReasonMetadataAndRetryComeBack) {
  const absl::Status status = WithReason(absl::ResourceExhaustedError("queue is full"), "QUEUE_FULL",
                                         {{"limit", "1000"}}, absl::Milliseconds(1500));
  EXPECT_EQ(status.message(), "queue is full");
  EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  EXPECT_EQ(MetadataOf(status, "limit"), "1000");
  EXPECT_EQ(MetadataOf(status, "other"), "");
  EXPECT_EQ(RetryAfterOf(status), absl::Milliseconds(1500));
}

TEST(ErrorDetail, OkAndPlainStatusesHaveNone) {
  EXPECT_TRUE(WithReason(absl::OkStatus(), "X").ok());
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
  EXPECT_EQ(ReasonOf(absl::NotFoundError("x")), "");
  EXPECT_EQ(RetryAfterOf(absl::NotFoundError("x")), absl::ZeroDuration());
}

TEST(ErrorDetail, GarbagePayloadIsNoDetail) {
  absl::Status status = absl::InternalError("x");
  status.SetPayload(kErrorDetailUrl, absl::Cord("\xff\xff\xff"));
  EXPECT_EQ(ReasonOf(status), "");
}

TEST(ErrorDetail, MetadataThatIsNotUtf8IsEscaped) {
  const absl::Status status = WithReason(absl::InternalError("x"), "R", {{"path", "a\xff"}});
  EXPECT_EQ(MetadataOf(status, "path"), "\"a\\xff\"");
}

TEST(GrpcStatus, EveryCodeSurvivesTheRoundTrip) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status) << code;
  }
}

TEST(GrpcStatus, CarriesTheDetail) {
  const absl::Status status =
      WithReason(absl::OutOfRangeError("offset"), "UPLOAD_OFFSET_MISMATCH", {{"committed", "7"}});
  const absl::Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back, status);
  EXPECT_EQ(ReasonOf(back), "UPLOAD_OFFSET_MISMATCH");
  EXPECT_EQ(MetadataOf(back, "committed"), "7");
}

TEST(GrpcStatus, UnknownCodesAndHostileMessagesAreTamed) {
  EXPECT_EQ(FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(99), "x")).code(), absl::StatusCode::kUnknown);
  const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, std::string(100000, '\xff')));
  EXPECT_LT(status.message().size(), 20000u);
  EXPECT_TRUE(IsValidUtf8(StdView(status.message())));
}

}  // namespace
}  // namespace quant
