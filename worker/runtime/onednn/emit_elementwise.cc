// SPDX-License-Identifier: Apache-2.0
// Operators on single elements: activations, binary operators with broadcasting, BatchNormalization, Softmax.
//
// Between DequantizeLinear and QuantizeLinear they stay in 8 bits: a chain of functions of one value is a table of 256
// codes (made by the operators' own implementations, so that it is exact), and Add and Mul of two quantized values are
// one kernel.
#include <algorithm>
#include <array>
#include <limits>

#include "common/strings.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/fusion.h"
#include "worker/runtime/onednn/lookup.h"

namespace quant::onednn {
namespace {

using kernels::BinaryOp;
using kernels::ParallelRanges;

// How two operands go with a result of `dims` in memory order, neighbouring dimensions merged where both allow.
struct Runs {
  std::vector<int64_t> dims, a, b;  // strides in elements, 0 where broadcast; the last is the run
  bool ok = false;
  int64_t run() const { return dims.back(); }
  int64_t count() const {
    int64_t c = 1;
    for (size_t i = 0; i + 1 < dims.size(); ++i) c *= dims[i];
    return c;
  }
};

// Strides of an operand along the dimensions of the result.
std::vector<int64_t> OperandStrides(const Shape& shape, Layout layout, size_t rank) {
  const dnnl::memory::dims own = LayoutStrides(shape, shape.size() == rank ? layout : Layout::kPlain);
  std::vector<int64_t> strides(rank, 0);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1) strides[rank - shape.size() + i] = own[i];
  }
  return strides;
}

Runs PlanRuns(const Shape& out, const Shape& a, const Shape& b, Layout layout) {
  const size_t rank = out.size();
  const std::vector<int64_t> sa = OperandStrides(a, layout, rank), sb = OperandStrides(b, layout, rank);
  std::vector<size_t> order;
  for (size_t i = 0; i < rank; ++i) {
    if (layout == Layout::kPlain || i != 1) order.push_back(i);
  }
  if (layout == Layout::kChannelsLast) order.push_back(1);
  Runs r;
  for (const size_t i : order) {
    if (out[i] == 1) continue;
    if (!r.dims.empty() && r.a.back() == sa[i] * out[i] && r.b.back() == sb[i] * out[i]) {
      r.dims.back() *= out[i];
      r.a.back() = sa[i];
      r.b.back() = sb[i];
    } else {
      r.dims.push_back(out[i]);
      r.a.push_back(sa[i]);
      r.b.push_back(sb[i]);
    }
  }
  if (r.dims.empty()) r = {{1}, {0}, {0}};
  r.ok = r.a.back() <= 1 && r.b.back() <= 1;
  return r;
}

// f(run, a offset, b offset) for runs [begin, end).
template <typename F>
void ForRuns(const Runs& r, int64_t begin, int64_t end, const F& f) {
  const size_t outer = r.dims.size() - 1;
  std::array<int64_t, kMaxRank> at{};
  int64_t a = 0, b = 0, rest = begin;
  for (size_t i = outer; i-- > 0;) {
    at[i] = rest % r.dims[i];
    rest /= r.dims[i];
    a += at[i] * r.a[i];
    b += at[i] * r.b[i];
  }
  for (int64_t run = begin; run < end; ++run) {
    f(run, a, b);
    for (size_t i = outer; i-- > 0;) {
      a += r.a[i];
      b += r.b[i];
      if (++at[i] < r.dims[i]) break;
      a -= r.dims[i] * r.a[i];
      b -= r.dims[i] * r.b[i];
      at[i] = 0;
    }
  }
}

// Splits runs, or the one run, over threads.
template <typename F>  // f(run, offset in run, count, a, b)
void ParallelRuns(const Runs& r, int threads, const F& f) {
  const int64_t run = r.run();
  if (r.count() == 1) {
    ParallelRanges(threads, run, 4096, [&](int64_t begin, int64_t end) {
      f(0, begin, end - begin, begin * r.a.back(), begin * r.b.back());
    });
    return;
  }
  ParallelRanges(threads, r.count(), 1, [&](int64_t begin, int64_t end) {
    ForRuns(r, begin, end, [&](int64_t i, int64_t a, int64_t b) { f(i, 0, run, a, b); });
  });
}

bool KindOf(const Node& n, BinaryOp* op) {
  if (n.inputs.size() != 2) return false;
  if (n.op_type == "Add") return *op = BinaryOp::kAdd, true;
  if (n.op_type == "Sub") return *op = BinaryOp::kSub, true;
  if (n.op_type == "Mul") return *op = BinaryOp::kMul, true;
  if (n.op_type == "Div") return *op = BinaryOp::kDiv, true;
  if (n.op_type == "Max") return *op = BinaryOp::kMax, true;
  if (n.op_type == "Min") return *op = BinaryOp::kMin, true;
  return false;
}

