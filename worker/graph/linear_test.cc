// SPDX-License-Identifier: Apache-2.0
// Round trips: the weights that go into a graph are those that come out, and nodes made to deceive are refused.
#include "worker/graph/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor Random(const Shape& shape, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
  for (float& v : values) v = static_cast<float>(random() % 200) / 64 - 1.5f;  // exact in 16 bits
  return Tensor::Of<float>(shape, values);
}

Graph Model(int64_t n, int64_t k, DType dtype = DType::kBFloat16) {
  Graph g;
  g.opset = 23;
  g.inputs = {{.name = "x", .has_shape = true, .shape = {{.value = -1}, {.value = k}}}};
  g.initializers["layer.weight"] = *Cast(Random({n, k}), dtype);
  g.initializers["layer.bias"] = *Cast(Random({n}, 2), dtype);
  const std::string y = AppendLinear(&g, "layer", "x", "layer.weight", "layer.bias");
  g.outputs = {{.name = y}};
  return g;
}

TEST(FindLinears, SeesThroughCastAndTranspose) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const Graph g = Model(3, 5, dtype);
    ASSERT_TRUE(g.Validate().ok()) << g.Validate();
    const std::vector<Linear> found = FindLinears(g);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].name, "layer");
    EXPECT_EQ(found[0].weight, "layer.weight");
    EXPECT_EQ(found[0].input, "x");
    EXPECT_TRUE(found[0].transposed);
    EXPECT_EQ(found[0].rows, 3);
    EXPECT_EQ(found[0].cols, 5);
    const std::vector<float> all = *ToFloat(Random({3, 5}));
    EXPECT_EQ(*LinearWeights(g, found[0]), all);
    EXPECT_EQ(*LinearWeights(g, found[0], 1, 2), std::vector<float>(all.begin() + 5, all.begin() + 10));
  }
}

TEST(FindLinears, WeightsAsOnnxHasThemAreTransposedOnReading) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    Graph g;
    g.inputs = {{.name = "x"}};
    g.initializers["w"] = *Cast(Tensor::Of<float>({3, 2}, std::vector<float>{1, 2, 3, 4, 5, 6}), dtype);
    g.nodes.push_back({.name = "m", .op_type = "MatMul", .inputs = {"x", "w"}, .outputs = {"y"}});
    const std::vector<Linear> found = FindLinears(g);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_FALSE(found[0].transposed);
    EXPECT_THAT(*LinearWeights(g, found[0]), ElementsAre(1, 3, 5, 2, 4, 6));
  }
}

TEST(FindLinears, LeavesOtherProductsAlone) {
  Graph g;
  g.inputs = {{.name = "x"}, {.name = "z"}};
  g.initializers["i"] = Tensor::Of<int32_t>({2, 2}, std::vector<int32_t>(4));
  g.initializers["cube"] = Random({2, 2, 2});
  g.nodes.push_back({.name = "a", .op_type = "MatMul", .inputs = {"x", "z"}, .outputs = {"a"}});
  g.nodes.push_back({.name = "b", .op_type = "MatMul", .inputs = {"x", "i"}, .outputs = {"b"}});
  g.nodes.push_back({.name = "c", .op_type = "MatMul", .inputs = {"x", "cube"}, .outputs = {"c"}});
  EXPECT_TRUE(FindLinears(g).empty());
}

TEST(LinearWeights, NameTheWeightThatIsNotFinite) {
  Graph g = Model(3, 5, DType::kFloat32);
  std::vector<float> values = *ToFloat(g.initializers["layer.weight"]);
  values[7] = std::numeric_limits<float>::quiet_NaN();
  g.initializers["layer.weight"] = Tensor::Of<float>({3, 5}, values);
  const Linear linear = FindLinears(g)[0];
  EXPECT_THAT(std::string(LinearWeights(g, linear).status().message()), HasSubstr("weight [1, 2] is nan"));
  EXPECT_TRUE(LinearWeights(g, linear, 2, 3).ok());
}

GroupedMatrix Grouped(int bits, int64_t n, int64_t k, int64_t group, bool zeros) {
  std::mt19937 random(static_cast<unsigned>(bits * 100 + k));
  GroupedMatrix w{.rows = n, .cols = k, .bits = bits, .group_size = group};
  for (int64_t i = 0; i < n * k; ++i) w.codes.push_back(static_cast<uint8_t>(random() % (1u << bits)));
  for (int64_t i = 0; i < n * w.groups(); ++i) {
    w.scales.push_back(0.25f * static_cast<float>(random() % 9) - 1);
    if (zeros) w.zeros.push_back(static_cast<float>(random() % (1u << bits)));
  }
  return w;
}

void ExpectSame(const GroupedMatrix& a, const GroupedMatrix& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.cols, b.cols);
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.group_size, b.group_size);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.scales, b.scales);
  EXPECT_EQ(a.zeros, b.zeros);
}

