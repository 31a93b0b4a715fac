// SPDX-License-Identifier: Apache-2.0
// Quantized graphs against the reference backend, which runs every Q and DQ as written. The fused int8 kernels sum
// exactly in int32 and differ only in the last float steps: they multiply with the inverse of the result's scale where
// ONNX divides, and round the product of the scales once more or less. So a code may be off by one where the exact
// value is within 1e-5 of a tie, never by more, and rarely: the share of such codes is bounded too.
#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/runtime/isa.h"
#include "worker/runtime/onednn/testing/test_graph.h"

namespace quant {
namespace {

using quant::testing::ExpectCodes;
using quant::testing::ExpectNear;
using quant::testing::TestGraph;
using ::testing::HasSubstr;
using ::testing::Not;
using Ints = std::vector<int64_t>;

constexpr double kShare = 0.005;

struct Case {
  int64_t in, out, size, kernel, stride, groups;
  DType source;
  int zero_point;
  int limit;  // of the weights
};

class Int8ConvTest : public ::testing::TestWithParam<Case> {};

TEST_P(Int8ConvTest, CodesMatchTheReference) {
  const Case c = GetParam();
  TestGraph g;
  const std::string x = g.QuantizeDequantize(g.Input({2, c.in, c.size, c.size}), 0.03f, c.zero_point, c.source);
  const std::string w = g.Weights({c.out, c.in / c.groups, c.kernel, c.kernel}, 0, c.limit);
  const int64_t p = c.kernel / 2;
  const std::string y = g.Op("Conv", {x, w, g.Random({c.out})},
                             {{"strides", Ints{c.stride, c.stride}}, {"group", c.groups}, {"pads", Ints{p, p, p, p}}});
  const float scale =
      0.02f * static_cast<float>(c.kernel) * std::sqrt(static_cast<float>(c.in) / static_cast<float>(c.groups));
  const int zero = c.source == DType::kInt8 ? 3 : 120;
  g.Output(g.Quantize(y, scale, zero, c.source), c.source);
  g.Output(
      g.Quantize(g.Op("Relu", {g.Op("Conv", {x, w}, {{"strides", Ints{c.stride, c.stride}}, {"group", c.groups}})}),
                 scale, 0),
      DType::kUInt8);
  const std::string plan = ExpectCodes(g, 2, 1, kShare);
  if (HasExactInt8()) {
    EXPECT_THAT(plan, HasSubstr("Conv+QuantizeLinear")) << "must run in int8";
    EXPECT_THAT(plan, Not(HasSubstr("DequantizeLinear uint8->float32")));
  } else if (c.limit > kSafeWeight || c.source == DType::kInt8) {
    EXPECT_THAT(plan, Not(HasSubstr("Conv+QuantizeLinear"))) << "would saturate";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Int8ConvTest,
    ::testing::Values(Case{3, 16, 16, 3, 1, 1, DType::kUInt8, 0, 127},
                      Case{3, 16, 16, 3, 1, 1, DType::kUInt8, 114, 127}, Case{1, 5, 9, 3, 2, 1, DType::kUInt8, 7, 127},
                      Case{5, 17, 9, 3, 1, 1, DType::kUInt8, 100, 127}, Case{17, 33, 8, 3, 1, 1, DType::kUInt8, 0, 127},
                      Case{17, 33, 8, 3, 1, 1, DType::kUInt8, 33, 64}, Case{33, 7, 7, 5, 1, 1, DType::kUInt8, 128, 127},
                      Case{16, 24, 8, 1, 1, 1, DType::kUInt8, 9, 127}, Case{64, 64, 8, 3, 1, 1, DType::kUInt8, 0, 127},
                      Case{64, 64, 8, 3, 1, 1, DType::kInt8, 0, 127}, Case{5, 17, 9, 3, 1, 1, DType::kInt8, -11, 127},
                      Case{72, 10, 9, 3, 2, 1, DType::kInt8, 5, 127}, Case{16, 16, 9, 3, 1, 16, DType::kUInt8, 5, 127},
                      Case{17, 17, 9, 3, 2, 17, DType::kUInt8, 0, 64}, Case{17, 17, 9, 3, 2, 17, DType::kInt8, -3, 127},
                      Case{12, 18, 9, 3, 1, 3, DType::kUInt8, 50, 127},
                      Case{512, 40, 3, 1, 1, 1, DType::kUInt8, 77, 127}));

TEST(Int8, ExtremesOfRangeDoNotSaturate) {
  // All products at their greatest: u8 255 x s8 127 and x s8 -128 over K = 64, which VPMADDUBSW cannot add in 16 bits.
  for (const int code : {127, -128}) {
    TestGraph g;
    const std::string x = g.QuantizeDequantize(g.Op("Exp", {g.Input({1, 64, 2, 2})}), 1e-6f, 0);  // every code is 255
    const Tensor w = *Cast(Tensor::Of<int32_t>({8, 64, 1, 1}, std::vector<int32_t>(8 * 64, code)), DType::kInt8);
    const std::string weights = g.Op("DequantizeLinear", {g.Constant(w), g.Constant(Tensor::Scalar(1.0f))});
    g.Output(g.Op("Conv", {x, weights}));
    g.Output(g.Op("MatMul",
                  {g.Op("Flatten", {g.Op("GlobalMaxPool", {x})}),
                   g.Op("DequantizeLinear", {g.Constant(w.Reshaped({64, 8})), g.Constant(Tensor::Scalar(1.0f))})}));
    ExpectNear(g, 1, 1e-6);
  }
}

TEST(Int8, ResidualWithAndWithoutRequantization) {
  for (const bool requantize : {false, true}) {
    for (const int zero : {0, 21}) {
      TestGraph g;
      const Ints pads = {1, 1, 1, 1};
      std::string a = g.QuantizeDequantize(g.Op("Abs", {g.Input({1, 16, 8, 8})}), 0.02f, zero);
      for (int block = 0; block < 2; ++block) {
        std::string b = g.Op("Relu", {g.Op("Conv", {a, g.Weights({16, 16, 3, 3}, 0)}, {{"pads", pads}})});
        b = g.QuantizeDequantize(b, 0.06f, zero);
        std::string c = g.Op("Conv", {b, g.Weights({16, 16, 3, 3}, 0)}, {{"pads", pads}});
        if (requantize) c = g.QuantizeDequantize(c, 0.3f, 128);
        a = g.QuantizeDequantize(g.Op("Relu", {g.Op("Add", {c, a})}), 0.15f, zero);
      }
      g.Output(g.Op("GlobalAveragePool", {a}));
      // Two blocks pass the odd code that differs on through 144 products each: a step of 0.15 over the 64 averaged.
      const std::string plan = ExpectNear(g, 2, 5e-3);
      if (HasExactInt8()) {
        EXPECT_THAT(plan, Not(HasSubstr("DequantizeLinear uint8->float32")));
      }
    }
  }
}

TEST(Int8, OperatorsBetweenCodesStayInCodes) {
  TestGraph g;
  const float s = 0.03f;
  const std::string x = g.QuantizeDequantize(g.Input({1, 6, 8, 8}), s, 100);
  const auto ints = [&](Ints v) { return g.Constant(Tensor::Of<int64_t>({static_cast<int64_t>(v.size())}, v)); };
  const auto out = [&](const std::string& v, float scale, int zero) {
    g.Output(g.Quantize(v, scale, zero), DType::kUInt8);
  };
  out(g.Op("MaxPool", {x}, {{"kernel_shape", Ints{3, 3}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 1, 1}}}), s,
      100);
  out(g.Op("Transpose", {x}, {{"perm", Ints{0, 2, 3, 1}}}), s, 100);
  out(g.Op("Reshape", {x, ints({0, -1})}), s, 100);
  out(g.Op("Concat", {x, x}, {{"axis", int64_t{1}}}), s, 100);
  out(g.Op("Concat", {x, x}, {{"axis", int64_t{2}}}), 0.05f, 90);
  out(g.Op("Slice", {x, ints({1}), ints({4}), ints({2})}), s, 100);
  out(g.Op("Pad", {x, ints({0, 1, 0, 2, 0, 0, 1, 0})}), s, 100);
  out(g.Op("Relu", {x}), 0.02f, 0);
  out(g.Op("Sigmoid", {g.Op("LeakyRelu", {x})}), 1.0f / 255, 0);
  out(g.Op("Add", {x, g.Op("Transpose", {x}, {{"perm", Ints{0, 1, 3, 2}}})}), 0.06f, 99);
  out(g.Op("Relu",
           {g.Op("Mul", {x, g.Dequantize(g.Quantize(g.Op("GlobalAveragePool", {x}), 0.01f, 128), 0.01f, 128)})}),
      0.02f, 0);
  out(g.Op("GlobalAveragePool", {x}), 0.01f, 128);
  const std::string plan = ExpectCodes(g, 2, 1, kShare);
  EXPECT_THAT(plan, Not(HasSubstr("DequantizeLinear uint8->float32"))) << plan;
}

TEST(Int8, GemmAndMatMulWithPerColumnScales) {
  for (const int64_t rows : {1, 9}) {
    for (const int zero : {0, 130}) {
      TestGraph g;
      const std::string x = g.QuantizeDequantize(g.Input({rows, 70}), 0.03f, zero);
      const std::string gemm = g.Op("Gemm", {x, g.Weights({33, 70}, 0), g.Random({33})}, {{"transB", int64_t{1}}});
      const std::string h = g.QuantizeDequantize(g.Op("Relu", {gemm}), 0.05f, 0);
      const std::string product = g.Op("MatMul", {h, g.Weights({33, 10}, 1)});
      g.Output(g.Op("Add", {product, g.Random({10})}));
      const std::string plan = ExpectNear(g, rows, 1e-2);  // one step of 0.05 in h may differ: 33 of them make the sum
      if (HasExactInt8()) {
        EXPECT_THAT(plan, HasSubstr("Gemm+Relu+QuantizeLinear uint8->uint8"));
        EXPECT_THAT(plan, HasSubstr("MatMul+Add uint8->float32"));
      }
    }
  }
}

TEST(Int8, DynamicQuantizationIsOneProduct) {
  TestGraph g;
  const std::string x = g.Input({1, 5, 40});
  const std::string q = g.Op("DynamicQuantizeLinear", {x}, {}, 3);
  const std::string w = g.RandomCodes(DType::kInt8, {40, 17}, -127, 127);
  const std::string product = g.Op("MatMulInteger", {q, w, q + ".2"});
  const std::string scale = g.Op("Mul", {q + ".1", g.Random({17}, 0.001f, 0.01f)});
  const std::string y = g.Op("Mul", {g.Op("Cast", {product}, {{"to", int64_t{1}}}), scale});
  g.Output(g.Op("Relu", {g.Op("Add", {y, g.Random({17})})}));
  const std::string plan = ExpectNear(g, 3, 1e-5);
  EXPECT_THAT(plan, HasSubstr(HasExactInt8() ? "MatMul dynamic+Add+Relu uint8->float32"
                                             : "MatMul dynamic+Add+Relu float32->float32"));
}

TEST(Int8, DynamicConvolutionIsOneProduct) {
  for (const int64_t groups : {1, 8}) {
    for (const int limit : {127, 64}) {
      TestGraph g;
      // Wide enough for several threads in every step; padding is the zero point of the run.
      const std::string x = g.Input({1, 8, 96, 96});
      const std::string q = g.Op("DynamicQuantizeLinear", {x}, {}, 3);
      const std::string w = g.RandomCodes(DType::kUInt8, {16, 8 / groups, 3, 3}, 128 - limit, 128 + limit);
      const std::string w_zero = g.Constant(Tensor::Of<uint8_t>({}, std::vector<uint8_t>{128}));
      const std::string sum = g.Op("ConvInteger", {q, w, q + ".2", w_zero},
                                   {{"pads", Ints{1, 1, 1, 1}}, {"strides", Ints{2, 2}}, {"group", groups}});
      const std::string scale = g.Op("Mul", {q + ".1", g.Random({16, 1, 1}, 0.001f, 0.01f)});
      const std::string y = g.Op("Mul", {g.Op("Cast", {sum}, {{"to", int64_t{1}}}), scale});
      g.Output(g.Op("Relu", {g.Op("Add", {y, g.Random({16, 1, 1})})}));
      const std::string plan = ExpectNear(g, 2, 1e-5);
      if (HasExactInt8()) {
        EXPECT_THAT(plan, HasSubstr("Conv dynamic+Add+Relu uint8->float32"));
      } else if (limit > kSafeWeight) {
        EXPECT_THAT(plan, HasSubstr("Conv dynamic+Add+Relu float32->float32")) << "would saturate";
      }
      EXPECT_THAT(plan, Not(HasSubstr("plain loops")));
    }
  }
}

TEST(Int8, AsymmetricWeightsAndPerChannelActivations) {
  TestGraph g;
  const std::string x = g.QuantizeDequantize(g.Input({1, 8, 6, 6}), 0.03f, 110);
  // u8 weights whose codes less zero point fit s8, and some that do not.
  for (const int zero : {128, 10}) {
    const std::string codes = g.RandomCodes(DType::kUInt8, {4, 8, 3, 3}, 10, 250);
    const Tensor z = *Cast(Tensor::Of<int32_t>({}, std::vector<int32_t>{zero}), DType::kUInt8);
    const std::string w = g.Op("DequantizeLinear", {codes, g.Constant(Tensor::Scalar(0.01f)), g.Constant(z)});
    g.Output(g.Op("Conv", {x, w}));
  }
  // Scales per channel of an activation have no fused form: plain Q and DQ.
  const std::string scales = g.Random({8}, 0.01f, 0.05f);
  const std::string q = g.Op("QuantizeLinear", {x, scales}, {{"axis", int64_t{1}}});
  g.Output(g.Op("Conv", {g.Op("DequantizeLinear", {q, scales}, {{"axis", int64_t{1}}}), g.Weights({4, 8, 3, 3}, 0)}));
  ExpectNear(g, 2, 1e-5);
}

}  // namespace
}  // namespace quant
