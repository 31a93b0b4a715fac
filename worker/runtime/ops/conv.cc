// SPDX-License-Identifier: Apache-2.0
// Conv, ConvTranspose, ConvInteger, QLinearConv over 1 to 3 spatial dimensions.
//
//   y[n,o,p] = b[o] + sum over c in the group of o, taps t:  x[n,c,p*stride - pad + t*dilation] * w[o,c,t]
//
// The loops keep a short row of accumulators and add one tap of one channel at a time to all of them, so that the
// innermost loop has no bounds check and the order of additions does not depend on the row length.
#include <algorithm>
#include <array>

#include "worker/runtime/ops/requantize.h"
#include "worker/runtime/ops/util.h"
#include "worker/runtime/ops/window.h"

namespace quant::ops {
namespace {

constexpr int64_t kRow = 256;

struct ConvShape {
  Window window;
  int64_t batch, channels_in, channels_out, groups;
};

// Conv weights are [M, C / group, kernel...].
absl::StatusOr<ConvShape> GetConvShape(const Node& node, std::span<const int64_t> x, std::span<const int64_t> w) {
  if (x.size() < 3 || w.size() != x.size()) {
    return Invalid("input ", ShapeString(x), " and weights ", ShapeString(w),
                   " do not fit: both need the same rank, 3 or more");
  }
  const int64_t groups = node.Int("group", 1);
  if (groups < 1 || groups > kMaxAttribute || x[1] != w[1] * groups || w[0] % groups != 0 || w[0] == 0) {
    return Invalid("group ", groups, " does not fit: the input has ", x[1], " channels, the weights are ",
                   ShapeString(w), " (output channels, input channels of a group, ...)");
  }
  ASSIGN_OR_RETURN(const Window window, ConvWindow(node, x, w.subspan(2)));
  return ConvShape{window, x[0], x[1], w[0], groups};
}

// A window whose rows are longer: with one tap, unit steps and no pads the spatial dimensions are one.
Window Flattened(const Window& w) {
  for (size_t i = 0; i < 3; ++i) {
    if (w.kernel[i] != 1 || w.stride[i] != 1 || w.pad_begin[i] != 0 || w.pad_end[i] != 0) return w;
  }
  Window flat;
  flat.dims = 1;
  flat.in[2] = flat.out[2] = w.OutSize();
  return flat;
}

// `store(output channel, index in y, accumulator)` finishes each output.
template <typename X, typename W, typename Acc, typename Store>
void ConvLoops(const ConvShape& s, const X* x, Acc x_zero, const W* weights, const Acc* w_zero, int64_t w_zero_stride,
               Store store) {
  const Window w = Flattened(s.window);
  const int64_t in_size = w.InSize(), out_size = w.OutSize(), taps = w.KernelSize();
  const int64_t group_in = s.channels_in / s.groups, group_out = s.channels_out / s.groups;
  std::array<Acc, kRow> acc;
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t o = 0; o < s.channels_out; ++o) {
      const X* x_group = x + (n * s.channels_in + o / group_out * group_in) * in_size;
      const W* w_out = weights + o * group_in * taps;
      const Acc wz = w_zero[o * w_zero_stride];
      for (int64_t od = 0; od < w.out[0]; ++od) {
        const TapRange td = ValidTaps(od * w.stride[0] - w.pad_begin[0], w.dilation[0], w.kernel[0], w.in[0]);
        for (int64_t oh = 0; oh < w.out[1]; ++oh) {
          const TapRange th = ValidTaps(oh * w.stride[1] - w.pad_begin[1], w.dilation[1], w.kernel[1], w.in[1]);
          for (int64_t row = 0; row < w.out[2]; row += kRow) {
            const int64_t width = std::min(kRow, w.out[2] - row);
            std::fill_n(acc.begin(), width, Acc{0});
            for (int64_t c = 0; c < group_in; ++c) {
              for (int64_t kd = td.begin; kd < td.end; ++kd) {
                const int64_t id = od * w.stride[0] - w.pad_begin[0] + kd * w.dilation[0];
                for (int64_t kh = th.begin; kh < th.end; ++kh) {
                  const int64_t ih = oh * w.stride[1] - w.pad_begin[1] + kh * w.dilation[1];
                  const X* x_row = x_group + c * in_size + (id * w.in[1] + ih) * w.in[2];
                  const W* w_row = w_out + c * taps + (kd * w.kernel[1] + kh) * w.kernel[2];
                  for (int64_t kw = 0; kw < w.kernel[2]; ++kw) {
                    const Acc weight = static_cast<Acc>(w_row[kw]) - wz;
                    // Outputs j of this row whose input index j * stride + base is inside.
                    const int64_t base = row * w.stride[2] - w.pad_begin[2] + kw * w.dilation[2];
                    const TapRange j = ValidTaps(base, w.stride[2], width, w.in[2]);
                    if (w.stride[2] == 1) {
                      const X* from = x_row + base;
                      for (int64_t i = j.begin; i < j.end; ++i)
                        acc[static_cast<size_t>(i)] += weight * (static_cast<Acc>(from[i]) - x_zero);
                    } else {
                      for (int64_t i = j.begin; i < j.end; ++i) {
                        acc[static_cast<size_t>(i)] +=
                            weight * (static_cast<Acc>(x_row[base + i * w.stride[2]]) - x_zero);
                      }
                    }
                  }
                }
              }
            }
            const int64_t to = (n * s.channels_out + o) * out_size + (od * w.out[1] + oh) * w.out[2] + row;
            for (int64_t i = 0; i < width; ++i) store(o, to + i, acc[static_cast<size_t>(i)]);
          }
        }
      }
    }
  }
}

