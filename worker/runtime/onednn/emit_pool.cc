// SPDX-License-Identifier: Apache-2.0
// MaxPool, AveragePool, GlobalAveragePool and ReduceMean over the spatial dimensions.
//
// The greatest code stands for the greatest value (scales are positive), so MaxPool works on codes. An average over all
// positions of codes sums integers exactly and converts once: real = (sum / count - zero_point) * scale.
#include <algorithm>

#include "common/strings.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/ops/window.h"

namespace quant::onednn {
namespace {

using dnnl::memory;

absl::StatusOr<bool> EmitMeanOverPositions(PlanBuilder& b, int node_index) {
  const int x = b.In(node_index, 0);
  int out = b.Out(node_index);
  const Shape& shape = b.value(x).shape;
  const int64_t batch = shape[0], channels = shape[1];
  const int64_t positions = b.value(x).elements / std::max<int64_t>(batch * channels, 1);
  if (b.value(x).dtype != DType::kFloat32 || positions == 0) return false;
  const bool on_codes = b.value(x).codes >= 0 && !b.value(x).has_buffer() && positions <= (int64_t{1} << 23);
  const int source = on_codes ? b.value(x).codes : x;
  const DType dtype = b.value(source).dtype;
  const Grid grid = b.value(x).grid;
  ASSIGN_OR_RETURN(const int src, b.Use(source, Layout::kChannelsLast));

  // A QuantizeLinear right after is done here, row by row.
  const int next = b.OnlyConsumer(out);
  Grid to;
  const bool quantize =
      next >= 0 && b.node(next).op_type == "QuantizeLinear" && b.In(next, 0) == out && b.NodeGrid(next, &to);
  if (quantize) {
    b.Claim(next);
    out = b.Out(next);
  }
  const DType dst_dtype = b.value(out).dtype;
  const int dst = b.Define(out, Layout::kPlain);
  const int sums = b.Temporary(channels * 8);
  const int means = b.Temporary(channels * 4);
  Step step;
  step.node = b.node(node_index).name;
  step.what = absl::StrCat("mean over positions ", DTypeName(dtype), "->", DTypeName(dst_dtype));
  step.run = [=](Pointers p) {
    float* mean = reinterpret_cast<float*>(p[static_cast<size_t>(means)]);
    const size_t rows = static_cast<size_t>(positions), cols = static_cast<size_t>(channels);
    for (int64_t n = 0; n < batch; ++n) {
      const std::byte* from =
          p[static_cast<size_t>(src)] + n * positions * channels * (dtype == DType::kFloat32 ? 4 : 1);
      std::byte* row = p[static_cast<size_t>(dst)] + n * channels * (quantize ? 1 : 4);
      float* real = quantize ? mean : reinterpret_cast<float*>(row);
      if (dtype == DType::kFloat32) {
        double* sum = reinterpret_cast<double*>(p[static_cast<size_t>(sums)]);
        kernels::SumRowsF32(reinterpret_cast<const float*>(from), rows, cols, sum);
        for (size_t c = 0; c < cols; ++c) real[c] = static_cast<float>(sum[c] / static_cast<double>(positions));
      } else {
        int32_t* sum = reinterpret_cast<int32_t*>(p[static_cast<size_t>(sums)]);
        if (dtype == DType::kUInt8) {
          kernels::SumRowsU8(reinterpret_cast<const uint8_t*>(from), rows, cols, sum);
        } else {
          kernels::SumRowsS8(reinterpret_cast<const int8_t*>(from), rows, cols, sum);
        }
        for (size_t c = 0; c < cols; ++c) {
          const double code = static_cast<double>(sum[c]) / static_cast<double>(positions) - grid.zero_point;
          real[c] = static_cast<float>(code * grid.scale);
        }
      }
      if (quantize && dst_dtype == DType::kUInt8) {
        kernels::QuantizeF32U8(mean, cols, to.scale, to.zero_point, reinterpret_cast<uint8_t*>(row));
      } else if (quantize) {
        kernels::QuantizeF32S8(mean, cols, to.scale, to.zero_point, reinterpret_cast<int8_t*>(row));
      }
    }
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src, sums, means}, {dst});
  return true;
}

}  // namespace

