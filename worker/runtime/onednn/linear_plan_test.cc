// SPDX-License-Identifier: Apache-2.0
// Linear layers in a plan: the stored forms of worker/graph/linear.h against the reference backend, without copies of
// their weights, for sequence lengths that change.
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/graph/linear.h"
#include "worker/runtime/onednn/testing/test_graph.h"

namespace quant {
namespace {

using quant::testing::Compare;
using quant::testing::Comparison;
using ::testing::HasSubstr;
using ::testing::Not;

Tensor Random(const Shape& shape, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
  for (float& v : values) v = normal(random);
  return Tensor::Of<float>(shape, values);
}

// The same values in memory that is one byte off, as a mapped file may have them.
Tensor Unaligned(const Tensor& t) {
  auto bytes = std::make_shared<std::vector<std::byte>>(t.bytes().size() + 1);
  std::memcpy(bytes->data() + 1, t.bytes().data(), t.bytes().size());
  return *Tensor::Borrow(t.dtype(), t.shape(), std::span(*bytes).subspan(1), bytes);
}

Graph Model(int64_t k) {
  Graph g;
  g.opset = 23;
  g.inputs = {{.name = "x", .has_shape = true, .shape = {{.symbol = "batch"}, {.symbol = "sequence"}, {.value = k}}}};
  return g;
}

std::shared_ptr<const Graph> Finish(Graph g, const std::string& output) {
  g.outputs = {{.name = output}};
  return std::make_shared<const Graph>(std::move(g));
}

// Products are summed in another order and in float32 where the reference has double: (K + 8) roundings of 2^-24 at
// most, relative to the sum of magnitudes, which is at most sqrt(K) times the greatest output for such random data.
double Tolerance(int64_t k) { return static_cast<double>(k + 8) * std::sqrt(static_cast<double>(k)) * 0x1p-24; }

void ExpectClose(const std::shared_ptr<const Graph>& graph, int64_t k, const std::string& kind) {
  for (const int64_t rows : {1, 3, 8, 9, 70}) {
    const Tensor x = Random({1, rows, k}, 5);
    const Comparison c = Compare(graph, {x});
    EXPECT_THAT(c.plan, HasSubstr(kind)) << rows;
    EXPECT_LE(c.greatest, Tolerance(k) * c.magnitude) << kind << ", " << rows << " rows";
    EXPECT_GT(c.magnitude, 0);
  }
}

TEST(LinearPlan, StoredFloatsOfEveryType) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {5, 173}, {64, 64}, {173, 172}, {300, 1100}}) {
      Graph g = Model(k);
      g.initializers["layer.weight"] = Unaligned(*Cast(Random({n, k}, 1), dtype));
      g.initializers["layer.bias"] = *Cast(Random({n}, 2), dtype);
      const std::string y = AppendLinear(&g, "layer", "x", "layer.weight", "layer.bias");
      SCOPED_TRACE(absl::StrCat(DTypeName(dtype), " N ", n, " K ", k));
      ExpectClose(Finish(std::move(g), y), k, absl::StrCat(DTypeName(dtype), "+bias"));
    }
  }
}

GroupedMatrix Grouped(int64_t n, int64_t k, int bits, int64_t group, bool zeros, bool shuffled) {
  std::mt19937 random(static_cast<unsigned>(n + k));
  GroupedMatrix w{.rows = n, .cols = k, .bits = bits, .group_size = group};
  for (int64_t i = 0; i < n * k; ++i) w.codes.push_back(static_cast<uint8_t>(random() % (1u << bits)));
  for (int64_t i = 0; i < n * w.groups(); ++i) {
    w.scales.push_back(0.01f * static_cast<float>(1 + random() % 20));
    if (zeros) w.zeros.push_back(static_cast<float>(random() % (1u << bits)));
  }
  if (shuffled) {
    for (int64_t c = 0; c < k; ++c) w.group_of.push_back(static_cast<int32_t>((k - 1 - c) / group));
    std::shuffle(w.group_of.begin(), w.group_of.end(), random);
  }
  return w;
}

