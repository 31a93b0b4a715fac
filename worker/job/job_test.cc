// SPDX-License-Identifier: Apache-2.0
// Whole jobs in this process, on the example model.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/v1/workers.pb.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/graph/graph.h"
#include "worker/job/job_error.h"
#include "worker/job/job_main.h"
#include "worker/job/job_testing.h"
#include "worker/job/recipe.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class JobTest : public JobTestBase {
 protected:
  void SetUp() override {
    JobTestBase::SetUp();
    recipe()->mutable_static_int8();
    recipe()->mutable_calibration()->set_samples(32);
    recipe()->mutable_evaluation()->set_samples(64);
    recipe()->mutable_evaluation()->set_latency_runs(3);
  }

  quant::v1::Recipe* recipe() { return lease_.mutable_job()->mutable_spec()->mutable_quantize()->mutable_recipe(); }

  void ExpectFailure(const std::string& reason, const std::string& text) {
    const quant::v1::CompleteJobRequest outcome = RunJob();
    ASSERT_TRUE(outcome.has_failure()) << outcome.DebugString();
    EXPECT_EQ(outcome.failure().reason(), reason) << outcome.failure().message();
    EXPECT_THAT(outcome.failure().message(), HasSubstr(text));
    EXPECT_EQ(outcome.failure().error_class(), quant::v1::ERROR_CLASS_FINAL);
  }
};

TEST_F(JobTest, StaticQuantizationWritesTheSameBytesTwiceAndReportsThem) {
  const quant::v1::CompleteJobRequest first = RunJob();
  ASSERT_TRUE(first.has_success()) << first.DebugString();
  const quant::v1::Report& report = first.success().report();
  const std::string bytes = ReadFile(folder_ / "output" / "model.onnx");
  EXPECT_EQ(report.size().quantized_bytes(), static_cast<int64_t>(bytes.size()));
  EXPECT_LT(report.size().quantized_bytes(), report.size().original_bytes() / 2);
  EXPECT_GT(report.size().bits_per_weight(), 8);
  EXPECT_LT(report.size().bits_per_weight(), 10);
  ASSERT_GE(report.layers_size(), 10);
  for (const quant::v1::Layer& layer : report.layers()) {
    EXPECT_EQ(layer.method(), "static") << layer.name() << ": " << layer.fallback();
    EXPECT_GT(layer.sqnr_db(), 15) << layer.name();
    EXPECT_LT(layer.sqnr_db(), 80) << layer.name() << ": too good to be quantized";
  }
  ASSERT_EQ(report.metrics(0).name(), "top1");
  EXPECT_NEAR(report.metrics(0).delta(), 0, 5);
  EXPECT_EQ(report.metrics(0).samples(), 64);
  EXPECT_GT(report.latency().original().mean_ms(), 0);
  EXPECT_EQ(report.provenance().model_digest(), "model-digest");
  EXPECT_EQ(report.provenance().data_digests_size(), 2);
  EXPECT_EQ(report.provenance().recipe().calibration().bins(), 2048);

  ASSERT_TRUE(RunJob().has_success());
  EXPECT_EQ(ReadFile(folder_ / "output" / "model.onnx"), bytes);
}

TEST_F(JobTest, AnAttemptAfterCalibrationDoesNotCalibrateAgain) {
  ASSERT_TRUE(RunJob().has_success());
  const std::string bytes = ReadFile(folder_ / "output" / "model.onnx");
  // An attempt that fails in its export: something stands where the file is to go.
  fs::create_directories(folder_ / "resume");
  fs::remove_all(folder_ / "output");
  fs::create_directories(folder_ / "output/model.onnx/in the way");
  const JobLimits limits{.threads = 1, .resume_interval = absl::ZeroDuration()};
  ASSERT_EQ(RunJobMain(folder_, limits), 0);
  ASSERT_TRUE(fs::exists(folder_ / "resume/calibration"));
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  EXPECT_THAT(outcome.success().report().notes(),
              ::testing::Contains(HasSubstr("calibration went on after sample 32")));
  EXPECT_EQ(ReadFile(folder_ / "output" / "model.onnx"), bytes);
  EXPECT_FALSE(fs::exists(folder_ / "resume/calibration")) << "the job is done";
}

