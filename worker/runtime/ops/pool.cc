// SPDX-License-Identifier: Apache-2.0
// MaxPool, AveragePool, LpPool and their global forms. Windows: window.h.
//
// A window that lies wholly in the padding gives -infinity (MaxPool, as an empty maximum) or 0 (AveragePool).
#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/runtime/ops/util.h"
#include "worker/runtime/ops/window.h"

namespace quant::ops {
namespace {

absl::Status InferPool(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1, 2));
  if (node.outputs.size() > 1 && !node.outputs[1].empty()) return Unsupported("the output Indices is not supported");
  if (node.op_type == "MaxPool") {
    if (!IsFloat(in[0]->dtype) && in[0]->dtype != DType::kInt8 && in[0]->dtype != DType::kUInt8) {
      return Invalid("X is ", DTypeName(in[0]->dtype), "; floating point, int8 or uint8 is needed");
    }
  } else {
    RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  }
  ASSIGN_OR_RETURN(const Window w, PoolWindow(node, in[0]->shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape = WindowOutputShape(w, in[0]->shape[0], in[0]->shape[1]);
  return absl::OkStatus();
}

// Calls visit(channel pointer, output index, the tap ranges of the three dimensions, their first input index).
template <typename T, typename Visit>
void ForEachWindow(const Window& w, const Tensor& x, Visit visit) {
  const int64_t planes = x.dim(0) * x.dim(1);
  int64_t to = 0;
  for (int64_t p = 0; p < planes; ++p) {
    const T* plane = Ptr<T>(x) + p * w.InSize();
    for (int64_t d = 0; d < w.out[0]; ++d) {
      const int64_t bd = d * w.stride[0] - w.pad_begin[0];
      const TapRange td = ValidTaps(bd, w.dilation[0], w.kernel[0], w.in[0]);
      for (int64_t h = 0; h < w.out[1]; ++h) {
        const int64_t bh = h * w.stride[1] - w.pad_begin[1];
        const TapRange th = ValidTaps(bh, w.dilation[1], w.kernel[1], w.in[1]);
        for (int64_t c = 0; c < w.out[2]; ++c, ++to) {
          const int64_t bw = c * w.stride[2] - w.pad_begin[2];
          const TapRange tw = ValidTaps(bw, w.dilation[2], w.kernel[2], w.in[2]);
          const auto each = [&](auto f) {
            for (int64_t i = td.begin; i < td.end; ++i) {
              for (int64_t j = th.begin; j < th.end; ++j) {
                const T* row = plane + ((bd + i * w.dilation[0]) * w.in[1] + bh + j * w.dilation[1]) * w.in[2] + bw;
                for (int64_t k = tw.begin; k < tw.end; ++k) f(row[k * w.dilation[2]]);
              }
            }
          };
          visit(to, each, (td.end - td.begin) * (th.end - th.begin) * (tw.end - tw.begin), d, h, c);
        }
      }
    }
  }
}

template <typename T>
void MaxLoops(const Window& w, const Tensor& x, Tensor& y) {
  T* dst = MutablePtr<T>(y);
  const T lowest =
      std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
  ForEachWindow<T>(w, x, [=](int64_t to, auto each, int64_t, int64_t, int64_t, int64_t) {
    T best = lowest;
    each([&best](T v) { best = std::max(best, v); });  // a NaN never wins
    dst[to] = best;
  });
}

absl::Status ComputeMaxPool(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Window w, PoolWindow(node, in[0]->shape()));
  if (in[0]->dtype() == DType::kInt8) {
    MaxLoops<int8_t>(w, *in[0], out[0]);
  } else if (in[0]->dtype() == DType::kUInt8) {
    MaxLoops<uint8_t>(w, *in[0], out[0]);
  } else {
    MaxLoops<float>(w, *in[0], out[0]);
  }
  return absl::OkStatus();
}

// Divides by the number of taps inside the input, or with count_include_pad by those inside input and pads (a window
// that ceil_mode added beyond the pads counts only what is before their end).
absl::Status ComputeAveragePool(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Window w, PoolWindow(node, in[0]->shape()));
  const bool include_pad = node.Int("count_include_pad", 0) != 0;
  float* dst = MutablePtr<float>(out[0]);
  const auto padded_taps = [&w](size_t d, int64_t o) {
    const TapRange t = ValidTaps(o * w.stride[d], w.dilation[d], w.kernel[d], w.in[d] + w.pad_begin[d] + w.pad_end[d]);
    return t.end - t.begin;
  };
  ForEachWindow<float>(w, *in[0], [&](int64_t to, auto each, int64_t taps, int64_t d, int64_t h, int64_t c) {
    double sum = 0;
    each([&sum](float v) { sum += static_cast<double>(v); });
    // As doubles: a hostile kernel_shape over huge pads would overflow an integer product.
    const double count = include_pad ? static_cast<double>(padded_taps(0, d)) * static_cast<double>(padded_taps(1, h)) *
                                           static_cast<double>(padded_taps(2, c))
                                     : static_cast<double>(taps);
    dst[to] = count > 0 ? static_cast<float>(sum / count) : 0.0f;
  });
  return absl::OkStatus();
}

