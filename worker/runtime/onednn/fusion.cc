// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/fusion.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/strings.h"

namespace quant::onednn {

using dnnl::algorithm;

namespace {

PostOp Eltwise(algorithm alg, float alpha = 0, float beta = 0) {
  PostOp op{PostOp::Kind::kEltwise};
  op.algorithm = alg;
  op.alpha = alpha;
  op.beta = beta;
  return op;
}

PostOp Vector(PostOp::Kind kind, std::vector<float> values) {
  PostOp op{kind};
  op.vector = std::move(values);
  return op;
}

// x * gate(x), where both nodes read nothing else: Sigmoid and Mul make swish, HardSigmoid and Mul hardswish.
bool MatchSwish(PlanBuilder& b, int value, PostOp* op, int* gate, int* mul) {
  if (b.Pinned(value)) return false;
  const std::vector<int>& readers = b.Consumers(value);
  if (readers.size() != 2) return false;
  *gate = std::min(readers[0], readers[1]);
  *mul = std::max(readers[0], readers[1]);
  const Node& g = b.node(*gate);
  const Node& m = b.node(*mul);
  if (m.op_type != "Mul" || m.inputs.size() != 2 || b.OnlyConsumer(b.Out(*gate)) != *mul) return false;
  if (g.op_type == "Sigmoid") {
    *op = Eltwise(algorithm::eltwise_swish, 1.0f);
    return true;
  }
  if (g.op_type == "HardSigmoid") {
    *op = Eltwise(algorithm::eltwise_hardswish, g.Float("alpha", 0.2f), g.Float("beta", 0.5f));
    return true;
  }
  return false;
}

// value -> Q -> DQ -> Add(residual): the pair may run as rounding inside the primitive.
bool MatchRequantize(PlanBuilder& b, int quantize, PostOp* op, int* dequantize, int* add, int* residual) {
  Grid grid, back;
  if (!b.NodeGrid(quantize, &grid)) return false;
  *dequantize = b.OnlyConsumer(b.Out(quantize));
  if (*dequantize < 0 || b.node(*dequantize).op_type != "DequantizeLinear" || !b.NodeGrid(*dequantize, &back)) {
    return false;
  }
  if (back.scale != grid.scale || back.zero_point != grid.zero_point) return false;
  const int sum = b.Out(*dequantize);
  *add = b.OnlyConsumer(sum);
  if (*add < 0 || b.node(*add).op_type != "Add") return false;
  *residual = b.In(*add, b.In(*add, 0) == sum ? 1 : 0);
  if (!b.Available(*residual) || b.IsConstant(*residual) || b.value(*residual).shape != b.value(sum).shape)
    return false;
  *op = PostOp{PostOp::Kind::kRequantize};
  op->grid = grid;
  op->codes = b.value(b.Out(quantize)).dtype;
  return true;
}

}  // namespace

std::vector<float> ChannelVector(PlanBuilder& b, int id, const Shape& shape, int channel_axis) {
  if (id < 0 || !b.IsConstant(id) || b.value(id).dtype != DType::kFloat32) return {};
  const Shape& s = b.value(id).shape;
  if (s.size() > shape.size()) return {};
  const int64_t channels = shape[static_cast<size_t>(channel_axis)];
  for (size_t i = 0; i < s.size(); ++i) {
    const size_t axis = shape.size() - s.size() + i;
    if (s[i] != 1 && (axis != static_cast<size_t>(channel_axis) || s[i] != channels)) return {};
  }
  return b.ConstantFloats(id);
}

bool EltwiseOf(PlanBuilder& b, int node_index, PostOp* op) {
  const Node& n = b.node(node_index);
  if (!n.domain.empty() || b.value(b.In(node_index, 0)).dtype != DType::kFloat32) return false;
  const std::string& type = n.op_type;
  if (type == "Relu") return *op = Eltwise(algorithm::eltwise_relu), true;
  if (type == "LeakyRelu") return *op = Eltwise(algorithm::eltwise_relu, n.Float("alpha", 0.01f)), true;
  if (type == "Sigmoid") return *op = Eltwise(algorithm::eltwise_logistic), true;
  if (type == "Tanh") return *op = Eltwise(algorithm::eltwise_tanh), true;
  if (type == "Elu") return *op = Eltwise(algorithm::eltwise_elu, n.Float("alpha", 1.0f)), true;
  if (type == "HardSwish") return *op = Eltwise(algorithm::eltwise_hardswish, 1.0f / 6, 0.5f), true;
  if (type == "HardSigmoid") {
    return *op = Eltwise(algorithm::eltwise_hardsigmoid, n.Float("alpha", 0.2f), n.Float("beta", 0.5f)), true;
  }
  if (type == "Exp") return *op = Eltwise(algorithm::eltwise_exp), true;
  if (type == "Sqrt") return *op = Eltwise(algorithm::eltwise_sqrt), true;
  if (type == "Abs") return *op = Eltwise(algorithm::eltwise_abs), true;
  if (type == "Neg") return *op = Eltwise(algorithm::eltwise_linear, -1.0f, 0.0f), true;
  if (type == "Gelu") {
    const bool tanh = n.String("approximate", "none") == "tanh";
    return *op = Eltwise(tanh ? algorithm::eltwise_gelu_tanh : algorithm::eltwise_gelu_erf), true;
  }
  if (type == "Clip") {
    float lo = -std::numeric_limits<float>::max();
    float hi = std::numeric_limits<float>::max();
    for (const size_t i : {size_t{1}, size_t{2}}) {
      if (n.input(i).empty()) continue;
      const std::vector<float> bound = b.ConstantFloats(b.In(node_index, i));
      if (bound.size() != 1) return false;
      (i == 1 ? lo : hi) = bound[0];
    }
    return *op = Eltwise(algorithm::eltwise_clip, lo, hi), true;
  }
  return false;
}

Chain MatchChain(PlanBuilder& b, int value, const ChainOptions& options) {
  Chain chain;
  chain.out = value;
  const Shape& shape = b.value(value).shape;
  const auto take = [&](PostOp op, std::initializer_list<int> nodes) {
    chain.ops.push_back(std::move(op));
    for (const int n : nodes) {
      chain.nodes.push_back(n);
      absl::StrAppend(&chain.name, "+", b.node(n).op_type);
    }
    chain.out = b.Out(chain.nodes.back());
  };
  while (chain.ops.size() < 12) {  // oneDNN takes 32, some of ours become several
    const int v = chain.out;
    PostOp op;
    int gate, mul;
    if (b.value(v).dtype != DType::kFloat32) break;
    if (MatchSwish(b, v, &op, &gate, &mul)) {
      take(op, {gate, mul});
      continue;
    }
    const int n = b.OnlyConsumer(v);
    if (n < 0 || b.Claimed(n)) break;
    const Node& node = b.node(n);
    if (!node.domain.empty()) break;
    if (node.op_type == "QuantizeLinear") {
      int dequantize, add, residual;
      if (options.binary && options.quantize && MatchRequantize(b, n, &op, &dequantize, &add, &residual)) {
        take(op, {n, dequantize});
        PostOp sum{PostOp::Kind::kAddValue};
        sum.operand = residual;
        take(sum, {add});
        continue;
      }
      if (options.quantize && b.In(n, 0) == v && b.NodeGrid(n, &chain.grid)) {
        chain.quantized = true;
        chain.nodes.push_back(n);
        chain.out = b.Out(n);
        chain.name += "+QuantizeLinear";
      }
      break;
    }
    if (b.In(n, 0) == v && EltwiseOf(b, n, &op)) {
      take(op, {n});
      continue;
    }
    if (!options.binary || b.value(b.Out(n)).shape != shape) break;
    const int other = b.In(n, b.In(n, 0) == v ? 1 : 0);
    if (node.op_type == "Add" || node.op_type == "Mul" || (node.op_type == "PRelu" && b.In(n, 0) == v)) {
      std::vector<float> vector = ChannelVector(b, other, shape, options.channel_axis);
      if (!vector.empty()) {
        const auto kind = node.op_type == "Add"   ? PostOp::Kind::kAddVector
                          : node.op_type == "Mul" ? PostOp::Kind::kMulVector
                                                  : PostOp::Kind::kPrelu;
        take(Vector(kind, std::move(vector)), {n});
        continue;
      }
      if (node.op_type == "Add" && b.Available(other) && !b.IsConstant(other) && b.value(other).shape == shape &&
          b.value(other).dtype == DType::kFloat32) {
        PostOp sum{PostOp::Kind::kAddValue};
        sum.operand = other;
        take(sum, {n});
        continue;
      }
      break;
    }
    if (node.op_type == "BatchNormalization" && node.Int("training_mode", 0) == 0 && options.channel_axis == 1) {
      std::vector<float> gamma = b.ConstantFloats(b.In(n, 1)), beta = b.ConstantFloats(b.In(n, 2));
      const std::vector<float> mean = b.ConstantFloats(b.In(n, 3)), variance = b.ConstantFloats(b.In(n, 4));
      if (gamma.empty() || beta.empty() || mean.empty() || variance.empty()) break;
      for (size_t c = 0; c < gamma.size(); ++c) {
        const double s = gamma[c] / std::sqrt(static_cast<double>(variance[c]) + node.Float("epsilon", 1e-5f));
        gamma[c] = static_cast<float>(s);
        beta[c] = static_cast<float>(beta[c] - mean[c] * s);
      }
      chain.ops.push_back(Vector(PostOp::Kind::kMulVector, std::move(gamma)));
      take(Vector(PostOp::Kind::kAddVector, std::move(beta)), {n});
      continue;
    }
    break;
  }
  return chain;
}

absl::StatusOr<int> AppendPostOps(PlanBuilder& b, const Chain& chain, const Destination& dst, dnnl::post_ops* ops,
                                  std::vector<Arg>* args) {
  int in_place = -1;
  const auto linear = [&](float alpha, float beta) { ops->append_eltwise(algorithm::eltwise_linear, alpha, beta); };
  const auto arg = [&](Arg a) {
    a.key = DNNL_ARG_ATTR_MULTIPLE_POST_OP(ops->len() - 1) | a.key;
    args->push_back(std::move(a));
  };
  for (const PostOp& op : chain.ops) {
    switch (op.kind) {
      case PostOp::Kind::kEltwise:
        ops->append_eltwise(op.algorithm, op.alpha, op.beta);
        break;
      case PostOp::Kind::kMulVector:
      case PostOp::Kind::kAddVector:
      case PostOp::Kind::kPrelu: {
        Shape shape(dst.shape.size(), 1);
        if (op.vector.size() > 1) shape[static_cast<size_t>(dst.channel_axis)] = static_cast<int64_t>(op.vector.size());
        if (op.kind == PostOp::Kind::kPrelu) {
          ops->append_prelu(op.vector.size() > 1 ? 1 << dst.channel_axis : 0);
          arg(Arg::Of(DNNL_ARG_WEIGHTS, VectorMemory(op.vector)));
        } else {
          const dnnl::memory::desc desc = Desc(DType::kFloat32, shape, Layout::kPlain);
          ops->append_binary(op.kind == PostOp::Kind::kMulVector ? algorithm::binary_mul : algorithm::binary_add, desc);
          arg(Arg::Of(DNNL_ARG_SRC_1, VectorMemory(op.vector)));
        }
        break;
      }
      case PostOp::Kind::kRequantize: {
        const float lo = op.codes == DType::kUInt8 ? 0.0f : -128.0f;
        const float zero = static_cast<float>(op.grid.zero_point);
        linear(1.0f / op.grid.scale, 0.0f);
        ops->append_eltwise(algorithm::eltwise_round, 0.0f, 0.0f);
        ops->append_eltwise(algorithm::eltwise_clip, lo - zero, lo + 255.0f - zero);
        linear(op.grid.scale, 0.0f);
        break;
      }
      case PostOp::Kind::kAddValue: {
        // The codes of a residual that is still to be dequantized serve as they are.
        const bool lazy = b.value(op.operand).codes >= 0 && !b.value(op.operand).has_buffer();
        const int source = lazy ? b.value(op.operand).codes : op.operand;
        const Grid grid = lazy ? b.value(op.operand).grid : Grid{};
        ASSIGN_OR_RETURN(const int buffer, b.Use(source, dst.layout));
        const DType dtype = b.value(source).dtype;
        if (dst.allow_sum && in_place < 0 && dtype == dst.dtype && b.BufferIsWritable(buffer) &&
            !b.BufferIsShared(buffer) && b.DeadAfter(source, chain.nodes) &&
            (!lazy || b.DeadAfter(op.operand, chain.nodes))) {
          ops->append_sum(grid.scale, grid.zero_point, DnnlType(dtype));
          in_place = buffer;
          break;
        }
        // acc + (code - zero) * scale = (acc / scale - zero + code) * scale
        if (lazy) linear(1.0f / grid.scale, static_cast<float>(-grid.zero_point));
        const dnnl::memory::desc desc = Desc(dtype, dst.shape, dst.layout);
        ops->append_binary(algorithm::binary_add, desc);
        arg(Arg::Of(DNNL_ARG_SRC_1, desc, buffer));
        if (lazy) linear(grid.scale, 0.0f);
        break;
      }
    }
  }
  return in_place;
}

int DefineChainOutput(PlanBuilder& b, const Chain& chain, Layout layout, int buffer) {
  for (const int n : chain.nodes) b.Claim(n);
  if (buffer < 0) return b.Define(chain.out, layout);
  b.ReuseBuffer(buffer);
  b.DefineAs(chain.out, layout, buffer);
  return buffer;
}

}  // namespace quant::onednn
