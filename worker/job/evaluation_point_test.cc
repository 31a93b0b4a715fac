// SPDX-License-Identifier: Apache-2.0
// Evaluations that are killed and go on, of both kinds of models.
#include "worker/job/evaluation_point.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/evaluate/language.h"
#include "worker/job/model_io.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<double> NumbersOf(const Evaluation& e) {
  std::vector<double> numbers;
  for (const MetricResult& m : e.metrics) {
    numbers.insert(numbers.end(), {m.original, m.quantized, m.delta, m.low, m.high, static_cast<double>(m.samples)});
  }
  return numbers;
}

// A language model that looks its logits up by the token before.
std::shared_ptr<const Graph> LookupModel(unsigned seed) {
  constexpr int64_t kVocabulary = 16;
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> table(kVocabulary * kVocabulary);
  for (float& v : table) v = normal(rng);
  Graph g;
  g.inputs = {{.name = "input_ids", .dtype = DType::kInt64, .has_shape = true, .shape = {{}, {}}}};
  g.outputs = {{.name = "logits"}};
  g.initializers["table"] = Tensor::Of<float>({kVocabulary, kVocabulary}, table);
  g.nodes = {{.name = "look_up", .op_type = "Gather", .inputs = {"table", "input_ids"}, .outputs = {"logits"}}};
  return std::make_shared<const Graph>(std::move(g));
}

using Evaluator = std::function<absl::StatusOr<Evaluation>(const EvaluationResume&, const ProgressFn&)>;

class EvaluationPointTest : public ::testing::Test {
 protected:
  EvaluationPointTest() : folder_(fs::path(::testing::TempDir()) / "evaluation_point_test") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~EvaluationPointTest() override { fs::remove_all(folder_); }

  EvaluationPoint Point(int threads = 1, absl::Duration interval = absl::ZeroDuration()) {
    return {folder_, "fingerprint", threads, interval};
  }

  // As an attempt that is killed when more than half is done.
  void RunAndStop(const Evaluator& run, absl::Duration interval = absl::ZeroDuration()) {
    EvaluationPoint point = Point(1, interval);
    EXPECT_THAT(run(point.Resume(),
                    [](double fraction, std::string_view, const Counted&) {
                      return fraction > 0.5 ? absl::CancelledError("killed") : absl::OkStatus();
                    }),
                StatusIs(absl::StatusCode::kCancelled));
  }

  void ExpectToGoOn(const Evaluator& run, int steps, int rest, const std::string& note) {
    int told = 0;
    const ProgressFn count = [&](double, std::string_view, const Counted&) {
      ++told;
      return absl::OkStatus();
    };
    const absl::StatusOr<Evaluation> whole = run({}, count);
    ASSERT_THAT(whole, IsOk());
    EXPECT_EQ(told, steps);
    EXPECT_THAT(whole->notes, IsEmpty());
    RunAndStop(run);
    told = 0;
    EvaluationPoint point = Point();
    const absl::StatusOr<Evaluation> resumed = run(point.Resume(), count);
    ASSERT_THAT(resumed, IsOk());
    EXPECT_EQ(told, rest);
    EXPECT_EQ(NumbersOf(*resumed), NumbersOf(*whole));
    EXPECT_THAT(resumed->notes, ElementsAre(HasSubstr(note)));
    // All is done: only the sums are left to be added up.
    told = 0;
    EvaluationPoint last = Point();
    const absl::StatusOr<Evaluation> again = run(last.Resume(), count);
    ASSERT_THAT(again, IsOk());
    EXPECT_EQ(told, 0);
    EXPECT_EQ(NumbersOf(*again), NumbersOf(*whole));
    last.Clear();
    EXPECT_EQ(Point().Resume().from, nullptr);
  }

  const fs::path folder_;
};

Evaluator Language(std::vector<std::vector<int32_t>> windows) {
  return [windows = std::move(windows)](const EvaluationResume& resume, const ProgressFn& progress) {
    return EvaluateLanguage(LookupModel(1), LookupModel(2), windows, 1, resume, progress);
  };
}

const std::vector<std::vector<int32_t>> kWindows = {{1, 2, 3}, {4, 5}, {6, 7, 8, 9}, {10, 11}, {12, 13, 14}};

TEST_F(EvaluationPointTest, OfALanguageModel) { ExpectToGoOn(Language(kWindows), 5, 2, "went on after window 3"); }

TEST_F(EvaluationPointTest, OfAnOnnxModel) {
  const fs::path examples = fs::path(QUANT_SOURCE_DIR) / "examples/shapes";
  fs::create_directories(folder_ / "model");
  fs::copy(examples / "model.onnx", folder_ / "model/model.onnx");
  const std::shared_ptr<const Graph> graph = LoadModel(folder_ / "model", 1)->prepared;
  Graph changed = *graph;
  for (auto& [name, tensor] : changed.initializers) {
    if (tensor.dtype() != DType::kFloat32 || tensor.rank() < 2) continue;
    tensor = *tensor.Clone();
    for (float& w : tensor.mutable_data<float>()) w = std::round(w * 8) / 8;
  }
  const auto other = std::make_shared<const Graph>(std::move(changed));
  const std::unique_ptr<Dataset> data = *LoadDataset(examples / "evaluation", *graph);
  ExpectToGoOn(
      [&](const EvaluationResume& resume, const ProgressFn& progress) {
        return Evaluate(graph, other, *data,
                        {.skip = 2, .samples = 37, .batch_size = 8, .threads = 1, .resume = resume}, progress);
      },
      5, 2, "went on after sample 24");
}

TEST_F(EvaluationPointTest, AnotherRunsIsNotUsed) {
  RunAndStop(Language(kWindows));
  EXPECT_EQ(Point(2).Resume().from, nullptr) << "of another number of threads";
  EXPECT_FALSE(fs::exists(folder_ / "evaluation")) << "it was not removed";
}

TEST_F(EvaluationPointTest, OfFewerWindowsIsBegunAnew) {
  RunAndStop(Language(kWindows));
  EvaluationPoint point = Point();
  const Evaluator fewer = Language({kWindows[0], kWindows[1]});
  const absl::StatusOr<Evaluation> e = fewer(point.Resume(), nullptr);
  ASSERT_THAT(e, IsOk());
  EXPECT_THAT(e->notes, IsEmpty());
  EXPECT_EQ(NumbersOf(*e), NumbersOf(*fewer({}, nullptr)));
}

TEST_F(EvaluationPointTest, AShortEvaluationWritesNothing) {
  RunAndStop(Language(kWindows), absl::Seconds(15));
  EXPECT_FALSE(fs::exists(folder_ / "evaluation"));
}

}  // namespace
}  // namespace quant
