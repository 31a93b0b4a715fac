// SPDX-License-Identifier: Apache-2.0
// MatMul, Gemm and MatMulInteger.
//
//   float32:       dst = chain(a x b + bias)
//   static int8:   dst = chain((a_q - zero) x b_q * a_scale * b_scale[n] + bias) / dst_scale + dst_zero
//   dynamic int8:  the same with a_scale and zero computed by DynamicQuantizeLinear in the same run
//
// The rules for int8 are those of emit_conv.cc: b is constant, symmetric after its zero point is taken off, with one
// scale or one per column.
#include <algorithm>
#include <functional>
#include <optional>

#include "common/strings.h"
#include "worker/runtime/isa.h"
#include "worker/runtime/onednn/dynamic.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/fusion.h"

namespace quant::onednn {
namespace {

using dnnl::memory;

double Microseconds(int64_t rows, int64_t depth, int64_t cols, int64_t batch, bool int8) {
  // One row reads every weight once from memory: about 10 GB/s on one thread. More rows are arithmetic.
  const double weights = static_cast<double>(depth * cols);
  const double arithmetic = static_cast<double>(rows) * weights * static_cast<double>(batch) / (int8 ? 200e3 : 60e3);
  return std::max(arithmetic, weights * (int8 ? 1 : 4) / 10e3);
}

// One matrix product, as the primitive sees it.
struct Product {
  std::string node, what;
  int a = -1;  // value (the codes for int8)
  memory::dims a_dims, a_strides;
  int b = -1;                       // value, when not constant
  memory::dims b_dims, b_strides;   // b_strides: of the plain constant, or of the value
  std::string key;                  // of the constant in the weight cache
  std::function<void(void*)> fill;  // writes the constant, f32 or s8, in plain order
  std::vector<float> bias;          // per column
  memory::dims dst_dims;
  // int8
  bool int8 = false;
  Grid grid;                               // static
  int scale_value = -1, zero_buffer = -1;  // dynamic: f32 scalar, s32 scalar
  std::vector<float> weight_scales;
};

memory::dims RowMajor(const memory::dims& dims) {
  memory::dims strides(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

absl::StatusOr<bool> EmitProduct(PlanBuilder& b, const Product& p, const Chain& chain, bool allow_sum) {
  const size_t rank = p.dst_dims.size();
  int64_t batch = 1;
  for (size_t i = 0; i + 2 < rank; ++i) batch *= p.dst_dims[i];
  const int threads =
      b.ThreadsFor(Microseconds(p.dst_dims[rank - 2], p.b_dims[rank - 2], p.dst_dims[rank - 1], batch, p.int8));
  const ThreadScope scope(threads);
  const DType dst_dtype = p.int8 && chain.quantized ? b.value(chain.out).dtype : DType::kFloat32;

  std::vector<Arg> args;
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops post_ops;
  const Shape dst_shape(p.dst_dims.begin(), p.dst_dims.end());
  ASSIGN_OR_RETURN(
      const int in_place,
      AppendPostOps(b, chain, {dst_shape, Layout::kPlain, dst_dtype, static_cast<int>(rank) - 1, allow_sum}, &post_ops,
                    &args));
  attr.set_post_ops(post_ops);
  const memory::desc scalar_f32({1}, memory::data_type::f32, memory::dims{1});
  const memory::desc scalar_s32({1}, memory::data_type::s32, memory::dims{1});
  if (p.int8) {
    attr.set_scales_mask(DNNL_ARG_SRC, 0);
    if (p.scale_value >= 0) {
      ASSIGN_OR_RETURN(const int scale, b.Use(p.scale_value, Layout::kPlain));
      args.push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC, scalar_f32, scale));
      attr.set_zero_points_mask(DNNL_ARG_SRC, 0);
      args.push_back(Arg::Of(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC, scalar_s32, p.zero_buffer));
    } else {
      args.push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC, VectorMemory(std::span(&p.grid.scale, 1))));
      if (p.grid.zero_point != 0) {
        attr.set_zero_points_mask(DNNL_ARG_SRC, 0);
        args.push_back(
            Arg::Of(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC, VectorMemory(std::span(&p.grid.zero_point, 1))));
      }
    }
    attr.set_scales_mask(DNNL_ARG_WEIGHTS, p.weight_scales.size() == 1 ? 0 : 1 << (rank - 1));
    args.push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, VectorMemory(p.weight_scales)));
    if (chain.quantized) {
      attr.set_scales_mask(DNNL_ARG_DST, 0);
      args.push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST, VectorMemory(std::span(&chain.grid.scale, 1))));
      if (chain.grid.zero_point != 0) {
        attr.set_zero_points_mask(DNNL_ARG_DST, 0);
        args.push_back(
            Arg::Of(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_DST, VectorMemory(std::span(&chain.grid.zero_point, 1))));
      }
    }
  }
  const DType a_dtype = b.value(p.a).dtype;
  const memory::data_type b_type = p.int8 ? memory::data_type::s8 : memory::data_type::f32;
  const memory::desc a_desc(p.a_dims, DnnlType(a_dtype), p.a_strides);
  const memory::desc plain_b(p.b_dims, b_type, p.b_strides);
  const memory::desc want_b = p.b >= 0 ? plain_b : memory::desc(p.b_dims, b_type, memory::format_tag::any);
  memory::desc bias_desc;
  if (!p.bias.empty()) {
    memory::dims dims(rank, 1);
    dims.back() = static_cast<memory::dim>(p.bias.size());
    bias_desc = memory::desc(dims, memory::data_type::f32, RowMajor(dims));
  }
  const memory::desc dst_desc(p.dst_dims, DnnlType(dst_dtype), RowMajor(p.dst_dims));
  const dnnl::matmul::primitive_desc pd(CpuEngine(), a_desc, want_b, bias_desc, dst_desc, attr, /*allow_empty=*/true);
  if (!pd) return false;
  if (IsReference(pd.impl_info_str()) && (p.int8 || !chain.ops.empty())) return false;

  ASSIGN_OR_RETURN(const int a, b.Use(p.a, Layout::kPlain));
  args.push_back(Arg::Of(DNNL_ARG_SRC, a_desc, a));
  if (p.b >= 0) {
    ASSIGN_OR_RETURN(const int weights, b.Use(p.b, Layout::kPlain));
    args.push_back(Arg::Of(DNNL_ARG_WEIGHTS, plain_b, weights));
  } else {
    const memory weights = b.weights().Get(p.key, pd.weights_desc(), [&] {
      memory plain(plain_b, CpuEngine());
      p.fill(plain.get_data_handle());
      return plain;
    });
    args.push_back(Arg::Of(DNNL_ARG_WEIGHTS, weights));
  }
  if (!p.bias.empty()) {
    const memory bias(bias_desc, CpuEngine());
    std::copy(p.bias.begin(), p.bias.end(), static_cast<float*>(bias.get_data_handle()));
    args.push_back(Arg::Of(DNNL_ARG_BIAS, bias));
  }
  const int dst = DefineChainOutput(b, chain, Layout::kPlain, in_place);
  args.push_back(Arg::Of(DNNL_ARG_DST, dst_desc, dst));
  b.AddPrimitive(p.node, absl::StrCat(p.what, chain.name, " ", DTypeName(a_dtype), "->", DTypeName(dst_dtype)),
                 dnnl::matmul(pd), pd.scratchpad_desc(), std::move(args), threads);
  return true;
}

