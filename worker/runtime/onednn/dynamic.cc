// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/onednn/dynamic.h"

#include <algorithm>
#include <cstdlib>

#include "common/strings.h"
#include "worker/runtime/kernels/parallel.h"
#include "worker/runtime/onednn/fusion.h"

namespace quant::onednn {
namespace {

// Codes of the constant `w` less its zero point, which is one or one per index of `axis`.
absl::StatusOr<std::optional<QuantizedConstant>> IntegerWeights(PlanBuilder& b, int w, int zero_value, int axis) {
  ASSIGN_OR_RETURN(const Tensor* constant, b.Constant(w));
  if (constant->rank() <= axis) return std::nullopt;
  ASSIGN_OR_RETURN(const std::vector<int64_t> codes, ToInt64(*constant));
  const std::vector<float> zeros = b.ConstantFloats(zero_value);
  const size_t channels = static_cast<size_t>(constant->dim(axis));
  if (zero_value >= 0 && zeros.size() != 1 && zeros.size() != channels) return std::nullopt;
  size_t inner = 1;
  for (int d = axis + 1; d < constant->rank(); ++d) inner *= static_cast<size_t>(constant->dim(d));
  QuantizedConstant q;
  q.fits_s8 = true;
  q.codes.reserve(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const float zero = zeros.empty() ? 0.0f : zeros[zeros.size() == 1 ? 0 : i / inner % channels];
    const int32_t code = static_cast<int32_t>(codes[i]) - static_cast<int32_t>(zero);
    q.codes.push_back(code);
    q.max_abs = std::max(q.max_abs, std::abs(code));
    q.fits_s8 = q.fits_s8 && code >= -128 && code <= 127;
  }
  return q;
}

}  // namespace

absl::StatusOr<std::optional<DynamicProduct>> MatchDynamicProduct(PlanBuilder& b, int node_index, int weight_axis) {
  DynamicProduct p;
  p.codes = b.In(node_index, 0);
  const int w = b.In(node_index, 1);
  const int quantize = b.Producer(p.codes);
  if (quantize < 0 || b.node(quantize).op_type != "DynamicQuantizeLinear" || b.value(p.codes).dtype != DType::kUInt8) {
    return std::nullopt;
  }
  p.scale = b.Out(quantize, 1);
  p.zero = b.Out(quantize, 2);
  if (b.In(node_index, 2) != p.zero || !b.IsConstant(w)) return std::nullopt;
  const int sum = b.Out(node_index);
  p.cast = b.OnlyConsumer(sum);
  if (p.cast < 0 || b.node(p.cast).op_type != "Cast" || b.value(b.Out(p.cast)).dtype != DType::kFloat32) {
    return std::nullopt;
  }
  p.mul = b.OnlyConsumer(b.Out(p.cast));
  if (p.mul < 0 || b.node(p.mul).op_type != "Mul") return std::nullopt;
  p.out = b.Out(p.mul);
  const int unit_node = b.Producer(b.In(p.mul, b.In(p.mul, 0) == b.Out(p.cast) ? 1 : 0));
  if (unit_node < 0 || b.node(unit_node).op_type != "Mul" || b.value(p.out).shape != b.value(sum).shape) {
    return std::nullopt;
  }
  const bool scale_first = b.In(unit_node, 0) == p.scale;
  if (!scale_first && b.In(unit_node, 1) != p.scale) return std::nullopt;
  ASSIGN_OR_RETURN(std::optional<QuantizedConstant> q, IntegerWeights(b, w, b.In(node_index, 3), weight_axis));
  if (!q.has_value() || !q->fits_s8) return std::nullopt;
  // The output's channels: the last axis of a matrix product, the second of a convolution.
  const Shape& out = b.value(p.out).shape;
  const int channel_axis = b.node(node_index).op_type == "ConvInteger" ? 1 : static_cast<int>(out.size()) - 1;
  q->scales = ChannelVector(b, b.In(unit_node, scale_first ? 1 : 0), out, channel_axis);
  if (q->scales.empty()) return std::nullopt;
  q->axis = q->scales.size() > 1 ? weight_axis : -1;
  p.weights = *std::move(q);
  return p;
}

absl::StatusOr<int> WidenZeroPoint(PlanBuilder& b, const DynamicProduct& product) {
  ASSIGN_OR_RETURN(const int src, b.Use(product.zero, Layout::kPlain));
  const int dst = b.Temporary(sizeof(int32_t));
  Step step;
  step.node = b.value(product.out).name;
  step.what = "widen zero point";
  step.run = [src, dst](Pointers p) {
    *reinterpret_cast<int32_t*>(p[static_cast<size_t>(dst)]) =
        *reinterpret_cast<const uint8_t*>(p[static_cast<size_t>(src)]);
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {src}, {dst});
  return dst;
}

absl::StatusOr<int> DequantizeDynamic(PlanBuilder& b, const DynamicProduct& product) {
  const Layout layout = b.LayoutOf(product.codes);
  ASSIGN_OR_RETURN(const int codes, b.Use(product.codes, layout));
  ASSIGN_OR_RETURN(const int scale, b.Use(product.scale, Layout::kPlain));
  ASSIGN_OR_RETURN(const int zero, b.Use(product.zero, Layout::kPlain));
  const int value = b.Anonymous(DType::kFloat32, b.value(product.codes).shape);
  const int dst = b.Define(value, layout);
  const int64_t elements = b.value(value).elements;
  Step step;
  step.node = b.value(product.out).name;
  step.what = "dequantize uint8->float32 dynamic";
  step.threads = b.ThreadsFor(static_cast<double>(elements) / 4e3);
  step.run = [=, threads = step.threads](Pointers p) {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(p[static_cast<size_t>(codes)]);
    float* to = reinterpret_cast<float*>(p[static_cast<size_t>(dst)]);
    const float s = *reinterpret_cast<const float*>(p[static_cast<size_t>(scale)]);
    const int32_t z = *reinterpret_cast<const uint8_t*>(p[static_cast<size_t>(zero)]);
    kernels::ParallelRanges(threads, elements, 4096, [&](int64_t begin, int64_t end) {
      kernels::DequantizeU8F32(from + begin, static_cast<size_t>(end - begin), s, z, to + begin);
    });
    return absl::OkStatus();
  };
  b.AddStep(std::move(step), {codes, scale, zero}, {dst});
  return value;
}

}  // namespace quant::onednn
