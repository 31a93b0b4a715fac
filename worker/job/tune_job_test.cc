// SPDX-License-Identifier: Apache-2.0
// Whole tune jobs in this process, on the example models.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/job_main.h"
#include "worker/job/job_testing.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;

class TuneJobTest : public JobTestBase {
 protected:
  void SetUp() override {
    JobTestBase::SetUp();
    fs::create_directories(folder_ / "resume");
    quant::v1::TuneSpec* tune = spec();
    tune->mutable_calibration()->set_samples(32);
    tune->mutable_evaluation()->set_samples(64);
    tune->mutable_evaluation()->set_latency_runs(-1);
    tune->mutable_evaluation()->set_skip_error_profile(true);
    tune->set_max_drop(5);
  }

  quant::v1::TuneSpec* spec() { return lease_.mutable_job()->mutable_spec()->mutable_tune(); }

  // Runs the job in a process that is killed once `enough()`.
  template <typename Predicate>
  void KillOnce(Predicate enough) {
    Prepare();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(RunJobMain(folder_, {.threads = 1}));
    for (int i = 0; i < 60'000 && !enough(); ++i) usleep(1000);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    ASSERT_TRUE(enough());
  }
  void KillAfter(int candidates) {
    KillOnce([&] { return Finished() >= candidates; });
  }
  // The folder of a candidate that is in work; empty before.
  fs::path InWork() const {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder_ / "resume/tune", error)) {
      if (fs::exists(entry.path() / "attempts", error)) return entry.path();
    }
    return {};
  }
  int Finished() const {
    int count = 0;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder_ / "resume/tune", error)) {
      count += fs::exists(entry.path() / "done/model.safetensors", error) ? 1 : 0;
    }
    return count;
  }
};

const quant::v1::Trial* ChosenOf(const quant::v1::Report& report) {
  for (const quant::v1::Trial& trial : report.tuning().trials()) {
    if (trial.chosen()) return &trial;
  }
  return nullptr;
}

TEST_F(TuneJobTest, TriesTheStandardCandidatesAndMakesTheBest) {
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  const quant::v1::Report& report = outcome.success().report();
  ASSERT_EQ(report.tuning().trials_size(), 5);
  EXPECT_TRUE(report.tuning().met());
  EXPECT_EQ(report.tuning().objective(), quant::v1::TUNE_OBJECTIVE_SIZE);
  EXPECT_EQ(report.tuning().max_drop(), 5);
  for (const quant::v1::Trial& trial : report.tuning().trials()) {
    EXPECT_EQ(trial.error(), "") << trial.name();
    EXPECT_EQ(trial.metric().name(), "top1") << trial.name();
    EXPECT_EQ(trial.metric().samples(), 64) << trial.name();
    EXPECT_NEAR(trial.drop(), -trial.metric().delta(), 1e-9) << trial.name();
    EXPECT_GT(trial.size().quantized_bytes(), 0) << trial.name();
    EXPECT_GT(trial.seconds(), 0) << trial.name();
    EXPECT_EQ(trial.recipe().calibration().samples(), 32) << trial.name() << ": also with an observer of its own";
  }
  EXPECT_EQ(report.tuning().trials(2).recipe().calibration().observer(), quant::v1::OBSERVER_ENTROPY);
  const quant::v1::Trial* chosen = ChosenOf(report);
  ASSERT_NE(chosen, nullptr);
  EXPECT_TRUE(chosen->pareto() || chosen->within());
  // The report and the files are the chosen candidate's.
  EXPECT_EQ(report.size().quantized_bytes(), chosen->size().quantized_bytes());
  EXPECT_EQ(report.provenance().recipe().SerializeAsString(), chosen->recipe().SerializeAsString());
  EXPECT_EQ(static_cast<int64_t>(fs::file_size(folder_ / "output/model.onnx")), chosen->size().quantized_bytes());
  EXPECT_TRUE(fs::is_empty(folder_ / "resume")) << "the job is done";

  // What is made is what the recipe alone makes.
  const std::string tuned = ReadFile(folder_ / "output/model.onnx");
  const quant::v1::Recipe recipe = chosen->recipe();
  *lease_.mutable_job()->mutable_spec()->mutable_quantize()->mutable_recipe() = recipe;
  ASSERT_TRUE(RunJob().has_success());
  EXPECT_EQ(ReadFile(folder_ / "output/model.onnx"), tuned);
}

TEST_F(TuneJobTest, ACandidateThatCannotBeRunIsToldAndTheOthersGoOn) {
  spec()->add_candidates()->mutable_gptq();  // not for ONNX models
  spec()->add_candidates()->mutable_dynamic();
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  const quant::v1::Tuning& tuning = outcome.success().report().tuning();
  EXPECT_THAT(tuning.trials(0).error(), HasSubstr("gptq"));
  EXPECT_FALSE(tuning.trials(0).pareto());
  EXPECT_TRUE(tuning.trials(1).chosen());
  EXPECT_THAT(outcome.success().report().notes(), Contains(HasSubstr("candidate \"gptq\" made no model")));
}