// The product with its chain, a residual summed in place if oneDNN has that fast, else apart.
absl::StatusOr<bool> EmitWithChain(PlanBuilder& b, const Product& p, const Chain& chain) {
  ASSIGN_OR_RETURN(const bool done, EmitProduct(b, p, chain, /*allow_sum=*/true));
  if (done) return true;
  return EmitProduct(b, p, chain, /*allow_sum=*/false);
}

// A bias right after the product joins it.
void TakeBias(Chain* chain, int64_t cols, std::vector<float>* bias) {
  while (!chain->ops.empty() && chain->ops.front().kind == PostOp::Kind::kAddVector) {
    const std::vector<float>& v = chain->ops.front().vector;
    bias->resize(static_cast<size_t>(cols), 0.0f);
    for (size_t i = 0; i < bias->size(); ++i) (*bias)[i] += v[v.size() == 1 ? 0 : i];
    chain->ops.erase(chain->ops.begin());
  }
}

// Whether the constant b can be used as s8 for a source of type `a`.
bool Int8Weights(const QuantizedConstant* q, DType a, int column_axis) {
  if (q == nullptr || !q->fits_s8 || (q->axis >= 0 && q->axis != column_axis)) return false;
  return HasExactInt8() || (q->max_abs <= kSafeWeight && a == DType::kUInt8);
}

