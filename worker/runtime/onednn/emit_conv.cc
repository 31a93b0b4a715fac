// SPDX-License-Identifier: Apache-2.0
// Conv and ConvTranspose.
//
//   float32:  dst = chain(conv(src, weights) + bias)
//   int8:     dst = chain(conv(src_q - zero, weights_q) * src_scale * weight_scale[c] + bias) / dst_scale + dst_zero
//
// int8 is taken when src is a DequantizeLinear of 8-bit codes with one scale and the weights are a DequantizeLinear of
// constants whose codes less zero point fit s8, with one scale or one per output channel; the sums are then exact in
// int32 or the operator runs in float32 (worker/runtime/isa.h). bias stays float32: an int32 bias through a
// DequantizeLinear is exact there to 24 bits.
#include <cmath>
#include <optional>

#include "common/strings.h"
#include "worker/runtime/isa.h"
#include "worker/runtime/onednn/dynamic.h"
#include "worker/runtime/onednn/emit.h"
#include "worker/runtime/onednn/fusion.h"
#include "worker/runtime/ops/window.h"

namespace quant::onednn {
namespace {

using dnnl::memory;

struct ConvShape {
  memory::dims stride, dilation, pad_begin, pad_end;  // oneDNN counts dilation from 0
  int64_t groups = 1;
  int64_t macs = 0;
};

ConvShape ShapeOf(const ops::Window& w, int64_t groups) {
  ConvShape s;
  s.groups = groups;
  for (int i = 3 - w.dims; i < 3; ++i) {
    const size_t k = static_cast<size_t>(i);
    s.stride.push_back(w.stride[k]);
    s.dilation.push_back(w.dilation[k] - 1);
    s.pad_begin.push_back(w.pad_begin[k]);
    s.pad_end.push_back(w.pad_end[k]);
  }
  return s;
}

// Weights as oneDNN wants them: [groups,] out, in, kernel...
memory::dims WeightDims(const Shape& w, int64_t groups) {
  memory::dims dims(w.begin(), w.end());
  if (groups > 1) {
    dims[0] /= groups;
    dims.insert(dims.begin(), groups);
  }
  return dims;
}

memory::dims DenseStrides(const memory::dims& dims) {
  memory::dims strides(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

// Rough time of one thread, what the decision between one and all threads needs: multiply-adds per microsecond as
// measured on small layers (AVX-512 VNNI: 55k to 115k float32, 90k to 380k int8, 16k to 56k depthwise in either).
double Microseconds(int64_t macs, bool depthwise, bool int8) {
  if (depthwise) return static_cast<double>(macs) / 25e3;
  const double per_microsecond = HasExactInt8() ? (int8 ? 200e3 : 70e3) : (int8 ? 70e3 : 40e3);
  return static_cast<double>(macs) / per_microsecond;
}

class ConvEmitter {
 public:
  ConvEmitter(PlanBuilder& builder, int node_index) : b_(builder), index_(node_index), n_(builder.node(node_index)) {}

  absl::StatusOr<bool> Emit() {
    x_ = b_.In(index_, 0);
    w_ = b_.In(index_, 1);
    const int bias = b_.In(index_, 2);
    out_ = b_.Out(index_);
    if (b_.value(out_).dtype != DType::kFloat32 || !b_.IsConstant(w_) || (bias >= 0 && !b_.IsConstant(bias)))
      return false;
    RETURN_IF_ERROR(SetShape());
    if (bias >= 0) bias_ = b_.ConstantFloats(bias);

    chain_ = MatchChain(b_, out_, {.channel_axis = 1, .quantize = true});
    weights_q_ = Int8Weights();
    if (weights_q_ != nullptr) {
      src_ = b_.value(x_).codes;
      grid_ = b_.value(x_).grid;
      ASSIGN_OR_RETURN(const bool done, EmitWith(/*int8=*/true));
      if (done) return true;
    }
    src_ = x_;
    return EmitFloat();
  }

  // ConvInteger between DynamicQuantizeLinear and the scales.
  absl::StatusOr<bool> EmitDynamic() {
    ASSIGN_OR_RETURN(dynamic_, MatchDynamicProduct(b_, index_, 0));
    if (!dynamic_.has_value()) return false;
    x_ = dynamic_->codes;
    w_ = b_.In(index_, 1);
    out_ = dynamic_->out;
    RETURN_IF_ERROR(SetShape());
    bool done = false;
    if (HasExactInt8() || dynamic_->weights.max_abs <= kSafeWeight) {
      weights_q_ = &dynamic_->weights;
      src_ = dynamic_->codes;
      ASSIGN_OR_RETURN(zero_buffer_, WidenZeroPoint(b_, *dynamic_));
      chain_ = MatchChain(b_, out_, {.channel_axis = 1, .quantize = false});
      ASSIGN_OR_RETURN(done, EmitWith(/*int8=*/true));
    }
    if (!done) {
      ASSIGN_OR_RETURN(src_, DequantizeDynamic(b_, *dynamic_));
      ASSIGN_OR_RETURN(done, EmitFloat());
    }
    if (done) {
      b_.Claim(dynamic_->cast);
      b_.Claim(dynamic_->mul);
    }
    return done;
  }

 private:
  const QuantizedConstant* Int8Weights() {
    const Value& x = b_.value(x_);
    if (x.codes < 0) return nullptr;
    const QuantizedConstant* q = b_.Quantized(w_);
    if (q == nullptr || !q->fits_s8 || q->axis > 0) return nullptr;
    if (!HasExactInt8() && (q->max_abs > kSafeWeight || b_.value(x.codes).dtype != DType::kUInt8)) return nullptr;
    return q;
  }

  absl::Status SetShape() {
    const Shape& w = b_.value(w_).shape;
    ASSIGN_OR_RETURN(const ops::Window window, ops::ConvWindow(n_, b_.value(x_).shape, std::span(w).subspan(2)));
    conv_ = ShapeOf(window, n_.Int("group", 1));
    conv_.macs = b_.value(out_).elements * w[1] * window.KernelSize();
    return absl::OkStatus();
  }

  // In float32 the codes are the business of a step of its own.
  absl::StatusOr<bool> EmitFloat() {
    chain_ = MatchChain(b_, out_, {.channel_axis = 1, .quantize = false});
    FoldScale();
    return EmitWith(/*int8=*/false);
  }

  // A scale and shift right after the convolution (BatchNormalization) goes into the weights and the bias.
  void FoldScale() {
    while (!chain_.ops.empty()) {
      const PostOp& op = chain_.ops.front();
      const bool mul = op.kind == PostOp::Kind::kMulVector;
      if (!mul && op.kind != PostOp::Kind::kAddVector) return;
      const size_t channels = static_cast<size_t>(b_.value(w_).shape[0]);
      bias_.resize(channels, 0.0f);
      if (mul) scale_.resize(channels, 1.0f);
      for (size_t c = 0; c < channels; ++c) {
        const float v = op.vector[op.vector.size() == 1 ? 0 : c];
        if (mul) {
          scale_[c] *= v;
          bias_[c] *= v;
        } else {
          bias_[c] += v;
        }
      }
      chain_.ops.erase(chain_.ops.begin());
    }
  }

  absl::StatusOr<bool> EmitWith(bool int8) {
    // Sum in place, sum apart, nothing fused but a quantization: the first that oneDNN has fast.
    const Chain full = chain_;
    for (int attempt = 0; attempt < 3; ++attempt) {
      if (attempt == 2) {
        if (full.ops.empty()) break;
        chain_ = Chain();
        chain_.out = out_;
        if (!int8) {
          scale_.clear();
          bias_ = dynamic_.has_value() ? std::vector<float>() : b_.ConstantFloats(b_.In(index_, 2));
        }
      }
      ASSIGN_OR_RETURN(const bool done, Try(int8, /*allow_sum=*/attempt == 0));
      if (done) return true;
    }
    chain_ = full;
    return false;
  }

  absl::StatusOr<bool> Try(bool int8, bool allow_sum) {
    const Shape x = b_.value(x_).shape;
    const Shape out = b_.value(out_).shape;
    const Value& result = b_.value(chain_.out);
    const DType dst_dtype = int8 && chain_.quantized ? result.dtype : DType::kFloat32;
    const int threads = b_.ThreadsFor(Microseconds(conv_.macs, b_.value(w_).shape[1] == 1, int8));
    const ThreadScope scope(threads);

    std::vector<Arg> args;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops post_ops;
    ASSIGN_OR_RETURN(
        const int in_place,
        AppendPostOps(b_, chain_, {out, Layout::kChannelsLast, dst_dtype, 1, allow_sum}, &post_ops, &args));
    attr.set_post_ops(post_ops);
    if (int8) {
      RETURN_IF_ERROR(AddSourceGrid(&attr, &args));
      attr.set_scales_mask(DNNL_ARG_WEIGHTS, weights_q_->axis < 0 ? 0 : conv_.groups > 1 ? 3 : 1);
      args.push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_WEIGHTS, VectorMemory(weights_q_->scales)));
      if (chain_.quantized) {
        attr.set_scales_mask(DNNL_ARG_DST, 0);
        args.push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_DST, VectorMemory(std::span(&chain_.grid.scale, 1))));
        AddZeroPoint(chain_.grid, DNNL_ARG_DST, &attr, &args);
      }
    }
    const DType src_dtype = b_.value(src_).dtype;
    // A plain image of few channels can be read as it is; everything else is channels-last.
    const bool from_plain = !int8 && x[1] <= 4 && b_.LayoutOf(src_) == Layout::kPlain && b_.value(src_).codes < 0;
    const memory::dims weight_dims = WeightDims(b_.value(w_).shape, conv_.groups);
    const memory::desc any_weights(weight_dims, int8 ? memory::data_type::s8 : memory::data_type::f32,
                                   memory::format_tag::any);
    const memory::desc bias_desc =
        bias_.empty() ? memory::desc()
                      : memory::desc({static_cast<memory::dim>(bias_.size())}, memory::data_type::f32, memory::dims{1});
    const memory::desc dst_desc = Desc(dst_dtype, out, Layout::kChannelsLast);
    dnnl::convolution_forward::primitive_desc pd;
    Layout src_layout = from_plain ? Layout::kPlain : Layout::kChannelsLast;
    for (;; src_layout = Layout::kChannelsLast) {
      pd = dnnl::convolution_forward::primitive_desc(
          CpuEngine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
          Desc(src_dtype, x, src_layout), any_weights, bias_desc, dst_desc, conv_.stride, conv_.dilation,
          conv_.pad_begin, conv_.pad_end, attr, /*allow_empty=*/true);
      const bool fast = pd && !IsReference(pd.impl_info_str());
      if (fast && (src_layout == Layout::kChannelsLast || std::string_view(pd.impl_info_str()).starts_with("jit")))
        break;
      if (src_layout == Layout::kPlain) continue;
      // Plain loops of oneDNN serve in float32 when nothing is left to drop; they are still better than ours.
      if (!pd || int8 || !chain_.ops.empty()) return false;
      break;
    }
    ASSIGN_OR_RETURN(const int src, b_.Use(src_, src_layout));
    args.push_back(Arg::Of(DNNL_ARG_SRC, Desc(src_dtype, x, src_layout), src));
    const memory weights = Weights(int8, weight_dims, pd.weights_desc());
    args.push_back(Arg::Of(DNNL_ARG_WEIGHTS, weights));
    if (!bias_.empty()) args.push_back(Arg::Of(DNNL_ARG_BIAS, VectorMemory(bias_)));
    const int dst = DefineChainOutput(b_, chain_, Layout::kChannelsLast, in_place);
    args.push_back(Arg::Of(DNNL_ARG_DST, dst_desc, dst));
    b_.AddPrimitive(n_.name,
                    absl::StrCat(dynamic_.has_value() ? "Conv dynamic" : "Conv", chain_.name, " ", DTypeName(src_dtype),
                                 "->", DTypeName(dst_dtype)),
                    dnnl::convolution_forward(pd), pd.scratchpad_desc(), std::move(args), threads);
    return true;
  }

