// SPDX-License-Identifier: Apache-2.0
// What transformer layers have besides products and attention: normalizations over the last axis, RotaryEmbedding,
// gated SiLU (Sigmoid, Mul, Mul in one step), and Gather of rows from a table that stays in its own type.
#include <algorithm>
#include <cstring>

#include "common/strings.h"
#include "worker/runtime/kernels/decoder.h"
#include "worker/runtime/kernels/linear.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/fusion.h"
#include "worker/runtime/ops/attention.h"

namespace quant::onednn {
namespace {

const float* Floats(Pointers p, int buffer) { return reinterpret_cast<const float*>(p[static_cast<size_t>(buffer)]); }
float* MutableFloats(Pointers p, int buffer) { return reinterpret_cast<float*>(p[static_cast<size_t>(buffer)]); }

// Index i of an int64 or int32 tensor.
int64_t IndexAt(const std::byte* data, DType dtype, int64_t i) {
  if (dtype == DType::kInt64) return reinterpret_cast<const int64_t*>(data)[i];
  return reinterpret_cast<const int32_t*>(data)[i];
}

bool IsIndexType(DType dtype) { return dtype == DType::kInt64 || dtype == DType::kInt32; }

}  // namespace

absl::StatusOr<bool> EmitNormalization(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int x = b.In(node_index, 0), scale = b.In(node_index, 1), shift = b.In(node_index, 2), out = b.Out(node_index);
  const Shape shape = b.value(x).shape;
  if (b.value(x).dtype != DType::kFloat32 || shape.empty() || b.value(scale).dtype != DType::kFloat32) return false;
  const int64_t axis = n.Int("axis", -1), size = shape.back();
  if (axis != -1 && axis != static_cast<int64_t>(shape.size()) - 1) return false;
  if (b.value(scale).shape != Shape{size} || b.Out(node_index, 1) >= 0 || b.Out(node_index, 2) >= 0) return false;
  if (shift >= 0 && (b.value(shift).shape != Shape{size} || b.value(shift).dtype != DType::kFloat32)) return false;
  const bool rms = n.op_type != "LayerNormalization";
  const float epsilon = n.Float("epsilon", 1e-5f);
  ASSIGN_OR_RETURN(const int src, b.Use(x, Layout::kPlain));
  ASSIGN_OR_RETURN(const int mul, b.Use(scale, Layout::kPlain));
  std::vector<int> used = {src, mul};
  int add = -1;
  if (shift >= 0) {
    ASSIGN_OR_RETURN(add, b.Use(shift, Layout::kPlain));
    used.push_back(add);
  }
  const int dst = b.Define(out, Layout::kPlain);
  const int64_t rows = b.value(x).elements / size;
  Step step;
  step.node = n.name;
  step.what = rms ? "RMSNormalization float32" : "LayerNormalization float32";
  step.threads = b.ThreadsFor(static_cast<double>(b.value(x).elements) / 2e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const float *from = Floats(p, src), *s = Floats(p, mul), *t = add < 0 ? nullptr : Floats(p, add);
    float* to = MutableFloats(p, dst);
    kernels::ParallelRanges(threads, rows, 1, [&](int64_t begin, int64_t end) {
      if (rms) {
        kernels::RmsNormRows(from + begin * size, end - begin, size, epsilon, s, to + begin * size);
      } else {
        kernels::LayerNormRows(from + begin * size, end - begin, size, epsilon, s, t, to + begin * size);
      }
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), used, {dst});
  return true;
}

absl::StatusOr<bool> EmitRotaryEmbedding(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  if (!n.domain.empty()) return false;
  std::vector<TensorDesc> descs(n.inputs.size());
  std::vector<const TensorDesc*> in(n.inputs.size(), nullptr);
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const int id = b.In(node_index, i);
    if (id < 0) continue;
    descs[i] = {b.value(id).dtype, b.value(id).shape, nullptr};
    in[i] = &descs[i];
    if (i < 3 && descs[i].dtype != DType::kFloat32) return false;
  }
  ASSIGN_OR_RETURN(const ops::RotaryShape s, ops::GetRotaryShape(n, in));
  ASSIGN_OR_RETURN(const int src, b.Use(b.In(node_index, 0), Layout::kPlain));
  ASSIGN_OR_RETURN(const int cos, b.Use(b.In(node_index, 1), Layout::kPlain));
  ASSIGN_OR_RETURN(const int sin, b.Use(b.In(node_index, 2), Layout::kPlain));
  std::vector<int> used = {src, cos, sin};
  int positions = -1;
  const DType position_type = s.positions ? in[3]->dtype : DType::kInt64;
  if (s.positions) {
    ASSIGN_OR_RETURN(positions, b.Use(b.In(node_index, 3), Layout::kPlain));
    used.push_back(positions);
  }
  const int dst = b.Define(b.Out(node_index), Layout::kPlain);
  const int64_t tokens = s.batch * s.length;
  Step step;
  step.node = n.name;
  step.what = "RotaryEmbedding float32";
  step.threads = b.ThreadsFor(static_cast<double>(tokens * s.heads * s.head) / 2e3);
  step.run = [=, threads = step.threads](Pointers p) -> absl::Status {
    if (positions >= 0) {
      for (int64_t i = 0; i < tokens; ++i) {
        const int64_t row = IndexAt(p[static_cast<size_t>(positions)], position_type, i);
        if (row >= 0 && row < s.rows) continue;
        return absl::InvalidArgumentError(absl::StrCat("position ", row, " is outside the cache of ", s.rows));
      }
    }
    const float *from = Floats(p, src), *c = Floats(p, cos), *z = Floats(p, sin);
    float* to = MutableFloats(p, dst);
    const int64_t half = s.rotated / 2;
    kernels::ParallelRanges(threads, tokens, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = positions < 0 ? i : IndexAt(p[static_cast<size_t>(positions)], position_type, i);
        for (int64_t h = 0; h < s.heads; ++h) {
          const int64_t at =
              (s.flat ? i * s.heads + h : (i / s.length * s.heads + h) * s.length + i % s.length) * s.head;
          kernels::RotateHead(from + at, c + row * half, z + row * half, half, s.interleaved, to + at);
          std::copy(from + at + s.rotated, from + at + s.head, to + at + s.rotated);
        }
      }
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), used, {dst});
  return true;
}

