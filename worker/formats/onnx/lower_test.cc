// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/onnx/lower.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/testing.h"
#include "worker/graph/linear.h"
#include "worker/tensor/codebooks.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::TempDir;
using Attributes = std::map<std::string, Attribute>;

Dim Named(const char* symbol) { return {.symbol = symbol}; }
Dim Known(int64_t value) { return {.value = value}; }

ValueInfo Value(std::string name, std::vector<Dim> shape, DType dtype = DType::kFloat32) {
  return {.name = std::move(name), .dtype = dtype, .has_shape = true, .shape = std::move(shape)};
}

// Multiples of 1/64 below 1: the same in float32 and in bfloat16 of 8 bits.
Tensor Noise(Shape shape, uint32_t seed) {
  std::mt19937 random(seed);
  Tensor t = *Tensor::Allocate(DType::kFloat32, std::move(shape));
  for (float& v : t.mutable_data<float>()) v = static_cast<float>(static_cast<int>(random() % 129) - 64) / 64;
  return t;
}

struct Grid {
  int bits = 4;
  int64_t group_size = 32;
  bool symmetric = true;
  bool order = false;
  bool float_zeros = false;
};

GroupedMatrix Matrix(int64_t rows, int64_t cols, Grid g, uint32_t seed) {
  std::mt19937 random(seed);
  GroupedMatrix w{.rows = rows, .cols = cols, .bits = g.bits, .group_size = std::min(g.group_size, cols)};
  for (int64_t i = 0; i < rows * cols; ++i) w.codes.push_back(static_cast<uint8_t>(random() % (1u << g.bits)));
  for (int64_t i = 0; i < rows * w.groups(); ++i) {
    w.scales.push_back(static_cast<float>(1 + random() % 64) / 1024);
    if (!g.symmetric) {
      w.zeros.push_back(static_cast<float>(random() % (1u << g.bits)) + (g.float_zeros ? 0.25f : 0.0f));
    }
  }
  for (int64_t c = 0; g.order && c < cols; ++c) w.group_of.push_back(static_cast<int32_t>(c % w.groups()));
  return w;
}

CodebookMatrix Codebook(int64_t rows, int64_t cols, int64_t block, std::span<const float> table, uint32_t seed) {
  std::mt19937 random(seed);
  CodebookMatrix w{.rows = rows, .cols = cols, .block_size = block};
  w.codebook.assign(table.begin(), table.end());
  for (int64_t i = 0; i < rows * cols; ++i) w.codes.push_back(static_cast<uint8_t>(random() % 16));
  for (int64_t i = 0; i < w.blocks(); ++i) w.absmax.push_back(static_cast<float>(1 + random() % 64) / 64);
  return w;
}

Graph NewGraph() {
  Graph g;
  g.name = "main";
  g.opset = 23;
  return g;
}

std::string Add(Graph* g, const std::string& name, const std::string& op, std::vector<std::string> inputs,
                Attributes attributes = {}) {
  g->nodes.push_back({.name = name,
                      .op_type = op,
                      .inputs = std::move(inputs),
                      .outputs = {name},
                      .attributes = std::move(attributes)});
  return name;
}

// y = x W^T for one quantized layer.
Graph OneLinear(const WeightMatrix& w) {
  Graph g = NewGraph();
  g.inputs = {Value("x", {Named("batch"), Named("sequence"), Known(Cols(w))})};
  const absl::StatusOr<std::string> y = AppendQuantizedLinear(&g, "layer", "x", w);
  EXPECT_THAT(y, IsOk());
  g.outputs = {Value(*y, {Named("batch"), Named("sequence"), Known(Rows(w))})};
  return g;
}

class LoweredInOnnxRuntime : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("python3 -c 'import numpy, onnx, onnxruntime' 2>/dev/null") != 0) {
      GTEST_SKIP() << "python3-onnxruntime and python3-onnx are not there";
    }
  }
  // Writes the graph as it stands and its portable form.
  void Compare(const std::string& name, const Graph& graph) {
    ASSERT_THAT(ExportOnnx(graph, dir_ / (name + ".onnx"), {.portable = false}), IsOk()) << name;
    ASSERT_THAT(ExportOnnx(graph, dir_ / (name + ".portable.onnx")), IsOk()) << name;
    absl::StrAppend(&arguments_, " ", (dir_ / (name + ".onnx")).string(), " ",
                    (dir_ / (name + ".portable.onnx")).string());
  }
  void TearDown() override {
    if (arguments_.empty()) return;
    const std::string command = absl::StrCat("python3 ", QUANT_SOURCE_DIR, "/reference.py ", arguments_, " >",
                                             (dir_ / "log").string(), " 2>&1");
    EXPECT_EQ(std::system(command.c_str()), 0) << testing::ReadFile(dir_ / "log");
  }

  TempDir dir_;
  std::string arguments_;
};

