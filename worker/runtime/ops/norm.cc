// SPDX-License-Identifier: Apache-2.0
// BatchNormalization (inference), InstanceNormalization, LayerNormalization, RMSNormalization (and ONNX Runtime's name
// for it, SimplifiedLayerNormalization), GroupNormalization, LRN, LpNormalization, Softmax, LogSoftmax, Hardmax. Means
// and variances are biased (divided by the count) and in double.
#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

// `desc` must be one value per channel.
absl::Status CheckPerChannel(const TensorDesc& desc, int64_t channels, const char* what) {
  RETURN_IF_ERROR(CheckFloat(desc, what));
  if (desc.shape == Shape{channels}) return absl::OkStatus();
  return Invalid(what, " has shape ", ShapeString(desc.shape), "; [", channels, "] is needed");
}

absl::Status InferBatchNorm(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 5, 5, 5));
  if (node.Int("training_mode", 0) != 0) return Unsupported("training_mode 1 is not supported");
  for (size_t i = 1; i < node.outputs.size(); ++i) {
    if (!node.outputs[i].empty()) return Unsupported("output ", i, " exists only in training");
  }
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  // A single dimension is a batch of one channel each, as the specification has it.
  RETURN_IF_ERROR(CheckMinRank(*in[0], 1, "X"));
  const int64_t channels = in[0]->shape.size() > 1 ? in[0]->shape[1] : 1;
  const char* const names[] = {"X", "scale", "B", "mean", "var"};
  for (size_t i = 1; i < 5; ++i) RETURN_IF_ERROR(CheckPerChannel(*in[i], channels, names[i]));
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeBatchNorm(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  const int64_t channels = shape.size() > 1 ? shape[1] : 1;
  const int64_t size = shape.size() > 1 ? Product(shape, 2, shape.size()) : 1;
  const double epsilon = static_cast<double>(node.Float("epsilon", 1e-5f));
  const float *x = Ptr<float>(*in[0]), *scale = Ptr<float>(*in[1]), *shift = Ptr<float>(*in[2]);
  const float *mean = Ptr<float>(*in[3]), *var = Ptr<float>(*in[4]);
  float* y = MutablePtr<float>(out[0]);
  for (int64_t n = 0; n < shape[0]; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      const double a = static_cast<double>(scale[c]) / std::sqrt(static_cast<double>(var[c]) + epsilon);
      const double b = static_cast<double>(shift[c]), m = static_cast<double>(mean[c]);
      for (int64_t i = 0; i < size; ++i, ++x, ++y) *y = static_cast<float>((static_cast<double>(*x) - m) * a + b);
    }
  }
  return absl::OkStatus();
}

struct Moments {
  double mean, inverse_deviation;
};

Moments GetMoments(const float* x, int64_t n, double epsilon) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  const double mean = n > 0 ? sum / static_cast<double>(n) : 0;
  for (int64_t i = 0; i < n; ++i) squares += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean);
  const double variance = n > 0 ? squares / static_cast<double>(n) : 0;
  return {mean, 1.0 / std::sqrt(variance + epsilon)};
}

