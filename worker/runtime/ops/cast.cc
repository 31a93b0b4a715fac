// SPDX-License-Identifier: Apache-2.0
// Cast and CastLike. Float to integer truncates towards zero (as the ONNX operator has it, unlike quant::Cast, which
// rounds); values outside the integer's range, which the specification leaves open, saturate, NaN gives 0. Integer to
// integer keeps the low bits. Narrowing to a smaller float rounds half to even.
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

template <typename To, typename From>
To Convert(From v) {
  if constexpr (std::is_floating_point_v<To> || !std::is_floating_point_v<From>) {
    return static_cast<To>(v);
  } else {
    if (std::isnan(v)) return To{0};
    const double t = std::trunc(static_cast<double>(v));
    if (t <= static_cast<double>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (t >= static_cast<double>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(t);
  }
}

absl::Status CastNumeric(const Tensor& src, Tensor& dst) {
  return DispatchNumeric(src.dtype(), [&]<typename From>(From) {
    return DispatchNumeric(dst.dtype(), [&]<typename To>(To) {
      const From* x = Ptr<From>(src);
      To* y = MutablePtr<To>(dst);
      for (int64_t i = 0; i < src.elements(); ++i) y[i] = Convert<To>(x[i]);
      return absl::OkStatus();
    });
  });
}

// Types DispatchNumeric does not have, and between which and floats quant::Cast does what the operator wants.
bool IsSpecial(DType t) {
  return t == DType::kBool || t == DType::kFloat16 || t == DType::kBFloat16 || DTypeBits(t) < 8;
}

absl::Status CastTensor(const Tensor& src, Tensor& dst) {
  if (src.dtype() == dst.dtype()) return CopyAll(src, dst);
  if (!IsSpecial(src.dtype()) && !IsSpecial(dst.dtype())) return CastNumeric(src, dst);
  if (IsFloat(src.dtype()) && !IsFloat(dst.dtype()) && dst.dtype() != DType::kBool) {
    // Truncate first: by way of float (16-bit source) to int32 or the integer itself (packed 4-bit destination).
    Tensor wide = src;
    if (IsSpecial(src.dtype())) {
      ASSIGN_OR_RETURN(wide, quant::Cast(src, DType::kFloat32));
    }
    if (!IsSpecial(dst.dtype())) return CastNumeric(wide, dst);
    ASSIGN_OR_RETURN(Tensor whole, Tensor::Allocate(DType::kInt32, src.shape()));
    RETURN_IF_ERROR(CastNumeric(wide, whole));
    ASSIGN_OR_RETURN(const Tensor packed, quant::Cast(whole, dst.dtype()));
    return CopyAll(packed, dst);
  }
  ASSIGN_OR_RETURN(const Tensor converted, quant::Cast(src, dst.dtype()));
  return CopyAll(converted, dst);
}

absl::Status InferCast(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  ASSIGN_OR_RETURN(out[0].dtype, DTypeFromOnnx(node.Int("to", 0)));
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status InferCastLike(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  out[0].dtype = in[1]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeCast(const Node&, Inputs in, Outputs out) { return CastTensor(*in[0], out[0]); }

constexpr OpEntry kOps[] = {
    {"Cast", {InferCast, ComputeCast}},
    {"CastLike", {InferCastLike, ComputeCast}},
};

}  // namespace

std::span<const OpEntry> CastOps() { return kOps; }

}  // namespace quant::ops