kernels::Step StepOf(int64_t stride) { return stride == 0 ? kernels::Step::kOne : kernels::Step::kEach; }

// Add or Mul of two quantized values, an optional Relu or Clip, and QuantizeLinear, all of one 8-bit type.
absl::StatusOr<bool> EmitQuantizedBinary(PlanBuilder& b, int node_index, BinaryOp op) {
  int x = b.In(node_index, 0), y = b.In(node_index, 1);
  const int out = b.Out(node_index);
  if (op != BinaryOp::kAdd && op != BinaryOp::kMul) return false;
  if (b.value(x).codes < 0 || b.value(y).codes < 0) return false;
  Chain chain = MatchChain(b, out, {.channel_axis = 1, .quantize = true, .binary = false});
  if (!chain.quantized || chain.ops.size() > 1) return false;
  const DType dtype = b.value(chain.out).dtype;
  if (b.value(b.value(x).codes).dtype != dtype || b.value(b.value(y).codes).dtype != dtype) return false;
  float lo = -std::numeric_limits<float>::max(), hi = std::numeric_limits<float>::max();
  if (!chain.ops.empty()) {
    const PostOp& p = chain.ops[0];
    if (p.algorithm == dnnl::algorithm::eltwise_clip) {
      lo = p.alpha;
      hi = p.beta;
    } else if (p.algorithm == dnnl::algorithm::eltwise_relu && p.alpha == 0) {
      lo = 0;
    } else {
      return false;
    }
  }
  const Shape shape = b.value(out).shape;
  if (b.value(x).shape != shape) std::swap(x, y);
  if (b.value(x).shape != shape) return false;
  const bool last = shape.size() >= 3 && b.value(y).shape.size() == shape.size() &&
                    (b.LayoutOf(x) == Layout::kChannelsLast || b.LayoutOf(y) == Layout::kChannelsLast);
  const Layout layout = last ? Layout::kChannelsLast : b.LayoutOf(x);
  const Runs runs = PlanRuns(shape, shape, b.value(y).shape, layout);
  if (!runs.ok) return false;
  ASSIGN_OR_RETURN(const int src_x, b.Use(b.value(x).codes, layout));
  ASSIGN_OR_RETURN(const int src_y,
                   b.Use(b.value(y).codes, b.value(y).shape.size() == shape.size() ? layout : Layout::kPlain));
  for (const int n : chain.nodes) b.Claim(n);
  const int dst = b.Define(chain.out, layout);
  const Grid gx = b.value(x).grid, gy = b.value(y).grid, gd = chain.grid;
  Step step;
  step.node = b.node(node_index).name;
  step.what = absl::StrCat(b.node(node_index).op_type, chain.name, " ", DTypeName(dtype));
  step.threads = b.ThreadsFor(static_cast<double>(b.value(out).elements) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const std::byte* px = p[static_cast<size_t>(src_x)];
    const std::byte* py = p[static_cast<size_t>(src_y)];
    std::byte* pd = p[static_cast<size_t>(dst)];
    ParallelRuns(runs, threads, [&](int64_t run, int64_t at, int64_t count, int64_t ox, int64_t oy) {
      const int64_t to = run * runs.run() + at;
      if (dtype == DType::kUInt8) {
        kernels::BinaryU8(op, reinterpret_cast<const uint8_t*>(px + ox), gx, reinterpret_cast<const uint8_t*>(py + oy),
                          StepOf(runs.b.back()), gy, lo, hi, gd, static_cast<size_t>(count),
                          reinterpret_cast<uint8_t*>(pd + to));
      } else {
        kernels::BinaryS8(op, reinterpret_cast<const int8_t*>(px + ox), gx, reinterpret_cast<const int8_t*>(py + oy),
                          StepOf(runs.b.back()), gy, lo, hi, gd, static_cast<size_t>(count),
                          reinterpret_cast<int8_t*>(pd + to));
      }
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src_x, src_y}, {dst});
  return true;
}

}  // namespace

