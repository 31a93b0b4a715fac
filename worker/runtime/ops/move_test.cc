// SPDX-License-Identifier: Apache-2.0
// Operators that change shapes or move elements, and Resize.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "worker/runtime/testing/evaluate.h"

namespace quant::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Reshape, ZeroCopiesAndMinusOneFollows) {
  const Tensor x = Ramp({2, 3, 4});
  EXPECT_EQ(Evaluate("Reshape", {x, L({0, -1})}).shape(), Shape({2, 12}));
  EXPECT_EQ(Evaluate("Reshape", {x, L({4, 6})}).shape(), Shape({4, 6}));
  EXPECT_EQ(Evaluate("Reshape", {F({0, 3}, {}), L({3, 0})}, {{"allowzero", int64_t{1}}}).shape(), Shape({3, 0}));
  EXPECT_EQ(Evaluate("Reshape", {F({1}, {5}), L(Longs{})}).shape(), Shape({}));
}

TEST(Shapes, FlattenSqueezeUnsqueezeShapeSize) {
  const Tensor x = Ramp({2, 1, 3});
  EXPECT_EQ(Evaluate("Flatten", {x}).shape(), Shape({2, 3}));
  EXPECT_EQ(Evaluate("Flatten", {x}, {{"axis", int64_t{0}}}).shape(), Shape({1, 6}));
  EXPECT_EQ(Evaluate("Flatten", {x}, {{"axis", int64_t{3}}}).shape(), Shape({6, 1}));
  EXPECT_EQ(Evaluate("Squeeze", {x}).shape(), Shape({2, 3}));
  EXPECT_EQ(Evaluate("Unsqueeze", {x, L({-1, 0})}).shape(), Shape({1, 2, 1, 3, 1}));
  EXPECT_THAT(Integers(Evaluate("Shape", {x})), ElementsAre(2, 1, 3));
  EXPECT_THAT(Integers(Evaluate("Shape", {x}, {{"start", int64_t{-2}}, {"end", int64_t{-1}}})), ElementsAre(1));
  EXPECT_THAT(Integers(Evaluate("Shape", {x}, {{"start", int64_t{2}}, {"end", int64_t{1}}})), IsEmpty());
  EXPECT_THAT(Integers(Evaluate("Size", {x})), ElementsAre(6));
}

TEST(Transpose, PermutesAndReversesByDefault) {
  const Tensor x = Ramp({2, 3});
  EXPECT_THAT(AsFloats(Evaluate("Transpose", {x})), ElementsAre(0, 3, 1, 4, 2, 5));
  EXPECT_EQ(Evaluate("Transpose", {Ramp({2, 3, 4})}, {{"perm", Longs{1, 2, 0}}}).shape(), Shape({3, 4, 2}));
}

TEST(Slice, StepsNegativeStepsAndClampedEnds) {
  const Tensor x = Ramp({6});
  const auto slice = [&x](int64_t start, int64_t end, int64_t step) {
    return AsFloats(Evaluate("Slice", {x, L({start}), L({end}), L({0}), L({step})}));
  };
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(slice(1, 5, 2), ElementsAre(1, 3));
  EXPECT_THAT(slice(-2, kMax, 1), ElementsAre(4, 5));
  EXPECT_THAT(slice(kMax, kMin, -2), ElementsAre(5, 3, 1));
  EXPECT_THAT(slice(-1, -4, -1), ElementsAre(5, 4, 3));
  EXPECT_THAT(slice(3, 3, 1), IsEmpty());
  EXPECT_THAT(slice(-9, kMin, -1), ElementsAre(0));  // a start before the first element is clamped to it
  EXPECT_THAT(AsFloats(Evaluate("Slice", {F({0}, {}), L({-1}), L({kMin}), L({0}), L({-1})})), IsEmpty());
  EXPECT_THAT(slice(5, 0, kMin), ElementsAre(5));
  EXPECT_THAT(slice(0, 6, kMax), ElementsAre(0));
  EXPECT_THAT(AsFloats(Evaluate("Slice", {Ramp({2, 3}), L({1, 0}), L({2, 2})})), ElementsAre(3, 4));
}

