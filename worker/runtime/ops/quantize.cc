// SPDX-License-Identifier: Apache-2.0
// QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.
//
//   y = saturate(round_half_even(x / scale) + zero_point)        x = (y - zero_point) * scale
//
// in float32 arithmetic, which is what ONNX Runtime does: one division, one rounding, the sum clamped to the type.
// scale and zero_point are scalars (per tensor), vectors along `axis` (per axis), or of x's rank with x's sizes but for
// dimension `axis`, where one value serves block_size elements (blocked, opset 21). NaN quantizes to the zero point.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

struct Range {
  float low, high;
};

// The value range of an integer type one can quantize to.
absl::StatusOr<Range> QuantizedRange(DType dtype) {
  switch (dtype) {
    case DType::kInt4:
      return Range{-8, 7};
    case DType::kUInt4:
      return Range{0, 15};
    case DType::kInt8:
      return Range{-128, 127};
    case DType::kUInt8:
      return Range{0, 255};
    case DType::kInt16:
      return Range{-32768, 32767};
    case DType::kUInt16:
      return Range{0, 65535};
    default:
      return Unsupported("quantization to ", DTypeName(dtype), " is not supported");
  }
}

// Where the scale of each element is: x is seen as [outer, n, inner] around the axis, the scale index of (o, i, j) is
// o * outer_stride + i / block * block_stride + j * inner_stride.
struct Layout {
  int64_t outer = 1, n = 1, inner = 1;
  int64_t block = 1, outer_stride = 0, block_stride = 0, inner_stride = 0;
};

absl::StatusOr<Layout> GetLayout(const Node& node, std::span<const int64_t> x, std::span<const int64_t> scale) {
  Layout l;
  if (Product(scale) == 1 && scale.size() <= 1) {  // per tensor
    l.inner = Product(x);
    return l;
  }
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 1), static_cast<int>(x.size())));
  const size_t a = static_cast<size_t>(axis);
  l.outer = Product(x, 0, a);
  l.n = x[a];
  l.inner = Product(x, a + 1, x.size());
  if (scale.size() == 1) {  // per axis
    if (scale[0] != x[a]) {
      return Invalid("scale has ", scale[0], " values; axis ", axis, " of ", ShapeString(x), " has ", x[a]);
    }
    l.block_stride = 1;
    return l;
  }
  const int64_t block = node.Int("block_size", 0);
  if (scale.size() != x.size() || block < 1) {
    return Invalid("scale ", ShapeString(scale), " with block_size ", block, " does not fit the input ",
                   ShapeString(x));
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t want = i == a ? (x[i] == 0 ? 0 : (x[i] - 1) / block + 1) : x[i];
    if (scale[i] != want) {
      return Invalid("scale ", ShapeString(scale), " does not fit the input ", ShapeString(x), " with block_size ",
                     block, " on axis ", axis, ": dimension ", i, " must be ", want);
    }
  }
  l.block = block;
  l.inner_stride = 1;
  l.block_stride = l.inner;
  l.outer_stride = scale[a] * l.inner;
  return l;
}

// f(element index, scale index) for all elements in order.
template <typename F>
void ForEachScaled(const Layout& l, F f) {
  int64_t i = 0;
  for (int64_t o = 0; o < l.outer; ++o) {
    for (int64_t k = 0; k < l.n; ++k) {
      const int64_t s = o * l.outer_stride + k / l.block * l.block_stride;
      for (int64_t j = 0; j < l.inner; ++j, ++i) f(i, s + j * l.inner_stride);
    }
  }
}

// Element i of an integer tensor, as int64.
class IntegerReader {
 public:
  explicit IntegerReader(const Tensor& t) : data_(t.bytes().data()), dtype_(t.dtype()) {}
  int64_t operator[](int64_t i) const {
    switch (dtype_) {
      case DType::kInt8:
        return static_cast<int8_t>(data_[i]);
      case DType::kUInt8:
        return static_cast<uint8_t>(data_[i]);
      case DType::kInt16:
        return Load<int16_t>(i);
      case DType::kUInt16:
        return Load<uint16_t>(i);
      case DType::kInt32:
        return Load<int32_t>(i);
      default: {
        const int byte = static_cast<uint8_t>(data_[i / 2]);
        const int nibble = i % 2 == 0 ? byte & 15 : byte >> 4;
        return dtype_ == DType::kInt4 && nibble > 7 ? nibble - 16 : nibble;
      }
    }
  }