absl::StatusOr<bool> EmitBinary(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  BinaryOp op;
  const int x = b.In(node_index, 0), out = b.Out(node_index);
  if (!KindOf(n, &op) || b.value(x).dtype != DType::kFloat32) return false;
  const int y = b.In(node_index, 1);
  ASSIGN_OR_RETURN(const bool done, EmitQuantizedBinary(b, node_index, op));
  if (done) return true;
  const Shape shape = b.value(out).shape;
  const Shape xs = b.value(x).shape, ys = b.value(y).shape;
  const bool last = shape.size() >= 3 && ((xs.size() == shape.size() && b.LayoutOf(x) == Layout::kChannelsLast) ||
                                          (ys.size() == shape.size() && b.LayoutOf(y) == Layout::kChannelsLast));
  Layout layout = last ? Layout::kChannelsLast : Layout::kPlain;
  Runs runs = PlanRuns(shape, xs, ys, layout);
  if (!runs.ok && last) runs = PlanRuns(shape, xs, ys, layout = Layout::kPlain);
  if (!runs.ok) return false;
  ASSIGN_OR_RETURN(const int src_x, b.Use(x, xs.size() == shape.size() ? layout : Layout::kPlain));
  ASSIGN_OR_RETURN(const int src_y, b.Use(y, ys.size() == shape.size() ? layout : Layout::kPlain));
  // A Relu or Clip right after runs on each piece while it is in the cache.
  Chain chain = MatchChain(b, out, {.channel_axis = 1, .quantize = false, .binary = false});
  float lo = -std::numeric_limits<float>::infinity(), hi = -lo;
  bool clamp = false;
  if (chain.ops.size() == 1 && chain.nodes.size() == 1) {
    const PostOp& p = chain.ops[0];
    if (p.algorithm == dnnl::algorithm::eltwise_relu && p.alpha == 0) {
      clamp = true;
      lo = 0;
    } else if (p.algorithm == dnnl::algorithm::eltwise_clip) {
      clamp = true;
      lo = p.alpha;
      hi = p.beta;
    }
  }
  int result = out;
  std::string name = n.op_type;
  if (clamp) {
    b.Claim(chain.nodes[0]);
    result = chain.out;
    name += chain.name;
  }
  const int dst = b.Define(result, layout);
  Step step;
  step.node = n.name;
  step.what = absl::StrCat(name, " float32");
  step.threads = b.ThreadsFor(static_cast<double>(b.value(out).elements) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const float* px = reinterpret_cast<const float*>(p[static_cast<size_t>(src_x)]);
    const float* py = reinterpret_cast<const float*>(p[static_cast<size_t>(src_y)]);
    float* pd = reinterpret_cast<float*>(p[static_cast<size_t>(dst)]);
    ParallelRuns(runs, threads, [&](int64_t run, int64_t at, int64_t count, int64_t ox, int64_t oy) {
      float* to = pd + run * runs.run() + at;
      const size_t c = static_cast<size_t>(count);
      kernels::BinaryF32(op, px + ox, StepOf(runs.a.back()), py + oy, StepOf(runs.b.back()), c, to);
      if (clamp) kernels::ClampF32(to, c, lo, hi, to);
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src_x, src_y}, {dst});
  return true;
}

absl::StatusOr<bool> EmitUnary(PlanBuilder& b, int node_index) {
  return Guard("element-wise", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int x = b.In(node_index, 0), out = b.Out(node_index);
    PostOp op;
    if (!EltwiseOf(b, node_index, &op)) return false;
    ASSIGN_OR_RETURN(const bool done, EmitLookup(b, node_index));
    if (done) return true;
    const Layout layout = b.LayoutOf(x);
    const int64_t elements = b.value(x).elements;
    const int threads = b.ThreadsFor(static_cast<double>(elements) / 4e3);
    const ThreadScope scope(threads);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::memory::desc desc({elements}, dnnl::memory::data_type::f32, dnnl::memory::dims{1});
    const dnnl::eltwise_forward::primitive_desc pd(CpuEngine(), dnnl::prop_kind::forward_inference, op.algorithm, desc,
                                                   desc, op.alpha, op.beta, attr, /*allow_empty=*/true);
    if (!pd) return false;
    ASSIGN_OR_RETURN(const int src, b.Use(x, layout));
    const int dst = b.Define(out, layout);
    b.AddPrimitive(n.name, n.op_type, dnnl::eltwise_forward(pd), pd.scratchpad_desc(),
                   {Arg::Of(DNNL_ARG_SRC, desc, src), Arg::Of(DNNL_ARG_DST, desc, dst)}, threads);
    return true;
  });
}