absl::Status CheckBias(Descs in, int64_t channels) {
  const TensorDesc* bias = At(in, 2);
  if (bias != nullptr && bias->shape != Shape{channels}) {
    return Invalid("the bias has shape ", ShapeString(bias->shape), "; [", channels, "] is needed");
  }
  return bias == nullptr ? absl::OkStatus() : CheckSameType(*in[0], *bias);
}

absl::Status InferConv(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 3));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  RETURN_IF_ERROR(CheckSameType(*in[0], *in[1]));
  ASSIGN_OR_RETURN(const ConvShape s, GetConvShape(node, in[0]->shape, in[1]->shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape = WindowOutputShape(s.window, s.batch, s.channels_out);
  return CheckBias(in, s.channels_out);
}

absl::Status ComputeConv(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const ConvShape s, GetConvShape(node, in[0]->shape(), in[1]->shape()));
  const float* bias = At(in, 2) ? Ptr<float>(*in[2]) : nullptr;
  float* y = MutablePtr<float>(out[0]);
  const double no_zero = 0;
  ConvLoops<float, float, double>(s, Ptr<float>(*in[0]), 0, Ptr<float>(*in[1]), &no_zero, 0,
                                  [=](int64_t o, int64_t i, double acc) {
                                    y[i] = static_cast<float>(acc + (bias ? static_cast<double>(bias[o]) : 0.0));
                                  });
  return absl::OkStatus();
}

// ConvInteger: int8 or uint8 input and weights, optional zero points (per tensor; the weights' may be per channel).
absl::Status CheckZeroPoint(Descs in, size_t i, int64_t channels) {
  const TensorDesc* zero = At(in, i);
  if (zero == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(CheckSameType(*zero, *in[i - 2]));
  const int64_t n = Product(zero->shape);
  if (zero->shape.size() > 1 || (n != 1 && n != channels)) {
    return Invalid("zero point ", ShapeString(zero->shape), " must be a scalar or one per channel (", channels, ")");
  }
  return absl::OkStatus();
}

absl::Status InferConvInteger(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 4));
  for (size_t i = 0; i < 2; ++i) {
    if (in[i]->dtype != DType::kInt8 && in[i]->dtype != DType::kUInt8) {
      return Invalid("input ", i, " is ", DTypeName(in[i]->dtype), "; int8 or uint8 is needed");
    }
  }
  ASSIGN_OR_RETURN(const ConvShape s, GetConvShape(node, in[0]->shape, in[1]->shape));
  RETURN_IF_ERROR(CheckZeroPoint(in, 2, 1));
  RETURN_IF_ERROR(CheckZeroPoint(in, 3, s.channels_out));
  out[0].dtype = DType::kInt32;
  out[0].shape = WindowOutputShape(s.window, s.batch, s.channels_out);
  return absl::OkStatus();
}