absl::StatusOr<bool> EmitPool(PlanBuilder& b, int node_index) {
  return Guard("pooling", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int x = b.In(node_index, 0), out = b.Out(node_index);
    const bool max = n.op_type == "MaxPool";
    if (b.Out(node_index, 1) >= 0) return false;  // indices
    const bool lazy = max && b.value(x).codes >= 0 && !b.value(x).has_buffer();
    const int source = lazy ? b.value(x).codes : x;
    const DType dtype = b.value(source).dtype;
    if (dtype != DType::kFloat32 && !(max && (dtype == DType::kUInt8 || dtype == DType::kInt8))) return false;
    const Shape shape = b.value(x).shape, out_shape = b.value(out).shape;
    ASSIGN_OR_RETURN(const ops::Window w, ops::PoolWindow(n, shape));
    const bool include_pad = n.Int("count_include_pad", 0) != 0;
    memory::dims kernel, stride, dilation, pad_begin, pad_end;
    for (int i = 3 - w.dims; i < 3; ++i) {
      const size_t k = static_cast<size_t>(i);
      // ceil_mode lets the last window reach past the padding; those positions never count.
      const int64_t reach =
          (w.out[k] - 1) * w.stride[k] + (w.kernel[k] - 1) * w.dilation[k] + 1 - w.in[k] - w.pad_begin[k];
      if (reach > w.pad_end[k] && !max && include_pad) return false;
      kernel.push_back(w.kernel[k]);
      stride.push_back(w.stride[k]);
      dilation.push_back(w.dilation[k] - 1);
      pad_begin.push_back(w.pad_begin[k]);
      pad_end.push_back(std::max(reach, w.pad_end[k]));
    }
    const auto algorithm = max           ? dnnl::algorithm::pooling_max
                           : include_pad ? dnnl::algorithm::pooling_avg_include_padding
                                         : dnnl::algorithm::pooling_avg_exclude_padding;
    const int threads = b.ThreadsFor(static_cast<double>(b.value(out).elements * w.KernelSize()) / 8e3);
    const ThreadScope scope(threads);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const memory::desc src_desc = Desc(dtype, shape, Layout::kChannelsLast);
    const memory::desc dst_desc = Desc(dtype, out_shape, Layout::kChannelsLast);
    const dnnl::pooling_forward::primitive_desc pd(CpuEngine(), dnnl::prop_kind::forward_inference, algorithm, src_desc,
                                                   dst_desc, stride, kernel, dilation, pad_begin, pad_end, attr,
                                                   /*allow_empty=*/true);
    if (!pd) return false;
    ASSIGN_OR_RETURN(const int src, b.Use(source, Layout::kChannelsLast));
    int result = out;
    if (lazy) {
      result = b.Anonymous(dtype, out_shape);
      b.DefineDequantized(out, result, b.value(x).grid);
    }
    const int dst = b.Define(result, Layout::kChannelsLast);
    b.AddPrimitive(n.name, absl::StrCat(n.op_type, " ", DTypeName(dtype)), dnnl::pooling_forward(pd),
                   pd.scratchpad_desc(), {Arg::Of(DNNL_ARG_SRC, src_desc, src), Arg::Of(DNNL_ARG_DST, dst_desc, dst)},
                   threads);
    return true;
  });
}

absl::StatusOr<bool> EmitGlobalAveragePool(PlanBuilder& b, int node_index) {
  return EmitMeanOverPositions(b, node_index);
}

absl::StatusOr<bool> EmitReduceMean(PlanBuilder& b, int node_index) {
  const Node& n = b.node(node_index);
  const int x = b.In(node_index, 0);
  const int64_t rank = static_cast<int64_t>(b.value(x).shape.size());
  if (rank < 3) return false;
  std::vector<int64_t> axes = n.Ints("axes");
  if (const int input = b.In(node_index, 1); input >= 0) {
    ASSIGN_OR_RETURN(const Tensor* constant, b.Constant(input));
    if (constant == nullptr) return false;
    ASSIGN_OR_RETURN(axes, ToInt64(*constant));
  }
  for (int64_t& a : axes) a = a < 0 ? a + rank : a;
  std::sort(axes.begin(), axes.end());
  if (static_cast<int64_t>(axes.size()) != rank - 2) return false;
  for (int64_t i = 0; i < rank - 2; ++i) {
    if (axes[static_cast<size_t>(i)] != i + 2) return false;
  }
  return EmitMeanOverPositions(b, node_index);
}

}  // namespace quant::onednn