// x * sigmoid(x) * up: the two nodes of SiLU are left to the product that reads it, which may come after `up`'s own.
absl::StatusOr<bool> EmitSigmoid(PlanBuilder& b, int node_index) {
  const int x = b.In(node_index, 0), gate = b.Out(node_index);
  const auto deferred = [&] {
    if (b.value(x).dtype != DType::kFloat32 || b.Pinned(x) || b.IsConstant(x) || b.Consumers(x).size() != 2)
      return false;
    const int mul = b.OnlyConsumer(gate);
    if (mul < 0 || b.node(mul).op_type != "Mul" || b.Claimed(mul)) return false;
    const int other = b.In(mul, b.In(mul, 0) == gate ? 1 : 0);
    if (other != x) return false;
    const int silu = b.Out(mul), product = b.OnlyConsumer(silu);
    if (product < 0 || b.node(product).op_type != "Mul" || b.Claimed(product)) return false;
    const int up = b.In(product, b.In(product, 0) == silu ? 1 : 0);
    if (up == silu || b.value(up).shape != b.value(x).shape || b.IsConstant(up)) return false;
    b.Claim(mul);
    b.DeferSilu(silu, x);
    return true;
  };
  if (b.LayoutOf(x) == Layout::kPlain && b.value(x).has_buffer() && deferred()) return true;
  return EmitUnary(b, node_index);
}

