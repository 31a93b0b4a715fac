// SPDX-License-Identifier: Apache-2.0
// Differential tests: our backends against ONNX Runtime on random single-operator models and on the real models of
// $QUANT_SHARED/data. Another seed or more rounds: QUANT_OPERATOR_SEED, QUANT_OPERATOR_ROUNDS. QUANT_OPERATOR_CASES
// keeps the cases in that folder.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/runtime/executable.h"
#include "worker/runtime/reference_backend.h"
#include "worker/runtime/testing/operator_cases.h"

namespace quant {
namespace {

int FromEnvironment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

absl::StatusOr<std::unique_ptr<Executable>> Reference(std::shared_ptr<const Graph> graph) {
  return CompileReference(std::move(graph), {});
}

absl::StatusOr<std::unique_ptr<Executable>> OneDnn(std::shared_ptr<const Graph> graph) {
  return Compile(std::move(graph), {.threads = 2});
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
      std::filesystem::path npz = model;
      const absl::Status status =
          testing::RunCase(model, npz.replace_extension(".npz"), make, tolerance, integer_slack);
      EXPECT_TRUE(status.ok()) << model.filename().string() << ": " << status;
    }
  }

  static inline std::filesystem::path folder_;
  static inline absl::Status made_;
};

// ONNX Runtime accumulates in float32: its rounding error, over sums of at most a few hundred terms, dominates. Integer
// results are equal.
TEST_F(OperatorCases, ReferenceEqualsOnnxRuntime) { RunAll(Reference, 1e-5, 0); }

// The fast backend may add in another order and use approximations of transcendental functions.
TEST_F(OperatorCases, OneDnnEqualsOnnxRuntime) { RunAll(OneDnn, 5e-5, 0); }

struct ModelCase {
  const char* file;
  double tolerance;
};

class RealModels : public ::testing::TestWithParam<ModelCase> {
 protected:
  void Run(const testing::MakeExecutable& make) {
    const char* shared = std::getenv("QUANT_SHARED");
    if (shared == nullptr) GTEST_SKIP() << "QUANT_SHARED is not set";
    const std::filesystem::path model = std::filesystem::path(shared) / "data/models" / GetParam().file;
    if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " is not here";
    const std::filesystem::path npz =
        std::filesystem::temp_directory_path() / absl::StrCat("model_case_", getpid(), ".npz");
    const absl::Status made = testing::MakeModelCase(model, npz, /*seed=*/1);
    if (absl::IsUnavailable(made)) GTEST_SKIP() << made.message();
    ASSERT_TRUE(made.ok()) << made;
    const absl::Status status = testing::RunCase(model, npz, make, GetParam().tolerance);
    EXPECT_TRUE(status.ok()) << GetParam().file << ": " << status;
    std::filesystem::remove(npz);
  }
};

TEST_P(RealModels, ReferenceEqualsOnnxRuntime) { Run(Reference); }
TEST_P(RealModels, OneDnnEqualsOnnxRuntime) { Run(OneDnn); }

// Tolerances are relative to 1 + the largest output. Quantized models may differ by a step where a value lies half-way
// between two codes, which float32 sums in another order decide differently.
INSTANTIATE_TEST_SUITE_P(Shared, RealModels,
                         ::testing::Values(ModelCase{"resnet20-cifar10.onnx", 1e-4},
                                           ModelCase{"squeezenet1.1.onnx", 1e-4},
                                           ModelCase{"squeezenet1.1-fp16.onnx", 2e-3},
                                           ModelCase{"mobilenetv2.onnx", 1e-4}, ModelCase{"mnist-8.onnx", 1e-4},
                                           ModelCase{"fastestdet.onnx", 1e-4}, ModelCase{"yunet.onnx", 1e-4},
                                           ModelCase{"super-resolution-10.onnx", 1e-4}, ModelCase{"dtln-1.onnx", 1e-4},
                                           ModelCase{"dtln-2.onnx", 1e-4}, ModelCase{"basic-pitch.onnx", 1e-4},
                                           ModelCase{"quantized/conv_qdq_s8s8.onnx", 0.02},
                                           ModelCase{"quantized/conv_qdq_s8s8_perchannel.onnx", 0.02},
                                           ModelCase{"quantized/conv_qdq_u8u8.onnx", 0.02},
                                           ModelCase{"quantized/conv.int4_weights.qdq.onnx", 0.02},
                                           ModelCase{"quantized/qdq_minimal_model.onnx", 0.02},
                                           ModelCase{"quantized/mobilenetv2_qdq_int8_ort.onnx", 0.1}),
                         [](const auto& test) {
                           std::string name = test.param.file;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace quant