TEST(ConcatSplit, AreInverse) {
  const Tensor x = Ramp({2, 5});
  const auto parts = EvaluateAll("Split", {x, L({2, 0, 3})}, {{"axis", int64_t{1}}}, 3);
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_THAT(AsFloats((*parts)[0]), ElementsAre(0, 1, 5, 6));
  EXPECT_EQ((*parts)[1].shape(), Shape({2, 0}));
  EXPECT_EQ(AsFloats(Evaluate("Concat", {(*parts)[0], (*parts)[1], (*parts)[2]}, {{"axis", int64_t{-1}}})),
            AsFloats(x));
  const auto uneven = EvaluateAll("Split", {x}, {{"axis", int64_t{1}}, {"num_outputs", int64_t{2}}}, 2);
  ASSERT_TRUE(uneven.ok());
  EXPECT_EQ((*uneven)[0].dim(1), 3);
  EXPECT_EQ((*uneven)[1].dim(1), 2);
}

TEST(Pad, EveryModeAndNegativePads) {
  const Tensor x = F({3}, {1, 2, 3});
  const auto pad = [&x](const char* mode, int64_t before, int64_t after) {
    return AsFloats(Evaluate("Pad", {x, L({before, after})}, {{"mode", mode}}));
  };
  EXPECT_THAT(pad("constant", 1, 2), ElementsAre(0, 1, 2, 3, 0, 0));
  EXPECT_THAT(pad("edge", 1, 2), ElementsAre(1, 1, 2, 3, 3, 3));
  EXPECT_THAT(pad("reflect", 2, 3), ElementsAre(3, 2, 1, 2, 3, 2, 1, 2));
  EXPECT_THAT(pad("wrap", 1, 4), ElementsAre(3, 1, 2, 3, 1, 2, 3, 1));
  EXPECT_THAT(pad("constant", -1, 1), ElementsAre(2, 3, 0));
  EXPECT_THAT(AsFloats(Evaluate("Pad", {Ramp({1, 2}), L({0, 1}), Tensor::Scalar(9.0f), L({1})})), ElementsAre(0, 1, 9));
}

TEST(Tile, RepeatsEachAxis) {
  EXPECT_THAT(AsFloats(Evaluate("Tile", {F({1, 2}, {1, 2}), L({2, 2})})), ElementsAre(1, 2, 1, 2, 1, 2, 1, 2));
  EXPECT_THAT(AsFloats(Evaluate("Expand", {F({2, 1}, {1, 2}), L({1, 2})})), ElementsAre(1, 1, 2, 2));
}