TEST(ReplaceLinear, EveryWidthAndSizeSurvives) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t k : {1, 5, 64, 172, 173}) {
      for (const int64_t group : {int64_t{1}, int64_t{7}, int64_t{64}, k}) {
        if (group > k) continue;
        for (const bool zeros : {false, true}) {
          SCOPED_TRACE(absl::StrCat(bits, " bits, K ", k, ", group ", group, zeros ? ", zeros" : ""));
          const GroupedMatrix w = Grouped(bits, 3, k, group, zeros);
          Graph g = Model(3, k);
          const std::string output = FindLinears(g)[0].output;
          ASSERT_TRUE(ReplaceLinear(&g, "layer", w).ok());
          ASSERT_TRUE(g.Validate().ok()) << g.Validate();
          EXPECT_EQ(g.Initializer("layer.weight"), nullptr) << "the float weights are gone";
          EXPECT_TRUE(FindLinears(g).empty());
          const GraphIndex index(g);
          const Node& node = g.nodes[static_cast<size_t>(index.Producer(output))];
          EXPECT_EQ(node.name, "layer");
          const auto back = QuantizedWeightsOf(g, node);
          ASSERT_TRUE(back.ok()) << back.status();
          ExpectSame(std::get<GroupedMatrix>(*back), w);
        }
      }
    }
  }
}

TEST(ReplaceLinear, FractionalZeroPointsStayFloats) {
  GroupedMatrix w = Grouped(4, 2, 10, 4, true);
  w.zeros[1] = 3.25f;
  w.zeros[4] = 0.0f;
  Graph g = Model(2, 10);
  ASSERT_TRUE(ReplaceLinear(&g, "layer", w).ok());
  const auto back = QuantizedWeightsOf(g, g.nodes[0]);
  ASSERT_TRUE(back.ok()) << back.status();
  ExpectSame(std::get<GroupedMatrix>(*back), w);
}

// Dynamic act-order: x's columns are gathered into group order, and the weights mean the same.
TEST(ReplaceLinear, ActOrderBecomesAGatherOfTheInput) {
  GroupedMatrix w = Grouped(4, 3, 10, 4, true);
  w.group_of = {2, 0, 1, 0, 1, 0, 1, 0, 1, 2};
  Graph g = Model(3, 10);
  ASSERT_TRUE(ReplaceLinear(&g, "layer", w).ok());
  ASSERT_TRUE(g.Validate().ok()) << g.Validate();
  ASSERT_EQ(g.nodes[0].op_type, "Gather");
  const std::vector<int64_t> order = *ToInt64(*g.Initializer(g.nodes[0].inputs[1]));
  EXPECT_THAT(order, ElementsAre(1, 3, 5, 7, 2, 4, 6, 8, 0, 9));
  const auto back = QuantizedWeightsOf(g, g.nodes[1]);
  ASSERT_TRUE(back.ok()) << back.status();
  std::vector<float> have(30), want(30);
  DequantizeRows(*back, 0, 3, have);
  DequantizeRows(w, 0, 3, want);
  for (size_t r = 0; r < 3; ++r) {
    for (size_t c = 0; c < 10; ++c) EXPECT_EQ(have[r * 10 + c], want[r * 10 + static_cast<size_t>(order[c])]);
  }
  // Groups in order need no Gather; groups of unequal size have no such form.
  w.group_of = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2};
  Graph plain = Model(3, 10);
  ASSERT_TRUE(ReplaceLinear(&plain, "layer", w).ok());
  EXPECT_EQ(plain.nodes[0].op_type, "MatMulNBits");
  w.group_of = {0, 0, 0, 1, 1, 1, 1, 2, 2, 2};
  Graph uneven = Model(3, 10);
  EXPECT_THAT(std::string(ReplaceLinear(&uneven, "layer", w).message()), HasSubstr("g_idx"));
}

TEST(ReplaceLinear, CodebooksOfOddSizeSurvive) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {3, 11}, {5, 64}}) {
    CodebookMatrix w{.rows = n, .cols = k, .block_size = 32};
    std::mt19937 random(3);
    for (int64_t i = 0; i < n * k; ++i) w.codes.push_back(static_cast<uint8_t>(random() % 16));
    for (int i = 0; i < 16; ++i) w.codebook.push_back(static_cast<float>(i) / 4 - 2);
    for (int64_t i = 0; i < w.blocks(); ++i) w.absmax.push_back(static_cast<float>(i + 1));
    Graph g = Model(n, k);
    ASSERT_TRUE(ReplaceLinear(&g, "layer", w).ok());
    const auto back = QuantizedWeightsOf(g, g.nodes[0]);
    ASSERT_TRUE(back.ok()) << back.status();
    const CodebookMatrix& b = std::get<CodebookMatrix>(*back);
    EXPECT_EQ(b.codes, w.codes);
    EXPECT_EQ(b.absmax, w.absmax);
    EXPECT_EQ(b.codebook, w.codebook);
  }
}

TEST(ReplaceLinear, WeightsThatOthersReadStay) {
  Graph g = Model(3, 5);
  g.nodes.push_back({.name = "gather", .op_type = "Gather", .inputs = {"layer.weight", "ids"}, .outputs = {"rows"}});
  g.inputs.push_back({.name = "ids", .dtype = DType::kInt64});
  g.outputs.push_back({.name = "rows"});
  ASSERT_TRUE(ReplaceLinear(&g, "layer", Grouped(4, 3, 5, 5, false)).ok());
  EXPECT_NE(g.Initializer("layer.weight"), nullptr);
}

