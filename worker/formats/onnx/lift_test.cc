// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/onnx/lift.h"

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Ints = std::vector<int64_t>;
using Floats = std::vector<float>;

// A graph of one node from x (and constants) to y.
Graph One(int64_t opset, const std::string& op, std::vector<std::string> inputs,
          std::map<std::string, Attribute> attributes, std::vector<int64_t> shape = {2, 3, 4, 5},
          DType dtype = DType::kFloat32) {
  Graph g;
  g.opset = opset;
  ValueInfo x{.name = "x", .dtype = dtype, .has_shape = true};
  for (const int64_t d : shape) x.shape.push_back({.value = d});
  g.inputs = {x};
  g.outputs = {{.name = "y"}};
  g.nodes = {
      {.name = "n", .op_type = op, .inputs = std::move(inputs), .outputs = {"y"}, .attributes = std::move(attributes)}};
  return g;
}

Graph Lifted(Graph g) {
  const absl::Status s = LiftToOpset13(g);
  EXPECT_TRUE(s.ok()) << s;
  EXPECT_EQ(g.opset, 13);
  EXPECT_TRUE(g.Validate().ok()) << g.Validate();
  EXPECT_EQ(g.nodes.back().name, "n");
  EXPECT_EQ(g.nodes.back().outputs[0], "y");
  return g;
}

Ints ConstantInts(const Graph& g, size_t input) { return *ToInt64(*g.Initializer(g.nodes.back().inputs.at(input))); }
Floats ConstantFloats(const Graph& g, size_t input) {
  return *ToFloat(*g.Initializer(g.nodes.back().inputs.at(input)));
}

TEST(Lift, AttributesBecomeInputs) {
  Graph g = Lifted(One(9, "Slice", {"x"}, {{"starts", Ints{1}}, {"ends", Ints{3}}, {"axes", Ints{2}}}));
  EXPECT_THAT(ConstantInts(g, 1), ElementsAre(1));
  EXPECT_THAT(ConstantInts(g, 2), ElementsAre(3));
  EXPECT_THAT(ConstantInts(g, 3), ElementsAre(2));
  EXPECT_THAT(g.nodes[0].attributes, IsEmpty());

  g = Lifted(One(10, "Pad", {"x"},
                 {{"pads", Ints{0, 0, 1, 1, 0, 0, 1, 1}}, {"value", 1.5f}, {"mode", std::string("constant")}}));
  EXPECT_THAT(ConstantInts(g, 1), ElementsAre(0, 0, 1, 1, 0, 0, 1, 1));
  EXPECT_THAT(ConstantFloats(g, 2), ElementsAre(1.5f));
  EXPECT_EQ(g.nodes[0].String("mode", ""), "constant");

  g = Lifted(One(9, "TopK", {"x"}, {{"k", int64_t{3}}, {"axis", int64_t{1}}}));
  EXPECT_THAT(ConstantInts(g, 1), ElementsAre(3));
  EXPECT_EQ(g.nodes[0].Int("axis", 0), 1);

  for (const char* op : {"Squeeze", "Unsqueeze", "ReduceSum"}) {
    g = Lifted(One(12, op, {"x"}, {{"axes", Ints{0, 1}}}));
    EXPECT_THAT(ConstantInts(g, 1), ElementsAre(0, 1)) << op;
  }
  g = Lifted(One(12, "Split", {"x"}, {{"split", Ints{1, 2}}, {"axis", int64_t{1}}}));
  EXPECT_THAT(ConstantInts(g, 1), ElementsAre(1, 2));
  // Without the attribute there is no input either: all axes, equal parts.
  EXPECT_EQ(Lifted(One(12, "Squeeze", {"x"}, {})).nodes[0].inputs.size(), 1u);
  EXPECT_EQ(Lifted(One(12, "Split", {"x"}, {})).nodes[0].inputs.size(), 1u);
}

TEST(Lift, ClipBoundsHaveTheTypeOfTheData) {
  Graph g = Lifted(One(6 + 1, "Clip", {"x"}, {{"min", 0.0f}, {"max", 6.0f}}, {2}, DType::kFloat16));
  EXPECT_EQ(g.Initializer(g.nodes[0].inputs[1])->dtype(), DType::kFloat16);
  EXPECT_THAT(ConstantFloats(g, 2), ElementsAre(6));
  EXPECT_EQ(g.Initializer(g.nodes[0].inputs[1])->rank(), 0);
  g = Lifted(One(10, "Clip", {"x"}, {{"max", 6.0f}}));
  EXPECT_EQ(g.nodes[0].inputs[1], "");
  EXPECT_THAT(ConstantFloats(g, 2), ElementsAre(6));
  EXPECT_EQ(Lifted(One(10, "Clip", {"x"}, {})).nodes[0].inputs.size(), 1u);
}

