// SPDX-License-Identifier: Apache-2.0
// QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear as steps of their own, and tables.
#include <algorithm>
#include <cmath>

#include "common/strings.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/fusion.h"
#include "worker/runtime/onednn/lookup.h"

namespace quant::onednn {

using kernels::ParallelRanges;

absl::StatusOr<LookupTable> MakeLookupTable(PlanBuilder& b, DType codes, Grid grid, std::span<const int> nodes) {
  std::vector<float> reals(256);
  for (int i = 0; i < 256; ++i) {
    const int32_t code = codes == DType::kInt8 ? static_cast<int8_t>(static_cast<uint8_t>(i)) : i;
    reals[static_cast<size_t>(i)] = static_cast<float>(code - grid.zero_point) * grid.scale;
  }
  Tensor value = Tensor::Of<float>({256}, reals);
  for (const int n : nodes) {
    const Node& node = b.node(n);
    std::vector<const Tensor*> inputs = {&value};
    for (size_t i = 1; i < node.inputs.size(); ++i) {
      inputs.push_back(nullptr);
      if (node.inputs[i].empty()) continue;
      ASSIGN_OR_RETURN(inputs.back(), b.Constant(b.In(n, i)));
    }
    ASSIGN_OR_RETURN(std::vector<Tensor> out, EvaluateNode(node, inputs));
    value = out[0];
  }
  LookupTable table;
  const std::span<const std::byte> bytes = value.bytes();
  if (bytes.size() != table.size()) return absl::InternalError("a table of codes needs 8-bit codes");
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<uint8_t>(bytes[i]);
  return table;
}

absl::StatusOr<bool> EmitLookup(PlanBuilder& b, int node_index) {
  const int x = b.In(node_index, 0);
  if (b.value(x).codes < 0 || b.value(x).has_buffer()) return false;
  std::vector<int> nodes = {node_index};
  Grid grid;
  while (b.node(nodes.back()).op_type != "QuantizeLinear") {
    const int v = b.Out(nodes.back());
    const int next = b.OnlyConsumer(v);
    if (next < 0 || b.In(next, 0) != v || !b.node(next).domain.empty()) return false;
    PostOp op;
    if (b.node(next).op_type != "QuantizeLinear" && !EltwiseOf(b, next, &op)) return false;
    nodes.push_back(next);
  }
  if (!b.NodeGrid(nodes.back(), &grid)) return false;
  const int codes = b.value(x).codes;
  ASSIGN_OR_RETURN(const LookupTable table, MakeLookupTable(b, b.value(codes).dtype, b.value(x).grid, nodes));
  const Layout layout = b.LayoutOf(codes);
  ASSIGN_OR_RETURN(const int src, b.Use(codes, layout));
  for (const int n : nodes) b.Claim(n);
  const int out = b.Out(nodes.back());
  const int dst = b.Define(out, layout);
  const int64_t elements = b.value(out).elements;
  Step step;
  step.node = b.node(node_index).name;
  step.what = absl::StrCat(b.node(node_index).op_type, nodes.size() > 1 ? "+QuantizeLinear" : "", " table");
  step.threads = b.ThreadsFor(static_cast<double>(elements) / 2e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(p[static_cast<size_t>(src)]);
    uint8_t* to = reinterpret_cast<uint8_t*>(p[static_cast<size_t>(dst)]);
    ParallelRanges(threads, elements, 4096, [&](int64_t begin, int64_t end) {
      kernels::LookupU8(from + begin, static_cast<size_t>(end - begin), table.data(), to + begin);
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {dst});
  return true;
}

absl::StatusOr<bool> EmitQuantizeLinear(PlanBuilder& b, int node_index) {
  Grid grid;
  if (!b.NodeGrid(node_index, &grid)) return false;
  const int x = b.In(node_index, 0), out = b.Out(node_index);
  const DType dtype = b.value(out).dtype;
  if (b.value(x).codes >= 0 && !b.value(x).has_buffer()) {
    const int codes = b.value(x).codes;
    const Grid have = b.value(x).grid;
    if (b.value(codes).dtype == dtype && have.scale == grid.scale && have.zero_point == grid.zero_point) {
      // The codes come back as they were: ((q - z) * s) / s rounds to q - z.
      const Layout layout = b.LayoutOf(codes);
      ASSIGN_OR_RETURN(const int buffer, b.Use(codes, layout));
      b.DefineAs(out, layout, buffer);
      return true;
    }
    return EmitLookup(b, node_index);
  }
  const Layout layout = b.LayoutOf(x);
  ASSIGN_OR_RETURN(const int src, b.Use(x, layout));
  const int dst = b.Define(out, layout);
  const int64_t elements = b.value(out).elements;
  Step step;
  step.node = b.node(node_index).name;
  step.what = absl::StrCat("QuantizeLinear float32->", DTypeName(dtype));
  step.threads = b.ThreadsFor(static_cast<double>(elements) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const float* from = reinterpret_cast<const float*>(p[static_cast<size_t>(src)]);
    std::byte* to = p[static_cast<size_t>(dst)];
    ParallelRanges(threads, elements, 4096, [&](int64_t begin, int64_t end) {
      const size_t n = static_cast<size_t>(end - begin);
      if (dtype == DType::kUInt8) {
        kernels::QuantizeF32U8(from + begin, n, grid.scale, grid.zero_point, reinterpret_cast<uint8_t*>(to + begin));
      } else {
        kernels::QuantizeF32S8(from + begin, n, grid.scale, grid.zero_point, reinterpret_cast<int8_t*>(to + begin));
      }
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {dst});
  return true;
}

absl::StatusOr<bool> EmitDequantizeLinear(PlanBuilder& b, int node_index) {
  Grid grid;
  const int codes = b.In(node_index, 0);
  if (!b.NodeGrid(node_index, &grid) || b.IsConstant(codes)) return false;
  b.DefineDequantized(b.Out(node_index), codes, grid);
  return true;
}

absl::Status PlanBuilder::EmitDequantize(int id, Layout layout) {
  const int codes = value(id).codes;
  const Grid grid = value(id).grid;
  const DType dtype = value(codes).dtype;
  ASSIGN_OR_RETURN(const int src, Use(codes, layout));
  const int dst = Define(id, layout);
  const int64_t elements = value(id).elements;
  Step step;
  step.node = value(id).name;
  step.what = absl::StrCat("DequantizeLinear ", DTypeName(dtype), "->float32");
  step.threads = ThreadsFor(static_cast<double>(elements) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const std::byte* from = p[static_cast<size_t>(src)];
    float* to = reinterpret_cast<float*>(p[static_cast<size_t>(dst)]);
    ParallelRanges(threads, elements, 4096, [&](int64_t begin, int64_t end) {
      const size_t n = static_cast<size_t>(end - begin);
      if (dtype == DType::kUInt8) {
        kernels::DequantizeU8F32(reinterpret_cast<const uint8_t*>(from + begin), n, grid.scale, grid.zero_point,
                                 to + begin);
      } else {
        kernels::DequantizeS8F32(reinterpret_cast<const int8_t*>(from + begin), n, grid.scale, grid.zero_point,
                                 to + begin);
      }
    });
    return absl::OkStatus();
  };
  AddStep(std::move(step), {src}, {dst});
  return absl::OkStatus();
}

absl::StatusOr<bool> EmitDynamicQuantizeLinear(PlanBuilder& b, int node_index) {
  // scale = (max(x, 0) - min(x, 0)) / 255, zero = saturate(round(0 - min / scale)), both from this run's values.
  const int x = b.In(node_index, 0);
  const int out = b.Out(node_index, 0), scale = b.Out(node_index, 1), zero = b.Out(node_index, 2);
  if (out < 0 || scale < 0 || zero < 0 || b.value(x).dtype != DType::kFloat32) return false;
  const Layout layout = b.LayoutOf(x);
  ASSIGN_OR_RETURN(const int src, b.Use(x, layout));
  const int codes = b.Define(out, layout);
  const int to_scale = b.Define(scale, Layout::kPlain);
  const int to_zero = b.Define(zero, Layout::kPlain);
  const int64_t elements = b.value(x).elements;
  Step step;
  step.node = b.node(node_index).name;
  step.what = "DynamicQuantizeLinear float32->uint8";
  step.threads = b.ThreadsFor(static_cast<double>(elements) / 2e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const float* from = reinterpret_cast<const float*>(p[static_cast<size_t>(src)]);
    float min = 0, max = 0;  // the range always holds 0
    ParallelRanges(threads, elements, 4096, [&](int64_t begin, int64_t end) {
      float low, high;
      kernels::MinMaxF32(from + begin, static_cast<size_t>(end - begin), &low, &high);
#pragma omp critical(quant_dynamic_range)
      {
        min = std::min(min, low);
        max = std::max(max, high);
      }
    });
    const float s = max == min ? 1.0f : (max - min) / 255.0f;
    const float steps = 0.0f - min / s;  // NaN when x holds an infinity
    const float z = std::isnan(steps) ? 0.0f : std::nearbyint(std::clamp(steps, 0.0f, 255.0f));
    *reinterpret_cast<float*>(p[static_cast<size_t>(to_scale)]) = s;
    *reinterpret_cast<uint8_t*>(p[static_cast<size_t>(to_zero)]) = static_cast<uint8_t>(z);
    uint8_t* to = reinterpret_cast<uint8_t*>(p[static_cast<size_t>(codes)]);
    ParallelRanges(threads, elements, 4096, [&](int64_t begin, int64_t end) {
      kernels::QuantizeF32U8(from + begin, static_cast<size_t>(end - begin), s, static_cast<int32_t>(z), to + begin);
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {codes, to_scale, to_zero});
  return true;
}

}  // namespace quant::onednn
