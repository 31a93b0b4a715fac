// SPDX-License-Identifier: Apache-2.0
#include "server/queue/model_board.h"

#include "server/queue/queue_test_base.h"

namespace quant {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ModelBoardTest : public QueueTest {
 protected:
  // A job that succeeded with this top-1, in percent, of 80.
  std::string Run(double top1, const std::string& blob, const v1::SubmitJobRequest& what = Request()) {
    const v1::Job job = Submit(what);
    const v1::Lease lease = Lease("w");
    v1::CompleteJobRequest request = Success("w", lease, blob);
    v1::Report* report = request.mutable_success()->mutable_report();
    report->mutable_size()->set_quantized_bytes(250);
    v1::Metric* metric = report->add_metrics();
    metric->set_name("top1");
    metric->set_original(80);
    metric->set_quantized(top1);
    report->mutable_latency()->mutable_original()->set_p50_ms(10);
    report->mutable_latency()->mutable_quantized()->set_p50_ms(4);
    EXPECT_THAT(queue_->Complete(request), absl_testing::IsOk());
    queue_->Tick();
    return job.id();
  }
  std::string Text() const { return metrics_->Serialize(); }
};

constexpr char kInt8[] = R"(dataset="unnamed",method="static",)";

TEST_F(ModelBoardTest, ShowsTheNewestMeasurementAndForgetsWithTheJob) {
  const std::string first = Run(76, "b1");
  EXPECT_THAT(Text(), HasSubstr("quant_model_accuracy{" + std::string(kInt8) +
                                R"(metric="top1",model="name_of_m-1",variant="int8"} 0.76)"));
  EXPECT_THAT(Text(), HasSubstr(R"(metric="top1",model="name_of_m-1",variant="fp32"} 0.8)"));
  EXPECT_THAT(Text(), HasSubstr(R"(model="name_of_m-1",variant="int8"} 2.5)"));  // the speed-up
  EXPECT_THAT(Text(), HasSubstr(R"(model="name_of_m-1",variant="int8"} 250)"));  // the size
  const std::string second = Run(40, "b2");
  EXPECT_THAT(Text(), HasSubstr(R"(metric="top1",model="name_of_m-1",variant="int8"} 0.4)"));
  EXPECT_THAT(Text(), HasSubstr("quant_model_accuracy_drop_ratio{" + std::string(kInt8) +
                                R"(metric="top1",model="name_of_m-1",variant="int8"} 0.5)"));

  metrics_ = std::make_unique<ServerMetrics>();
  Restart();
  queue_->Tick();
  EXPECT_THAT(Text(), HasSubstr(R"(metric="top1",model="name_of_m-1",variant="int8"} 0.4)"))
      << "rebuilt from the store";

  ASSERT_THAT(queue_->Delete(OpenPrincipal(), second), absl_testing::IsOk());
  queue_->Tick();
  EXPECT_THAT(Text(), HasSubstr(R"(metric="top1",model="name_of_m-1",variant="int8"} 0.76)"));
  catalog_.RemoveModel(Get(first).result_model_id());
  Advance(absl::Seconds(31));
  EXPECT_THAT(Text(), Not(HasSubstr("quant_model_accuracy{")));
  EXPECT_THAT(Text(), Not(HasSubstr("quant_model_info{")));
}

TEST_F(ModelBoardTest, ShowsWhatATuneJobChose) {
  Run(76, "b1");
  v1::SubmitJobRequest tune;
  tune.mutable_spec()->mutable_tune()->set_model_id("m-1");
  tune.mutable_spec()->mutable_tune()->set_evaluation_dataset_id("d-1");
  tune.mutable_spec()->mutable_tune()->add_candidates()->mutable_dynamic();
  Run(60, "b2", tune);
  EXPECT_THAT(Text(), HasSubstr(R"(metric="top1",model="name_of_m-1",variant="int8"} 0.76)"));
  EXPECT_THAT(Text(), HasSubstr(R"(metric="top1",model="name_of_m-1",variant="int8"} 0.6)"));
}

TEST_F(ModelBoardTest, StuckJobsAndPhasesAreTold) {
  Submit();
  const v1::Lease lease = Lease("w");
  v1::Progress progress;
  progress.set_phase("calibrate");
  progress.set_fraction(0.25);
  for (int beat = 0; beat < 3; ++beat) {
    Beat("w", lease, progress);
    Advance(absl::Seconds(1));
  }
  EXPECT_THAT(Text(), HasSubstr(R"(quant_jobs_running{phase="calibrate"} 1)"));
  EXPECT_THAT(Text(), HasSubstr(R"(quant_worker_progress_age_seconds{worker="w"} 3)")) << "heartbeats alone are none";
  progress.set_fraction(0.5);
  Beat("w", lease, progress);
  Advance(absl::Seconds(1));
  EXPECT_THAT(Text(), HasSubstr(R"(quant_worker_progress_age_seconds{worker="w"} 1)"));
  EXPECT_THAT(queue_->Complete(Success("w", lease)), absl_testing::IsOk());
  Advance(absl::Seconds(1));
  EXPECT_THAT(Text(), HasSubstr(R"(quant_jobs_running{phase="calibrate"} 0)"));
  EXPECT_THAT(Text(), HasSubstr(R"(quant_worker_progress_age_seconds{worker="w"} 0)"));
}

TEST(ModelBoard, AliasesAreShortAndPlain) {
  EXPECT_EQ(AliasOf("default", "resnet50 \"v2\"\n"), "resnet50__v2__");
  EXPECT_EQ(AliasOf("acme", "tiny"), "acme/tiny");
  EXPECT_EQ(AliasOf("default", ""), "unnamed");
  EXPECT_EQ(AliasOf("default", std::string(500, 'x')).size(), 48u);
}

TEST(ModelBoard, SamplesOfALanguageModel) {
  v1::JobSpec spec;
  spec.mutable_quantize()->mutable_recipe()->mutable_gptq();
  v1::Report report;
  report.mutable_provenance()->mutable_recipe()->mutable_gptq()->mutable_grid()->set_bits(3);
  report.mutable_provenance()->mutable_recipe()->set_format(v1::EXPORT_FORMAT_GGUF);
  v1::Metric* perplexity = report.add_metrics();
  perplexity->set_name("perplexity");
  perplexity->set_original(10);
  perplexity->set_quantized(11);
  v1::Metric* same = report.add_metrics();
  same->set_name("same_top");
  same->set_original(100);
  same->set_quantized(90);
  const auto [original, variant] = SamplesOf(spec, report);
  EXPECT_EQ(variant.variant, "w3");
  EXPECT_EQ(variant.method, "gptq");
  EXPECT_EQ(variant.format, "gguf");
  EXPECT_NEAR(variant.drop.at("perplexity"), 0.1, 1e-12);
  EXPECT_EQ(variant.drop.count("same_top"), 0u);
  EXPECT_NEAR(variant.accuracy.at("same_top"), 0.9, 1e-12);
  EXPECT_EQ(original.accuracy.count("same_top"), 0u);
  EXPECT_EQ(original.accuracy.at("perplexity"), 10);
  EXPECT_TRUE(variant.latency.empty());
  EXPECT_EQ(variant.speedup, 0);

  report.mutable_throughput()->set_original(100);
  report.mutable_throughput()->set_quantized(150);
  EXPECT_EQ(SamplesOf(spec, report).second.speedup, 1.5) << "the file has no key/value cache: no time per token";
}

}  // namespace
}  // namespace quant