TEST_F(LoweredInOnnxRuntime, QuantizedLinearsOfEveryForm) {
  const std::vector<std::pair<std::string, WeightMatrix>> cases = {
      {"plain", Matrix(24, 64, {}, 1)},
      {"asymmetric", Matrix(24, 96, {.symmetric = false}, 2)},
      {"ragged", Matrix(24, 80, {.symmetric = false}, 3)},
      {"group512", Matrix(8, 1100, {.group_size = 512, .symmetric = false}, 4)},
      {"row172", Matrix(24, 172, {.group_size = 172}, 5)},
      {"group96", Matrix(24, 192, {.group_size = 96, .symmetric = false}, 6)},
      {"group43", Matrix(24, 172, {.group_size = 43, .symmetric = false}, 7)},
      {"group24ragged", Matrix(5, 100, {.group_size = 24}, 8)},
      {"group8", Matrix(3, 13, {.group_size = 8}, 9)},
      {"tiny", Matrix(3, 5, {.group_size = 5}, 10)},
      {"bits3", Matrix(24, 64, {.bits = 3}, 11)},
      {"bits3asymmetric43", Matrix(24, 172, {.bits = 3, .group_size = 43, .symmetric = false}, 12)},
      {"bits2", Matrix(24, 64, {.bits = 2, .symmetric = false}, 13)},
      {"bits8", Matrix(24, 64, {.bits = 8}, 14)},
      {"bits8asymmetric", Matrix(24, 172, {.bits = 8, .group_size = 43, .symmetric = false}, 15)},
      {"bits8row", Matrix(24, 172, {.bits = 8, .group_size = 172}, 16)},
      {"order", Matrix(24, 64, {.order = true}, 17)},
      {"floatzeros", Matrix(24, 64, {.symmetric = false, .float_zeros = true}, 18)},
      {"nf4", Codebook(24, 64, 64, Nf4Table(), 19)},
      {"nf4odd", Codebook(7, 43, 64, Nf4Table(), 20)},
      {"fp4", Codebook(24, 64, 64, Fp4Table(), 21)},
      {"nf4wide", Codebook(24, 172, 1024, Nf4Table(), 22)},
      {"othertable", Codebook(7, 43, 64, std::vector<float>(16, 0.5f), 23)}};
  for (const auto& [name, w] : cases) Compare(name, OneLinear(w));
}

struct AttentionCase {
  const char* name;
  int64_t heads, kv_heads;
  Attributes attributes;
  bool rank4 = false, past = false;
  std::vector<Dim> mask = {};
  DType mask_type = DType::kFloat32;
};

