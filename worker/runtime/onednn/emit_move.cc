// SPDX-License-Identifier: Apache-2.0
// Slice and constant Pad in whatever layout the value has, on codes as on real values (the code of 0 is the zero
// point).
#include <algorithm>
#include <cstring>

#include "common/strings.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/kernels/transpose.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/ops/util.h"

namespace quant::onednn {
namespace {

// A box of elements copied between two arrangements: dims and strides in elements, in the order of memory.
struct Box {
  std::vector<int64_t> dims, src, dst;
  int64_t src_offset = 0, dst_offset = 0;
};

std::vector<size_t> MemoryOrder(size_t rank, Layout layout) {
  std::vector<size_t> order;
  for (size_t i = 0; i < rank; ++i) {
    if (layout == Layout::kPlain || i != 1) order.push_back(i);
  }
  if (layout == Layout::kChannelsLast) order.push_back(1);
  return order;
}

// Drops dimensions of 1 and merges neighbours that lie one after the other on both sides; at least one stays.
Box Merge(const Box& box, const std::vector<size_t>& order) {
  Box m;
  m.src_offset = box.src_offset;
  m.dst_offset = box.dst_offset;
  for (const size_t i : order) {
    if (box.dims[i] == 1) continue;
    if (!m.dims.empty() && m.src.back() == box.src[i] * box.dims[i] && m.dst.back() == box.dst[i] * box.dims[i]) {
      m.dims.back() *= box.dims[i];
      m.src.back() = box.src[i];
      m.dst.back() = box.dst[i];
    } else {
      m.dims.push_back(box.dims[i]);
      m.src.push_back(box.src[i]);
      m.dst.push_back(box.dst[i]);
    }
  }
  if (m.dims.empty()) m = {{1}, {1}, {1}, m.src_offset, m.dst_offset};
  return m;
}

// dst must have a stride of 1 along the last dimension.
void CopyBox(const Box& box, size_t size, const std::byte* src, std::byte* dst, int threads) {
  const size_t outer = box.dims.size() - 1;
  int64_t runs = 1;
  for (size_t i = 0; i < outer; ++i) runs *= box.dims[i];
  const int64_t run = box.dims.back(), step = box.src.back();
  kernels::ParallelRanges(threads, runs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t from = box.src_offset, to = box.dst_offset, rest = r;
      for (size_t i = outer; i-- > 0;) {
        const int64_t at = rest % box.dims[i];
        rest /= box.dims[i];
        from += at * box.src[i];
        to += at * box.dst[i];
      }
      const std::byte* s = src + from * static_cast<int64_t>(size);
      std::byte* d = dst + to * static_cast<int64_t>(size);
      if (step == 1) {
        std::memcpy(d, s, static_cast<size_t>(run) * size);
      } else {
        kernels::CopyMatrix(size, 1, run, s, 0, step, d);
      }
    }
  });
}

// The value to move: the codes when dequantization is still to come.
struct Source {
  int value;
  bool lazy;
};
Source SourceOf(PlanBuilder& b, int x) {
  const bool lazy = b.value(x).codes >= 0 && !b.value(x).has_buffer();
  return {lazy ? b.value(x).codes : x, lazy};
}

int DefineMoved(PlanBuilder& b, int out, int x, const Source& source, Layout layout) {
  if (!source.lazy) return b.Define(out, layout);
  const int codes = b.Anonymous(b.value(source.value).dtype, b.value(out).shape);
  b.DefineDequantized(out, codes, b.value(x).grid);
  return b.Define(codes, layout);
}

absl::StatusOr<std::vector<int64_t>> ConstantInput(PlanBuilder& b, int node_index, size_t i) {
  ASSIGN_OR_RETURN(const Tensor* constant, b.Constant(b.In(node_index, i)));
  if (constant == nullptr) return std::vector<int64_t>();
  return ToInt64(*constant);
}

}  // namespace

