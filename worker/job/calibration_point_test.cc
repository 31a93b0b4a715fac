// SPDX-License-Identifier: Apache-2.0
#include "worker/job/calibration_point.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/calibrate/calibrate.h"
#include "worker/job/model_io.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;

bool Same(const TensorStatistics& a, const TensorStatistics& b) {
  const Histogram &x = a.histogram, &y = b.histogram;
  return std::equal(x.bins().begin(), x.bins().end(), y.bins().begin(), y.bins().end()) && x.limit() == y.limit() &&
         x.count() == y.count() && x.zeros() == y.zeros() && x.min() == y.min() && x.max() == y.max() &&
         a.average_min == b.average_min && a.average_max == b.average_max && a.batches == b.batches;
}

class CalibrationPointTest : public ::testing::Test {
 protected:
  CalibrationPointTest() : folder_(fs::path(::testing::TempDir()) / "calibration_point_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    const fs::path examples = fs::path(QUANT_SOURCE_DIR) / "examples/shapes";
    fs::create_directories(folder_ / "model");
    fs::copy(examples / "model.onnx", folder_ / "model/model.onnx");
    graph_ = LoadModel(folder_ / "model", 1)->prepared;
    data_ = *LoadDataset(examples / "calibration", *graph_);
    values_ = {graph_->inputs[0].name, graph_->outputs[0].name};
    options_ = {.threads = 1, .samples = 40, .batch_size = 8};
  }
  ~CalibrationPointTest() override { fs::remove_all(folder_); }

  absl::StatusOr<Statistics> Run(const ProgressFn& progress = nullptr) {
    return Calibrate(graph_, values_, *data_, options_, progress);
  }
  // As an attempt that is killed after three of five batches.
  void RunAndStop(absl::Duration interval = absl::ZeroDuration()) {
    CalibrationPoint point(folder_, "fingerprint", interval);
    options_.checkpoint = [&](const Statistics& so_far) { point.Tell(so_far); };
    EXPECT_THAT(Run([](double fraction, std::string_view, const Counted&) {
                  return fraction > 0.5 ? absl::CancelledError("killed") : absl::OkStatus();
                }),
                StatusIs(absl::StatusCode::kCancelled));
    options_.checkpoint = nullptr;
  }
  std::optional<Statistics> Load(const std::string& fingerprint = "fingerprint") {
    return CalibrationPoint(folder_, fingerprint, absl::ZeroDuration()).Load();
  }

  const fs::path folder_;
  std::shared_ptr<const Graph> graph_;
  std::unique_ptr<Dataset> data_;
  std::vector<std::string> values_;
  CalibrateOptions options_;
};

TEST_F(CalibrationPointTest, TheNextAttemptGoesOnAndEndsWithTheSameBits) {
  const absl::StatusOr<Statistics> whole = Run();
  ASSERT_THAT(whole, IsOk());
  RunAndStop();
  const std::optional<Statistics> kept = Load();
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(kept->samples, 24);
  options_.resume = &*kept;
  int batches = 0;
  const absl::StatusOr<Statistics> resumed = Run([&](double fraction, std::string_view, const Counted&) {
    batches += fraction < 1 ? 1 : 0;
    return absl::OkStatus();
  });
  ASSERT_THAT(resumed, IsOk());
  EXPECT_EQ(batches, 2);
  EXPECT_EQ(resumed->samples, whole->samples);
  ASSERT_EQ(resumed->tensors.size(), 2u);
  for (const auto& [name, statistics] : whole->tensors)
    EXPECT_TRUE(Same(statistics, resumed->tensors.at(name))) << name;
}

TEST_F(CalibrationPointTest, AnotherRunsPointIsNotUsed) {
  RunAndStop();
  EXPECT_FALSE(Load("another").has_value());
  EXPECT_FALSE(Load().has_value()) << "it was not removed";
}

TEST_F(CalibrationPointTest, ADamagedPointIsNotUsed) {
  RunAndStop();
  const fs::path file = folder_ / "calibration/model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 8);
  EXPECT_FALSE(Load().has_value());
  RunAndStop();
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-8, std::ios::end)
      .write("\1\1\1\1\1\1\1\1", 8);
  EXPECT_FALSE(Load().has_value());
}

TEST_F(CalibrationPointTest, APointOfOtherValuesIsBegunAnew) {
  RunAndStop();
  const std::optional<Statistics> kept = Load();
  ASSERT_TRUE(kept.has_value());
  options_.resume = &*kept;
  values_.pop_back();
  const absl::StatusOr<Statistics> other = Run();
  ASSERT_THAT(other, IsOk());
  EXPECT_EQ(other->tensors.size(), 1u);
  EXPECT_EQ(other->tensors.begin()->second.batches, 5);
}

TEST_F(CalibrationPointTest, AShortCalibrationWritesNothing) {
  RunAndStop(absl::Seconds(15));
  EXPECT_FALSE(fs::exists(folder_ / "calibration"));
}

}  // namespace
}  // namespace quant