// Fills the parts of an int8 product that come from its weights.
void SetInt8(const QuantizedConstant* q, Product* p) {
  p->int8 = true;
  p->key += "|s8";
  p->weight_scales = q->scales;
  p->fill = [q](void* to) {
    for (size_t i = 0; i < q->codes.size(); ++i) static_cast<int8_t*>(to)[i] = static_cast<int8_t>(q->codes[i]);
  };
}

// An int8 product in place of p, when its operands allow.
absl::StatusOr<bool> TryInt8(PlanBuilder& b, Product p, int a, int w, int column_axis, int out) {
  const Value& value = b.value(a);
  if (value.codes < 0 || p.b >= 0) return false;
  const QuantizedConstant* q = b.Quantized(w);
  if (!Int8Weights(q, b.value(value.codes).dtype, column_axis)) return false;
  p.a = value.codes;
  p.grid = value.grid;
  SetInt8(q, &p);
  const int axis = static_cast<int>(b.value(out).shape.size()) - 1;
  Chain chain = MatchChain(b, out, {.channel_axis = axis, .quantize = true});
  TakeBias(&chain, p.dst_dims.back(), &p.bias);
  return EmitWithChain(b, p, chain);
}

absl::StatusOr<bool> TryF32(PlanBuilder& b, const Product& p, int w, float factor, int out) {
  Product f = p;
  const int axis = static_cast<int>(b.value(out).shape.size()) - 1;
  if (f.b < 0) {
    f.key += factor == 1.0f ? "|f32" : "|scaled";
    f.fill = [&b, w, factor](void* to) {
      const std::vector<float> values = b.ConstantFloats(w);
      for (size_t i = 0; i < values.size(); ++i) static_cast<float*>(to)[i] = values[i] * factor;
    };
  }
  Chain chain = MatchChain(b, out, {.channel_axis = axis, .quantize = false});
  Product with_bias = f;
  TakeBias(&chain, p.dst_dims.back(), &with_bias.bias);
  ASSIGN_OR_RETURN(const bool done, EmitWithChain(b, with_bias, chain));
  if (done) return true;
  Chain bare;
  bare.out = out;
  return EmitProduct(b, f, bare, false);
}

// Operand shapes of MatMul: rank 2 when b is a matrix, else all of the same rank with leading ones.
bool MatMulShapes(const Shape& a, const Shape& w, const Shape& out, Product* p) {
  if (a.size() < 2 || w.size() < 2) return false;
  if (w.size() == 2) {
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < a.size(); ++i) rows *= a[i];
    p->a_dims = {rows, a.back()};
    p->b_dims = {w[0], w[1]};
    p->dst_dims = {rows, w[1]};
  } else {
    p->dst_dims.assign(out.begin(), out.end());
    p->a_dims.assign(out.size() - a.size(), 1);
    p->a_dims.insert(p->a_dims.end(), a.begin(), a.end());
    p->b_dims.assign(out.size() - w.size(), 1);
    p->b_dims.insert(p->b_dims.end(), w.begin(), w.end());
  }
  p->a_strides = RowMajor(p->a_dims);
  p->b_strides = RowMajor(p->b_dims);
  return true;
}

}  // namespace

absl::StatusOr<bool> EmitMatMul(PlanBuilder& b, int node_index) {
  return Guard("matrix product", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int a = b.In(node_index, 0), w = b.In(node_index, 1), out = b.Out(node_index);
    if (b.value(out).dtype != DType::kFloat32) return false;
    ASSIGN_OR_RETURN(const bool stored, EmitStoredLinear(b, node_index));
    if (stored) return true;
    Product p;
    p.node = n.name;
    p.what = "MatMul";
    p.key = n.name;
    p.a = a;
    if (!MatMulShapes(b.value(a).shape, b.value(w).shape, b.value(out).shape, &p)) return false;
    if (!b.IsConstant(w)) p.b = w;
    ASSIGN_OR_RETURN(const bool done, TryInt8(b, p, a, w, 1, out));
    if (done) return true;
    return TryF32(b, p, w, 1.0f, out);
  });
}