TEST_F(LoweredInOnnxRuntime, AttentionOfEveryForm) {
  const Dim batch = Named("batch"), tokens = Named("sequence"), total = Named("total");
  const AttentionCase cases[] = {
      {"plain", 4, 4, {}},
      {"causal", 4, 2, {{"is_causal", int64_t{1}}}},
      {"multi_query", 4, 1, {{"is_causal", int64_t{1}}, {"scale", 0.3f}, {"softcap", 1.5f}}},
      {"past", 4, 2, {{"is_causal", int64_t{1}}}, false, true},
      {"past_mask", 4, 2, {}, false, true, {tokens, total}, DType::kBool},
      {"mask_heads", 4, 2, {}, false, false, {batch, Known(4), tokens, tokens}},
      {"mask_bool", 4, 4, {{"is_causal", int64_t{1}}}, false, false, {batch, Known(1), tokens, tokens}, DType::kBool},
      {"rank4", 4, 2, {{"is_causal", int64_t{1}}}, true},
      {"rank4_past", 4, 2, {{"softcap", 2.0f}}, true, true, {tokens, total}}};
  for (const AttentionCase& c : cases) {
    Graph g = NewGraph();
    Node n{.name = "attention", .op_type = "Attention", .attributes = c.attributes};
    n.inputs = {"q", "k", "v"};
    n.outputs = {"y"};
    const auto shape = [&](int64_t heads, const Dim& length) -> std::vector<Dim> {
      if (c.rank4) return {batch, Known(heads), length, Known(8)};
      return {batch, length, Known(heads * 8)};
    };
    g.inputs = {Value("q", shape(c.heads, tokens)), Value("k", shape(c.kv_heads, tokens)),
                Value("v", shape(c.kv_heads, tokens))};
    g.outputs = {Value("y", shape(c.heads, tokens))};
    if (!c.rank4) {
      n.attributes["q_num_heads"] = c.heads;
      n.attributes["kv_num_heads"] = c.kv_heads;
    }
    if (!c.mask.empty() || c.past) n.inputs.push_back(c.mask.empty() ? "" : "mask");
    if (!c.mask.empty()) g.inputs.push_back(Value("mask", c.mask, c.mask_type));
    if (c.past) {
      n.inputs.insert(n.inputs.end(), {"past_k", "past_v"});
      n.outputs.insert(n.outputs.end(), {"present_k", "present_v"});
      for (const char* p : {"past_k", "past_v"}) {
        g.inputs.push_back(Value(p, {batch, Known(c.kv_heads), Named("past"), Known(8)}));
      }
      for (const char* p : {"present_k", "present_v"}) {
        g.outputs.push_back(Value(p, {batch, Known(c.kv_heads), total, Known(8)}));
      }
    }
    g.nodes.push_back(n);
    Compare(c.name, g);
  }
}

TEST_F(LoweredInOnnxRuntime, RotaryEmbeddingAndRmsNormalizationOfEveryForm) {
  const Dim batch = Named("batch"), tokens = Named("sequence");
  for (const int interleaved : {0, 1}) {
    for (const int64_t rotary : {0, 4}) {
      for (const bool rank4 : {false, true}) {
        for (const bool ids : {false, true}) {
          Graph g = NewGraph();
          const int64_t half = (rotary > 0 ? rotary : 8) / 2;
          const std::vector<Dim> shape =
              rank4 ? std::vector<Dim>{batch, Known(3), tokens, Known(8)} : std::vector<Dim>{batch, tokens, Known(24)};
          const std::vector<Dim> table =
              ids ? std::vector<Dim>{Known(7), Known(half)} : std::vector<Dim>{batch, tokens, Known(half)};
          g.inputs = {Value("x", shape), Value("cos", table), Value("sin", table)};
          if (ids) g.inputs.push_back(Value("ids", {batch, tokens}, DType::kInt64));
          g.outputs = {Value("y", shape)};
          Attributes a = {{"interleaved", int64_t{interleaved}}, {"rotary_embedding_dim", rotary}};
          if (!rank4) a["num_heads"] = int64_t{3};
          std::vector<std::string> inputs = {"x", "cos", "sin"};
          if (ids) inputs.push_back("ids");
          Add(&g, "y", "RotaryEmbedding", inputs, a);
          Compare(absl::StrCat("rotary", interleaved, rotary, rank4, ids), g);
        }
      }
    }
  }
  Graph g = NewGraph();
  g.inputs = {Value("x", {batch, tokens, Known(24)})};
  g.outputs = {Value("y", {batch, tokens, Known(24)})};
  g.initializers["scale"] = Noise({24}, 1);
  Add(&g, "y", "RMSNormalization", {"x", "scale"}, {{"epsilon", 0.01f}});
  Compare("rms", g);
}

