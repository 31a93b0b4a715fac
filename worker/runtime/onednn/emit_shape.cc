// SPDX-License-Identifier: Apache-2.0
// Operators that move elements or only rename their arrangement. All work on codes as on real values.
#include <algorithm>
#include <cstring>

#include "common/strings.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/lookup.h"
#include "worker/runtime/ops/util.h"

namespace quant::onednn {
namespace {

// Whether the value is codes still to be dequantized.
bool Lazy(const Value& v) { return v.codes >= 0 && !v.has_buffer(); }

bool SameGrid(Grid a, Grid b) { return a.scale == b.scale && a.zero_point == b.zero_point; }

}  // namespace

absl::StatusOr<bool> EmitReshape(PlanBuilder& b, int node_index) {
  const int x = b.In(node_index, 0), out = b.Out(node_index);
  if (b.Out(node_index, 1) >= 0 || b.value(x).elements != b.value(out).elements) return false;
  // A value of the same shape keeps its layout (Identity, a Dropout that is off, a Reshape that changes nothing).
  if (b.value(x).shape == b.value(out).shape && !Lazy(b.value(x))) {
    const Layout layout = b.LayoutOf(x);
    ASSIGN_OR_RETURN(const int buffer, b.Use(x, layout));
    b.DefineAs(out, layout, buffer);
    return true;
  }
  RETURN_IF_ERROR(b.Alias(out, x));
  return true;
}

absl::StatusOr<bool> EmitTranspose(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int x = b.In(node_index, 0);
  int out = b.Out(node_index);
  const Shape shape = b.value(x).shape, out_shape = b.value(out).shape;
  const size_t rank = shape.size();
  if (DTypeBits(b.value(x).dtype) < 8) return false;
  std::vector<int64_t> perm = n.Ints("perm");
  if (perm.empty()) {
    for (size_t i = rank; i-- > 0;) perm.push_back(static_cast<int64_t>(i));
  }
  int source = x;
  if (Lazy(b.value(x))) {
    source = b.value(x).codes;
    const int codes = b.Anonymous(b.value(source).dtype, out_shape);
    b.DefineDequantized(out, codes, b.value(x).grid);
    out = codes;
  }
  const Layout from = b.LayoutOf(source);
  ASSIGN_OR_RETURN(const int src, b.Use(source, from));
  const dnnl::memory::dims strides = LayoutStrides(shape, from);
  dnnl::memory::dims src_strides(rank);
  for (size_t i = 0; i < rank; ++i) src_strides[i] = strides[static_cast<size_t>(perm[i])];
  // Where the elements already lie as the result wants them, there is nothing to move (NHWC exports of TensorFlow).
  for (const Layout to : {Layout::kPlain, Layout::kChannelsLast}) {
    const dnnl::memory::dims dst_strides = LayoutStrides(out_shape, to);
    bool same = true;
    for (size_t i = 0; i < rank; ++i) same = same && (out_shape[i] == 1 || src_strides[i] == dst_strides[i]);
    if (same) {
      b.DefineAs(out, to, src);
      return true;
    }
  }
  const int dst = b.Define(out, Layout::kPlain);
  RETURN_IF_ERROR(EmitCopy(b, n.name, "Transpose", b.value(source).dtype, out_shape, src_strides, src,
                           LayoutStrides(out_shape, Layout::kPlain), dst));
  return true;
}

absl::StatusOr<bool> EmitConcat(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  int out = b.Out(node_index);
  const Shape out_shape = b.value(out).shape;
  const size_t rank = out_shape.size();
  int64_t axis = n.Int("axis", 0);
  if (axis < 0) axis += static_cast<int64_t>(rank);

  struct Part {
    int value, buffer = -1;
    int64_t run = 0;  // bytes
    bool mapped = false;
    LookupTable table;
  };
  std::vector<Part> parts;
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    const int v = b.In(node_index, i);
    if (b.value(v).elements > 0) parts.push_back({v});
  }
  if (parts.empty() || DTypeBits(b.value(out).dtype) < 8) return false;

