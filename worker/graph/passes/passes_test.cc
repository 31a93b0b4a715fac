// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/passes/passes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::Pointwise;
using Vec = std::vector<float>;

Node Op(std::string op, std::vector<std::string> in, std::vector<std::string> out,
        std::map<std::string, Attribute> attributes = {}) {
  return {.name = "n_" + out[0],
          .op_type = std::move(op),
          .inputs = std::move(in),
          .outputs = std::move(out),
          .attributes = std::move(attributes)};
}

ValueInfo Value(std::string name, std::vector<int64_t> shape, DType dtype = DType::kFloat32) {
  ValueInfo v{.name = std::move(name), .dtype = dtype, .has_shape = true};
  for (const int64_t d : shape) v.shape.push_back({.value = d});
  return v;
}

std::vector<std::string> Ops(const Graph& g) {
  std::vector<std::string> ops;
  ops.reserve(g.nodes.size());
  for (const Node& n : g.nodes) ops.push_back(n.op_type);
  return ops;
}

// A graph x -> y of the given nodes.
Graph Make(std::vector<Node> nodes, std::map<std::string, Tensor> constants, int64_t opset = 13) {
  Graph g;
  g.opset = opset;
  g.inputs = {Value("x", {1, 4, 1, 1})};
  g.outputs = {Value("y", {1, 4, 1, 1})};
  g.nodes = std::move(nodes);
  g.initializers = std::move(constants);
  return g;
}

// Evaluates a chain of per-pixel operators on one pixel of channels: kernels are 1x1, so that spatial axes play no
// part.
Vec Evaluate(const Graph& g, const Vec& x) {
  std::map<std::string, Vec> values = {{"x", x}};
  for (const auto& [name, t] : g.initializers) values[name] = *ToFloat(t);
  for (const Node& n : g.nodes) {
    const Vec& in = values[n.inputs[0]];
    Vec out;
    if (n.op_type == "Conv" || n.op_type == "ConvTranspose" || n.op_type == "Gemm") {
      const Tensor& wt = g.initializers.at(n.inputs[1]);
      const Vec& w = values[n.inputs[1]];
      const size_t groups = static_cast<size_t>(n.Int("group", 1));
      const size_t rows = static_cast<size_t>(wt.dim(0));
      const size_t cols = static_cast<size_t>(wt.dim(1));
      const bool rows_are_outputs = n.op_type == "Conv" || (n.op_type == "Gemm" && n.Int("transB", 0) != 0);
      out.resize(n.op_type == "ConvTranspose" ? cols * groups : rows_are_outputs ? rows : cols);
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < cols; ++c) {
          const size_t group = r / (rows / groups);
          const size_t o = rows_are_outputs ? r : n.op_type == "ConvTranspose" ? group * cols + c : c;
          const size_t i = rows_are_outputs ? group * cols * (n.op_type == "Conv") + c : r;
          out[o] += n.Float("alpha", 1) * w[r * cols + c] * in[i];
        }
      }
      if (!n.input(2).empty()) {
        const Vec& b = values[n.inputs[2]];
        for (size_t o = 0; o < out.size(); ++o) out[o] += n.Float("beta", 1) * b[b.size() == 1 ? 0 : o];
      }
    } else if (n.op_type == "BatchNormalization") {
      for (size_t c = 0; c < in.size(); ++c) {
        out.push_back((in[c] - values[n.inputs[3]][c]) / std::sqrt(values[n.inputs[4]][c] + n.Float("epsilon", 1e-5f)) *
                          values[n.inputs[1]][c] +
                      values[n.inputs[2]][c]);
      }
    } else {
      const Vec& a = values[n.inputs[0]];
      const Vec& b = values[n.inputs[1]];
      for (size_t c = 0; c < std::max(a.size(), b.size()); ++c) {
        const float l = a[a.size() == 1 ? 0 : c];
        const float r = b[b.size() == 1 ? 0 : c];
        out.push_back(n.op_type == "Mul" ? l * r : n.op_type == "Add" ? l + r : n.op_type == "Sub" ? l - r : l / r);
      }
    }
    values[n.outputs[0]] = out;
  }
  return values["y"];
}

Tensor F(Shape shape, const Vec& v) { return Tensor::Of<float>(std::move(shape), v); }