TEST_F(TuneJobTest, WhereNoCandidateRunsTheJobFailsWithTheReason) {
  fs::resize_file(folder_ / "model" / "model.onnx", 1000);
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_failure()) << outcome.DebugString();
  EXPECT_EQ(outcome.failure().reason(), "MODEL_INVALID");
  EXPECT_EQ(outcome.failure().phase(), "load");
  EXPECT_EQ(outcome.failure().error_class(), quant::v1::ERROR_CLASS_FINAL);
  EXPECT_THAT(outcome.failure().message(), HasSubstr("none of the 5 candidates made a model"));
}

TEST_F(TuneJobTest, ALossThatNoneKeepsStillMakesTheLeastAndSaysSo) {
  spec()->set_max_drop(0);
  spec()->mutable_evaluation()->set_samples(256);
  quant::v1::StaticInt8* coarse = spec()->add_candidates()->mutable_static_int8();
  coarse->set_weight_granularity(quant::v1::GRANULARITY_PER_TENSOR);
  coarse->set_reduce_range(quant::v1::REDUCE_RANGE_ALWAYS);
  fs::remove(folder_ / "evaluation/labels.npy");  // the outputs are compared: never a loss of nothing
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  const quant::v1::Report& report = outcome.success().report();
  EXPECT_FALSE(report.tuning().met());
  EXPECT_TRUE(report.tuning().trials(0).chosen());
  EXPECT_EQ(report.tuning().trials(0).metric().name(), "sqnr_db");
  EXPECT_THAT(report.notes(0), HasSubstr("no candidate keeps a loss of 0 of sqnr_db"));
}

TEST_F(TuneJobTest, AKilledAttemptIsTakenUpWithTheCandidatesThatWereDone) {
  KillAfter(2);
  const int done = Finished();
  lease_.mutable_job()->set_attempt(2);
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  EXPECT_GE(done, 2);
  const quant::v1::Report resumed = outcome.success().report();
  const std::string bytes = ReadFile(folder_ / "output/model.onnx");
  ASSERT_TRUE(ChosenOf(resumed) != nullptr);
  const quant::v1::CompleteJobRequest anew = RunJob();
  ASSERT_TRUE(anew.has_success());
  EXPECT_EQ(ChosenOf(anew.success().report())->name(), ChosenOf(resumed)->name());
  EXPECT_EQ(ReadFile(folder_ / "output/model.onnx"), bytes);
}

TEST_F(TuneJobTest, FinishedCandidatesAreNotRunAgain) {
  spec()->add_candidates()->mutable_static_int8();
  spec()->add_candidates()->mutable_dynamic();
  KillAfter(1);
  // Without the calibration data the first could not be run again.
  fs::remove_all(folder_ / "calibration");
  fs::create_directories(folder_ / "calibration");
  lease_.mutable_job()->set_attempt(2);
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  EXPECT_EQ(outcome.success().report().tuning().trials(0).error(), "");
}

TEST_F(TuneJobTest, TheBestOfAnEarlierAttemptIsRunAgainWhereItsFilesAreNotWhole) {
  spec()->add_candidates()->mutable_static_int8();
  spec()->add_candidates()->mutable_static_int8()->set_skip_first(true);
  const quant::v1::CompleteJobRequest whole = RunJob();
  ASSERT_TRUE(whole.has_success()) << whole.DebugString();
  const std::string bytes = ReadFile(folder_ / "output/model.onnx");
  KillAfter(1);
  for (const auto& entry : fs::recursive_directory_iterator(folder_ / "resume/tune")) {
    if (entry.path().filename() == "model.onnx") fs::resize_file(entry.path(), 5000);
  }
  lease_.mutable_job()->set_attempt(2);
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  EXPECT_EQ(ReadFile(folder_ / "output/model.onnx"), bytes);
}

TEST_F(TuneJobTest, ACandidateThatTwoAttemptsDiedInIsGivenUp) {
  spec()->add_candidates()->mutable_static_int8();
  spec()->add_candidates()->mutable_dynamic();
  // What two attempts that died in the first candidate left.
  KillOnce([&] { return !InWork().empty(); });
  lease_.mutable_job()->set_attempt(2);
  KillOnce([&] { return ReadFile(InWork() / "attempts") == "1\n2\n"; });
  lease_.mutable_job()->set_attempt(3);
  const quant::v1::CompleteJobRequest outcome = RunJob();
  ASSERT_TRUE(outcome.has_success()) << outcome.DebugString();
  const quant::v1::Tuning& tuning = outcome.success().report().tuning();
  EXPECT_THAT(tuning.trials(0).error(), HasSubstr("died in it in 2 attempts"));
  EXPECT_TRUE(tuning.trials(1).chosen());
}

}  // namespace
}  // namespace quant
