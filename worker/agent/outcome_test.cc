// SPDX-License-Identifier: Apache-2.0
// The table of outcome.h on made-up results; supervisor_test.cc has real processes.
#include "worker/agent/outcome.h"

#include <string>

#include "common/strings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/v1/workers.pb.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

const absl::Status kNone = absl::NotFoundError("none");

v1::CompleteJobRequest Judge(const ChildResult& child, const absl::Status& status,
                             const v1::CompleteJobRequest& outcome, LeaseOrder order) {
  v1::CompleteJobRequest done;
  done.set_job_id("j-1");
  JudgeChild({.child = child, .outcome_status = status, .outcome = outcome, .order = order, .phase = "load"}, done);
  EXPECT_EQ(done.job_id(), "j-1");
  return done;
}

TEST(JudgeChild, SuccessWinsOverCancelAndRelease) {
  v1::CompleteJobRequest success;
  success.mutable_success();
  for (LeaseOrder order : {LeaseOrder::kContinue, LeaseOrder::kCancel, LeaseOrder::kRelease}) {
    EXPECT_TRUE(Judge({}, absl::OkStatus(), success, order).has_success());
  }
}

TEST(JudgeChild, AnOrderWinsOverEverythingElse) {
  v1::CompleteJobRequest failure;
  failure.mutable_failure()->set_reason("INTERNAL");
  const ChildResult killed{.stopped = StopCause::kMemory};
  EXPECT_TRUE(Judge(killed, kNone, {}, LeaseOrder::kCancel).has_cancelled());
  EXPECT_TRUE(Judge({}, absl::OkStatus(), failure, LeaseOrder::kCancel).has_cancelled());
  EXPECT_TRUE(Judge({}, absl::OkStatus(), failure, LeaseOrder::kRelease).has_released());
}

TEST(JudgeChild, AFailureIsMadeFitToSend) {
  v1::CompleteJobRequest failure;
  failure.mutable_failure()->set_reason("not a reason");
  failure.mutable_failure()->set_error_class(static_cast<v1::ErrorClass>(77));
  failure.mutable_failure()->set_message(std::string(10'000, 'm'));
  const v1::JobError error = Judge({}, absl::OkStatus(), failure, LeaseOrder::kContinue).failure();
  EXPECT_EQ(error.reason(), "INTERNAL");
  EXPECT_EQ(error.error_class(), v1::ERROR_CLASS_FINAL);
  EXPECT_EQ(error.message().size(), 4096u);
  EXPECT_EQ(error.phase(), "load");
}

TEST(JudgeChild, MessagesAreTextWhateverTheChildPrints) {
  ChildResult child{.exit = {.wait_status = 11}};
  for (int i = 0; i < 20'000; ++i) child.output_tail += static_cast<char>(i * 37);
  const v1::JobError error = Judge(child, kNone, {}, LeaseOrder::kContinue).failure();
  EXPECT_TRUE(IsValidUtf8(error.message()));
  EXPECT_LE(error.message().size(), 4096u);
}

TEST(JudgeChild, AKillThatWasNotOursSaysSo) {
  const v1::JobError error = Judge({.exit = {.wait_status = 9}}, kNone, {}, LeaseOrder::kContinue).failure();
  EXPECT_EQ(error.reason(), "CHILD_CRASHED");
  EXPECT_EQ(error.error_class(), v1::ERROR_CLASS_POISON);
  EXPECT_THAT(error.message(), HasSubstr("ran out of memory, or by hand"));
}

TEST(DescribeExit, NamesSignalAndStatus) {
  EXPECT_EQ(DescribeExit(11), "SIGSEGV (Segmentation fault)");
  EXPECT_EQ(DescribeExit(3 << 8), "exit status 3");
}

TEST(Labels, AreClosedSets) {
  v1::CompleteJobRequest done;
  EXPECT_EQ(OutcomeLabel(done), "lost");
  done.mutable_failure()->set_reason("TIMEOUT");
  EXPECT_EQ(OutcomeLabel(done), "failed");
  EXPECT_EQ(ReasonLabel(done), "TIMEOUT");
  done.mutable_failure()->set_reason("MADE_UP_BY_THE_CHILD");
  EXPECT_EQ(ReasonLabel(done), "other");
  done.mutable_success();
  EXPECT_EQ(OutcomeLabel(done), "succeeded");
  EXPECT_EQ(ReasonLabel(done), "");
}

}  // namespace
}  // namespace quant