 private:
  template <typename T>
  int64_t Load(int64_t i) const {
    T v;
    std::memcpy(&v, data_ + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return v;
  }
  const std::byte* data_;
  DType dtype_;
};

// Writes element i; 4-bit elements must be written in order (the low nibble clears the byte).
class IntegerWriter {
 public:
  explicit IntegerWriter(Tensor& t) : data_(t.mutable_bytes().data()), dtype_(t.dtype()) {}
  void Set(int64_t i, int32_t v) const {
    switch (dtype_) {
      case DType::kInt8:
      case DType::kUInt8:
        data_[i] = static_cast<std::byte>(v);
        break;
      case DType::kInt16:
      case DType::kUInt16: {
        const uint16_t bits = static_cast<uint16_t>(v);
        std::memcpy(data_ + 2 * i, &bits, 2);
        break;
      }
      default:
        data_[i / 2] =
            i % 2 == 0 ? static_cast<std::byte>(v & 15) : data_[i / 2] | static_cast<std::byte>((v & 15) << 4);
    }
  }

 private:
  std::byte* data_;
  DType dtype_;
};

absl::Status CheckZeroPoint(Descs in) {
  const TensorDesc* zero = At(in, 2);
  if (zero == nullptr || zero->shape == in[1]->shape) return absl::OkStatus();
  if (Product(zero->shape) == 1 && Product(in[1]->shape) == 1) return absl::OkStatus();
  return Invalid("zero point ", ShapeString(zero->shape), " and scale ", ShapeString(in[1]->shape), " differ in shape");
}

absl::Status InferQuantize(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 3));
  if (!IsFloat(in[0]->dtype) && in[0]->dtype != DType::kInt32) {
    return Invalid("x is ", DTypeName(in[0]->dtype), "; floating point or int32 is needed");
  }
  RETURN_IF_ERROR(CheckFloat(*in[1], "y_scale"));
  RETURN_IF_ERROR(CheckZeroPoint(in));
  out[0].dtype = DType::kUInt8;
  if (node.Int("output_dtype", 0) != 0) {
    ASSIGN_OR_RETURN(out[0].dtype, DTypeFromOnnx(node.Int("output_dtype", 0)));
  }
  if (At(in, 2)) out[0].dtype = in[2]->dtype;
  RETURN_IF_ERROR(QuantizedRange(out[0].dtype).status());
  out[0].shape = in[0]->shape;
  return GetLayout(node, in[0]->shape, in[1]->shape).status();
}

absl::Status ComputeQuantize(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Layout layout, GetLayout(node, in[0]->shape(), in[1]->shape()));
  ASSIGN_OR_RETURN(const Range range, QuantizedRange(out[0].dtype()));
  Tensor converted;
  const float* x = Ptr<float>(*in[0]);
  if (in[0]->dtype() == DType::kInt32) {
    ASSIGN_OR_RETURN(converted, quant::Cast(*in[0], DType::kFloat32));
    x = Ptr<float>(converted);
  }
  const float* scale = Ptr<float>(*in[1]);
  const IntegerWriter y(out[0]);
  const IntegerReader zero(At(in, 2) ? *in[2] : out[0]);
  const bool has_zero = At(in, 2) != nullptr;
  ForEachScaled(layout, [&](int64_t i, int64_t s) {
    const float z = has_zero ? static_cast<float>(zero[s]) : 0.0f;
    const float q = std::nearbyint(x[i] / scale[s]);
    y.Set(i, static_cast<int32_t>(std::isnan(q) ? z : std::clamp(q + z, range.low, range.high)));
  });
  return absl::OkStatus();
}