  // Codes when every part is codes of one type and either all have one grid, or a QuantizeLinear follows.
  const Value& first = b.value(parts[0].value);
  bool lazy = true, one_grid = true;
  for (const Part& part : parts) {
    const Value& v = b.value(part.value);
    lazy = lazy && Lazy(v) && b.value(v.codes).dtype == b.value(first.codes).dtype;
    one_grid = lazy && one_grid && SameGrid(v.grid, first.grid);
  }
  const int next = b.OnlyConsumer(out);
  Grid grid;
  const bool quantize = lazy && next >= 0 && b.node(next).op_type == "QuantizeLinear" && b.NodeGrid(next, &grid) &&
                        b.value(b.Out(next)).dtype == b.value(first.codes).dtype;
  lazy = lazy && (one_grid || quantize);

  bool last = false;
  for (const Part& part : parts) last = last || b.LayoutOf(part.value) == Layout::kChannelsLast;
  const Layout layout = last && rank >= 3 ? Layout::kChannelsLast : Layout::kPlain;
  std::vector<size_t> order;
  for (size_t i = 0; i < rank; ++i) {
    if (layout == Layout::kPlain || i != 1) order.push_back(i);
  }
  if (layout == Layout::kChannelsLast) order.push_back(1);
  int64_t outer = 1, inner = 1;
  bool before = true;
  for (const size_t i : order) {
    if (i == static_cast<size_t>(axis)) {
      before = false;
    } else {
      (before ? outer : inner) *= out_shape[i];
    }
  }
  const DType dtype = lazy ? b.value(first.codes).dtype : b.value(out).dtype;
  const int64_t size = DTypeBits(dtype) / 8;
  std::vector<int> reads;
  int64_t row = 0;
  for (Part& part : parts) {
    const Value& v = b.value(part.value);
    part.run = v.shape[static_cast<size_t>(axis)] * inner * size;
    row += part.run;
    if (lazy && quantize && !SameGrid(v.grid, grid)) {
      part.mapped = true;
      ASSIGN_OR_RETURN(part.table, MakeLookupTable(b, dtype, v.grid, std::span(&next, 1)));
    }
    const int source = lazy ? v.codes : part.value;
    ASSIGN_OR_RETURN(part.buffer, b.Use(source, layout));
    reads.push_back(part.buffer);
  }
  const std::string name = n.name;
  if (lazy && quantize) {
    b.Claim(next);
    out = b.Out(next);
  } else if (lazy) {
    const int codes = b.Anonymous(dtype, out_shape);
    b.DefineDequantized(out, codes, b.value(parts[0].value).grid);
    out = codes;
  }
  const int dst = b.Define(out, layout);
  Step step;
  step.node = name;
  step.what = absl::StrCat("Concat ", DTypeName(dtype));
  step.threads = b.ThreadsFor(static_cast<double>(outer * row) / 8e3);
  step.run = [=, parts = std::move(parts), threads = step.threads](Pointers p) {
    kernels::ParallelRanges(threads, outer, 1, [&](int64_t begin, int64_t end) {
      std::byte* to = p[static_cast<size_t>(dst)] + begin * row;
      for (int64_t o = begin; o < end; ++o) {
        for (const Part& part : parts) {
          const std::byte* from = p[static_cast<size_t>(part.buffer)] + o * part.run;
          const size_t bytes = static_cast<size_t>(part.run);
          if (part.mapped) {
            kernels::LookupU8(reinterpret_cast<const uint8_t*>(from), bytes, part.table.data(),
                              reinterpret_cast<uint8_t*>(to));
          } else {
            std::memcpy(to, from, bytes);
          }
          to += bytes;
        }
      }
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), reads, {dst});
  return true;
}

}  // namespace quant::onednn
