// SPDX-License-Identifier: Apache-2.0
// A job's folder with the example model and its data, as the agent makes it, for tests that run whole jobs in this
// process.
#ifndef QUANT_WORKER_JOB_JOB_TESTING_H_
#define QUANT_WORKER_JOB_JOB_TESTING_H_

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/job_main.h"

namespace quant {

inline std::string ReadFile(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

class JobTestBase : public ::testing::Test {
 protected:
  void SetUp() override {
    namespace fs = std::filesystem;
    const fs::path example = fs::path(QUANT_SOURCE_DIR) / "examples" / "shapes";
    folder_ = fs::path(::testing::TempDir()) / ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    for (const char* d : {"model", "calibration", "evaluation"}) fs::create_directories(folder_ / d);
    fs::copy(example / "model.onnx", folder_ / "model" / "model.onnx");
    for (const char* d : {"calibration", "evaluation"}) {
      fs::copy(example / d, folder_ / d, fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    }
    lease_.mutable_job()->set_attempt(1);
    lease_.mutable_model()->set_digest("model-digest");
    lease_.mutable_calibration_dataset()->set_digest("calibration-digest");
    lease_.mutable_evaluation_dataset()->set_digest("evaluation-digest");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // What the agent makes anew for each attempt.
  void Prepare() {
    for (const char* d : {"output", "work"}) {
      std::filesystem::remove_all(folder_ / d);
      std::filesystem::create_directories(folder_ / d);
    }
    std::ofstream out(folder_ / "lease.pb", std::ios::binary);
    lease_.SerializeToOstream(&out);
  }
  quant::v1::CompleteJobRequest RunJob() {
    Prepare();
    EXPECT_EQ(RunJobMain(folder_, {.threads = 1}), 0);
    quant::v1::CompleteJobRequest outcome;
    EXPECT_TRUE(outcome.ParseFromString(ReadFile(folder_ / "work/outcome.pb")));
    return outcome;
  }

  std::filesystem::path folder_;
  quant::v1::Lease lease_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_JOB_TESTING_H_