absl::StatusOr<bool> EmitGemm(PlanBuilder& b, int node_index) {
  return Guard("Gemm", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int a = b.In(node_index, 0), w = b.In(node_index, 1), c = b.In(node_index, 2), out = b.Out(node_index);
    if (b.value(out).dtype != DType::kFloat32) return false;
    const float alpha = n.Float("alpha", 1.0f), beta = n.Float("beta", 1.0f);
    const bool trans_a = n.Int("transA", 0) != 0, trans_b = n.Int("transB", 0) != 0;
    const Shape out_shape = b.value(out).shape;
    Product p;
    p.node = n.name;
    p.what = "Gemm";
    p.key = n.name;
    p.a = a;
    const int64_t rows = out_shape[0], cols = out_shape[1];
    const int64_t depth = b.value(a).shape[trans_a ? 0 : 1];
    p.a_dims = {rows, depth};
    p.a_strides = trans_a ? memory::dims{1, rows} : memory::dims{depth, 1};
    p.b_dims = {depth, cols};
    p.b_strides = trans_b ? memory::dims{1, depth} : memory::dims{cols, 1};
    p.dst_dims = {rows, cols};
    if (!b.IsConstant(w)) p.b = w;
    if (p.b >= 0 && alpha != 1.0f) return false;
    if (c >= 0 && beta != 0.0f) {
      const std::vector<float> vector = ChannelVector(b, c, out_shape, 1);
      if (vector.empty()) return false;
      for (int64_t i = 0; i < cols; ++i)
        p.bias.push_back(beta * vector[vector.size() == 1 ? 0 : static_cast<size_t>(i)]);
    }
    if (alpha == 1.0f && !trans_a) {
      ASSIGN_OR_RETURN(const bool done, TryInt8(b, p, a, w, trans_b ? 0 : 1, out));
      if (done) return true;
    }
    return TryF32(b, p, w, alpha, out);
  });
}

absl::StatusOr<bool> EmitMatMulInteger(PlanBuilder& b, int node_index) {
  return Guard("integer matrix product", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    ASSIGN_OR_RETURN(const std::optional<DynamicProduct> dynamic, MatchDynamicProduct(b, node_index, 1));
    const int w = b.In(node_index, 1);
    if (!dynamic.has_value() || b.value(w).shape.size() != 2) return false;
    const QuantizedConstant& q = dynamic->weights;
    Product p;
    p.node = n.name;
    p.what = "MatMul dynamic";
    p.key = n.name;
    p.a = dynamic->codes;
    if (!MatMulShapes(b.value(p.a).shape, b.value(w).shape, b.value(dynamic->out).shape, &p)) return false;
    if (Int8Weights(&q, DType::kUInt8, 1)) {
      SetInt8(&q, &p);
      p.scale_value = dynamic->scale;
      ASSIGN_OR_RETURN(p.zero_buffer, WidenZeroPoint(b, *dynamic));
    } else {
      ASSIGN_OR_RETURN(p.a, DequantizeDynamic(b, *dynamic));
      p.key += "|f32";
      p.fill = [&q](void* to) {
        for (size_t i = 0; i < q.codes.size(); ++i) {
          static_cast<float*>(to)[i] = static_cast<float>(q.codes[i]) * q.scales[q.axis < 0 ? 0 : i % q.scales.size()];
        }
      };
    }
    const int axis = static_cast<int>(b.value(dynamic->out).shape.size()) - 1;
    Chain chain = MatchChain(b, dynamic->out, {.channel_axis = axis, .quantize = false});
    TakeBias(&chain, p.dst_dims.back(), &p.bias);
    ASSIGN_OR_RETURN(const bool done, EmitWithChain(b, p, chain));
    if (done) {
      b.Claim(dynamic->cast);
      b.Claim(dynamic->mul);
    }
    return done;
  });
}

}  // namespace quant::onednn
