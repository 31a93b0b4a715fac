// SPDX-License-Identifier: Apache-2.0
// Float operators and their fusion, each against the plain loops of the reference backend. Tolerances: float32 sums of
// at most a few thousand products of magnitude 1 differ from the exact ones by less than 1e-5 of the greatest result.
#include <string>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/runtime/onednn/testing/test_graph.h"

namespace quant {
namespace {

using quant::testing::ExpectNear;
using quant::testing::TestGraph;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kTolerance = 1e-5;

using Ints = std::vector<int64_t>;

struct ConvCase {
  int64_t in, out, size, kernel, stride, groups, dilation;
};

class ConvTest : public ::testing::TestWithParam<ConvCase> {};

TEST_P(ConvTest, MatchesTheReference) {
  const ConvCase c = GetParam();
  TestGraph g;
  const std::string x = g.Input({2, c.in, c.size, c.size});
  const std::string w = g.Random({c.out, c.in / c.groups, c.kernel, c.kernel});
  const std::string y = g.Op("Conv", {x, w, g.Random({c.out})},
                             {{"strides", Ints{c.stride, c.stride}},
                              {"dilations", Ints{c.dilation, c.dilation}},
                              {"group", c.groups},
                              {"pads", Ints{c.kernel / 2, c.kernel / 2, c.kernel / 2, c.kernel / 2}}});
  g.Output(g.Op("Relu", {y}));
  const std::string plan = ExpectNear(g, 2, kTolerance);
  EXPECT_THAT(plan, HasSubstr("Conv+Relu"));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ConvTest,
                         ::testing::Values(ConvCase{1, 5, 9, 3, 1, 1, 1}, ConvCase{3, 16, 32, 3, 2, 1, 1},
                                           ConvCase{5, 17, 13, 1, 1, 1, 1}, ConvCase{17, 33, 8, 3, 1, 1, 1},
                                           ConvCase{33, 5, 7, 5, 1, 1, 1}, ConvCase{64, 1000, 7, 1, 1, 1, 1},
                                           ConvCase{16, 16, 11, 3, 1, 16, 1}, ConvCase{17, 17, 12, 3, 2, 17, 1},
                                           ConvCase{12, 18, 10, 3, 1, 3, 1}, ConvCase{8, 24, 15, 3, 1, 1, 2},
                                           ConvCase{16, 32, 16, 7, 2, 1, 1}, ConvCase{6, 12, 9, 3, 1, 6, 1},
                                           ConvCase{72, 8, 10, 3, 2, 1, 1}, ConvCase{512, 10, 1, 1, 1, 1, 1}));

TEST(ConvFusion, AutoPadOneDimensionAndThreeDimensions) {
  for (const char* pad : {"SAME_UPPER", "SAME_LOWER", "VALID"}) {
    TestGraph g;
    const std::string x = g.Input({1, 3, 10, 11});
    g.Output(g.Op("Conv", {x, g.Random({4, 3, 3, 2})}, {{"auto_pad", std::string(pad)}, {"strides", Ints{2, 2}}}));
    ExpectNear(g, 3, kTolerance);
  }
  TestGraph one;
  one.Output(one.Op("Conv", {one.Input({1, 5, 40}), one.Random({7, 5, 9})}, {{"pads", Ints{4, 4}}}));
  ExpectNear(one, 2, kTolerance);
  TestGraph three;
  three.Output(three.Op("Conv", {three.Input({1, 3, 5, 6, 7}), three.Random({4, 3, 2, 3, 3})}));
  ExpectNear(three, 2, kTolerance);
}

TEST(ConvFusion, BatchNormalizationActivationsAndPerChannelConstants) {
  const std::tuple<const char*, std::map<std::string, Attribute>> activations[] = {
      {"Relu", {}},
      {"LeakyRelu", {{"alpha", 0.2f}}},
      {"Sigmoid", {}},
      {"Tanh", {}},
      {"Elu", {{"alpha", 0.7f}}},
      {"HardSwish", {}},
      {"HardSigmoid", {{"alpha", 0.3f}, {"beta", 0.4f}}}};
  for (const auto& [type, attributes] : activations) {
    TestGraph g;
    const std::string x = g.Input({1, 5, 8, 8});
    std::string y = g.Op("Conv", {x, g.Random({6, 5, 3, 3}), g.Random({6})});
    y = g.Op("BatchNormalization", {y, g.Random({6}, 0.5, 2), g.Random({6}), g.Random({6}), g.Random({6}, 0.1f, 1)});
    y = g.Op("Mul", {y, g.Random({1, 6, 1, 1}, 0.5, 2)});
    y = g.Op("Add", {g.Random({6, 1, 1}), y});
    g.Output(g.Op(type, {y}, attributes));
    const std::string plan = ExpectNear(g, 2, 5e-5);
    EXPECT_THAT(plan, Not(HasSubstr("BatchNormalization float32"))) << "must be fused";
  }
}

TEST(ConvFusion, SwishClipAndPRelu) {
  TestGraph g;
  const std::string x = g.Input({1, 4, 9, 9});
  const std::string y = g.Op("Conv", {x, g.Random({6, 4, 3, 3})});
  const std::string swish = g.Op("Mul", {y, g.Op("Sigmoid", {y})});
  const std::string z = g.Op("Conv", {swish, g.Random({7, 6, 1, 1})});
  const std::string clip = g.Op("Clip", {z, g.Constant(Tensor::Scalar(-0.2f)), g.Constant(Tensor::Scalar(0.5f))});
  const std::string w = g.Op("Conv", {clip, g.Random({5, 7, 1, 1})});
  g.Output(g.Op("PRelu", {w, g.Random({5, 1, 1})}));
  const std::string plan = ExpectNear(g, 2, 5e-5);
  EXPECT_THAT(plan, HasSubstr("Conv+Sigmoid+Mul"));
  EXPECT_THAT(plan, HasSubstr("Conv+Clip"));
  EXPECT_THAT(plan, HasSubstr("Conv+PRelu"));
}

TEST(ConvFusion, ResidualsAreSummedInPlaceOnlyWhenNobodyElseReadsThem) {
  for (const bool read_again : {false, true}) {
    TestGraph g;
    const std::string x = g.Input({1, 16, 8, 8});
    std::string a =
        g.Op("Relu", {g.Op("Conv", {x, g.Random({16, 16, 3, 3}, -0.2f, 0.2f)}, {{"pads", Ints{1, 1, 1, 1}}})});
    for (int block = 0; block < 3; ++block) {
      const std::string b = g.Op("Conv", {a, g.Random({16, 16, 3, 3}, -0.2f, 0.2f)}, {{"pads", Ints{1, 1, 1, 1}}});
      const std::string first = a;
      a = g.Op("Relu", {g.Op("Add", {b, a})});
      if (read_again) a = g.Op("Add", {a, first});
    }
    g.Output(a);
    EXPECT_THAT(ExpectNear(g, 2, kTolerance), HasSubstr("Conv+Add+Relu"));
  }
}

TEST(ConvFusion, StopsAtOutputsAndSharedValues) {
  TestGraph g;
  const std::string x = g.Input({1, 4, 6, 6});
  const std::string y = g.Op("Conv", {x, g.Random({4, 4, 1, 1})});
  const std::string r = g.Op("Relu", {y});
  g.Output(y);
  g.Output(r);
  g.Output(g.Op("Add", {r, y}));
  EXPECT_THAT(ExpectNear(g, 1, kTolerance), Not(HasSubstr("Conv+")));
}

TEST(ConvTranspose, GroupsStridesAndOutputPadding) {
  for (const int64_t groups : {1, 2}) {
    TestGraph g;
    const std::string x = g.Input({1, 6, 5, 7});
    const std::string y =
        g.Op("ConvTranspose", {x, g.Random({6, 4 / groups, 3, 3}), g.Random({4})},
             {{"strides", Ints{2, 3}}, {"output_padding", Ints{1, 0}}, {"pads", Ints{1, 0, 0, 1}}, {"group", groups}});
    g.Output(g.Op("Relu", {y}));
    ExpectNear(g, 2, kTolerance);
  }
}

TEST(MatrixProducts, GemmInAllOrders) {
  for (const int64_t rows : {1, 7}) {
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        for (const int64_t cols : {1, 10, 17, 1000}) {
          TestGraph g;
          const std::string a = trans_a ? g.Op("Transpose", {g.Input({rows, 64})}) : g.Input({rows, 64});
          const std::string b = g.Random(trans_b ? Shape{cols, 64} : Shape{64, cols});
          const std::string y =
              g.Op("Gemm", {a, b, g.Random({cols})},
                   {{"transA", int64_t{trans_a}}, {"transB", int64_t{trans_b}}, {"alpha", 0.5f}, {"beta", 2.0f}});
          g.Output(g.Op("Relu", {y}));
          ExpectNear(g, rows, kTolerance);
        }
      }
    }
  }
}