TEST(ReplaceLinear, RefusesUnknownLayersAndBadWeights) {
  Graph g = Model(3, 5);
  EXPECT_TRUE(absl::IsNotFound(ReplaceLinear(&g, "other", Grouped(4, 3, 5, 5, false))));
  GroupedMatrix bad = Grouped(4, 3, 5, 5, false);
  bad.scales.pop_back();
  EXPECT_THAT(std::string(ReplaceLinear(&g, "layer", bad).message()), HasSubstr("'layer'"));
}

class Hostile : public ::testing::Test {
 protected:
  Hostile() {
    CHECK_OK(ReplaceLinear(&graph_, "layer", Grouped(4, 3, 40, 16, true)));
    node_ = graph_.nodes[0];
  }
  std::string Message() const {
    const auto w = QuantizedWeightsOf(graph_, node_);
    EXPECT_TRUE(absl::IsInvalidArgument(w.status())) << w.status();
    return std::string(w.status().message());
  }
  Graph graph_ = Model(3, 40);
  Node node_;
};

TEST_F(Hostile, AttributesThatMakeNoMatrix) {
  const auto with = [&](const char* key, int64_t value) {
    Node kept = node_;
    node_.attributes[key] = value;
    const std::string message = Message();
    node_ = kept;
    return message;
  };
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(with("bits", 3), HasSubstr("bits is 3"));
  EXPECT_THAT(with("bits", -1), HasSubstr("bits is -1"));
  EXPECT_THAT(with("N", 0), HasSubstr("make no matrix"));
  EXPECT_THAT(with("N", kMax), HasSubstr("make no matrix"));
  EXPECT_THAT(with("K", kMax), HasSubstr("make no matrix"));
  EXPECT_THAT(with("K", -40), HasSubstr("make no matrix"));
  EXPECT_THAT(with("block_size", 0), HasSubstr("make no matrix"));
  EXPECT_THAT(with("block_size", kMax), HasSubstr("make no matrix"));
  EXPECT_THAT(with("block_size", kMax - 40), HasSubstr("make no matrix"));
  EXPECT_THAT(with("block_size", int64_t{1} << 62), HasSubstr("make no matrix"));
  EXPECT_THAT(with("N", 4), HasSubstr("codes"));
  EXPECT_THAT(with("K", 100), HasSubstr("codes"));
  EXPECT_THAT(with("quant_bits", 3), HasSubstr("above 7"));  // codes use four bits
}

TEST_F(Hostile, ConstantsThatDoNotFit) {
  const auto with = [&](size_t input, const std::string& name, const Tensor& t) {
    Node kept = node_;
    graph_.initializers["hostile"] = t;
    node_.inputs.resize(std::max(node_.inputs.size(), input + 1));
    node_.inputs[input] = name;
    const std::string message = Message();
    node_ = kept;
    return message;
  };
  EXPECT_THAT(with(1, "x", {}), HasSubstr("codes are not a constant"));
  EXPECT_THAT(with(1, "", {}), HasSubstr("codes are not a constant"));
  EXPECT_THAT(with(1, "hostile", Random({3, 3, 8})), HasSubstr("codes are not a constant"));
  EXPECT_THAT(with(2, "hostile", Random({8})), HasSubstr("scales are not"));
  EXPECT_THAT(with(2, "hostile", Tensor::Of<uint8_t>({9}, std::vector<uint8_t>(9))), HasSubstr("scales are not"));
  EXPECT_THAT(with(2, "hostile", Tensor::Of<float>({9}, std::vector<float>(9, std::numeric_limits<float>::infinity()))),
              HasSubstr("infinite"));
  EXPECT_THAT(with(3, "x", {}), HasSubstr("zero points are not constant"));
  EXPECT_THAT(with(3, "hostile", Tensor::Of<uint8_t>({5}, std::vector<uint8_t>(5))), HasSubstr("zero points"));
  EXPECT_THAT(with(3, "hostile", Tensor::Of<int8_t>({6}, std::vector<int8_t>(6))), HasSubstr("zero points"));
  EXPECT_THAT(with(3, "hostile", Random({8})), HasSubstr("zero points"));
  EXPECT_THAT(with(4, "hostile", Random({40})), HasSubstr("g_idx"));
}

TEST_F(Hostile, OtherNodes) {
  node_.op_type = "MatMulNibbles";
  EXPECT_THAT(Message(), HasSubstr("not a quantized linear layer"));
  node_ = {.name = "m",
           .op_type = "MatMulCodebook",
           .domain = kQuantdDomain,
           .attributes = {{"K", int64_t{4}}, {"N", int64_t{2}}, {"block_size", int64_t{0}}}};
  EXPECT_THAT(Message(), HasSubstr("make no matrix"));
  node_.attributes["block_size"] = int64_t{32};
  EXPECT_THAT(Message(), HasSubstr("codes are not"));
  node_.attributes["N"] = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(Message(), HasSubstr("make no matrix"));
}

}  // namespace
}  // namespace quant