absl::Status InferInstanceNorm(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  RETURN_IF_ERROR(CheckFloat(*in[0], "input"));
  RETURN_IF_ERROR(CheckMinRank(*in[0], 3, "input"));
  RETURN_IF_ERROR(CheckPerChannel(*in[1], in[0]->shape[1], "scale"));
  RETURN_IF_ERROR(CheckPerChannel(*in[2], in[0]->shape[1], "B"));
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeInstanceNorm(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  const int64_t size = Product(shape, 2, shape.size());
  const float *x = Ptr<float>(*in[0]), *scale = Ptr<float>(*in[1]), *shift = Ptr<float>(*in[2]);
  float* y = MutablePtr<float>(out[0]);
  for (int64_t p = 0; p < shape[0] * shape[1]; ++p, x += size, y += size) {
    const Moments m = GetMoments(x, size, static_cast<double>(node.Float("epsilon", 1e-5f)));
    const double a = static_cast<double>(scale[p % shape[1]]) * m.inverse_deviation;
    const double b = static_cast<double>(shift[p % shape[1]]);
    for (int64_t i = 0; i < size; ++i) y[i] = static_cast<float>((static_cast<double>(x[i]) - m.mean) * a + b);
  }
  return absl::OkStatus();
}

// GroupNormalization: scale and bias one per channel (opset 21) or one per group (opset 18).
absl::Status InferGroupNorm(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  RETURN_IF_ERROR(CheckMinRank(*in[0], 3, "X"));
  const int64_t channels = in[0]->shape[1], groups = node.Int("num_groups", 0);
  if (groups < 1 || channels % groups != 0) {
    return Invalid("num_groups is ", groups, "; it must divide the ", channels, " channels");
  }
  for (size_t i = 1; i < 3; ++i) {
    if (in[i]->shape == Shape{groups}) continue;
    RETURN_IF_ERROR(CheckPerChannel(*in[i], channels, i == 1 ? "scale" : "bias"));
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeGroupNorm(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  const int64_t channels = shape[1], groups = node.Int("num_groups", 1), per_group = channels / groups;
  const int64_t size = Product(shape, 2, shape.size());
  const float *x = Ptr<float>(*in[0]), *scale = Ptr<float>(*in[1]), *shift = Ptr<float>(*in[2]);
  const bool scale_per_group = in[1]->elements() != channels, shift_per_group = in[2]->elements() != channels;
  float* y = MutablePtr<float>(out[0]);
  for (int64_t p = 0; p < shape[0] * groups; ++p) {
    const Moments m = GetMoments(x, per_group * size, static_cast<double>(node.Float("epsilon", 1e-5f)));
    for (int64_t c = p % groups * per_group; c < (p % groups + 1) * per_group; ++c) {
      const double a = static_cast<double>(scale[scale_per_group ? c / per_group : c]) * m.inverse_deviation;
      const double b = static_cast<double>(shift[shift_per_group ? c / per_group : c]);
      for (int64_t i = 0; i < size; ++i, ++x, ++y) *y = static_cast<float>((static_cast<double>(*x) - m.mean) * a + b);
    }
  }
  return absl::OkStatus();
}

absl::Status InferLayerNorm(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 3, 3));
  RETURN_IF_ERROR(CheckFloat(*in[0], "X"));
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), static_cast<int>(x.size())));
  const std::span<const int64_t> normalized = std::span(x).subspan(static_cast<size_t>(axis));
  for (size_t i = 1; i < in.size(); ++i) {
    if (in[i] == nullptr) continue;
    RETURN_IF_ERROR(CheckFloat(*in[i], i == 1 ? "Scale" : "B"));
    const absl::StatusOr<Shape> fit = Broadcast(in[i]->shape, normalized);
    if (!fit.ok() || !std::equal(fit->begin(), fit->end(), normalized.begin(), normalized.end())) {
      return Invalid(i == 1 ? "Scale " : "B ", ShapeString(in[i]->shape),
                     " does not broadcast to the normalized shape ", ShapeString(normalized));
    }
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape = x;
  for (size_t i = 1; i < out.size(); ++i) {  // Mean, InvStdDev
    out[i].dtype = DType::kFloat32;
    out[i].shape = x;
    for (size_t d = static_cast<size_t>(axis); d < x.size(); ++d) out[i].shape[d] = 1;
  }
  return absl::OkStatus();
}