TEST(MatrixProducts, MatMulOfConstantsOfValuesAndOfBatches) {
  TestGraph g;
  const std::string x = g.Input({1, 5, 33});
  const std::string y = g.Op("Relu", {g.Op("Add", {g.Op("MatMul", {x, g.Random({33, 17})}), g.Random({17})})});
  const std::string t = g.Op("Transpose", {y}, {{"perm", Ints{0, 2, 1}}});
  const std::string p = g.Op("MatMul", {y, t});
  g.Output(g.Op("Softmax", {p}));
  g.Output(g.Op("MatMul", {p, y}));
  EXPECT_THAT(ExpectNear(g, 3, kTolerance), HasSubstr("MatMul"));
}

TEST(Pooling, AllKinds) {
  for (const int64_t ceil : {0, 1}) {
    for (const int64_t include : {0, 1}) {
      TestGraph g;
      const std::string x = g.Input({1, 5, 10, 13});
      const std::map<std::string, Attribute> a = {
          {"kernel_shape", Ints{3, 2}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 0, 1, 1}}, {"ceil_mode", ceil}};
      g.Output(g.Op("MaxPool", {x}, a));
      std::map<std::string, Attribute> average = a;
      average["count_include_pad"] = include;
      g.Output(g.Op("AveragePool", {x}, average));
      g.Output(g.Op("GlobalAveragePool", {x}));
      g.Output(g.Op("ReduceMean", {x}, {{"axes", Ints{2, 3}}, {"keepdims", int64_t{0}}}));
      g.Output(g.Op("GlobalMaxPool", {x}));
      ExpectNear(g, 2, kTolerance);
    }
  }
}