TEST(DepthToSpace, BothOrdersAndBack) {
  const Tensor x = Ramp({1, 8, 1, 1});
  EXPECT_THAT(AsFloats(Evaluate("DepthToSpace", {x}, {{"blocksize", int64_t{2}}})),
              ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_THAT(AsFloats(Evaluate("DepthToSpace", {x}, {{"blocksize", int64_t{2}}, {"mode", "CRD"}})),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  const Tensor image = Ramp({2, 3, 4, 6});
  const Tensor deep = Evaluate("SpaceToDepth", {image}, {{"blocksize", int64_t{2}}});
  EXPECT_EQ(deep.shape(), Shape({2, 12, 2, 3}));
  EXPECT_EQ(AsFloats(Evaluate("DepthToSpace", {deep}, {{"blocksize", int64_t{2}}})), AsFloats(image));
}

TEST(Gather, NegativeIndicesAnyAxisAndIndexShape) {
  const Tensor x = Ramp({2, 3});
  const Tensor y = Evaluate("Gather", {x, Of<int32_t>({1, 2}, {-1, 0})}, {{"axis", int64_t{1}}});
  EXPECT_EQ(y.shape(), Shape({2, 1, 2}));
  EXPECT_THAT(AsFloats(y), ElementsAre(2, 0, 5, 3));
  EXPECT_EQ(Evaluate("Gather", {x, L({}, {1})}).shape(), Shape({3}));
  EXPECT_THAT(AsFloats(Evaluate("GatherElements", {x, L({1, 3}, {1, 0, -1})})), ElementsAre(3, 1, 5));
  EXPECT_THAT(AsFloats(Evaluate("GatherND", {x, L({2, 2}, {0, 1, 1, -1})})), ElementsAre(1, 5));
  EXPECT_THAT(AsFloats(Evaluate("ScatterND", {x, L({1, 1}, {1}), F({1, 3}, {7, 8, 9})})),
              ElementsAre(0, 1, 2, 7, 8, 9));
}

TEST(TopK, OrdersAndBreaksTiesByIndex) {
  const auto out = EvaluateAll("TopK", {F({5}, {3, 1, 3, std::numeric_limits<float>::quiet_NaN(), 2}), L({4})}, {}, 2);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_THAT(Integers((*out)[1]), ElementsAre(3, 0, 2, 4));
  const auto smallest = EvaluateAll("TopK", {L({3, 1, 2}), L({2})}, {{"largest", int64_t{0}}}, 2);
  ASSERT_TRUE(smallest.ok());
  EXPECT_THAT(Integers((*smallest)[0]), ElementsAre(1, 2));
}

TEST(Constants, ConstantOfShapeRangeOneHot) {
  EXPECT_THAT(Integers(Evaluate("ConstantOfShape", {L({2})}, {{"value", L({7})}})), ElementsAre(7, 7));
  EXPECT_THAT(AsFloats(Evaluate("ConstantOfShape", {L(Longs{})})), ElementsAre(0));
  EXPECT_THAT(Integers(Evaluate("Range", {L({}, {5}), L({}, {-1}), L({}, {-2})})), ElementsAre(5, 3, 1));
  EXPECT_THAT(Integers(Evaluate("Range", {L({}, {5}), L({}, {5}), L({}, {1})})), IsEmpty());
  EXPECT_THAT(AsFloats(Evaluate("OneHot", {L({2}, {1, -1}), L({}, {3}), F({2}, {0, 5})})),
              ElementsAre(0, 5, 0, 0, 0, 5));
}

TEST(Resize, NearestLinearAndCubic) {
  const Tensor x = F({1, 1, 1, 2}, {10, 20});
  const auto resize = [&x](Attributes a, int64_t size) {
    return AsFloats(Evaluate("Resize", {x, std::nullopt, std::nullopt, L({1, 1, 1, size})}, std::move(a)));
  };
  EXPECT_THAT(resize({{"mode", "nearest"}}, 4), ElementsAre(10, 10, 20, 20));
  EXPECT_THAT(resize({{"mode", "linear"}}, 4), ElementsAre(10, 12.5f, 17.5f, 20));
  EXPECT_THAT(resize({{"mode", "linear"}, {"coordinate_transformation_mode", "align_corners"}}, 3),
              ElementsAre(10, 15, 20));
  EXPECT_THAT(resize({{"mode", "linear"}, {"coordinate_transformation_mode", "asymmetric"}}, 4),
              ElementsAre(10, 15, 20, 20));
  // Half-way between two equal-distance neighbours: (20 + 10) / 2 + the outer taps -0.09375 each of the clamped edges.
  EXPECT_THAT(resize({{"mode", "cubic"}}, 1), ElementsAre(15));
  const Tensor up = Evaluate("Resize", {x, std::nullopt, F({4}, {1, 1, 2, 1.5f})});
  EXPECT_EQ(up.shape(), Shape({1, 1, 2, 3}));
}

}  // namespace
}  // namespace quant::testing
