// SPDX-License-Identifier: Apache-2.0
// Every rule against attributes and shapes made to break it: an error with the value, never undefined behaviour (run
// under the asan preset).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max(), kMin = std::numeric_limits<int64_t>::min();

struct HostileCase {
  std::string op;
  std::vector<std::optional<Tensor>> inputs;
  Attributes attributes;
  std::string part;  // of the message
  int outputs = 1;
};

std::vector<HostileCase> Cases() {
  const Tensor image = Ramp({1, 2, 4, 4}), kernel = Ramp({2, 2, 3, 3}), v = F({3}, {1, 2, 3});
  return {
      {"Conv", {image, kernel}, {{"strides", Longs{0, 1}}}, "strides has the value 0"},
      {"Conv", {image, kernel}, {{"strides", Longs{kMax, 1}}}, "strides has the value 9223372036854775807"},
      {"Conv", {image, kernel}, {{"dilations", Longs{kMin, 1}}}, "dilations"},
      {"Conv", {image, kernel}, {{"pads", Longs{-1, 0, 0, 0}}}, "pads has the value -1"},
      {"Conv", {image, kernel}, {{"pads", Longs{kMax, 0, 0, 0}}}, "pads"},
      {"Conv", {image, kernel}, {{"pads", Longs{1, 1}}}, "pads has 2 values; 4"},
      {"Conv", {image, kernel}, {{"group", int64_t{0}}}, "group 0"},
      {"Conv", {image, kernel}, {{"group", int64_t{2}}}, "group 2"},
      {"Conv", {image, kernel}, {{"group", kMax}}, "group"},
      {"Conv", {image, kernel}, {{"kernel_shape", Longs{5, 5}}}, "kernel_shape is [5,5]"},
      {"Conv", {image, kernel}, {{"dilations", Longs{1 << 29, 1}}}, "reaches over"},
      {"Conv", {image, kernel}, {{"auto_pad", "SIDEWAYS"}}, "SIDEWAYS"},
      {"Conv", {image, Ramp({2, 2, 5, 5})}, {}, "reaches over 5 elements but the padded input has 4"},
      {"Conv", {image, F({2, 2, 0, 3}, {})}, {}, "kernel size 0"},
      {"Conv", {image, F({0, 2, 3, 3}, {})}, {}, "does not fit"},
      {"Conv", {image, Ramp({2, 2, 3})}, {}, "same rank"},
      {"Conv", {v, v}, {}, "rank, 3 or more"},
      {"Conv", {image, kernel, v}, {}, "bias has shape [3]"},
      {"Conv", {image, *Cast(kernel, DType::kFloat16)}, {}, "different types"},
      {"Conv", {image}, {}, "has 1 inputs"},
      {"Conv", {image, std::nullopt}, {}, "input 1 is required"},
      {"ConvTranspose", {image, Ramp({2, 1, 3, 3})}, {{"pads", Longs{9, 9, 9, 9}}}, "output size comes out"},
      {"ConvTranspose", {image, Ramp({2, 1, 3, 3})}, {{"output_shape", Longs{kMax, kMin}}}, ""},
      {"ConvTranspose", {image, Ramp({2, 1, 3, 3})}, {{"strides", Longs{1 << 30, 1 << 30}}}, ""},
      {"MaxPool", {image}, {}, "kernel has 0 dimensions"},
      {"MaxPool", {image}, {{"kernel_shape", Longs{0, 2}}}, "kernel size 0"},
      {"MaxPool", {image}, {{"kernel_shape", Longs{kMax, kMax}}}, "kernel size"},
      {"MaxPool", {L({1, 1, 2}, {1, 2})}, {{"kernel_shape", Longs{1}}}, "int64"},
      {"AveragePool", {image}, {{"kernel_shape", Longs{9, 9}}}, "reaches over"},
      {"GlobalAveragePool", {F({1, 2, 0}, {})}, {}, "empty"},
      {"BatchNormalization", {image, v, v, v, v}, {}, "[2] is needed"},
      {"GroupNormalization", {image, v, v}, {{"num_groups", int64_t{0}}}, "num_groups is 0"},
      {"LayerNormalization", {image, v}, {}, "does not broadcast"},
      {"LRN", {image}, {{"size", kMax}}, "size"},
      {"Softmax", {v}, {{"axis", int64_t{1}}}, "axis 1 is out of range for rank 1"},
      {"Softmax", {F({}, {1})}, {}, "out of range for rank 0"},
      {"MatMul", {v, F({2}, {1, 2})}, {}, "3 columns against 2 rows"},
      {"MatMul", {v, F({}, {1})}, {}, "rank 1 or more"},
      {"Gemm", {v, v}, {}, "both must be matrices"},
      {"Gemm", {F({1, 3}, {1, 2, 3}), F({3, 1}, {1, 2, 3}), v}, {}, "does not broadcast"},
      {"Add", {v, F({2}, {1, 2})}, {}, "do not broadcast"},
      {"Add", {v, L({3})}, {}, "different types"},
      {"Add", {B({1}, {1}), B({1}, {1})}, {}, "bool"},
      {"Mod", {L({1}), L({0})}, {}, "division by zero"},
      {"Mod", {v, v}, {}, "fmod must be 1"},
      {"PRelu", {v, Ramp({2, 3})}, {}, "does not broadcast"},
      {"Where", {v, v, v}, {}, "bool is needed"},
      {"Clip", {v, v}, {}, "a scalar is needed"},
      {"Reshape", {v, L({-1, -1})}, {}, "more than one -1"},
      {"Reshape", {v, L({2, -1})}, {}, "do not fit"},
      {"Reshape", {v, L({4})}, {}, "needs 4"},
      {"Reshape", {v, L({-5})}, {}, "dimension -5"},
      {"Reshape", {v, L({1, 0})}, {}, "copies dimension 1"},
      {"Reshape", {v, L({kMax, kMax, 2, -1})}, {}, "more than"},
      {"Reshape", {v, L({1, 1, 1, 1, 1, 1, 1, 1, 3})}, {}, "rank 9"},
      {"Reshape", {v, v}, {}, "vector of integers"},
      {"Flatten", {v}, {{"axis", int64_t{2}}}, "axis 2"},
      {"Squeeze", {v, L({0})}, {}, "is not 1"},
      {"Unsqueeze", {v, L({0, 0})}, {}, "given twice"},
      {"Unsqueeze", {v, L({0, 1, 2, 3, 4, 5, 6, 7, 8})}, {}, "rank 10"},
      {"Transpose", {image}, {{"perm", Longs{0, 1, 1, 2}}}, "given twice"},
      {"Transpose", {image}, {{"perm", Longs{0, 1}}}, "does not fit rank 4"},
      {"Expand", {v, L({kMax})}, {}, "more than"},
      {"Expand", {v, L({4})}, {}, "do not broadcast"},
      {"Tile", {v, L({kMax})}, {}, "too large"},
      {"Tile", {v, L({-1})}, {}, "negative"},
      {"Tile", {v, L({1, 1})}, {}, "does not fit"},
      {"Concat", {v, v}, {}, "axis"},
      {"Concat", {v, Ramp({1, 3})}, {{"axis", int64_t{0}}}, "do not join"},
      {"Split", {v, L({1, 1})}, {}, "does not fit", 2},
      {"Split", {v, L({kMax, kMin})}, {}, "does not fit", 2},
      {"Split", {v}, {}, "equal parts", 2},
      {"Slice", {v, L({0}), L({1}), L({0}), L({0})}, {}, "step 0"},
      {"Slice", {v, L({0}), L({1}), L({1})}, {}, "axis 1"},
      {"Slice", {v, L({0, 0}), L({1})}, {}, "must agree"},
      {"Pad", {v, L({1})}, {}, "pads has 1 values"},
      {"Pad", {v, L({kMax, 0})}, {}, "more than"},
      {"Pad", {v, L({-2, -2})}, {}, "to -1"},
      {"Pad", {F({0}, {}), L({1, 0})}, {{"mode", "reflect"}}, "nothing to take from"},
      {"Pad", {v, L({1, 0})}, {{"mode", "mirror"}}, "mirror"},
      {"DepthToSpace", {image}, {{"blocksize", int64_t{0}}}, "blocksize 0"},
      {"DepthToSpace", {image}, {{"blocksize", kMax}}, "blocksize"},
      {"DepthToSpace", {image}, {{"blocksize", int64_t{2}}}, "does not divide"},
      {"Gather", {v, L({3})}, {}, "index 3 is out of range"},
      {"Gather", {v, L({kMin})}, {}, "out of range"},
      {"Gather", {v, v}, {}, "int32 or int64"},
      {"GatherElements", {v, L({-4})}, {}, "index -4"},
      {"GatherND", {v, L({1, 2}, {0, 0})}, {}, "do not fit"},
      {"ScatterND", {v, L({1, 1}, {5}), F({1}, {1})}, {}, "index 5"},
      {"TopK", {v, L({4})}, {}, "K is [4]", 2},
      {"TopK", {v, L({-1})}, {}, "K is [-1]", 2},
      {"OneHot", {L({1}), L({0}), F({2}, {0, 1})}, {}, "depth"},
      {"ConstantOfShape", {L({kMax, kMax})}, {}, "more than"},
      {"ConstantOfShape", {L({-1})}, {}, "negative"},
      {"ConstantOfShape", {L({1})}, {{"value", v}}, "3 elements"},
      {"Range", {L({}, {0}), L({}, {5}), L({}, {0})}, {}, "has no length"},
      {"Range", {L({}, {kMin}), L({}, {kMax}), L({}, {1})}, {}, "more than"},
      {"ReduceSum", {v, L({1})}, {}, "axis 1"},
      {"ReduceMean", {L({2, 0}, {}), L({1})}, {}, "mean of no integers"},
      {"ArgMax", {F({0}, {})}, {}, "is empty"},
      {"CumSum", {v, L({}, {7})}, {}, "axis 7"},
      {"Resize", {image, std::nullopt, F({4}, {1, 1, 1e30f, 1})}, {}, "too large"},
      {"Resize", {image, std::nullopt, F({4}, {1, 1, -2, 1})}, {}, "not positive"},
      {"Resize", {image, std::nullopt, F({4}, {1, 1, std::numeric_limits<float>::quiet_NaN(), 1})}, {}, "not positive"},
      {"Resize", {image, std::nullopt, std::nullopt, L({1, 2, kMax, 1})}, {}, "size 9223372036854775807"},
      {"Resize", {image, std::nullopt, F({2}, {1, 1})}, {}, "scales has 2 values"},
      {"Resize", {image}, {}, "neither scales nor sizes"},
      {"QuantizeLinear", {v, F({2}, {1, 1})}, {{"axis", int64_t{0}}}, "scale has 2 values"},
      {"QuantizeLinear", {v, F({}, {1}), Of<uint8_t>({3}, {1, 2, 3})}, {}, "differ in shape"},
      {"QuantizeLinear",
       {Ramp({2, 4}), Ramp({2, 2})},
       {{"axis", int64_t{1}}, {"block_size", int64_t{3}}, {"unused", int64_t{0}}},
       ""},
      {"QuantizeLinear",
       {Ramp({2, 4}), Ramp({2, 3})},
       {{"axis", int64_t{1}}, {"block_size", int64_t{3}}},
       "dimension 1 must be 2"},
      {"DequantizeLinear", {Of<uint8_t>({1}, {1}), F({}, {1}), Of<int8_t>({}, {1})}, {}, "different types"},
      {"DequantizeLinear", {Ramp({2, 2}), F({}, {1})}, {}, "float32 is not supported"},
      {"LSTM", {Ramp({1, 1, 2}), Ramp({1, 4, 3}), Ramp({1, 4, 1})}, {}, "do not fit"},
      {"RNN",
       {Ramp({1, 1, 1}), Ramp({1, 1, 1}), Ramp({1, 1, 1}), std::nullopt, Of<int32_t>({1}, {9})},
       {},
       "sequence_lens has 9"},
      {"Einsum", {v}, {{"equation", "ij->i"}}, "does not fit an input of rank 1"},
      {"Einsum", {v}, {{"equation", "i->ii"}}, "repeats"},
      {"Einsum", {v}, {{"equation", "i->k"}}, "in no input"},
      {"Einsum", {v, v}, {{"equation", "i->i"}}, "does not have 2 terms"},
      {"Constant", {}, {}, "neither"},
      {"Cast", {v}, {{"to", int64_t{8}}}, "element type 8"},
  };
}