TEST(LinearPlan, PackedCodes) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const auto& [n, k, group] : {std::tuple<int64_t, int64_t, int64_t>{5, 173, 7},
                                      {64, 64, 32},
                                      {173, 172, 172},
                                      {300, 1152, 128},
                                      {40, 2050, 1025}}) {
      for (const bool zeros : {false, true}) {
        Graph g = Model(k);
        g.initializers["bias"] = Random({n}, 2);
        const auto y = AppendQuantizedLinear(&g, "layer", "x", Grouped(n, k, bits, group, zeros, group == 32), "bias");
        ASSERT_TRUE(y.ok()) << y.status();
        SCOPED_TRACE(absl::StrCat(bits, " bits, N ", n, " K ", k, " group ", group, zeros ? " zeros" : ""));
        ExpectClose(Finish(std::move(g), *y), k, "nbits+bias");
      }
    }
  }
}

TEST(LinearPlan, Codebooks) {
  for (const auto& [n, k, block] :
       {std::tuple<int64_t, int64_t, int64_t>{5, 173, 64}, {64, 64, 32}, {300, 1152, 128}}) {
    std::mt19937 random(9);
    CodebookMatrix w{.rows = n, .cols = k, .block_size = block};
    for (int64_t i = 0; i < n * k; ++i) w.codes.push_back(static_cast<uint8_t>(random() % 16));
    for (int i = 0; i < 16; ++i) w.codebook.push_back(static_cast<float>(i - 8) / 8);
    for (int64_t i = 0; i < w.blocks(); ++i) w.absmax.push_back(0.1f * static_cast<float>(random() % 9));
    Graph g = Model(k);
    const auto y = AppendQuantizedLinear(&g, "layer", "x", w);
    ASSERT_TRUE(y.ok()) << y.status();
    SCOPED_TRACE(absl::StrCat("N ", n, " K ", k, " block ", block));
    ExpectClose(Finish(std::move(g), *y), k, "codebook");
  }
}

// The layer's own bias input, zero points as floats, scales in 16 bits, and x of rank 2.
TEST(LinearPlan, OtherFormsOfMatMulNBits) {
  Graph g = Model(64);
  g.inputs[0].shape.erase(g.inputs[0].shape.begin());
  GroupedMatrix w = Grouped(33, 64, 4, 16, true, false);
  for (float& z : w.zeros) z += 0.25f;
  ASSERT_TRUE(AppendQuantizedLinear(&g, "layer", "x", w).ok());
  Node& node = g.nodes.back();
  g.initializers["bias"] = Random({33}, 3);
  g.initializers[node.inputs[2]] = *Cast(g.initializers[node.inputs[2]], DType::kFloat16);
  node.inputs.resize(5);
  node.inputs.push_back("bias");
  // The reference wants scales of x's type or takes any: both are float here after lowering.
  const auto graph = Finish(std::move(g), "layer.out");
  for (const int64_t rows : {1, 20}) {
    const Comparison c = Compare(graph, {Random({rows, 64}, 6)});
    EXPECT_THAT(c.plan, HasSubstr("nbits+bias"));
    EXPECT_LE(c.greatest, Tolerance(64) * c.magnitude);
  }
}

TEST(LinearPlan, ThreadsDoNotChangeTheResult) {
  Graph g = Model(1100);
  g.initializers["a.weight"] = *Cast(Random({700, 1100}, 1), DType::kBFloat16);
  const std::string a = AppendLinear(&g, "a", "x", "a.weight");
  const auto y = AppendQuantizedLinear(&g, "b", a, Grouped(600, 700, 4, 20, true, false));
  ASSERT_TRUE(y.ok());
  const auto graph = Finish(std::move(g), *y);
  for (const int64_t rows : {2, 50}) {
    const Tensor x = Random({1, rows, 1100}, 5);
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 3}) {
      auto exe = Compile(graph, {.threads = threads});
      ASSERT_TRUE(exe.ok()) << exe.status();
      const auto out = (*exe)->Run(std::span(&x, 1));
      ASSERT_TRUE(out.ok()) << out.status();
      results.push_back(*ToFloat((*out)[0]));
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
  }
}

// What the executable holds beside the model is a few scales and intermediate values, for any number of lengths; a
// float32 copy of the weights would be 4 MB.
TEST(LinearPlan, WeightsAreNotCopied) {
  Graph g = Model(1024);
  g.initializers["weight"] = *Cast(Random({1024, 1024}, 1), DType::kBFloat16);
  const std::string y = AppendLinear(&g, "layer", "x", "weight");
  const auto graph = Finish(std::move(g), y);
  auto exe = Compile(graph, {.threads = 2});
  ASSERT_TRUE(exe.ok()) << exe.status();
  for (const int64_t rows : {1, 2, 33, 34, 1}) {
    const Tensor x = Random({1, rows, 1024}, 5);
    ASSERT_TRUE((*exe)->Run(std::span(&x, 1)).ok());
    EXPECT_LT((*exe)->MemoryBytes(), 2 << 20) << rows;
    EXPECT_THAT((*exe)->DescribePlan(), Not(HasSubstr("Transpose")));
    EXPECT_THAT((*exe)->DescribePlan(), Not(HasSubstr("Cast")));
  }
}