TEST(Lift, UpsampleAndOldResizeKeepTheirCoordinates) {
  Graph seven = Lifted(One(7, "Upsample", {"x"}, {{"scales", Floats{1, 1, 2, 2}}, {"mode", std::string("nearest")}}));
  EXPECT_EQ(seven.nodes[0].op_type, "Resize");
  EXPECT_EQ(seven.nodes[0].inputs[1], "");
  EXPECT_THAT(ConstantFloats(seven, 2), ElementsAre(1, 1, 2, 2));
  EXPECT_EQ(seven.nodes[0].String("coordinate_transformation_mode", ""), "asymmetric");
  EXPECT_EQ(seven.nodes[0].String("nearest_mode", ""), "floor");

  Graph nine = One(9, "Upsample", {"x", "s"}, {{"mode", std::string("linear")}});
  nine.initializers["s"] = Tensor::Of<float>({4}, Floats{1, 1, 2, 2});
  nine = Lifted(nine);
  EXPECT_THAT(nine.nodes[0].inputs, ElementsAre("x", "", "s"));
  EXPECT_EQ(nine.nodes[0].String("mode", ""), "linear");

  Graph ten = One(10, "Resize", {"x", "s"}, {});
  ten.initializers["s"] = Tensor::Of<float>({4}, Floats{1, 1, 0.5f, 0.5f});
  EXPECT_EQ(Lifted(ten).nodes[0].String("nearest_mode", ""), "ceil");
}

TEST(Lift, Resize11DropsEmptyPlaceholders) {
  Graph g = One(11, "Resize", {"x", "roi", "scales", "sizes"}, {});
  g.initializers["roi"] = Tensor::Of<float>({0}, Floats{});
  g.initializers["scales"] = Tensor::Of<float>({0}, Floats{});
  g.initializers["sizes"] = Tensor::Of<int64_t>({4}, Ints{2, 3, 8, 10});
  EXPECT_THAT(Lifted(g).nodes[0].inputs, ElementsAre("x", "", "", "sizes"));
  Graph bad =
      One(11, "Resize", {"x", "", "s"}, {{"coordinate_transformation_mode", std::string("tf_half_pixel_for_nn")}});
  EXPECT_EQ(LiftToOpset13(bad).code(), absl::StatusCode::kUnimplemented);
}

TEST(Lift, SoftmaxOverTheLastAxisOrTrailingOnesStaysOneNode) {
  EXPECT_EQ(Lifted(One(7, "Softmax", {"x"}, {}, {2, 5})).nodes[0].Int("axis", 99), 1);
  // SqueezeNet's [1,1000,1,1].
  Graph g = Lifted(One(7, "Softmax", {"x"}, {}, {1, 1000, 1, 1}));
  EXPECT_EQ(g.nodes.size(), 1u);
  EXPECT_EQ(g.nodes[0].Int("axis", 99), 1);
  EXPECT_EQ(Lifted(One(11, "LogSoftmax", {"x"}, {{"axis", int64_t{-1}}})).nodes[0].Int("axis", 99), 3);
}

