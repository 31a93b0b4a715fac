// SPDX-License-Identifier: Apache-2.0
// Attention, normalizations, rotary embedding and gated SiLU: the plan's steps against the reference backend.
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/runtime/onednn/testing/test_graph.h"

namespace quant {
namespace {

using quant::testing::Compare;
using quant::testing::Comparison;
using ::testing::HasSubstr;

constexpr int64_t kYes = 1;

Tensor Random(const Shape& shape, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
  for (float& v : values) v = normal(random);
  return Tensor::Of<float>(shape, values);
}

// One node; `inputs` are all graph inputs but for the ones named in `constants`, empty ones absent.
struct Case {
  std::string op;
  std::vector<Tensor> inputs;  // rank 1 of size 0: absent
  std::map<std::string, Attribute> attributes;
  size_t outputs = 1;
  std::vector<size_t> constants;

  std::shared_ptr<const Graph> Build(std::vector<Tensor>* fed) const {
    auto g = std::make_shared<Graph>();
    g->opset = 23;
    Node n{.name = "node", .op_type = op, .attributes = attributes};
    for (size_t i = 0; i < inputs.size(); ++i) {
      const std::string name = absl::StrCat("in", i);
      n.inputs.push_back(inputs[i].elements() == 0 && inputs[i].rank() == 1 ? "" : name);
      if (n.inputs.back().empty()) continue;
      if (std::find(constants.begin(), constants.end(), i) != constants.end()) {
        g->initializers[name] = inputs[i];
        continue;
      }
      ValueInfo info{.name = name, .dtype = inputs[i].dtype(), .has_shape = true};
      info.shape.resize(static_cast<size_t>(inputs[i].rank()));
      g->inputs.push_back(info);
      fed->push_back(inputs[i]);
    }
    for (size_t i = 0; i < outputs; ++i) {
      n.outputs.push_back(absl::StrCat("out", i));
      g->outputs.push_back({.name = n.outputs.back()});
    }
    g->nodes.push_back(n);
    return g;
  }
};

// Scores are sums of up to 128 products and the softmax weighs values with them: an error of some 128 * 2^-24 in a
// score is as much in a probability, and probabilities sum to one.
constexpr double kTolerance = 1e-5;

std::string ExpectNear(const Case& c, const char* kind, double tolerance = kTolerance) {
  std::vector<Tensor> fed;
  const auto graph = c.Build(&fed);
  const Comparison r = Compare(graph, fed);
  EXPECT_THAT(r.plan, HasSubstr(kind));
  EXPECT_LE(r.greatest, tolerance * r.magnitude) << c.op;
  return r.plan;
}

const Tensor kAbsent;

TEST(DecoderPlan, AttentionOfEveryForm) {
  struct Sizes {
    int64_t queries, past, keys, heads, kv_heads, head, v_head;
  };
  for (const Sizes& z : {Sizes{1, 0, 1, 1, 1, 4, 4},
                         {5, 0, 5, 4, 2, 64, 64},
                         {173, 0, 173, 2, 1, 16, 20},
                         {1, 64, 1, 6, 2, 24, 24},
                         {3, 172, 3, 4, 4, 32, 32},
                         {70, 5, 70, 3, 1, 8, 8},
                         {9, 0, 20, 2, 2, 33, 5}}) {
    for (const bool flat : {false, true}) {
      for (const bool causal : {false, true}) {
        SCOPED_TRACE(absl::StrCat("queries ", z.queries, " past ", z.past, " keys ", z.keys, flat ? " flat" : "",
                                  causal ? " causal" : ""));
        Case c{.op = "Attention"};
        c.inputs = flat ? std::vector<Tensor>{Random({2, z.queries, z.heads * z.head}, 1),
                                              Random({2, z.keys, z.kv_heads * z.head}, 2),
                                              Random({2, z.keys, z.kv_heads * z.v_head}, 3)}
                        : std::vector<Tensor>{Random({2, z.heads, z.queries, z.head}, 1),
                                              Random({2, z.kv_heads, z.keys, z.head}, 2),
                                              Random({2, z.kv_heads, z.keys, z.v_head}, 3)};
        c.attributes = {{"is_causal", int64_t{causal}}, {"q_num_heads", z.heads}, {"kv_num_heads", z.kv_heads}};
        if (z.past > 0) {
          c.inputs.push_back(kAbsent);
          c.inputs.push_back(Random({2, z.kv_heads, z.past, z.head}, 4));
          c.inputs.push_back(Random({2, z.kv_heads, z.past, z.v_head}, 5));
        }
        ExpectNear(c, "Attention blocks");
        c.outputs = 3;
        ExpectNear(c, "Attention present");
      }
    }
  }
}

TEST(DecoderPlan, AttentionMasksSoftcapAndScale) {
  const float never = -std::numeric_limits<float>::infinity();
  const auto keep = [](Shape shape, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<uint8_t> bits(static_cast<size_t>(*ElementCount(shape)));
    for (uint8_t& b : bits) b = random() % 3 != 0;
    return *Cast(Tensor::Of<uint8_t>(shape, bits), DType::kBool);
  };
  for (const int64_t queries : {2, 70}) {
    Case c{.op = "Attention",
           .inputs = {Random({2, 4, queries, 16}, 1), Random({2, 2, 80, 16}, 2), Random({2, 2, 80, 16}, 3), kAbsent}};
    for (const Tensor& mask : {keep({queries, 80}, 1), keep({2, 1, queries, 80}, 2), keep({2, 4, queries, 80}, 3),
                               keep({1, 50}, 4), keep({2, 1, 1, 80}, 5), Random({queries, 80}, 6),
                               Random({2, 4, queries, 33}, 7), Random({4, queries, 1}, 8)}) {
      SCOPED_TRACE(absl::StrCat(DTypeName(mask.dtype()), ShapeString(mask.shape())));
      c.inputs[3] = mask;
      c.attributes = {};
      ExpectNear(c, "Attention blocks");
      c.attributes = {{"softcap", 2.0f}, {"scale", 0.7f}, {"is_causal", kYes}};
      ExpectNear(c, "Attention blocks");
    }
    // A query that sees nothing gives zeros.
    std::vector<float> nothing(static_cast<size_t>(queries * 80), 0.0f);
    std::fill_n(nothing.begin(), 80, never);
    c.inputs[3] = Tensor::Of<float>({queries, 80}, nothing);
    c.attributes = {};
    ExpectNear(c, "Attention blocks");
  }
}

TEST(DecoderPlan, ThreadsDoNotChangeAttention) {
  const Case c{.op = "Attention",
               .inputs = {Random({2, 4, 150, 32}, 1), Random({2, 2, 150, 32}, 2), Random({2, 2, 150, 32}, 3)},
               .attributes = {{"is_causal", kYes}}};
  std::vector<Tensor> fed;
  const auto graph = c.Build(&fed);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    auto exe = Compile(graph, {.threads = threads});
    ASSERT_TRUE(exe.ok());
    const auto out = (*exe)->Run(fed);
    ASSERT_TRUE(out.ok());
    results.push_back(*ToFloat((*out)[0]));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// Sums of n squares in float32, then a root and two products.
TEST(DecoderPlan, Normalizations) {
  for (const int64_t n : {1, 5, 64, 172, 173}) {
    SCOPED_TRACE(n);
    const double tolerance = static_cast<double>(n + 8) * 0x1p-24;
    ExpectNear({.op = "RMSNormalization", .inputs = {Random({3, 7, n}, 1), Random({n}, 2)}, .constants = {1}},
               "RMSNormalization float32", tolerance);
    const Tensor x = Random({3, 7, n}, 3);
    // The deviation of one element is 0 over sqrt(epsilon): differences to the mean round to noise there.
    ExpectNear({.op = "LayerNormalization", .inputs = {x, Random({n}, 4), Random({n}, 5)}, .constants = {1, 2}},
               "LayerNormalization float32", 10 * tolerance);
    ExpectNear({.op = "LayerNormalization", .inputs = {x, Random({n}, 4)}, .attributes = {{"axis", int64_t{2}}}},
               "LayerNormalization float32", 10 * tolerance);
  }
  // Rows of zeros, and other axes by the plain loops.
  ExpectNear({.op = "RMSNormalization", .inputs = {Tensor::Of<float>({2, 5}, std::vector<float>(10)), Random({5}, 2)}},
             "float32");
  ExpectNear(
      {.op = "RMSNormalization", .inputs = {Random({2, 3, 5}, 1), Random({3, 5}, 2)}, .attributes = {{"axis", kYes}}},
      "plain loops");
}

TEST(DecoderPlan, RotaryEmbedding) {
  for (const bool interleaved : {false, true}) {
    for (const bool flat : {false, true}) {
      for (const int64_t rotated : {0, 6, 34}) {
        const int64_t half = rotated == 0 ? 32 : rotated / 2;
        Case c{.op = "RotaryEmbedding"};
        c.inputs = {flat ? Random({2, 5, 3 * 64}, 1) : Random({2, 3, 5, 64}, 1), Random({20, half}, 2),
                    Random({20, half}, 3),
                    Tensor::Of<int64_t>({2, 5}, std::vector<int64_t>{0, 1, 2, 3, 4, 19, 7, 7, 0, 3})};
        c.attributes = {
            {"interleaved", int64_t{interleaved}}, {"num_heads", int64_t{3}}, {"rotary_embedding_dim", rotated}};
        c.constants = {1, 2};
        ExpectNear(c, "RotaryEmbedding float32", 4 * 0x1p-23);
        c.inputs[1] = Random({2, 5, half}, 4);
        c.inputs[2] = Random({2, 5, half}, 5);
        c.inputs.pop_back();
        ExpectNear(c, "RotaryEmbedding float32", 4 * 0x1p-23);
      }
    }
  }
  Case bad{.op = "RotaryEmbedding",
           .inputs = {Random({1, 1, 1, 4}, 1), Random({3, 2}, 2), Random({3, 2}, 3),
                      Tensor::Of<int64_t>({1, 1}, std::vector<int64_t>{3})}};
  std::vector<Tensor> fed;
  auto exe = Compile(bad.Build(&fed), {.threads = 1});
  ASSERT_TRUE(exe.ok());
  EXPECT_THAT(std::string((*exe)->Run(fed).status().message()), HasSubstr("position 3 is outside the cache of 3"));
}

// gate before up, up before gate, and SiLU that something else reads too.
TEST(DecoderPlan, GatedSilu) {
  for (const bool up_first : {false, true}) {
    for (const bool shared : {false, true}) {
      quant::testing::TestGraph g;
      const std::string x = g.Input({1, 3, 40});
      std::string up = up_first ? g.Op("Tanh", {x}) : "";
      const std::string gate = g.Op("Mul", {x, g.Random({40}, -30, 30)});
      const std::string silu = g.Op("Mul", {g.Op("Sigmoid", {gate}), gate});
      if (!up_first) up = g.Op("Tanh", {x});
      g.Output(g.Op("Mul", {up, silu}));
      if (shared) g.Output(silu);
      const std::string plan = quant::testing::ExpectNear(g, 4, 1e-6);
      EXPECT_EQ(plan.find("Sigmoid+Mul+Mul") == std::string::npos, shared) << plan;
    }
  }
}

}  // namespace
}  // namespace quant