// An embedding table that is the output layer's weights too: rows are gathered and widened, the table stays.
TEST(LinearPlan, TiedEmbeddings) {
  Graph g;
  g.opset = 23;
  g.inputs = {{.name = "ids",
               .dtype = DType::kInt64,
               .has_shape = true,
               .shape = {{.symbol = "batch"}, {.symbol = "sequence"}}}};
  g.initializers["table"] = Unaligned(*Cast(Random({1000, 512}, 1), DType::kBFloat16));
  g.nodes.push_back({.name = "gather", .op_type = "Gather", .inputs = {"table", "ids"}, .outputs = {"rows"}});
  g.nodes.push_back(
      {.name = "cast", .op_type = "Cast", .inputs = {"rows"}, .outputs = {"x"}, .attributes = {{"to", int64_t{1}}}});
  const std::string y = AppendLinear(&g, "lm_head", "x", "table");
  const auto graph = Finish(std::move(g), y);
  const Tensor ids =
      Tensor::Of<int64_t>({2, 7}, std::vector<int64_t>{0, 999, 5, 6, 7, 8, 9, 10, 11, 12, -1, 14, 15, 16});
  const Comparison c = Compare(graph, {ids});
  EXPECT_THAT(c.plan, HasSubstr("Gather bfloat16+Cast"));
  EXPECT_LE(c.greatest, Tolerance(512) * c.magnitude);
  auto exe = Compile(graph, {.threads = 2});
  ASSERT_TRUE(exe.ok());
  const Tensor one = Tensor::Of<int64_t>({1, 1}, std::vector<int64_t>{3}),
               bad = Tensor::Of<int64_t>({1, 1}, std::vector<int64_t>{1000});
  ASSERT_TRUE((*exe)->Run(std::span(&one, 1)).ok());
  EXPECT_LT((*exe)->MemoryBytes(), 200 << 10);
  EXPECT_THAT(std::string((*exe)->Run(std::span(&bad, 1)).status().message()), HasSubstr("index 1000 is out of range"));
}

// A Cast or Transpose of a constant matrix that is no linear layer is computed while planning.
TEST(LinearPlan, OtherReadersOfCastMatricesStillGetThem) {
  Graph g = Model(6);
  g.initializers["weight"] = *Cast(Random({4, 6}, 1), DType::kFloat16);
  const std::string y = AppendLinear(&g, "layer", "x", "weight");
  g.nodes.push_back({.name = "sum", .op_type = "ReduceSum", .inputs = {"layer.t"}, .outputs = {"sum"}});
  g.nodes.push_back({.name = "add", .op_type = "Add", .inputs = {y, "sum"}, .outputs = {"z"}});
  const Comparison c = Compare(Finish(std::move(g), "z"), {Random({1, 3, 6}, 5)});
  EXPECT_LE(c.greatest, 1e-5 * c.magnitude);
}

TEST(LinearPlan, TapsSeeTheWeightsAndOutputs) {
  Graph g = Model(6);
  g.initializers["weight"] = *Cast(Random({4, 6}, 1), DType::kBFloat16);
  const std::string y = AppendLinear(&g, "layer", "x", "weight");
  const auto graph = Finish(std::move(g), y);
  std::vector<std::string> seen;
  auto exe = Compile(
      graph,
      {.threads = 1, .taps = {"x", "layer.f32", "layer.out"}, .tap = [&](std::string_view value, const Tensor& t) {
         seen.push_back(absl::StrCat(std::string(value), ShapeString(t.shape())));
         return absl::OkStatus();
       }});
  ASSERT_TRUE(exe.ok()) << exe.status();
  const Tensor x = Random({1, 3, 6}, 5);
  ASSERT_TRUE((*exe)->Run(std::span(&x, 1)).ok());
  EXPECT_THAT(seen, ::testing::ElementsAre("x[1,3,6]", "layer.f32[4,6]", "layer.out[1,3,4]"));
}

}  // namespace
}  // namespace quant