// Sums of (x - x_zero) * (w - w_zero), with the zero points' tensors or null.
template <typename Store>
absl::Status IntegerLoops(const ConvShape& s, const Tensor& x, const Tensor& w, const Tensor* x_zero,
                          const Tensor* w_zero, Store store) {
  int64_t zx = 0;
  std::vector<int64_t> zw = {0};
  if (x_zero != nullptr) {
    ASSIGN_OR_RETURN(const std::vector<int64_t> v, ToInt64(*x_zero));
    zx = v.at(0);
  }
  if (w_zero != nullptr) {
    ASSIGN_OR_RETURN(zw, ToInt64(*w_zero));
  }
  const int64_t stride = zw.size() > 1 ? 1 : 0;
  const auto run = [&]<typename X, typename W>(X, W) {
    ConvLoops<X, W, int64_t>(s, Ptr<X>(x), zx, Ptr<W>(w), zw.data(), stride, store);
  };
  const bool x_signed = x.dtype() == DType::kInt8, w_signed = w.dtype() == DType::kInt8;
  if (x_signed && w_signed) run(int8_t{}, int8_t{});
  if (x_signed && !w_signed) run(int8_t{}, uint8_t{});
  if (!x_signed && w_signed) run(uint8_t{}, int8_t{});
  if (!x_signed && !w_signed) run(uint8_t{}, uint8_t{});
  return absl::OkStatus();
}

absl::Status ComputeConvInteger(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const ConvShape s, GetConvShape(node, in[0]->shape(), in[1]->shape()));
  int32_t* y = MutablePtr<int32_t>(out[0]);
  // int64 sums, reduced modulo 2^32 at the end: int32 arithmetic that wraps, without undefined behaviour.
  return IntegerLoops(s, *in[0], *in[1], At(in, 2), At(in, 3),
                      [=](int64_t, int64_t i, int64_t acc) { y[i] = static_cast<int32_t>(acc); });
}

// QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B):
//   y = saturate(round_half_even((sum + B) * x_scale * w_scale / y_scale) + y_zero), the factor in float32.
absl::Status InferQLinearConv(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 8, 9));
  const TensorDesc* const integer_form[] = {in[0], in[3], in[2], in[5]};
  RETURN_IF_ERROR(InferConvInteger(node, integer_form, out));
  const int64_t channels = in[3]->shape[0];
  RETURN_IF_ERROR(CheckQuantizedScales(in, channels));
  if (const TensorDesc* bias = At(in, 8)) {
    if (bias->dtype != DType::kInt32 || bias->shape != Shape{channels}) {
      return Invalid("the bias is ", DTypeName(bias->dtype), " ", ShapeString(bias->shape), "; int32 [", channels,
                     "] is needed");
    }
  }
  out[0].dtype = in[7]->dtype;
  return absl::OkStatus();
}

absl::Status ComputeQLinearConv(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const ConvShape s, GetConvShape(node, in[0]->shape(), in[3]->shape()));
  ASSIGN_OR_RETURN(const Requantizer requantize, Requantizer::Create(in, out[0]));
  const int32_t* bias = At(in, 8) ? Ptr<int32_t>(*in[8]) : nullptr;
  return IntegerLoops(s, *in[0], *in[3], in[2], in[5],
                      [&](int64_t o, int64_t i, int64_t acc) { requantize.Store(acc + (bias ? bias[o] : 0), o, i); });
}

// ConvTranspose weights are [C, M / group, kernel...].
absl::StatusOr<ConvShape> GetTransposeShape(const Node& node, std::span<const int64_t> x, std::span<const int64_t> w) {
  if (x.size() < 3 || w.size() != x.size()) {
    return Invalid("input ", ShapeString(x), " and weights ", ShapeString(w),
                   " do not fit: both need the same rank, 3 or more");
  }
  const int64_t groups = node.Int("group", 1);
  if (groups < 1 || groups > kMaxAttribute || x[1] != w[0] || x[1] % groups != 0 || w[1] == 0 ||
      w[1] > kMaxElements / groups) {
    return Invalid("group ", groups, " does not fit: the input has ", x[1], " channels, the weights are ",
                   ShapeString(w), " (input channels, output channels of a group, ...)");
  }
  ASSIGN_OR_RETURN(const Window window, ConvTransposeWindow(node, x, w.subspan(2)));
  return ConvShape{window, x[0], x[1], w[1] * groups, groups};
}