absl::Status InferDequantize(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 3));
  if (in[0]->dtype != DType::kInt32) RETURN_IF_ERROR(QuantizedRange(in[0]->dtype).status());
  RETURN_IF_ERROR(CheckFloat(*in[1], "x_scale"));
  RETURN_IF_ERROR(CheckZeroPoint(in));
  if (At(in, 2)) RETURN_IF_ERROR(CheckSameType(*in[0], *in[2]));
  out[0].dtype = in[1]->dtype;
  if (node.Int("output_dtype", 0) != 0) {
    ASSIGN_OR_RETURN(out[0].dtype, DTypeFromOnnx(node.Int("output_dtype", 0)));
    RETURN_IF_ERROR(CheckFloat(out[0], "output_dtype"));
  }
  out[0].shape = in[0]->shape;
  return GetLayout(node, in[0]->shape, in[1]->shape).status();
}

absl::Status ComputeDequantize(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const Layout layout, GetLayout(node, in[0]->shape(), in[1]->shape()));
  const float* scale = Ptr<float>(*in[1]);
  float* y = MutablePtr<float>(out[0]);
  const IntegerReader x(*in[0]), zero(At(in, 2) ? *in[2] : *in[0]);
  const bool has_zero = At(in, 2) != nullptr;
  ForEachScaled(layout,
                [&](int64_t i, int64_t s) { y[i] = static_cast<float>(x[i] - (has_zero ? zero[s] : 0)) * scale[s]; });
  return absl::OkStatus();
}

// DynamicQuantizeLinear(x) -> y uint8, y_scale, y_zero_point: the range of x widened to hold 0, in 255 steps.
absl::Status InferDynamicQuantize(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1, 3));
  if (in[0]->dtype != DType::kFloat32) return Invalid("x is ", DTypeName(in[0]->dtype), "; float32 is needed");
  if (out.size() != 3) return Invalid("the operator gives 3 outputs, ", out.size(), " are listed");
  out[0] = {DType::kUInt8, in[0]->shape, nullptr};
  out[1] = {DType::kFloat32, {}, nullptr};
  out[2] = {DType::kUInt8, {}, nullptr};
  return absl::OkStatus();
}

absl::Status ComputeDynamicQuantize(const Node&, Inputs in, Outputs out) {
  const float* x = Ptr<float>(*in[0]);
  const int64_t n = in[0]->elements();
  float low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  const float scale = high == low ? 1.0f : (high - low) / 255.0f;
  const float steps = 0.0f - low / scale;  // NaN when x holds an infinity
  const float zero = std::isnan(steps) ? 0.0f : std::nearbyint(std::clamp(steps, 0.0f, 255.0f));
  if (Wanted(out, 0)) {
    uint8_t* y = MutablePtr<uint8_t>(out[0]);
    for (int64_t i = 0; i < n; ++i) {
      const float q = std::nearbyint(x[i] / scale);
      y[i] = static_cast<uint8_t>(std::isnan(q) ? zero : std::clamp(q + zero, 0.0f, 255.0f));
    }
  }
  if (Wanted(out, 1)) *MutablePtr<float>(out[1]) = scale;
  if (Wanted(out, 2)) *MutablePtr<uint8_t>(out[2]) = static_cast<uint8_t>(zero);
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"DequantizeLinear", {InferDequantize, ViaFloat<ComputeDequantize>}},
    {"DequantizeLinear", {InferDequantize, ViaFloat<ComputeDequantize>}, "com.microsoft"},
    {"DynamicQuantizeLinear", {InferDynamicQuantize, ComputeDynamicQuantize}},
    {"QuantizeLinear", {InferQuantize, ViaFloat<ComputeQuantize>}},
    {"QuantizeLinear", {InferQuantize, ViaFloat<ComputeQuantize>}, "com.microsoft"},
};

}  // namespace

std::span<const OpEntry> QuantizeOps() { return kOps; }

}  // namespace quant::ops