absl::StatusOr<bool> EmitSlice(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int x = b.In(node_index, 0), out = b.Out(node_index);
  const Shape shape = b.value(x).shape, out_shape = b.value(out).shape;
  const size_t rank = shape.size();
  for (size_t i = 1; i < n.inputs.size(); ++i) {
    if (!n.inputs[i].empty() && !b.IsConstant(b.In(node_index, i))) return false;
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> starts, ConstantInput(b, node_index, 1));
  ASSIGN_OR_RETURN(std::vector<int64_t> axes, ConstantInput(b, node_index, 3));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ConstantInput(b, node_index, 4));
  if (axes.empty()) {
    for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
  }
  const Source source = SourceOf(b, x);
  if (starts.empty() || axes.size() != starts.size() || DTypeBits(b.value(source.value).dtype) < 8) return false;
  const Layout layout = b.LayoutOf(source.value);
  const dnnl::memory::dims from = LayoutStrides(shape, layout), to = LayoutStrides(out_shape, layout);
  Box box{out_shape, {from.begin(), from.end()}, {to.begin(), to.end()}};
  for (size_t i = 0; i < axes.size(); ++i) {
    const size_t axis = static_cast<size_t>(axes[i] < 0 ? axes[i] + static_cast<int64_t>(rank) : axes[i]);
    const int64_t step = steps.empty() ? 1 : steps[i];
    if (axis >= rank || step < 1) return false;
    // Outside values mean the end or, negative ones counted from the end, the start.
    int64_t start = starts[i] < 0 ? std::max<int64_t>(starts[i] + shape[axis], 0) : starts[i];
    start = std::min(start, shape[axis]);
    box.src_offset += start * from[axis];
    box.src[axis] = step > shape[axis] ? 0 : from[axis] * step;  // a step past the end takes one element
  }
  const Box merged = Merge(box, MemoryOrder(rank, layout));
  ASSIGN_OR_RETURN(const size_t size, ops::ElementBytes(b.value(source.value).dtype, "Slice"));
  ASSIGN_OR_RETURN(const int src, b.Use(source.value, layout));
  const int dst = DefineMoved(b, out, x, source, layout);
  Step step;
  step.node = n.name;
  step.what = "Slice copy";
  step.threads = b.ThreadsFor(static_cast<double>(b.value(out).elements) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    CopyBox(merged, size, p[static_cast<size_t>(src)], p[static_cast<size_t>(dst)], threads);
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {dst});
  return true;
}

absl::StatusOr<bool> EmitPad(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int x = b.In(node_index, 0), out = b.Out(node_index);
  const Shape shape = b.value(x).shape, out_shape = b.value(out).shape;
  const size_t rank = shape.size();
  if (n.String("mode", "constant") != "constant" || b.value(x).dtype != DType::kFloat32) return false;
  for (size_t i = 1; i < n.inputs.size(); ++i) {
    if (!n.inputs[i].empty() && !b.IsConstant(b.In(node_index, i))) return false;
  }
  if (b.In(node_index, 3) >= 0) return false;  // axes
  std::vector<int64_t> pads = n.Ints("pads");
  if (pads.empty()) {
    ASSIGN_OR_RETURN(pads, ConstantInput(b, node_index, 1));
  }
  float fill = n.Float("value", 0.0f);
  if (b.In(node_index, 2) >= 0) {
    const std::vector<float> value = b.ConstantFloats(b.In(node_index, 2));
    if (value.size() != 1) return false;
    fill = value[0];
  }
  if (pads.size() != 2 * rank || *std::min_element(pads.begin(), pads.end()) < 0) return false;
  Source source = SourceOf(b, x);
  const int32_t zero = b.value(x).grid.zero_point;
  if (source.lazy && fill != 0.0f) source = {x, false};
  const Layout layout = b.LayoutOf(source.value);
  const dnnl::memory::dims from = LayoutStrides(shape, layout), to = LayoutStrides(out_shape, layout);
  Box box{shape, {from.begin(), from.end()}, {to.begin(), to.end()}};
  for (size_t i = 0; i < rank; ++i) box.dst_offset += pads[i] * to[i];
  const Box merged = Merge(box, MemoryOrder(rank, layout));
  if (merged.dims.size() > 1 && merged.dst.back() != 1) return false;
  const size_t size = source.lazy ? 1 : 4;
  ASSIGN_OR_RETURN(const int src, b.Use(source.value, layout));
  const int dst = DefineMoved(b, out, x, source, layout);
  const int64_t elements = b.value(out).elements;
  Step step;
  step.node = n.name;
  step.what = "Pad copy";
  step.threads = b.ThreadsFor(static_cast<double>(elements) / 8e3);
  step.run = [=, threads = step.threads](Pointers p) {
    std::byte* to_bytes = p[static_cast<size_t>(dst)];
    if (size == 1) {
      std::memset(to_bytes, zero, static_cast<size_t>(elements));
    } else if (fill == 0.0f) {
      std::memset(to_bytes, 0, static_cast<size_t>(elements) * size);
    } else {
      std::fill_n(reinterpret_cast<float*>(to_bytes), elements, fill);
    }
    CopyBox(merged, size, p[static_cast<size_t>(src)], to_bytes, threads);
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {dst});
  return true;
}

}  // namespace quant::onednn