absl::Status ComputeLayerNorm(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), in[0]->rank()));
  const std::span<const int64_t> normalized = std::span(shape).subspan(static_cast<size_t>(axis));
  const int64_t rows = Product(shape, 0, static_cast<size_t>(axis)), size = Product(normalized);
  if (out[0].elements() == 0) return absl::OkStatus();
  const float* x = Ptr<float>(*in[0]);
  float* y = MutablePtr<float>(out[0]);
  const float* scale = Ptr<float>(*in[1]);
  const float* shift = At(in, 2) ? Ptr<float>(*in[2]) : nullptr;
  const std::vector<int64_t> scale_strides = BroadcastStrides(in[1]->shape(), normalized);
  const std::vector<int64_t> shift_strides =
      shift ? BroadcastStrides(in[2]->shape(), normalized) : std::vector<int64_t>(normalized.size(), 0);
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    const Moments m = GetMoments(x, size, static_cast<double>(node.Float("epsilon", 1e-5f)));
    Odometer at(normalized, {scale_strides, shift_strides});
    for (int64_t i = 0; i < size; ++i, at.Next()) {
      const double v = (static_cast<double>(x[i]) - m.mean) * m.inverse_deviation;
      y[i] = static_cast<float>(v * static_cast<double>(scale[at.offset(0)]) +
                                (shift ? static_cast<double>(shift[at.offset(1)]) : 0.0));
    }
    if (Wanted(out, 1)) MutablePtr<float>(out[1])[r] = static_cast<float>(m.mean);
    if (Wanted(out, 2)) MutablePtr<float>(out[2])[r] = static_cast<float>(m.inverse_deviation);
  }
  return absl::OkStatus();
}

// RMSNormalization: y = x / sqrt(mean(x^2) + epsilon) * scale over the dimensions from `axis` on.
absl::Status InferRmsNorm(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2, node.op_type == "RMSNormalization" ? 1 : 2));
  return InferLayerNorm(node, in, out);
}

absl::Status ComputeRmsNorm(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), in[0]->rank()));
  const std::span<const int64_t> normalized = std::span(shape).subspan(static_cast<size_t>(axis));
  const int64_t rows = Product(shape, 0, static_cast<size_t>(axis)), size = Product(normalized);
  if (out[0].elements() == 0) return absl::OkStatus();
  const float *x = Ptr<float>(*in[0]), *scale = Ptr<float>(*in[1]);
  float* y = MutablePtr<float>(out[0]);
  const std::vector<int64_t> strides = BroadcastStrides(in[1]->shape(), normalized);
  const double epsilon = static_cast<double>(node.Float("epsilon", 1e-5f));
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    double squares = 0;
    for (int64_t i = 0; i < size; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(size) + epsilon);
    Odometer at(normalized, {strides});
    for (int64_t i = 0; i < size; ++i, at.Next()) {
      y[i] = static_cast<float>(static_cast<double>(x[i]) * inverse * static_cast<double>(scale[at.offset(0)]));
    }
    if (Wanted(out, 1)) MutablePtr<float>(out[1])[r] = static_cast<float>(inverse);
  }
  return absl::OkStatus();
}

// y = x / (bias + alpha / size * sum of squares over `size` channels around c) ^ beta
absl::Status InferLrn(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferSameFloat(node, in, out));
  RETURN_IF_ERROR(CheckMinRank(*in[0], 2, "X"));
  const int64_t size = node.Int("size", 0);
  if (size < 1 || size > kMaxAttribute) return Invalid("size is ", size, "; it must be in [1, ", kMaxAttribute, "]");
  return absl::OkStatus();
}

absl::Status ComputeLrn(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  const int64_t channels = shape[1], inner = Product(shape, 2, shape.size()), size = node.Int("size", 1);
  const double alpha = static_cast<double>(node.Float("alpha", 1e-4f)),
               beta = static_cast<double>(node.Float("beta", 0.75f));
  const double bias = static_cast<double>(node.Float("bias", 1));
  const float* x = Ptr<float>(*in[0]);
  float* y = MutablePtr<float>(out[0]);
  for (int64_t n = 0; n < shape[0]; ++n, x += channels * inner, y += channels * inner) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t begin = std::max<int64_t>(0, c - (size - 1) / 2), end = std::min(channels, c + size / 2 + 1);
      for (int64_t i = 0; i < inner; ++i) {
        double sum = 0;
        for (int64_t j = begin; j < end; ++j)
          sum += static_cast<double>(x[j * inner + i]) * static_cast<double>(x[j * inner + i]);
        y[c * inner + i] = static_cast<float>(static_cast<double>(x[c * inner + i]) /
                                              std::pow(bias + alpha / static_cast<double>(size) * sum, beta));
      }
    }
  }
  return absl::OkStatus();
}