  // Scale and zero point of the codes: known now, or computed by the same run.
  absl::Status AddSourceGrid(dnnl::primitive_attr* attr, std::vector<Arg>* args) {
    attr->set_scales_mask(DNNL_ARG_SRC, 0);
    if (!dynamic_.has_value()) {
      args->push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC, VectorMemory(std::span(&grid_.scale, 1))));
      AddZeroPoint(grid_, DNNL_ARG_SRC, attr, args);
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const int scale, b_.Use(dynamic_->scale, Layout::kPlain));
    args->push_back(Arg::Of(DNNL_ARG_ATTR_SCALES | DNNL_ARG_SRC,
                            memory::desc({1}, memory::data_type::f32, memory::dims{1}), scale));
    attr->set_zero_points_mask(DNNL_ARG_SRC, 0);
    args->push_back(Arg::Of(DNNL_ARG_ATTR_ZERO_POINTS | DNNL_ARG_SRC,
                            memory::desc({1}, memory::data_type::s32, memory::dims{1}), zero_buffer_));
    return absl::OkStatus();
  }

  static void AddZeroPoint(Grid grid, int key, dnnl::primitive_attr* attr, std::vector<Arg>* args) {
    if (grid.zero_point == 0) return;
    attr->set_zero_points_mask(key, 0);
    args->push_back(Arg::Of(DNNL_ARG_ATTR_ZERO_POINTS | key, VectorMemory(std::span(&grid.zero_point, 1))));
  }

  memory Weights(bool int8, const memory::dims& dims, const memory::desc& desc) {
    return b_.weights().Get(
        absl::StrCat(n_.name, int8             ? "|s8"
                              : scale_.empty() ? "|f32"
                                               : "|scaled"),
        desc, [&] {
          memory plain(memory::desc(dims, int8 ? memory::data_type::s8 : memory::data_type::f32, DenseStrides(dims)),
                       CpuEngine());
          if (int8) {
            int8_t* to = static_cast<int8_t*>(plain.get_data_handle());
            for (size_t i = 0; i < weights_q_->codes.size(); ++i) to[i] = static_cast<int8_t>(weights_q_->codes[i]);
            return plain;
          }
          const std::vector<float> values = dynamic_.has_value() ? RealWeights() : b_.ConstantFloats(w_);
          float* to = static_cast<float*>(plain.get_data_handle());
          const size_t per_channel = scale_.empty() ? values.size() : values.size() / scale_.size();
          for (size_t i = 0; i < values.size(); ++i)
            to[i] = scale_.empty() ? values[i] : values[i] * scale_[i / per_channel];
          return plain;
        });
  }

  // codes * scale of the output channel.
  std::vector<float> RealWeights() const {
    const QuantizedConstant& q = dynamic_->weights;
    const size_t per_channel = q.codes.size() / q.scales.size();
    std::vector<float> values(q.codes.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(q.codes[i]) * q.scales[i / per_channel];
    return values;
  }

  PlanBuilder& b_;
  const int index_;
  const Node& n_;
  int x_ = -1, w_ = -1, out_ = -1;
  int src_ = -1;  // what the primitive reads: x_, its codes, or its float32 form
  Grid grid_;     // of the codes
  std::optional<DynamicProduct> dynamic_;
  int zero_buffer_ = -1;  // of dynamic codes
  ConvShape conv_;
  Chain chain_;
  const QuantizedConstant* weights_q_ = nullptr;
  std::vector<float> bias_, scale_;
};

}  // namespace