absl::StatusOr<bool> EmitMul(PlanBuilder& b, int node_index) {
  int gate = b.SiluOf(b.In(node_index, 0)), up = b.In(node_index, 1);
  if (gate < 0) gate = b.SiluOf(b.In(node_index, 1)), up = b.In(node_index, 0);
  if (gate < 0) return EmitBinary(b, node_index);
  ASSIGN_OR_RETURN(const int x, b.Use(gate, Layout::kPlain));
  ASSIGN_OR_RETURN(const int y, b.Use(up, Layout::kPlain));
  const int dst = b.Define(b.Out(node_index), Layout::kPlain);
  const int64_t count = b.value(gate).elements;
  Step step;
  step.node = b.node(node_index).name;
  step.what = "Sigmoid+Mul+Mul float32";
  step.threads = b.ThreadsFor(static_cast<double>(count) / 1e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const float *g = Floats(p, x), *u = Floats(p, y);
    float* to = MutableFloats(p, dst);
    kernels::ParallelRanges(threads, count, 1024, [&](int64_t begin, int64_t end) {
      kernels::SiluMul(g + begin, u + begin, end - begin, to + begin);
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {x, y}, {dst});
  return true;
}

absl::StatusOr<bool> EmitGather(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int data = b.In(node_index, 0), indices = b.In(node_index, 1);
  const DType dtype = b.value(data).dtype, index_type = b.value(indices).dtype;
  const Shape shape = b.value(data).shape;
  if (b.value(data).codes >= 0 || DTypeBits(dtype) < 8 || !IsIndexType(index_type) || shape.empty()) return false;
  const int64_t rank = static_cast<int64_t>(shape.size());
  const int64_t axis = n.Int("axis", 0) < 0 ? n.Int("axis", 0) + rank : n.Int("axis", 0);
  int64_t outer = 1, inner = 1;
  for (int64_t i = 0; i < rank; ++i) {
    if (i != axis) (i < axis ? outer : inner) *= shape[static_cast<size_t>(i)];
  }
  // A constant is read where it is, whatever its alignment; it may be a mapped table.
  const Tensor* table = b.value(data).constant;
  int src = -1;
  if (table == nullptr) {
    ASSIGN_OR_RETURN(src, b.Use(data, Layout::kPlain));
  }
  ASSIGN_OR_RETURN(const int index, b.Use(indices, Layout::kPlain));
  int out = b.Out(node_index);
  const int next = b.OnlyConsumer(out);
  const bool widen = (dtype == DType::kBFloat16 || dtype == DType::kFloat16) && next >= 0 &&
                     b.node(next).op_type == "Cast" && b.node(next).domain.empty() &&
                     b.value(b.Out(next)).dtype == DType::kFloat32;
  if (widen) {
    b.Claim(next);
    out = b.Out(next);
  }
  const int dst = b.Define(out, Layout::kPlain);
  const int64_t entries = shape[static_cast<size_t>(axis)], count = b.value(indices).elements;
  const int64_t size = DTypeBits(dtype) / 8;
  Step step;
  step.node = n.name;
  step.what = absl::StrCat("Gather ", DTypeName(dtype), widen ? "+Cast" : "");
  step.threads = b.ThreadsFor(static_cast<double>(outer * count * inner * size) / 8e3);
  step.run = [=, threads = step.threads](Pointers p) -> absl::Status {
    const std::byte* at = p[static_cast<size_t>(index)];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t v = IndexAt(at, index_type, i);
      if (v >= -entries && v < entries) continue;
      return absl::InvalidArgumentError(absl::StrCat("index ", v, " is out of range for a dimension of ", entries));
    }
    const std::byte* from = table != nullptr ? table->bytes().data() : p[static_cast<size_t>(src)];
    std::byte* to = p[static_cast<size_t>(dst)];
    kernels::ParallelRanges(threads, outer * count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t v = IndexAt(at, index_type, i % count);
        const std::byte* row = from + (i / count * entries + (v < 0 ? v + entries : v)) * inner * size;
        if (!widen) {
          std::memcpy(to + i * inner * size, row, static_cast<size_t>(inner * size));
          continue;
        }
        kernels::DequantizeBlock(
            {.type = dtype == DType::kFloat16 ? kernels::WeightType::kF16 : kernels::WeightType::kBF16,
             .rows = 1,
             .cols = inner,
             .data = row},
            0, 1, 0, inner, reinterpret_cast<float*>(to) + i * inner, inner);
      }
    });
    return absl::OkStatus();
  };
  std::vector<int> used = {index};
  if (src >= 0) used.push_back(src);
  b.AddStep(std::move(step), used, {dst});
  return true;
}

}  // namespace quant::onednn
