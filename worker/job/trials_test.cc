// SPDX-License-Identifier: Apache-2.0
#include "worker/job/trials.h"

#include <cmath>
#include <limits>

#include "absl/status/status_matchers.h"
#include "common/error_detail.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

using absl_testing::StatusIs;
using testing::ElementsAre;
using testing::HasSubstr;

quant::v1::Report ReportWith(std::initializer_list<std::tuple<const char*, double, double>> metrics) {
  quant::v1::Report report;
  for (const auto& [name, original, quantized] : metrics) {
    quant::v1::Metric* metric = report.add_metrics();
    metric->set_name(name);
    metric->set_original(original);
    metric->set_quantized(quantized);
  }
  return report;
}

TEST(LossOf, CountsInTheMetricsOwnWay) {
  const absl::StatusOr<Loss> top1 = LossOf(ReportWith({{"sqnr_db", 0, 3}, {"top5", 90, 10}, {"top1", 80.5, 80}}));
  ASSERT_TRUE(top1.ok());
  EXPECT_EQ(top1->metric.name(), "top1");
  EXPECT_DOUBLE_EQ(top1->drop, 0.5);
  EXPECT_DOUBLE_EQ(LossOf(ReportWith({{"perplexity", 10, 11}}))->drop, 11.0 / 10 - 1);
  EXPECT_DOUBLE_EQ(LossOf(ReportWith({{"sqnr_db", 0, 20}}))->drop, 0.1);
  EXPECT_LT(LossOf(ReportWith({{"top1", 80, 81}}))->drop, 0) << "better than the original";
}

TEST(LossOf, OfSeveralOutputsTheOneThatLosesMostCounts) {
  const absl::StatusOr<Loss> loss =
      LossOf(ReportWith({{"sqnr_db/a", 0, 40}, {"sqnr_db/b", 0, 20}, {"sqnr_db/c", 0, 30}}));
  ASSERT_TRUE(loss.ok());
  EXPECT_EQ(loss->metric.name(), "sqnr_db/b");
}

TEST(LossOf, WhatIsNoNumberIsNoUse) {
  for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(LossOf(ReportWith({{"perplexity", 10, bad}})),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("perplexity")));
  }
  EXPECT_THAT(LossOf(ReportWith({{"cosine", 0, 1}})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sqnr_db")));
}

TEST(MaxDrop, DefaultsByMetricAndTakesZero) {
  quant::v1::TuneSpec spec;
  EXPECT_EQ(MaxDrop(spec, "top1/out"), 1);
  EXPECT_EQ(MaxDrop(spec, "perplexity"), 0.05);
  spec.set_max_drop(0);
  EXPECT_EQ(MaxDrop(spec, "top1"), 0);
}

// Trials of an original of 1,000 bytes and 10 ms.
class JudgeTest : public testing::Test {
 protected:
  void Add(int64_t bytes, double drop, double p50_ms = 0) {
    quant::v1::Trial* trial = tuning_.add_trials();
    trial->mutable_size()->set_original_bytes(1000);
    trial->mutable_size()->set_quantized_bytes(bytes);
    trial->set_drop(drop);
    if (p50_ms > 0) {
      trial->mutable_latency()->mutable_original()->set_p50_ms(10);
      trial->mutable_latency()->mutable_quantized()->set_p50_ms(p50_ms);
    }
  }
  void AddError() { tuning_.add_trials()->set_error("no"); }
  int Chosen() {
    Judge(&tuning_);
    int chosen = -1;
    for (int i = 0; i < tuning_.trials_size(); ++i) {
      if (!tuning_.trials(i).chosen()) continue;
      EXPECT_EQ(chosen, -1) << "two are chosen";
      chosen = i;
    }
    return chosen;
  }
  std::vector<bool> Pareto() const {
    std::vector<bool> all;
    for (const quant::v1::Trial& trial : tuning_.trials()) all.push_back(trial.pareto());
    return all;
  }
  quant::v1::Tuning tuning_;
};

TEST_F(JudgeTest, TheSmallestThatKeepsTheLossIsChosen) {
  tuning_.set_max_drop(1);
  Add(500, 0.1);
  AddError();
  Add(250, 0.9);
  Add(200, 1.5);
  Add(300, 0.95);
  EXPECT_EQ(Chosen(), 2);
  EXPECT_TRUE(tuning_.met());
  EXPECT_THAT(Pareto(), ElementsAre(true, false, true, true, false));
  EXPECT_TRUE(tuning_.trials(0).within());
  EXPECT_FALSE(tuning_.trials(3).within());
  EXPECT_FALSE(tuning_.trials(1).within());
}

TEST_F(JudgeTest, SizesOfTheSamePercentCountAsEqual) {
  tuning_.set_max_drop(1);
  Add(251, 0.5);
  Add(259, 0.2);
  Add(261, 0.1);
  EXPECT_EQ(Chosen(), 1);
}

TEST_F(JudgeTest, WhereNoneKeepsTheLossTheLeastLossIsChosen) {
  tuning_.set_max_drop(0.1);
  Add(200, 3);
  Add(900, 0.2);
  EXPECT_EQ(Chosen(), 1);
  EXPECT_FALSE(tuning_.met());
}

TEST_F(JudgeTest, ForLatencyTheFastestIsChosenAndTheFrontIsOfLatency) {
  tuning_.set_max_drop(1);
  tuning_.set_objective(quant::v1::TUNE_OBJECTIVE_LATENCY);
  Add(200, 0.5, 8);
  Add(600, 0.9, 4);
  Add(100, 0.1);  // not measured
  EXPECT_EQ(Chosen(), 1);
  EXPECT_THAT(Pareto(), ElementsAre(true, true, true));
}

TEST_F(JudgeTest, EqualsAreBothOnTheFrontAndTheFirstIsChosen) {
  tuning_.set_max_drop(1);
  Add(200, 0.5);
  Add(200, 0.5);
  EXPECT_EQ(Chosen(), 0);
  EXPECT_THAT(Pareto(), ElementsAre(true, true));
}

TEST(TrialNames, SayWhatIsSetAndDiffer) {
  std::vector<quant::v1::Recipe> all(5);
  all[0].mutable_gptq()->mutable_grid()->set_bits(4);
  all[0].mutable_gptq()->mutable_grid()->set_group_size(128);
  all[1].mutable_static_int8()->set_skip_first(true);
  all[1].mutable_calibration()->set_observer(quant::v1::OBSERVER_MIN_MAX);
  all[2].mutable_dynamic();
  all[3].mutable_dynamic();
  all[4].mutable_nf4()->set_double_quantization(false);
  EXPECT_THAT(TrialNames(all), ElementsAre("gptq 4 bits g128", "static skip-first observer min-max", "dynamic",
                                           "dynamic (2)", "nf4 no-double-quantization"));
}

}  // namespace
}  // namespace quant