// Parameters with nothing in common between channels, so that a wrong axis shows.
std::map<std::string, Tensor> BatchNormOf4() {
  return {{"gamma", F({4}, {1, 2, -3, 0.5f})},
          {"beta", F({4}, {0.1f, -0.2f, 0.3f, 4})},
          {"mean", F({4}, {1, -1, 0.5f, 2})},
          {"var", F({4}, {0.25f, 4, 1, 9})}};
}

Node BatchNorm(const std::string& in, const std::string& out) {
  return Op("BatchNormalization", {in, "gamma", "beta", "mean", "var"}, {out}, {{"epsilon", 1e-3f}});
}

MATCHER(Near, "") {
  const float a = std::get<0>(arg);
  const float b = std::get<1>(arg);
  return std::abs(a - b) <= 1e-5f * (1 + std::abs(b));
}

void ExpectFolds(Graph g, const Vec& x, int steps) {
  const Vec before = Evaluate(g, x);
  const absl::StatusOr<int> n = FoldChannelAffine(g);
  ASSERT_TRUE(n.ok()) << n.status();
  EXPECT_EQ(*n, steps);
  EXPECT_EQ(g.nodes.size(), 1u);
  EXPECT_TRUE(g.Validate().ok()) << g.Validate();
  EXPECT_THAT(Evaluate(g, x), Pointwise(Near(), before));
  EXPECT_EQ(*FoldChannelAffine(g), 0);
}

TEST(FoldChannelAffine, BatchNormFoldsIntoGroupedConvWithAndWithoutBias) {
  for (const bool bias : {false, true}) {
    auto constants = BatchNormOf4();
    constants["w"] = F({4, 2, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8});
    constants["b"] = F({4}, {10, 20, 30, 40});
    std::vector<std::string> in = {"x", "w"};
    if (bias) in.push_back("b");
    ExpectFolds(Make({Op("Conv", in, {"c"}, {{"group", int64_t{2}}}), BatchNorm("c", "y")}, constants), {1, -2, 3, 5},
                1);
  }
}

TEST(FoldChannelAffine, BatchNormFoldsIntoGroupedConvTransposeAlongItsOwnAxis) {
  auto constants = BatchNormOf4();
  constants["w"] = F({4, 2, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8});
  ExpectFolds(Make({Op("ConvTranspose", {"x", "w"}, {"c"}, {{"group", int64_t{2}}}), BatchNorm("c", "y")}, constants),
              {1, -2, 3, 5}, 1);
}