absl::Status InferConvTranspose(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 3));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  RETURN_IF_ERROR(CheckSameType(*in[0], *in[1]));
  ASSIGN_OR_RETURN(const ConvShape s, GetTransposeShape(node, in[0]->shape, in[1]->shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape = WindowOutputShape(s.window, s.batch, s.channels_out);
  return CheckBias(in, s.channels_out);
}

// Row by row of the output: input row i and tap k of a dimension land on i * stride - pad + k * dilation.
absl::Status ComputeConvTranspose(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const ConvShape s, GetTransposeShape(node, in[0]->shape(), in[1]->shape()));
  const Window& w = s.window;
  const float* x = Ptr<float>(*in[0]);
  const float* weights = Ptr<float>(*in[1]);
  const float* bias = At(in, 2) ? Ptr<float>(*in[2]) : nullptr;
  float* y = MutablePtr<float>(out[0]);
  const int64_t in_size = w.InSize(), out_size = w.OutSize(), taps = w.KernelSize();
  const int64_t group_in = s.channels_in / s.groups, group_out = s.channels_out / s.groups;
  std::array<double, kRow> acc;
  // The input index that reaches output `o` through tap `k` of dimension d, or -1.
  const auto source = [&w](size_t d, int64_t o, int64_t k) -> int64_t {
    const int64_t at = o + w.pad_begin[d] - k * w.dilation[d];
    return at >= 0 && at % w.stride[d] == 0 && at / w.stride[d] < w.in[d] ? at / w.stride[d] : -1;
  };
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t o = 0; o < s.channels_out; ++o) {
      const int64_t group = o / group_out;
      for (int64_t od = 0; od < w.out[0]; ++od) {
        for (int64_t oh = 0; oh < w.out[1]; ++oh) {
          for (int64_t row = 0; row < w.out[2]; row += kRow) {
            const int64_t width = std::min(kRow, w.out[2] - row);
            std::fill_n(acc.begin(), width, bias ? static_cast<double>(bias[o]) : 0.0);
            for (int64_t c = group * group_in; c < (group + 1) * group_in; ++c) {
              const float* w_out = weights + (c * group_out + o % group_out) * taps;
              for (int64_t kd = 0; kd < w.kernel[0]; ++kd) {
                const int64_t id = source(0, od, kd);
                for (int64_t kh = 0; kh < w.kernel[1] && id >= 0; ++kh) {
                  const int64_t ih = source(1, oh, kh);
                  if (ih < 0) continue;
                  const float* x_row = x + (n * s.channels_in + c) * in_size + (id * w.in[1] + ih) * w.in[2];
                  const float* w_row = w_out + (kd * w.kernel[1] + kh) * w.kernel[2];
                  for (int64_t kw = 0; kw < w.kernel[2]; ++kw) {
                    const double weight = static_cast<double>(w_row[kw]);
                    const int64_t base = kw * w.dilation[2] - w.pad_begin[2] - row;
                    const TapRange i = ValidTaps(base, w.stride[2], w.in[2], width);
                    for (int64_t iw = i.begin; iw < i.end; ++iw) {
                      acc[static_cast<size_t>(base + iw * w.stride[2])] += weight * static_cast<double>(x_row[iw]);
                    }
                  }
                }
              }
            }
            float* to = y + (n * s.channels_out + o) * out_size + (od * w.out[1] + oh) * w.out[2] + row;
            for (int64_t i = 0; i < width; ++i) to[i] = static_cast<float>(acc[static_cast<size_t>(i)]);
          }
        }
      }
    }
  }
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Conv", {InferConv, ViaFloat<ComputeConv>}},
    {"ConvInteger", {InferConvInteger, ComputeConvInteger}},
    {"ConvTranspose", {InferConvTranspose, ViaFloat<ComputeConvTranspose>}},
    {"QLinearConv", {InferQLinearConv, ComputeQLinearConv}},
};

}  // namespace

std::span<const OpEntry> ConvOps() { return kOps; }

}  // namespace quant::ops
