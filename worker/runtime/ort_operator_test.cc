// SPDX-License-Identifier: Apache-2.0
// Differential test: random single-operator models, our backends against ONNX Runtime. Another seed or more rounds:
// QUANT_OPERATOR_SEED, QUANT_OPERATOR_ROUNDS. QUANT_OPERATOR_CASES keeps the cases in that folder.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "worker/runtime/reference_backend.h"
#include "worker/runtime/testing/operator_cases.h"

namespace quant {
namespace {

int FromEnvironment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

class OperatorCases : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* kept = std::getenv("QUANT_OPERATOR_CASES");
    folder_ = kept != nullptr ? std::filesystem::path(kept)
                              : std::filesystem::temp_directory_path() / absl::StrCat("operator_cases_", getpid());
    const int seed = FromEnvironment("QUANT_OPERATOR_SEED", 1), rounds = FromEnvironment("QUANT_OPERATOR_ROUNDS", 2);
    std::cout << "seed " << seed << ", " << rounds << " rounds, in " << folder_ << "\n";
    made_ = testing::MakeOperatorCases(folder_, seed, rounds);
  }
  static void TearDownTestSuite() {
    if (std::getenv("QUANT_OPERATOR_CASES") == nullptr) std::filesystem::remove_all(folder_);
  }

  void RunAll(const testing::MakeExecutable& make, double tolerance, int integer_slack) {
    if (absl::IsUnavailable(made_)) GTEST_SKIP() << made_.message();
    ASSERT_TRUE(made_.ok()) << made_.message();
    const auto cases = testing::ListOperatorCases(folder_);
    ASSERT_GE(cases.size(), 400u);  // so many does ONNX Runtime 1.21 run of one round
    for (const auto& model : cases) {
      const absl::Status status = testing::RunOperatorCase(model, make, tolerance, integer_slack);
      EXPECT_TRUE(status.ok()) << model.filename().string() << ": " << status;
    }
  }

  static inline std::filesystem::path folder_;
  static inline absl::Status made_;
};

// ONNX Runtime accumulates in float32: its rounding error, over sums of at most a few hundred terms, dominates. Integer
// results are equal.
TEST_F(OperatorCases, ReferenceEqualsOnnxRuntime) {
  RunAll([](std::shared_ptr<const Graph> graph) { return CompileReference(std::move(graph), {}); }, 1e-5, 0);
}

}  // namespace
}  // namespace quant