TEST(Lift, SoftmaxOverSeveralAxesGoesThroughAMatrix) {
  for (const bool known : {true, false}) {
    Graph g = One(7, "Softmax", {"x"}, {{"axis", int64_t{1}}});
    if (!known) g.inputs[0].has_shape = false;
    g = Lifted(g);
    std::vector<std::string> ops;
    ops.reserve(g.nodes.size());
    for (const Node& n : g.nodes) ops.push_back(n.op_type);
    EXPECT_THAT(ops, ElementsAre("Shape", "Flatten", "Softmax", "Reshape"));
    EXPECT_EQ(g.nodes[1].Int("axis", 99), 1);
    EXPECT_EQ(g.nodes[2].Int("axis", 99), -1);
  }
  Graph bad = One(7, "Softmax", {"x"}, {{"axis", int64_t{9}}});
  EXPECT_EQ(LiftToOpset13(bad).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Lift, DropoutAndBatchNormalizationLoseWhatTrainingWanted) {
  Graph g = One(7, "Dropout", {"x"}, {{"ratio", 0.5f}});
  g.nodes[0].outputs.push_back("mask");
  g = Lifted(g);
  EXPECT_THAT(g.nodes[0].outputs, ElementsAre("y"));
  EXPECT_THAT(g.nodes[0].attributes, IsEmpty());
  Graph used = One(10, "Dropout", {"x"}, {});
  used.nodes[0].outputs.push_back("mask");
  used.outputs.push_back({.name = "mask"});
  EXPECT_EQ(LiftToOpset13(used).code(), absl::StatusCode::kUnimplemented);

  EXPECT_FALSE(Lifted(One(7, "BatchNormalization", {"x"}, {{"spatial", int64_t{1}}})).nodes[0].Has("spatial"));
  Graph spatial = One(7, "BatchNormalization", {"x"}, {{"spatial", int64_t{0}}});
  const absl::Status s = LiftToOpset13(spatial);
  EXPECT_EQ(s.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(s.message()), HasSubstr("'n'"));
}

TEST(Lift, ExperimentalOperatorsBecomeStandardOnes) {
  Graph scaler = Lifted(One(7, "ImageScaler", {"x"}, {{"scale", 2.0f}, {"bias", Floats{1, 2, 3}}}));
  ASSERT_EQ(scaler.nodes.size(), 2u);
  EXPECT_EQ(scaler.nodes[0].op_type, "Mul");
  EXPECT_EQ(scaler.nodes[1].op_type, "Add");
  EXPECT_THAT(scaler.Initializer(scaler.nodes[1].inputs[1])->shape(), ElementsAre(3, 1, 1));
  EXPECT_THAT(ConstantFloats(scaler, 1), ElementsAre(1, 2, 3));

  Graph affine = Lifted(One(7, "Affine", {"x"}, {{"alpha", 3.0f}, {"beta", -1.0f}}));
  EXPECT_THAT(ConstantFloats(affine, 1), ElementsAre(-1));

  // Border left, top, right, bottom.
  Graph crop = Lifted(One(7, "Crop", {"x"}, {{"border", Ints{1, 2, 3, 0}}}));
  EXPECT_EQ(crop.nodes[0].op_type, "Slice");
  EXPECT_THAT(ConstantInts(crop, 1), ElementsAre(2, 1));
  EXPECT_THAT(ConstantInts(crop, 2), ElementsAre(std::numeric_limits<int64_t>::max(), -3));
  EXPECT_THAT(ConstantInts(crop, 3), ElementsAre(2, 3));
  Graph sized = Lifted(One(7, "Crop", {"x"}, {{"border", Ints{1, 2, 0, 0}}, {"scale", Ints{10, 20}}}));
  EXPECT_THAT(ConstantInts(sized, 2), ElementsAre(12, 21));
  Graph bad = One(7, "Crop", {"x"}, {{"border", Ints{1}}});
  EXPECT_EQ(LiftToOpset13(bad).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Lift, ModelsOf13AndLaterStayAsTheyAre) {
  Graph g = One(17, "ReduceMean", {"x"}, {{"axes", Ints{1}}});
  ASSERT_TRUE(LiftToOpset13(g).ok());
  EXPECT_EQ(g.opset, 17);
  EXPECT_TRUE(g.nodes[0].Has("axes"));
}

TEST(RaiseOpset, MovesWhatLaterVersionsRedefined) {
  Graph reduce = One(13, "ReduceMean", {"x"}, {{"axes", Ints{1}}});
  ASSERT_TRUE(RaiseOpset(reduce, 21).ok());
  EXPECT_EQ(reduce.opset, 21);
  EXPECT_THAT(ConstantInts(reduce, 1), ElementsAre(1));
  EXPECT_FALSE(reduce.nodes[0].Has("axes"));

  Graph split = One(13, "Split", {"x"}, {});
  split.nodes[0].outputs.push_back("z");
  ASSERT_TRUE(RaiseOpset(split, 21).ok());
  EXPECT_EQ(split.nodes[0].Int("num_outputs", 0), 2);

  Graph grid = One(16, "GridSample", {"x", "x"}, {});
  ASSERT_TRUE(RaiseOpset(grid, 21).ok());
  EXPECT_EQ(grid.nodes[0].String("mode", ""), "linear");

  Graph group = One(18, "GroupNormalization", {"x"}, {});
  EXPECT_EQ(RaiseOpset(group, 21).code(), absl::StatusCode::kUnimplemented);
  Graph same = One(21, "ReduceMean", {"x"}, {});
  ASSERT_TRUE(RaiseOpset(same, 13).ok());
  EXPECT_EQ(same.opset, 21);
}

}  // namespace
}  // namespace quant