TEST(Elementwise, BroadcastingInBothLayouts) {
  for (const char* type : {"Add", "Sub", "Mul", "Div", "Max", "Min"}) {
    TestGraph g;
    const std::string x = g.Input({1, 5, 6, 7});
    const std::string conv = g.Op("Conv", {x, g.Random({5, 5, 1, 1})});  // channels-last from here
    const std::string mean = g.Op("Sigmoid", {g.Op("GlobalAveragePool", {conv})});
    for (const std::string& v : {x, conv}) {
      g.Output(g.Op(type, {v, mean}));
      g.Output(g.Op(type, {g.Random({5, 1, 1}, 1, 2), v}));
      g.Output(g.Op(type, {v, g.Random({1, 1, 6, 7}, 1, 2)}));
      g.Output(g.Op(type, {v, g.Random({6, 1}, 1, 2)}));
      g.Output(g.Op(type, {v, g.Random({5, 6, 7}, 1, 2)}));
      g.Output(g.Op(type, {v, g.Random({}, 1, 2)}));
      g.Output(g.Op("Relu", {g.Op(type, {v, g.Op("Exp", {conv})})}));
    }
    ExpectNear(g, 2, kTolerance);
  }
}

TEST(Elementwise, StandAloneOperators) {
  TestGraph g;
  const std::string x = g.Input({1, 5, 6, 7});
  const std::string conv = g.Op("Conv", {x, g.Random({5, 5, 1, 1})});
  for (const char* type :
       {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSwish", "HardSigmoid", "Exp", "Abs", "Neg"}) {
    g.Output(g.Op(type, {conv}));
    g.Output(g.Op(type, {x}));
  }
  g.Output(g.Op("PRelu", {conv, g.Random({5, 1, 1})}));
  g.Output(g.Op("BatchNormalization", {x, g.Random({5}), g.Random({5}), g.Random({5}), g.Random({5}, 0.1f, 1)}));
  g.Output(g.Op("Softmax", {conv}, {{"axis", int64_t{1}}}));
  g.Output(g.Op("LogSoftmax", {x}, {{"axis", int64_t{-1}}}));
  ExpectNear(g, 2, kTolerance);
}

TEST(Moves, ReshapeTransposeConcatSlicePadInBothLayouts) {
  TestGraph g;
  const std::string x = g.Input({1, 5, 6, 7});
  const std::string conv = g.Op("Conv", {x, g.Random({6, 5, 1, 1})});
  const auto ints = [&](Ints v) { return g.Constant(Tensor::Of<int64_t>({static_cast<int64_t>(v.size())}, v)); };
  g.Output(g.Op("Flatten", {conv}));
  g.Output(g.Op("Reshape", {conv, ints({0, 3, -1})}));
  g.Output(g.Op("Transpose", {conv}, {{"perm", Ints{0, 2, 3, 1}}}));
  g.Output(g.Op("Transpose", {g.Op("Transpose", {conv}, {{"perm", Ints{0, 2, 3, 1}}})}, {{"perm", Ints{0, 3, 1, 2}}}));
  g.Output(g.Op("Transpose", {conv}, {{"perm", Ints{3, 1, 0, 2}}}));
  g.Output(g.Op("Concat", {x, conv}, {{"axis", int64_t{1}}}));
  g.Output(g.Op("Concat", {conv, conv}, {{"axis", int64_t{2}}}));
  g.Output(g.Op("Concat", {x, x, x}, {{"axis", int64_t{-1}}}));
  for (const std::string& v : {x, conv}) {
    g.Output(g.Op("Slice", {v, ints({1, -6, 0}), ints({100, 5, 6}), ints({1, 2, 3}), ints({1, 2, 3})}));
    g.Output(g.Op("Slice", {v, ints({-1}), ints({-100}), ints({3}), ints({-2})}));
    g.Output(g.Op("Slice", {v, ints({2}), ints({3}), ints({2}), ints({1000})}));
    g.Output(g.Op("Pad", {v, ints({0, 1, 2, 0, 0, 3, 0, 1}), g.Constant(Tensor::Scalar(1.5f))}));
    g.Output(g.Op("Pad", {v, ints({0, 0, 1, 2, 0, 0, 3, 0})}));
  }
  ExpectNear(g, 2, kTolerance);
}

}  // namespace
}  // namespace quant