TEST_F(JobTest, AnAttemptKilledAfterItsEvaluationDoesNotEvaluateAgain) {
  ASSERT_TRUE(RunJob().has_success());  // writes lease.pb
  fs::create_directories(folder_ / "resume");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(RunJobMain(folder_, {.threads = 1, .resume_interval = absl::ZeroDuration()}));
  // What is kept stays until the benchmark, of a second at least, is over.
  const fs::path kept = folder_ / "resume/evaluation/model.safetensors";
  for (int i = 0; i < 60'000 && !fs::exists(kept); ++i) usleep(1000);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  ASSERT_TRUE(fs::exists(kept));
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  EXPECT_THAT(outcome.success().report().notes(),
              ::testing::Contains(HasSubstr("the evaluation went on after sample")));
  EXPECT_FALSE(fs::exists(kept)) << "the job is done";
}

TEST_F(JobTest, DynamicQuantizationNeedsNoCalibrationData) {
  recipe()->mutable_dynamic();
  lease_.clear_calibration_dataset();
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  EXPECT_NEAR(outcome.success().report().metrics(0).delta(), 0, 5);
  EXPECT_EQ(outcome.success().report().layers(0).method(), "dynamic");
}

TEST_F(JobTest, RulesLeaveLayersAloneAndTheReportSaysWhich) {
  quant::v1::LayerRule* rule = recipe()->add_rules();
  rule->set_op_type("Gemm");
  rule->set_skip(true);
  recipe()->mutable_static_int8()->set_skip_first(true);
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  int alone = 0;
  for (const quant::v1::Layer& layer : outcome.success().report().layers()) {
    if (layer.method() != "fp32") continue;
    ++alone;
    EXPECT_FALSE(layer.fallback().empty());
  }
  EXPECT_EQ(alone, 2);
}

TEST_F(JobTest, ATruncatedModelIsInvalid) {
  fs::resize_file(folder_ / "model" / "model.onnx", 1000);
  ExpectFailure("MODEL_INVALID", "model.onnx");
}

TEST_F(JobTest, UnknownOperatorsAreListedWithTheirNodes) {
  Graph graph = *ImportOnnx(folder_ / "model" / "model.onnx");
  graph.nodes[0].op_type = "QuantumConv";
  graph.nodes[0].domain = "example.com";
  graph.other_opsets["example.com"] = 1;
  ASSERT_TRUE(ExportOnnx(graph, folder_ / "model" / "model.onnx").ok());
  ExpectFailure("OPERATOR_UNSUPPORTED", "QuantumConv");
}

TEST_F(JobTest, DataOfAnotherShapeIsNamed) {
  fs::remove(folder_ / "calibration" / "images.npy");
  fs::remove(folder_ / "calibration" / "preprocess.json");
  // float32 [4, 3, 16, 16] for an input of 32 x 32.
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3, 16, 16), }";
  header.resize(117, ' ');
  header += '\n';
  std::string npy = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + std::string(4 * 3 * 16 * 16 * 4, '\0');
  std::ofstream(folder_ / "calibration" / "image.npy", std::ios::binary) << npy;
  ExpectFailure("DATA_MISMATCH", "16");
}

TEST_F(JobTest, StaticWithoutDataSaysWhatToDo) {
  lease_.clear_calibration_dataset();
  ExpectFailure("DATA_MISMATCH", "--calibration");
}

TEST_F(JobTest, MethodsThatAreNotBuiltSaySo) {
  recipe()->mutable_gptq();
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_failure());
  EXPECT_THAT(outcome.failure().message(), HasSubstr("gptq"));
}

TEST(ResolveRecipe, FillsEveryDefaultOfTheContract) {
  quant::v1::Recipe recipe;
  recipe.mutable_static_int8();
  const quant::v1::Recipe r = *ResolveRecipe(recipe);
  EXPECT_EQ(r.static_int8().weight_granularity(), quant::v1::GRANULARITY_PER_CHANNEL);
  EXPECT_EQ(r.static_int8().activation_symmetry(), quant::v1::SYMMETRY_ASYMMETRIC);
  EXPECT_EQ(r.static_int8().reduce_range(), quant::v1::REDUCE_RANGE_AUTO);
  EXPECT_EQ(r.calibration().observer(), quant::v1::OBSERVER_HISTOGRAM_MSE);
  EXPECT_EQ(r.calibration().percentile(), 99.99);
  EXPECT_EQ(r.evaluation().latency_runs(), 200);
  EXPECT_EQ(r.format(), quant::v1::EXPORT_FORMAT_ONNX);
}

TEST(ToJobError, RetriesOnlyWhatAnotherMachineMayCure) {
  EXPECT_EQ(ToJobError(absl::ResourceExhaustedError("x"), "load").error_class(), quant::v1::ERROR_CLASS_RETRYABLE);
  EXPECT_EQ(ToJobError(absl::InvalidArgumentError("x"), "load").error_class(), quant::v1::ERROR_CLASS_FINAL);
  EXPECT_EQ(ToJobError(WithJobReason(absl::InvalidArgumentError("x"), "MODEL_INVALID"), "load").reason(),
            "MODEL_INVALID");
}

}  // namespace
}  // namespace quant