// Two Llama blocks as worker/formats/huggingface builds them: hidden 64, 4 heads of 16, 2 key-value heads, intermediate
// 172, bfloat16 embedding, tied output; each linear layer quantized in another way.
Graph SmallLlama() {
  Graph g = NewGraph();
  const Dim batch = Named("batch"), tokens = Named("sequence");
  g.inputs = {Value("input_ids", {batch, tokens}, DType::kInt64),
              Value("position_ids", {batch, tokens}, DType::kInt64)};
  g.outputs = {Value("logits", {batch, tokens, Known(11)})};
  g.initializers["embed.weight"] = *Cast(Noise({11, 64}, 1), DType::kBFloat16);
  g.initializers["cos"] = Noise({16, 8}, 2);
  g.initializers["sin"] = Noise({16, 8}, 3);
  std::string x =
      Add(&g, "embed.f32", "Cast", {Add(&g, "embed", "Gather", {"embed.weight", "input_ids"})}, {{"to", int64_t{1}}});
  uint32_t seed = 10;
  const auto linear = [&](const std::string& name, const std::string& in, const WeightMatrix& w) {
    const absl::StatusOr<std::string> y = AppendQuantizedLinear(&g, name, in, w);
    EXPECT_THAT(y, IsOk());
    return *y;
  };
  for (int layer = 0; layer < 2; ++layer) {
    const std::string p = absl::StrCat("model.layers.", layer, ".");
    const auto norm = [&](const std::string& name, const std::string& in) {
      g.initializers[p + name + ".weight"] = Noise({64}, seed++);
      return Add(&g, p + name, "RMSNormalization", {in, p + name + ".weight"}, {{"axis", int64_t{-1}}});
    };
    const std::string a = norm("input_layernorm", x);
    const std::string q = linear(p + "self_attn.q_proj", a, Matrix(64, 64, {.symmetric = false}, seed++));
    const std::string k = linear(p + "self_attn.k_proj", a, Matrix(32, 64, {.bits = 3}, seed++));
    const std::string v = linear(p + "self_attn.v_proj", a, Codebook(32, 64, 64, Nf4Table(), seed++));
    const auto rope = [&](const std::string& name, const std::string& in, int64_t heads) {
      return Add(&g, p + name, "RotaryEmbedding", {in, "cos", "sin", "position_ids"}, {{"num_heads", heads}});
    };
    const std::string y = Add(&g, p + "attention", "Attention", {rope("q_rope", q, 4), rope("k_rope", k, 2), v},
                              {{"is_causal", int64_t{1}}, {"q_num_heads", int64_t{4}}, {"kv_num_heads", int64_t{2}}});
    const std::string o = linear(p + "self_attn.o_proj", y, Matrix(64, 64, {.order = true}, seed++));
    x = Add(&g, absl::StrCat(p, "residual"), "Add", {x, o});
    const std::string b = norm("post_attention_layernorm", x);
    const std::string gate = linear(p + "mlp.gate_proj", b, Matrix(172, 64, {.bits = 8}, seed++));
    const std::string up = linear(p + "mlp.up_proj", b, Matrix(172, 64, {}, seed++));
    const std::string silu = Add(&g, p + "silu", "Mul", {gate, Add(&g, p + "sigmoid", "Sigmoid", {gate})});
    const std::string down = linear(p + "mlp.down_proj", Add(&g, p + "gated", "Mul", {silu, up}),
                                    Matrix(64, 172, {.group_size = 43, .symmetric = false}, seed++));
    x = Add(&g, absl::StrCat(p, "out"), "Add", {x, down});
  }
  g.initializers["norm.weight"] = Noise({64}, seed++);
  const std::string last = Add(&g, "norm", "RMSNormalization", {x, "norm.weight"}, {{"axis", int64_t{-1}}});
  AppendLinear(&g, "lm_head", last, "embed.weight");
  g.nodes.back().outputs[0] = "logits";
  return g;
}

TEST_F(LoweredInOnnxRuntime, ASmallLlamaRuns) { Compare("llama", SmallLlama()); }

TEST(Lower, TheSmallLlamaIsOfOpset21AndReadsBack) {
  TempDir dir;
  ASSERT_THAT(ExportOnnx(SmallLlama(), dir / "a.onnx"), IsOk());
  ASSERT_THAT(ExportOnnx(SmallLlama(), dir / "b.onnx"), IsOk());
  EXPECT_EQ(testing::ReadFile(dir / "a.onnx"), testing::ReadFile(dir / "b.onnx"));
  const auto read = ImportOnnx(dir / "a.onnx");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->opset, 21);
  EXPECT_EQ(read->other_opsets.size(), 2u);  // NF4 is MatMulCodebook again
}

// Exactly the same numbers, whatever the form (issue 3: "rewritten exactly").
TEST(Lower, BlocksHaveTheSameWeights) {
  for (const auto& w : {Matrix(5, 1100, {.group_size = 512, .symmetric = false}, 1),
                        Matrix(5, 192, {.group_size = 96}, 2), Matrix(5, 172, {.group_size = 172}, 3),
                        Matrix(5, 64, {.bits = 3}, 4), Matrix(5, 64, {.bits = 2, .symmetric = false}, 5)}) {
    Graph g = OneLinear(w);
    ASSERT_THAT(LowerQuantizedLinears(g), IsOk());
    ASSERT_EQ(g.nodes.size(), 1u);
    EXPECT_FALSE(NeedsLowering(g) && g.opset < 23);
    const auto read = QuantizedWeightsOf(g, g.nodes[0]);
    ASSERT_THAT(read, IsOk());
    std::vector<float> want(static_cast<size_t>(w.rows * w.cols)), got(want.size());
    DequantizeRows(w, 0, w.rows, want);
    DequantizeRows(*read, 0, w.rows, got);
    EXPECT_EQ(got, want);
  }
}

