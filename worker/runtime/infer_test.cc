// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/infer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/runtime/executable.h"
#include "worker/runtime/testing/evaluate.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::L;

// x [N, 2, 3] -> flattened to [N, -1] with a shape computed from x's own.
Graph FlattenByShape() {
  Graph g;
  g.inputs = {{"x", DType::kFloat32, true, {{-1, "N"}, {2, ""}, {3, ""}}}};
  g.outputs = {{"y"}};
  g.initializers["zero"] = L({0});
  g.initializers["minus_one"] = L({-1});
  g.nodes = {
      {"shape", "Shape", "", {"x"}, {"dims"}, {}},
      {"batch", "Gather", "", {"dims", "zero"}, {"n"}, {}},
      {"join", "Concat", "", {"n", "minus_one"}, {"target"}, {{"axis", int64_t{0}}}},
      {"reshape", "Reshape", "", {"x", "target"}, {"y"}, {}},
  };
  return g;
}

TEST(InferShapes, EvaluatesWhatFollowsFromShapes) {
  const Graph g = FlattenByShape();
  const TensorDesc x{DType::kFloat32, {5, 2, 3}, nullptr};
  const auto plan = InferShapes(g, {&x, 1});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->folded, ElementsAre(true, true, true, false));
  EXPECT_EQ(plan->Value("y").shape, Shape({5, 6}));
  EXPECT_EQ(plan->Value("y").constant, nullptr);
  ASSERT_NE(plan->Value("target").constant, nullptr);
  EXPECT_THAT(testing::Integers(*plan->Value("target").constant), ElementsAre(5, -1));
  EXPECT_EQ(plan->Value("zero").constant, &g.initializers.at("zero"));
}

TEST(InferShapes, KeepsConstantsValidWhenThePlanMoves) {
  const Graph g = FlattenByShape();
  const TensorDesc x{DType::kFloat32, {5, 2, 3}, nullptr};
  auto plan = InferShapes(g, {&x, 1});
  ASSERT_TRUE(plan.ok());
  const InferredPlan moved = *std::move(plan);
  EXPECT_EQ(moved.Value("target").constant, &moved.constants.at("target"));
}

TEST(InferShapes, DoesNotFoldQuantization) {
  Graph g;
  g.initializers["q"] = testing::Of<int8_t>({2}, {1, 2});
  g.initializers["s"] = Tensor::Scalar(0.5f);
  g.outputs = {{"y"}};
  g.nodes = {{"dq", "DequantizeLinear", "", {"q", "s"}, {"y"}, {}}};
  const auto plan = InferShapes(g, {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->folded, ElementsAre(false));
  EXPECT_EQ(plan->Value("y").constant, nullptr);
}

TEST(InferShapes, DoesNotFoldLargeValues) {
  Graph g;
  g.initializers["dims"] = L({kMaxFoldedBytes / 4 + 1});
  g.outputs = {{"y"}};
  g.nodes = {{"fill", "ConstantOfShape", "", {"dims"}, {"y"}, {}}};
  const auto plan = InferShapes(g, {});
  ASSERT_TRUE(plan.ok());
  EXPECT_THAT(plan->folded, ElementsAre(false));
}

TEST(InferShapes, ErrorsNameNodeAndOperator) {
  Graph g = FlattenByShape();
  g.initializers["minus_one"] = L({4});
  const TensorDesc x{DType::kFloat32, {5, 2, 3}, nullptr};
  const auto plan = InferShapes(g, {&x, 1});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("node 'reshape' (Reshape): the input [5,2,3] has 30 elements"));
}

TEST(InferShapes, AShapeThatDependsOnDataIsUnimplemented) {
  Graph g;
  g.inputs = {{"x", DType::kFloat32, true, {{4, ""}}}, {"dims", DType::kInt64, true, {{1, ""}}}};
  g.outputs = {{"y"}};
  g.nodes = {{"r", "Reshape", "", {"x", "dims"}, {"y"}, {}}};
  const TensorDesc inputs[] = {{DType::kFloat32, {4}, nullptr}, {DType::kInt64, {1}, nullptr}};
  const auto plan = InferShapes(g, inputs);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("shape is computed from data"));
}

TEST(CheckInputs, NamesInputValueAndWhatIsWanted) {
  const Graph g = FlattenByShape();
  const auto message = [&g](std::vector<TensorDesc> inputs) { return std::string(CheckInputs(g, inputs).message()); };
  EXPECT_THAT(message({}), HasSubstr("1 inputs, 0 are given"));
  EXPECT_THAT(message({{DType::kFloat32, {5, 2, 4}, nullptr}}),
              HasSubstr("input 'x' is float32 [5,2,4]; the model wants float32 [N,2,3]"));
  EXPECT_THAT(message({{DType::kInt8, {5, 2, 3}, nullptr}}), HasSubstr("is int8"));
  EXPECT_THAT(message({{DType::kFloat32, {5, 2}, nullptr}}), HasSubstr("[5,2]"));
  EXPECT_THAT(message({{DType::kFloat32, {int64_t{1} << 41, 2, 3}, nullptr}}), HasSubstr("more than"));
  EXPECT_TRUE(CheckInputs(g, std::vector<TensorDesc>{{DType::kFloat32, {0, 2, 3}, nullptr}}).ok());
}

TEST(CheckSupported, ListsAllUnknownOperatorsWithTheFirstNodes) {
  Graph g;
  for (int i = 0; i < 7; ++i) g.nodes.push_back({"loop" + std::to_string(i), "NonMaxSuppression", "", {}, {}, {}});
  g.nodes.push_back({"ok", "Relu", "", {}, {}, {}});
  g.nodes.push_back({"custom", "Fancy", "org.example", {}, {}, {}});
  const absl::Status status = CheckSupported(g);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(),
            "the model uses 2 unsupported operators: NonMaxSuppression ('loop0', 'loop1', 'loop2', 'loop3', 'loop4' "
            "and 2 more); "
            "org.example.Fancy ('custom')");
}

TEST(FindOp, TakesTheStandardDomainByEitherName) {
  EXPECT_NE(FindOp("", "Conv"), nullptr);
  EXPECT_EQ(FindOp("", "Conv"), FindOp("ai.onnx", "Conv"));
  EXPECT_EQ(FindOp("com.microsoft", "Conv"), nullptr);
  EXPECT_NE(FindOp("com.microsoft", "QuantizeLinear"), nullptr);
}

}  // namespace
}  // namespace quant