TEST(FoldChannelAffine, BatchNormFoldsIntoGemmInEitherOrientationWithAlphaAndBeta) {
  for (const int64_t trans : {0, 1}) {
    auto constants = BatchNormOf4();
    constants["w"] = trans != 0 ? F({4, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
                                : F({3, 4}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    constants["b"] = F({1}, {3});
    Graph g = Make(
        {Op("Gemm", {"x", "w", "b"}, {"c"}, {{"transB", trans}, {"alpha", 0.5f}, {"beta", 2.0f}}), BatchNorm("c", "y")},
        constants);
    ExpectFolds(g, {1, -2, 3}, 1);
  }
}

TEST(FoldChannelAffine, ChainsOfConstantStepsFoldInOnePass) {
  std::map<std::string, Tensor> constants = {{"w", F({4, 4, 1, 1}, Vec(16, 0.5f))},
                                             {"m", F({4, 1, 1}, {1, 2, 3, 4})},
                                             {"a", F({1, 4, 1, 1}, {5, 6, 7, 8})},
                                             {"d", F({}, {4})},
                                             {"s", F({1}, {0.5f})}};
  ExpectFolds(Make({Op("Conv", {"x", "w"}, {"c"}), Op("Mul", {"m", "c"}, {"e"}), Op("Add", {"e", "a"}, {"f"}),
                    Op("Div", {"f", "d"}, {"h"}), Op("Sub", {"h", "s"}, {"y"})},
                   constants),
              {1, 2, 3, 4}, 4);
}

TEST(FoldChannelAffine, LeavesWhatItMayNotTouch) {
  auto constants = BatchNormOf4();
  constants["w"] = F({4, 4, 1, 1}, Vec(16, 0.5f));
  constants["row"] = F({4}, {1, 2, 3, 4});      // along the width, not the channels
  constants["five"] = F({1, 1, 1, 1, 1}, {2});  // adds an axis
  const Node conv = Op("Conv", {"x", "w"}, {"c"});
  Graph read_twice = Make({conv, BatchNorm("c", "b"), Op("Add", {"b", "c"}, {"y"})}, constants);
  Graph output = Make({conv, BatchNorm("c", "y")}, constants);
  output.outputs.push_back(Value("c", {1, 4, 1, 1}));
  Graph wrong_axis = Make({conv, Op("Mul", {"c", "row"}, {"y"})}, constants);
  Graph grows = Make({conv, Op("Mul", {"c", "five"}, {"y"})}, constants);
  Graph reversed = Make({conv, Op("Div", {"row", "c"}, {"y"})}, constants);
  constants["huge"] = F({}, {3e38f});
  constants["w"] = F({4, 4, 1, 1}, Vec(16, 1e5f));
  Graph overflow = Make({conv, Op("Mul", {"c", "huge"}, {"y"})}, constants);
  for (Graph* g : {&read_twice, &output, &wrong_axis, &grows, &reversed, &overflow}) {
    const size_t nodes = g->nodes.size();
    EXPECT_EQ(*FoldChannelAffine(*g), 0);
    EXPECT_EQ(g->nodes.size(), nodes);
  }
}

TEST(FoldChannelAffine, SharedWeightsStayForTheOtherReader) {
  auto constants = BatchNormOf4();
  constants["w"] = F({4, 4, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16});
  Graph g = Make({Op("Conv", {"x", "w"}, {"c"}), BatchNorm("c", "b"), Op("Conv", {"b", "w"}, {"y"})}, constants);
  const Vec before = Evaluate(g, {1, 2, 3, 4});
  EXPECT_EQ(*FoldChannelAffine(g), 1);
  EXPECT_THAT(Evaluate(g, {1, 2, 3, 4}), Pointwise(Near(), before));
  EXPECT_THAT(*ToFloat(*g.Initializer("w")), ::testing::Contains(16.0f));
}

TEST(FoldChannelAffine, DeadChannelsAndNegativeVarianceStayBounded) {
  auto constants = BatchNormOf4();
  constants["w"] = F({4, 4, 1, 1}, Vec(16, 1.0f));
  constants["var"] = F({4}, {0, -1e-3f, 1e-30f, 1});
  Node bn = BatchNorm("c", "y");
  bn.attributes["epsilon"] = 1e-20f;
  Graph g = Make({Op("Conv", {"x", "w"}, {"c"}), bn}, constants);
  EXPECT_EQ(*FoldChannelAffine(g), 1);
  const Vec w = *ToFloat(*g.Initializer("w"));
  for (const float v : w) EXPECT_LE(std::abs(v), 3.1e6f);  // |gamma| / kMinDeviation
}

TEST(FoldChannelAffine, HalfPrecisionWeightsKeepTheirDtype) {
  auto constants = BatchNormOf4();
  constants["w"] = *Cast(F({4, 4, 1, 1}, Vec(16, 0.5f)), DType::kFloat16);
  Graph g = Make({Op("Conv", {"x", "w"}, {"c"}), BatchNorm("c", "y")}, constants);
  const Vec before = Evaluate(g, {1, 2, 3, 4});
  EXPECT_EQ(*FoldChannelAffine(g), 1);
  EXPECT_EQ(g.Initializer("w")->dtype(), DType::kFloat16);
  const Vec after = Evaluate(g, {1, 2, 3, 4});
  // Four weights and a bias rounded to 11 bits: relative 2^-11 of terms up to 4 * 1 * 0.5 * |factor 3|.
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(after[i], before[i], 0.02f);
}

TEST(RemoveNoOps, TakesOutEachKindAndKeepsTheOutputName) {
  std::map<std::string, Tensor> constants = {{"pads", Tensor::Of<int64_t>({8}, std::vector<int64_t>(8, 0))},
                                             {"same", Tensor::Of<int64_t>({4}, std::vector<int64_t>(4, 0))}};
  Graph g = Make({Op("Relu", {"x"}, {"a"}), Op("Identity", {"a"}, {"b"}), Op("Dropout", {"b"}, {"c", "mask"}),
                  Op("Cast", {"c"}, {"d"}, {{"to", int64_t{1}}}),
                  Op("Transpose", {"d"}, {"e"}, {{"perm", std::vector<int64_t>{0, 1, 2, 3}}}),
                  Op("Reshape", {"e", "same"}, {"f"}), Op("Pad", {"f", "pads"}, {"g"}),
                  Op("Concat", {"g"}, {"h"}, {{"axis", int64_t{1}}}), Op("Identity", {"h"}, {"y"})},
                 constants);
  for (const char* v : {"a", "b", "c", "d", "e"}) g.value_info[v] = Value(v, {1, 4, 1, 1});
  const absl::StatusOr<int> n = RemoveNoOps(g);
  ASSERT_TRUE(n.ok());
  EXPECT_EQ(*n, 8);
  ASSERT_EQ(g.nodes.size(), 1u);
  EXPECT_EQ(g.nodes[0].op_type, "Relu");
  EXPECT_THAT(g.nodes[0].outputs, ElementsAre("y"));
  EXPECT_TRUE(g.Validate().ok());
  EXPECT_EQ(*RemoveNoOps(g), 0);
}

TEST(RemoveNoOps, KeepsWhatHasAnEffect) {
  std::map<std::string, Tensor> constants = {{"pads", Tensor::Of<int64_t>({8}, {0, 0, 0, 0, 0, 0, 0, 1})},
                                             {"to", Tensor::Of<int64_t>({2}, {0, -1})}};
  Graph g = Make(
      {Op("Cast", {"x"}, {"a"}, {{"to", int64_t{10}}}), Op("Transpose", {"a"}, {"b"}), Op("Pad", {"b", "pads"}, {"c"}),
       Op("Reshape", {"c", "to"}, {"d"}), Op("Dropout", {"d"}, {"e", "mask"}), Op("Where", {"mask", "e", "d"}, {"y"})},
      constants);
  EXPECT_EQ(*RemoveNoOps(g), 0);
  EXPECT_EQ(g.nodes.size(), 6u);
}

TEST(RemoveNoOps, AnIdentityThatConnectsTwoNamesOfTheInterfaceStays) {
  Graph g = Make({Op("Identity", {"x"}, {"y"})}, {});
  EXPECT_EQ(*RemoveNoOps(g), 0);
  Graph two = Make({Op("Relu", {"x"}, {"y"}), Op("Identity", {"y"}, {"z"})}, {});
  two.outputs.push_back(Value("z", {1, 4, 1, 1}));
  EXPECT_EQ(*RemoveNoOps(two), 0);
  Graph fan = Make({Op("Relu", {"x"}, {"a"}), Op("Identity", {"a"}, {"y"}), Op("Identity", {"a"}, {"z"})}, {});
  fan.outputs.push_back(Value("z", {1, 4, 1, 1}));
  EXPECT_EQ(*RemoveNoOps(fan), 1);
  EXPECT_TRUE(fan.Validate().ok()) << fan.Validate();
  EXPECT_EQ(*RemoveNoOps(fan), 0);
}

// Knows Neg and a Fill that makes inputs[0] floats.
absl::StatusOr<std::vector<Tensor>> FakeEvaluate(const Node& n, std::span<const Tensor* const> in, int64_t max_bytes) {
  if (n.op_type == "Neg") {
    Vec v = *ToFloat(*in[0]);
    for (float& e : v) e = -e;
    return std::vector<Tensor>{F(in[0]->shape(), v)};
  }
  if (n.op_type == "Fill") {
    const int64_t count = ToInt64(*in[0])->front();
    if (count * 4 > max_bytes) return absl::ResourceExhaustedError("too large");
    return std::vector<Tensor>{*Tensor::Allocate(DType::kFloat32, {count})};
  }
  return absl::UnimplementedError(n.op_type);
}

TEST(FoldConstants, FoldsChainsButNotDequantizersUnknownOperatorsAndOutputs) {
  Graph g = Make(
      {Op("Neg", {"one"}, {"a"}), Op("Neg", {"a"}, {"b"}), Op("Mystery", {"b"}, {"c"}),
       Op("DequantizeLinear", {"q", "one"}, {"d"}), Op("Sum", {"x", "b", "c", "d"}, {"y"}), Op("Neg", {"one"}, {"z"})},
      {{"one", F({1}, {1})}, {"q", Tensor::Of<int8_t>({1}, std::vector<int8_t>{3})}});
  g.outputs.push_back(Value("z", {1}));
  const absl::StatusOr<int> n = FoldConstants(g, FakeEvaluate);
  ASSERT_TRUE(n.ok());
  EXPECT_EQ(*n, 2);
  EXPECT_THAT(Ops(g), ElementsAre("Mystery", "DequantizeLinear", "Sum", "Neg"));
  EXPECT_THAT(*ToFloat(*g.Initializer("b")), ElementsAre(1));
  EXPECT_TRUE(g.Validate().ok());
}

TEST(FoldConstants, DoesNotGrowTheModelPastAMegabyte) {
  for (const int64_t elements : {int64_t{1} << 18, (int64_t{1} << 18) + 1}) {
    Graph g = Make({Op("Fill", {"n"}, {"a"}), Op("Add", {"x", "a"}, {"y"})}, {{"n", Tensor::Scalar(elements)}});
    EXPECT_EQ(*FoldConstants(g, FakeEvaluate), elements == (int64_t{1} << 18) ? 1 : 0);
  }
}

TEST(FuseHardSwish, RecognisesItsThreeForms) {
  const std::map<std::string, Tensor> c = {{"three", F({}, {3})}, {"zero", F({}, {0})}, {"six", F({1}, {6})}};
  const std::vector<Node> gate = {Op("Add", {"x", "three"}, {"a"}), Op("Clip", {"a", "zero", "six"}, {"b"})};
  Graph last = Make({gate[0], gate[1], Op("Mul", {"x", "b"}, {"m"}), Op("Div", {"m", "six"}, {"y"})}, c, 14);
  Graph first = Make({gate[0], gate[1], Op("Div", {"b", "six"}, {"m"}), Op("Mul", {"m", "x"}, {"y"})}, c, 14);
  Graph sigmoid = Make({Op("HardSigmoid", {"x"}, {"s"}, {{"alpha", 1.0f / 6}}), Op("Mul", {"x", "s"}, {"y"})}, {}, 14);
  for (Graph* g : {&last, &first, &sigmoid}) {
    EXPECT_EQ(*FuseHardSwish(*g), 1);
    EXPECT_THAT(Ops(*g), ElementsAre("HardSwish"));
    EXPECT_TRUE(g->Validate().ok());
    EXPECT_EQ(*FuseHardSwish(*g), 0);
  }
  Graph old = Make({gate[0], gate[1], Op("Mul", {"x", "b"}, {"m"}), Op("Div", {"m", "six"}, {"y"})}, c, 13);
  EXPECT_EQ(*FuseHardSwish(old), 0);
  Graph other = Make({Op("HardSigmoid", {"x"}, {"s"}), Op("Mul", {"x", "s"}, {"y"})}, {}, 14);
  EXPECT_EQ(*FuseHardSwish(other), 0);
}

TEST(Prepare, FindsParametersBehindIdentityAndReachesAFixpoint) {
  auto constants = BatchNormOf4();
  constants["w0"] = F({4, 4, 1, 1}, Vec(16, -0.5f));
  Graph g = Make({Op("Neg", {"w0"}, {"w1"}), Op("Identity", {"w1"}, {"w"}), Op("Conv", {"x", "w"}, {"c"}),
                  Op("Identity", {"c"}, {"d"}), BatchNorm("d", "e"), Op("Identity", {"e"}, {"y"})},
                 constants);
  const absl::StatusOr<PrepareResult> r = Prepare(g, FakeEvaluate);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->constants_folded, 1);
  EXPECT_EQ(r->no_ops_removed, 3);
  EXPECT_EQ(r->affine_folded, 1);
  EXPECT_THAT(Ops(g), ElementsAre("Conv"));
  EXPECT_EQ(g.inputs[0].name, "x");
  EXPECT_THAT(g.nodes[0].outputs, ElementsAre("y"));
}

}  // namespace
}  // namespace quant