absl::Status ComputeLpPool(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Window w, PoolWindow(node, in[0]->shape()));
  const double p = static_cast<double>(node.Int("p", 2));
  float* dst = MutablePtr<float>(out[0]);
  ForEachWindow<float>(w, *in[0], [=](int64_t to, auto each, int64_t, int64_t, int64_t, int64_t) {
    double sum = 0;
    each([&sum, p](float v) { sum += std::pow(std::fabs(static_cast<double>(v)), p); });
    dst[to] = static_cast<float>(std::pow(sum, 1.0 / p));
  });
  return absl::OkStatus();
}

absl::Status InferGlobalPool(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  RETURN_IF_ERROR(CheckMinRank(*in[0], 3, "X"));
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  for (size_t i = 2; i < out[0].shape.size(); ++i) {
    if (out[0].shape[i] == 0) return Invalid("X has the empty shape ", ShapeString(in[0]->shape));
    out[0].shape[i] = 1;
  }
  return absl::OkStatus();
}

absl::Status ComputeGlobalPool(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  const int64_t planes = shape[0] * shape[1], size = Product(shape, 2, shape.size());
  const float* x = Ptr<float>(*in[0]);
  float* y = MutablePtr<float>(out[0]);
  const bool max = node.op_type == "GlobalMaxPool", lp = node.op_type == "GlobalLpPool";
  const double p = static_cast<double>(node.Int("p", 2));
  for (int64_t i = 0; i < planes; ++i, x += size) {
    double sum = 0;
    float best = -std::numeric_limits<float>::infinity();
    for (int64_t j = 0; j < size; ++j) {
      if (max) {
        best = std::max(best, x[j]);
      } else {
        sum += lp ? std::pow(std::fabs(static_cast<double>(x[j])), p) : static_cast<double>(x[j]);
      }
    }
    y[i] = max ? best : static_cast<float>(lp ? std::pow(sum, 1.0 / p) : sum / static_cast<double>(size));
  }
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"AveragePool", {InferPool, ViaFloat<ComputeAveragePool>}},
    {"GlobalAveragePool", {InferGlobalPool, ViaFloat<ComputeGlobalPool>}},
    {"GlobalLpPool", {InferGlobalPool, ViaFloat<ComputeGlobalPool>}},
    {"GlobalMaxPool", {InferGlobalPool, ViaFloat<ComputeGlobalPool>}},
    {"LpPool", {InferPool, ViaFloat<ComputeLpPool>}},
    {"MaxPool", {InferPool, ViaFloat<ComputeMaxPool>}},
};

}  // namespace

std::span<const OpEntry> PoolOps() { return kOps; }

}  // namespace quant::ops