absl::StatusOr<bool> EmitPRelu(PlanBuilder& b, int node_index) {
  return Guard("PRelu", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int x = b.In(node_index, 0), out = b.Out(node_index);
    const Shape shape = b.value(x).shape;
    if (b.value(x).dtype != DType::kFloat32 || shape.size() < 2) return false;
    const std::vector<float> slope = ChannelVector(b, b.In(node_index, 1), shape, 1);
    if (slope.empty()) return false;
    const Layout layout = shape.size() >= 3 ? Layout::kChannelsLast : Layout::kPlain;
    const int threads = b.ThreadsFor(static_cast<double>(b.value(x).elements) / 4e3);
    const ThreadScope scope(threads);
    Shape slope_shape(shape.size(), 1);
    if (slope.size() > 1) slope_shape[1] = shape[1];
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::memory::desc desc = Desc(DType::kFloat32, shape, layout);
    const dnnl::memory::desc slopes = Desc(DType::kFloat32, slope_shape, layout);
    const dnnl::prelu_forward::primitive_desc pd(CpuEngine(), dnnl::prop_kind::forward_inference, desc, slopes, desc,
                                                 attr, /*allow_empty=*/true);
    if (!pd) return false;
    ASSIGN_OR_RETURN(const int src, b.Use(x, layout));
    const dnnl::memory weights(slopes, CpuEngine());
    std::copy(slope.begin(), slope.end(), static_cast<float*>(weights.get_data_handle()));
    const int dst = b.Define(out, layout);
    b.AddPrimitive(
        n.name, "PRelu", dnnl::prelu_forward(pd), pd.scratchpad_desc(),
        {Arg::Of(DNNL_ARG_SRC, desc, src), Arg::Of(DNNL_ARG_WEIGHTS, weights), Arg::Of(DNNL_ARG_DST, desc, dst)},
        threads);
    return true;
  });
}

absl::StatusOr<bool> EmitBatchNormalization(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int x = b.In(node_index, 0), out = b.Out(node_index);
  const Shape shape = b.value(x).shape;
  if (b.value(x).dtype != DType::kFloat32 || n.Int("training_mode", 0) != 0 || shape.size() < 2) return false;
  std::vector<float> mul = b.ConstantFloats(b.In(node_index, 1)), add = b.ConstantFloats(b.In(node_index, 2));
  const std::vector<float> mean = b.ConstantFloats(b.In(node_index, 3)), var = b.ConstantFloats(b.In(node_index, 4));
  if (mul.empty() || add.empty() || mean.empty() || var.empty()) return false;
  for (size_t c = 0; c < mul.size(); ++c) {
    const double s = mul[c] / std::sqrt(static_cast<double>(var[c]) + n.Float("epsilon", 1e-5f));
    add[c] = static_cast<float>(add[c] - mean[c] * s);
    mul[c] = static_cast<float>(s);
  }
  ASSIGN_OR_RETURN(const int src, b.Use(x, Layout::kChannelsLast));
  const int dst = b.Define(out, Layout::kChannelsLast);
  const int64_t channels = shape[1], rows = b.value(x).elements / channels;
  Step step;
  step.node = n.name;
  step.what = "BatchNormalization float32";
  step.threads = b.ThreadsFor(static_cast<double>(b.value(x).elements) / 4e3);
  step.run = [=, mul = std::move(mul), add = std::move(add), threads = step.threads](Pointers p) {
    const float* from = reinterpret_cast<const float*>(p[static_cast<size_t>(src)]);
    float* to = reinterpret_cast<float*>(p[static_cast<size_t>(dst)]);
    ParallelRanges(threads, rows, 16, [&](int64_t begin, int64_t end) {
      kernels::ChannelAffineF32(from + begin * channels, static_cast<size_t>(end - begin),
                                static_cast<size_t>(channels), mul.data(), add.data(), to + begin * channels);
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {dst});
  return true;
}

absl::StatusOr<bool> EmitSoftmax(PlanBuilder& b, int node_index) {
  return Guard("softmax", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int x = b.In(node_index, 0), out = b.Out(node_index);
    const int64_t rank = static_cast<int64_t>(b.value(x).shape.size());
    if (b.value(x).dtype != DType::kFloat32 || rank < 1) return false;
    int64_t axis = n.Int("axis", -1);
    if (axis < 0) axis += rank;
    const Layout layout = b.LayoutOf(x);
    const int threads = b.ThreadsFor(static_cast<double>(b.value(x).elements) / 1e3);
    const ThreadScope scope(threads);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::memory::desc desc = Desc(DType::kFloat32, b.value(x).shape, layout);
    const dnnl::softmax_forward::primitive_desc pd(
        CpuEngine(), dnnl::prop_kind::forward_inference,
        n.op_type == "Softmax" ? dnnl::algorithm::softmax_accurate : dnnl::algorithm::softmax_log, desc, desc,
        static_cast<int>(axis), attr, /*allow_empty=*/true);
    if (!pd) return false;
    ASSIGN_OR_RETURN(const int src, b.Use(x, layout));
    const int dst = b.Define(out, layout);
    b.AddPrimitive(n.name, n.op_type, dnnl::softmax_forward(pd), pd.scratchpad_desc(),
                   {Arg::Of(DNNL_ARG_SRC, desc, src), Arg::Of(DNNL_ARG_DST, desc, dst)}, threads);
    return true;
  });
}

}  // namespace quant::onednn