absl::StatusOr<bool> EmitConv(PlanBuilder& builder, int node_index) {
  return Guard("convolution", [&] { return ConvEmitter(builder, node_index).Emit(); });
}

absl::StatusOr<bool> EmitConvInteger(PlanBuilder& builder, int node_index) {
  return Guard("integer convolution", [&] { return ConvEmitter(builder, node_index).EmitDynamic(); });
}

absl::StatusOr<bool> EmitConvTranspose(PlanBuilder& b, int node_index) {
  return Guard("transposed convolution", [&]() -> absl::StatusOr<bool> {
    const Node& n = b.node(node_index);
    const int x = b.In(node_index, 0), w = b.In(node_index, 1), bias = b.In(node_index, 2), out = b.Out(node_index);
    if (b.value(out).dtype != DType::kFloat32 || !b.IsConstant(w) || (bias >= 0 && !b.IsConstant(bias))) return false;
    const Shape& ws = b.value(w).shape;
    const Shape& xs = b.value(x).shape;
    ASSIGN_OR_RETURN(const ops::Window window, ops::ConvTransposeWindow(n, xs, std::span(ws).subspan(2)));
    const int64_t groups = n.Int("group", 1);
    ConvShape conv = ShapeOf(window, groups);
    for (int i = 3 - window.dims; i < 3; ++i) {
      // oneDNN derives the output size from both pads; output_padding makes the second one smaller, even negative.
      const size_t k = static_cast<size_t>(i);
      conv.pad_end[k - static_cast<size_t>(3 - window.dims)] = (window.in[k] - 1) * window.stride[k] +
                                                               (window.kernel[k] - 1) * window.dilation[k] + 1 -
                                                               window.pad_begin[k] - window.out[k];
    }
    const Shape out_shape = b.value(out).shape;
    const Chain chain = MatchChain(b, out, {.channel_axis = 1, .binary = false});
    const int threads = b.ThreadsFor(
        Microseconds(b.value(x).elements * ws[1] * window.KernelSize(), /*depthwise=*/ws[1] == 1, /*int8=*/false));
    const ThreadScope scope(threads);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops post_ops;
    std::vector<Arg> args;
    RETURN_IF_ERROR(
        AppendPostOps(b, chain, {out_shape, Layout::kChannelsLast, DType::kFloat32, 1, false}, &post_ops, &args)
            .status());
    attr.set_post_ops(post_ops);
    // ONNX has [in, out / groups, kernel...]; oneDNN [groups,] out / groups, in / groups, kernel...
    memory::dims dims(ws.begin(), ws.end());
    memory::dims strides = DenseStrides(dims);
    dims[0] /= groups;
    const memory::dim group_stride = dims[0] * strides[0];
    std::swap(dims[0], dims[1]);
    std::swap(strides[0], strides[1]);
    if (groups > 1) {
      dims.insert(dims.begin(), groups);
      strides.insert(strides.begin(), group_stride);
    }
    const std::vector<float> bias_values = b.ConstantFloats(bias);
    const memory::desc bias_desc = bias_values.empty() ? memory::desc()
                                                       : memory::desc({static_cast<memory::dim>(bias_values.size())},
                                                                      memory::data_type::f32, memory::dims{1});
    const memory::desc src_desc = Desc(DType::kFloat32, xs, Layout::kChannelsLast);
    const memory::desc dst_desc = Desc(DType::kFloat32, out_shape, Layout::kChannelsLast);
    const dnnl::deconvolution_forward::primitive_desc pd(
        CpuEngine(), dnnl::prop_kind::forward_inference, dnnl::algorithm::deconvolution_direct, src_desc,
        memory::desc(dims, memory::data_type::f32, memory::format_tag::any), bias_desc, dst_desc, conv.stride,
        conv.dilation, conv.pad_begin, conv.pad_end, attr, /*allow_empty=*/true);
    if (!pd) return false;
    ASSIGN_OR_RETURN(const int src, b.Use(x, Layout::kChannelsLast));
    const memory weights = b.weights().Get(absl::StrCat(n.name, "|transposed"), pd.weights_desc(), [&] {
      memory plain(memory::desc(dims, memory::data_type::f32, strides), CpuEngine());
      const std::vector<float> values = b.ConstantFloats(w);
      std::copy(values.begin(), values.end(), static_cast<float*>(plain.get_data_handle()));
      return plain;
    });
    const int dst = DefineChainOutput(b, chain, Layout::kChannelsLast, -1);
    args.push_back(Arg::Of(DNNL_ARG_SRC, src_desc, src));
    args.push_back(Arg::Of(DNNL_ARG_WEIGHTS, weights));
    if (!bias_values.empty()) args.push_back(Arg::Of(DNNL_ARG_BIAS, VectorMemory(bias_values)));
    args.push_back(Arg::Of(DNNL_ARG_DST, dst_desc, dst));
    b.AddPrimitive(n.name, absl::StrCat("ConvTranspose", chain.name), dnnl::deconvolution_forward(pd),
                   pd.scratchpad_desc(), std::move(args), threads);
    return true;
  });
}

}  // namespace quant::onednn
