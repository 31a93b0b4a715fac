// SPDX-License-Identifier: Apache-2.0
// Who is next: tenants share worker time by weight, priorities age, quotas hold.
#include <map>
#include <string>

#include "server/auth/tenant_limits.h"
#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::absl_testing::IsOk;

class FairnessTest : public QueueTest {
 protected:
  FairnessTest() {
    options_.limits = &limits_;
    Restart();
  }
  v1::Job SubmitFor(const std::string& tenant, int priority = 3) {
    const std::string model = "m-" + tenant;
    catalog_.AddModel(model, v1::MODEL_FORMAT_ONNX, tenant);
    v1::SubmitJobRequest request;
    request.set_no_cache(true);
    request.mutable_spec()->set_priority(priority);
    v1::QuantizeSpec* spec = request.mutable_spec()->mutable_quantize();
    spec->set_model_id(model);
    spec->mutable_recipe()->mutable_dynamic();
    const auto job = queue_->Submit({.tenant = tenant, .name = "u", .role = Role::kUser}, request);
    EXPECT_THAT(job, IsOk());
    return job.value_or(v1::Job());
  }
  std::string TenantOf(const v1::Lease& lease) { return store_.Get(lease.job().id())->tenant; }
  void Finish(const std::string& worker, const v1::Lease& lease) {
    EXPECT_THAT(queue_->Complete(Failure(worker, lease, v1::ERROR_CLASS_FINAL)), IsOk());
  }

  LimitsTable limits_;
};

TEST_F(FairnessTest, ATenantWithAThousandJobsAndOneWithTenShareAWorkerEvenly) {
  for (int i = 0; i < 1000; ++i) SubmitFor("many");
  for (int i = 0; i < 10; ++i) SubmitFor("few");
  std::map<std::string, int> leases;
  for (int i = 0; i < 20; ++i) {
    const v1::Lease lease = Lease("w-1");
    ++leases[TenantOf(lease)];
    EXPECT_LE(std::abs(leases["many"] - leases["few"]), 1) << "after " << i + 1;
    clock_.Advance(absl::Minutes(1));
    Finish("w-1", lease);
  }
  EXPECT_EQ(TenantOf(Lease("w-1")), "many");  // who is alone has everything
}

TEST_F(FairnessTest, WorkersGivenAtOneInstantAreSharedToo) {
  for (int i = 0; i < 100; ++i) SubmitFor("many");
  for (int i = 0; i < 4; ++i) SubmitFor("few");
  std::map<std::string, int> leases;
  for (int i = 0; i < 8; ++i) ++leases[TenantOf(Lease("w-" + std::to_string(i)))];
  EXPECT_EQ(leases["many"], 4);
  EXPECT_EQ(leases["few"], 4);
}

TEST_F(FairnessTest, WhatIsSharedIsTimeNotJobs) {
  for (int i = 0; i < 100; ++i) {
    SubmitFor("long");
    SubmitFor("short");
  }
  std::map<std::string, absl::Duration> time;
  for (int i = 0; i < 110; ++i) {
    const v1::Lease lease = Lease("w-1");
    const std::string tenant = TenantOf(lease);
    const absl::Duration run = tenant == "long" ? absl::Minutes(10) : absl::Minutes(1);
    clock_.Advance(run);
    time[tenant] += run;
    Finish("w-1", lease);
  }
  const double ratio = absl::FDivDuration(time["long"], time["short"]);
  EXPECT_GT(ratio, 0.85);
  EXPECT_LT(ratio, 1.18);
}

TEST_F(FairnessTest, AWeightOfThreeGetsThreeTimesTheShare) {
  limits_.Set("gold", {.weight = 3});
  for (int i = 0; i < 60; ++i) {
    SubmitFor("gold");
    SubmitFor("plain");
  }
  std::map<std::string, int> leases;
  for (int i = 0; i < 40; ++i) {
    const v1::Lease lease = Lease("w-1");
    ++leases[TenantOf(lease)];
    clock_.Advance(absl::Minutes(1));
    Finish("w-1", lease);
  }
  EXPECT_NEAR(leases["gold"], 30, 1);
  EXPECT_NEAR(leases["plain"], 10, 1);
}

TEST_F(FairnessTest, IdlenessSavesNothingUp) {
  for (int i = 0; i < 100; ++i) SubmitFor("busy");
  SubmitFor("rare");
  for (int i = 0; i < 50; ++i) {
    const v1::Lease lease = Lease("w-1");
    clock_.Advance(absl::Minutes(1));
    Finish("w-1", lease);
  }
  for (int i = 0; i < 30; ++i) SubmitFor("rare");  // comes back after 49 minutes without a job
  std::map<std::string, int> leases;
  for (int i = 0; i < 20; ++i) {
    const v1::Lease lease = Lease("w-1");
    ++leases[TenantOf(lease)];
    clock_.Advance(absl::Minutes(1));
    Finish("w-1", lease);
  }
  EXPECT_NEAR(leases["rare"], 10, 1);
}