TEST(Hostile, EveryCaseIsAClearErrorOrARealResult) {
  for (const HostileCase& c : Cases()) {
    const auto out = EvaluateAll(c.op, c.inputs, c.attributes, c.outputs);
    if (c.part.empty()) continue;  // either is fine, as long as nothing breaks
    ASSERT_FALSE(out.ok()) << c.op << " (" << c.part << ")";
    EXPECT_THAT(std::string(out.status().message()), ::testing::HasSubstr(c.part)) << c.op;
    EXPECT_THAT(std::string(out.status().message()), ::testing::HasSubstr("node 'n' (" + c.op + ")"));
    EXPECT_TRUE(absl::IsInvalidArgument(out.status()) || absl::IsUnimplemented(out.status())) << out.status();
  }
}

TEST(Hostile, AnOutputTooLargeForMemoryIsRefusedBeforeItIsAllocated) {
  const auto out = EvaluateAll("Expand", {Tensor::Scalar(1.0f), L({1 << 20, 1 << 19})});
  EXPECT_EQ(out.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Hostile, HugeWindowsTakeNoTimeWhenMostOfThemIsPadding) {
  const Attributes a = {{"kernel_shape", Longs{1 << 29, 1 << 29}},
                        {"pads", Longs{1 << 28, 1 << 28, 1 << 28, 1 << 28}},
                        {"count_include_pad", int64_t{1}}};
  EXPECT_TRUE(EvaluateAll("AveragePool", {Ramp({1, 1, 4, 4})}, a).ok());
  EXPECT_TRUE(EvaluateAll("MaxPool", {Ramp({1, 1, 4, 4})}, a).ok());
}

}  // namespace
}  // namespace quant::testing