// Operators along one axis, the others being independent: Softmax, LogSoftmax, Hardmax, LpNormalization.
absl::Status InferAlongAxis(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferSameFloat(node, in, out));
  if (node.op_type == "LpNormalization" && node.Int("p", 2) != 1 && node.Int("p", 2) != 2) {
    return Invalid("p is ", node.Int("p", 2), "; it must be 1 or 2");
  }
  return NormalizeAxis(node.Int("axis", -1), static_cast<int>(in[0]->shape.size())).status();
}

// Calls f(x, y, n, stride) for every line along the axis.
template <typename F>
absl::Status ForEachLine(const Node& node, Inputs in, Outputs out, F f) {
  const Shape& shape = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), in[0]->rank()));
  const size_t a = static_cast<size_t>(axis);
  const int64_t outer = Product(shape, 0, a), n = shape[a], inner = Product(shape, a + 1, shape.size());
  if (n == 0) return absl::OkStatus();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < inner; ++i) {
      f(Ptr<float>(*in[0]) + o * n * inner + i, MutablePtr<float>(out[0]) + o * n * inner + i, n, inner);
    }
  }
  return absl::OkStatus();
}

absl::Status ComputeSoftmax(const Node& node, Inputs in, Outputs out) {
  const bool log = node.op_type == "LogSoftmax";
  return ForEachLine(node, in, out, [log](const float* x, float* y, int64_t n, int64_t stride) {
    double max = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t i = 0; i < n; ++i) max = std::max(max, static_cast<double>(x[i * stride]));
    for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i * stride]) - max);
    const double log_sum = std::log(sum);
    for (int64_t i = 0; i < n; ++i) {
      const double v = static_cast<double>(x[i * stride]) - max;
      y[i * stride] = static_cast<float>(log ? v - log_sum : std::exp(v) / sum);
    }
  });
}

absl::Status ComputeHardmax(const Node& node, Inputs in, Outputs out) {
  return ForEachLine(node, in, out, [](const float* x, float* y, int64_t n, int64_t stride) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; ++i) best = x[i * stride] > x[best * stride] ? i : best;
    for (int64_t i = 0; i < n; ++i) y[i * stride] = i == best ? 1.0f : 0.0f;
  });
}

absl::Status ComputeLpNorm(const Node& node, Inputs in, Outputs out) {
  const bool l1 = node.Int("p", 2) == 1;
  return ForEachLine(node, in, out, [l1](const float* x, float* y, int64_t n, int64_t stride) {
    double norm = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double v = static_cast<double>(x[i * stride]);
      norm += l1 ? std::fabs(v) : v * v;
    }
    if (!l1) norm = std::sqrt(norm);
    // A line of zeros stays zero.
    for (int64_t i = 0; i < n; ++i)
      y[i * stride] = norm > 0 ? static_cast<float>(static_cast<double>(x[i * stride]) / norm) : 0.0f;
  });
}

constexpr OpEntry kOps[] = {
    {"BatchNormalization", {InferBatchNorm, ViaFloat<ComputeBatchNorm>}},
    {"GroupNormalization", {InferGroupNorm, ViaFloat<ComputeGroupNorm>}},
    {"Hardmax", {InferAlongAxis, ViaFloat<ComputeHardmax>}},
    {"InstanceNormalization", {InferInstanceNorm, ViaFloat<ComputeInstanceNorm>}},
    {"LRN", {InferLrn, ViaFloat<ComputeLrn>}},
    {"LayerNormalization", {InferLayerNorm, ViaFloat<ComputeLayerNorm>}},
    {"LogSoftmax", {InferAlongAxis, ViaFloat<ComputeSoftmax>}},
    {"LpNormalization", {InferAlongAxis, ViaFloat<ComputeLpNorm>}},
    {"RMSNormalization", {InferRmsNorm, ViaFloat<ComputeRmsNorm>}},
    {"SimplifiedLayerNormalization", {InferRmsNorm, ViaFloat<ComputeRmsNorm>}},
    {"Softmax", {InferAlongAxis, ViaFloat<ComputeSoftmax>}},
};

}  // namespace

std::span<const OpEntry> NormOps() { return kOps; }

}  // namespace quant::ops