// A worker that is never free for it by priority alone: two jobs of priority 1 come for each that is done.
TEST_F(FairnessTest, AJobOfTheLowestPriorityRunsUnderAStreamOfTheHighest) {
  const v1::Job low = SubmitFor("acme", 5);
  const absl::Time submitted = clock_.Now();
  while (true) {
    SubmitFor("acme", 1);
    SubmitFor("acme", 1);
    const v1::Lease lease = Lease("w-1");
    const absl::Duration waited = clock_.Now() - submitted;
    if (lease.job().id() == low.id()) {
      // All of priority 1 that came in its first 4 * aging are before it: one in two of them was run by then.
      EXPECT_GT(waited, 4 * options_.aging);
      EXPECT_LT(waited, 8 * options_.aging + absl::Minutes(2));
      return;
    }
    ASSERT_LT(waited, absl::Hours(24)) << "starved";
    clock_.Advance(absl::Minutes(1));
    Finish("w-1", lease);
  }
}

TEST_F(FairnessTest, PrioritiesComeFirstAmongJobsOfTheSameTime) {
  const v1::Job low = SubmitFor("acme", 4);
  clock_.Advance(absl::Minutes(5));
  const v1::Job high = SubmitFor("acme", 2);
  EXPECT_EQ(Lease("w-1").job().id(), high.id());
  EXPECT_EQ(Lease("w-2").job().id(), low.id());
}

TEST_F(FairnessTest, AgeIsKeptOverARestartAndALostAttempt) {
  const v1::Job low = SubmitFor("acme", 5);
  clock_.Advance(4 * options_.aging + absl::Minutes(1));
  SubmitFor("acme", 1);
  Restart();
  const v1::Lease lease = Lease("w-1");
  EXPECT_EQ(lease.job().id(), low.id());
  v1::CompleteJobRequest release = End("w-1", lease);
  release.mutable_released();
  ASSERT_THAT(queue_->Complete(release), IsOk());
  EXPECT_EQ(Lease("w-1").job().id(), low.id());
}

TEST_F(FairnessTest, ATenantRunsNoMoreJobsThanItMayAndOthersGoOn) {
  limits_.Set("acme", {.max_running_jobs = 1});
  SubmitFor("acme");
  SubmitFor("acme");
  EXPECT_EQ(queue_->Demand(), 1);  // a second slot would not run the second job
  const v1::Lease first = Lease("w-1");
  EXPECT_TRUE(HasNoJob("w-2"));
  SubmitFor("zoo");
  EXPECT_EQ(queue_->Demand(), 2);
  EXPECT_EQ(TenantOf(Lease("w-2")), "zoo");
  const auto parked = Ask("w-3", absl::Minutes(1));
  EXPECT_EQ(parked->answers, 0);
  Finish("w-1", first);
  ASSERT_EQ(parked->answers, 1);
  EXPECT_EQ(TenantOf(parked->answer->lease()), "acme");
}

TEST_F(FairnessTest, ATenantQueuesNoMoreJobsThanItMay) {
  limits_.Set("acme", {.max_queued_jobs = 2});
  SubmitFor("acme");
  SubmitFor("acme");
  v1::SubmitJobRequest request;
  request.mutable_spec()->mutable_quantize()->set_model_id("m-acme");
  request.mutable_spec()->mutable_quantize()->mutable_recipe()->mutable_dynamic();
  const auto refused = queue_->Submit({.tenant = "acme", .name = "u", .role = Role::kUser}, request);
  EXPECT_THAT(refused, FailsWith(absl::StatusCode::kResourceExhausted, "QUOTA_EXCEEDED"));
  EXPECT_EQ(MetadataOf(refused.status(), "resource"), "queued_jobs");
  EXPECT_GT(RetryAfterOf(refused.status()), absl::ZeroDuration());
  SubmitFor("zoo");
  Lease("w-1");  // of one of them; a job that runs is not queued
  Lease("w-2");
  SubmitFor("acme");
  Advance(absl::Seconds(5));
  const std::string text = metrics_->Serialize();
  EXPECT_THAT(text, testing::HasSubstr("quant_quota_rejections_total{resource=\"queued_jobs\",tenant=\"acme\"} 1"));
  EXPECT_THAT(text, testing::HasSubstr("quant_tenant_quota_used_ratio{resource=\"queued_jobs\",tenant=\"acme\"} 1"));
}

}  // namespace
}  // namespace quant