TEST(Lower, CodebooksReadBackAsTheyWere) {
  for (const std::span<const float> table : {Nf4Table(), Fp4Table()}) {
    const CodebookMatrix w = Codebook(7, 43, 64, table, 1);
    TempDir dir;
    ASSERT_THAT(ExportOnnx(OneLinear(w), dir / "a.onnx"), IsOk());
    const auto read = ImportOnnx(dir / "a.onnx");
    ASSERT_THAT(read, IsOk());
    ASSERT_EQ(read->nodes.size(), 1u);
    const auto weights = QuantizedWeightsOf(*read, read->nodes[0]);
    ASSERT_THAT(weights, IsOk());
    const auto& got = std::get<CodebookMatrix>(*weights);
    EXPECT_EQ(got.codes, w.codes);
    EXPECT_EQ(got.absmax, w.absmax);
    EXPECT_EQ(got.codebook, w.codebook);
  }
}

// formats.md section 7, run on ONNX Runtime.
TEST(Lower, MatMulNBitsBytesEqualTheVector) {
  GroupedMatrix w{.rows = 2, .cols = 40, .bits = 4, .group_size = 16};
  for (int n = 0; n < 2; ++n) {
    for (int k = 0; k < 40; ++k) w.codes.push_back(static_cast<uint8_t>((k + 3 * n) % 16));
    for (int b = 0; b < 3; ++b) {
      w.scales.push_back(0.5f * (1.0f + static_cast<float>(n) + static_cast<float>(b) / 2));
      w.zeros.push_back(static_cast<float>(1 + n + b));
    }
  }
  Graph g = OneLinear(w);
  EXPECT_FALSE(NeedsLowering(g) && g.opset < 23);
  const auto hex = [&](const std::string& name) {
    std::string out;
    for (const std::byte b : g.Initializer(name)->bytes()) {
      out += "0123456789abcdef"[std::to_integer<int>(b) >> 4];
      out += "0123456789abcdef"[std::to_integer<int>(b) & 15];
    }
    return out;
  };
  const std::string codes = hex("layer.codes");
  EXPECT_EQ(codes.substr(0, 16), "1032547698badcfe");
  EXPECT_EQ(codes.substr(32, 16), "1032547600000000");
  EXPECT_EQ(codes.substr(48, 16), "436587a9cbed0f21");
  EXPECT_EQ(hex("layer.zeros"), "21033204");
}

TEST(Lower, SaysWhatHasNoForm) {
  constexpr auto kNo = absl::StatusCode::kUnimplemented;
  Graph floats = OneLinear(Matrix(4, 43, {.group_size = 43, .symmetric = false, .float_zeros = true}, 1));
  EXPECT_THAT(LowerQuantizedLinears(floats), IsOk());  // one group: any block will do
  Graph odd = OneLinear(Matrix(4, 86, {.group_size = 43, .symmetric = false, .float_zeros = true}, 1));
  EXPECT_THAT(LowerQuantizedLinears(odd), StatusIs(kNo, HasSubstr("\"layer\": zero points such as")));
  Graph axis = NewGraph();
  axis.inputs = {Value("x", {Known(2), Known(3)})};
  axis.outputs = {Value("y", {Known(2), Known(3)})};
  axis.initializers["s"] = Noise({2, 3}, 1);
  Add(&axis, "y", "RMSNormalization", {"x", "s"}, {{"axis", int64_t{0}}});
  EXPECT_THAT(LowerToOpset21(axis), StatusIs(kNo, HasSubstr("\"y\" (RMSNormalization): only the last axis")));
  Graph heads = NewGraph();
  heads.inputs = {Value("x", {Known(1), Known(2), Known(8)})};
  heads.outputs = {Value("y", {Known(1), Known(2), Known(8)})};
  Add(&heads, "y", "Attention", {"x", "x", "x"});
  EXPECT_THAT(LowerToOpset21(heads), StatusIs(kNo, HasSubstr("give q_num_heads")));
}

}  // namespace
}  // namespace quant
