// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/ops/util.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/strings.h"

namespace quant::ops {

absl::Status CheckArity(const Node& node, Descs in, size_t required, size_t max_in, size_t max_out) {
  if (in.size() < required || in.size() > max_in) {
    return Invalid("the operator has ", in.size(), " inputs; it takes ", required, " to ", max_in);
  }
  for (size_t i = 0; i < required; ++i) {
    if (in[i] == nullptr) return Invalid("input ", i, " is required but absent");
  }
  if (node.outputs.empty() || node.outputs.size() > max_out) {
    return Invalid("the operator has ", node.outputs.size(), " outputs; it gives 1 to ", max_out);
  }
  return absl::OkStatus();
}

absl::Status CheckFloat(const TensorDesc& desc, std::string_view what) {
  if (IsFloat(desc.dtype)) return absl::OkStatus();
  return Invalid(AbslView(what), " is ", DTypeName(desc.dtype), "; a floating-point type is needed");
}

absl::Status CheckSameType(const TensorDesc& a, const TensorDesc& b) {
  if (a.dtype == b.dtype) return absl::OkStatus();
  return Invalid("inputs have different types, ", DTypeName(a.dtype), " and ", DTypeName(b.dtype));
}

absl::Status CheckMinRank(const TensorDesc& desc, int rank, std::string_view what) {
  if (static_cast<int>(desc.shape.size()) >= rank) return absl::OkStatus();
  return Invalid(AbslView(what), " has shape ", ShapeString(desc.shape), "; rank ", rank, " or more is needed");
}

absl::StatusOr<int> NormalizeAxis(int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    return Invalid("axis ", axis, " is out of range for rank ", rank, ": it must be in [", -rank, ", ", rank - 1, "]");
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

absl::StatusOr<std::vector<int>> NormalizeAxes(std::span<const int64_t> axes, int rank) {
  std::vector<int> result;
  for (const int64_t a : axes) {
    ASSIGN_OR_RETURN(const int axis, NormalizeAxis(a, rank));
    if (std::find(result.begin(), result.end(), axis) != result.end()) return Invalid("axis ", a, " is given twice");
    result.push_back(axis);
  }
  return result;
}

absl::StatusOr<std::vector<int64_t>> ConstantInts(const TensorDesc& desc, std::string_view what) {
  if (IsFloat(desc.dtype) || desc.shape.size() > 1) {
    return Invalid(AbslView(what), " is ", DTypeName(desc.dtype), " ", ShapeString(desc.shape),
                   "; a vector of integers is needed");
  }
  if (desc.constant == nullptr) {
    return Unsupported(AbslView(what),
                       " is computed from data while running; shapes must follow from the input shapes");
  }
  return ToInt64(*desc.constant);
}

absl::StatusOr<std::optional<std::vector<int64_t>>> IntsFromInputOrAttribute(const Node& node, Descs in, size_t i,
                                                                             std::string_view key) {
  if (const TensorDesc* desc = At(in, i)) {
    ASSIGN_OR_RETURN(std::vector<int64_t> v, ConstantInts(*desc, key));
    return v;
  }
  if (node.Has(key)) return node.Ints(key);
  return std::nullopt;
}

absl::StatusOr<std::optional<std::vector<int64_t>>> IntsFromInputOrAttribute(const Node& node, Inputs in, size_t i,
                                                                             std::string_view key) {
  if (const Tensor* tensor = At(in, i)) {
    ASSIGN_OR_RETURN(std::vector<int64_t> v, ToInt64(*tensor));
    return v;
  }
  if (node.Has(key)) return node.Ints(key);
  return std::nullopt;
}

absl::StatusOr<Shape> Broadcast(std::span<const int64_t> a, std::span<const int64_t> b) {
  const size_t rank = std::max(a.size(), b.size());
  Shape out(rank);
  for (size_t i = 0; i < rank; ++i) {
    const int64_t x = i + a.size() < rank ? 1 : a[i + a.size() - rank];
    const int64_t y = i + b.size() < rank ? 1 : b[i + b.size() - rank];
    if (x != y && x != 1 && y != 1) {
      return Invalid("shapes ", ShapeString(a), " and ", ShapeString(b), " do not broadcast");
    }
    out[i] = x == 1 ? y : x;
  }
  return out;
}

std::vector<int64_t> Strides(std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t n = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = n;
    n *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

std::vector<int64_t> BroadcastStrides(std::span<const int64_t> shape, std::span<const int64_t> target) {
  const std::vector<int64_t> own = Strides(shape);
  std::vector<int64_t> strides(target.size(), 0);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1) strides[target.size() - shape.size() + i] = own[i];
  }
  return strides;
}

int64_t Product(std::span<const int64_t> shape, size_t begin, size_t end) {
  int64_t n = 1;
  for (size_t i = begin; i < end; ++i) n *= shape[i];
  return n;
}

Odometer::Odometer(std::span<const int64_t> dims, std::vector<std::vector<int64_t>> strides)
    : dims_(dims.begin(), dims.end()),
      position_(dims.size(), 0),
      strides_(std::move(strides)),
      offsets_(strides_.size(), 0) {}

bool Odometer::Next() {
  for (size_t d = dims_.size(); d-- > 0;) {
    if (++position_[d] < dims_[d]) {
      for (size_t s = 0; s < offsets_.size(); ++s) offsets_[s] += strides_[s][d];
      return true;
    }
    for (size_t s = 0; s < offsets_.size(); ++s) offsets_[s] -= strides_[s][d] * (dims_[d] - 1);
    position_[d] = 0;
  }
  return false;
}

namespace {

template <typename T>
void CopyRow(int64_t n, const std::byte* src, int64_t src_stride, std::byte* dst, int64_t dst_stride) {
  // memcpy per element: borrowed sources may be unaligned.
  constexpr int64_t kSize = static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; ++i) std::memcpy(dst + i * dst_stride * kSize, src + i * src_stride * kSize, sizeof(T));
}

}  // namespace

void CopyStrided(size_t size, std::span<const int64_t> dims, const std::byte* src, std::span<const int64_t> src_strides,
                 std::byte* dst, std::span<const int64_t> dst_strides) {
  // Drop axes of 1 and merge neighbours that are contiguous on both sides.
  std::vector<int64_t> d, ss, ds;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 0) return;
    if (dims[i] == 1) continue;
    if (!d.empty() && ss.back() == src_strides[i] * dims[i] && ds.back() == dst_strides[i] * dims[i]) {
      d.back() *= dims[i];
      ss.back() = src_strides[i];
      ds.back() = dst_strides[i];
    } else {
      d.push_back(dims[i]);
      ss.push_back(src_strides[i]);
      ds.push_back(dst_strides[i]);
    }
  }
  if (d.empty()) {
    std::memcpy(dst, src, size);
    return;
  }
  const int64_t n = d.back(), row_src = ss.back(), row_dst = ds.back();
  d.pop_back(), ss.pop_back(), ds.pop_back();
  const int64_t bytes = static_cast<int64_t>(size);
  Odometer at(d, {ss, ds});
  do {
    const std::byte* s = src + at.offset(0) * bytes;
    std::byte* t = dst + at.offset(1) * bytes;
    if (row_src == 1 && row_dst == 1) {
      std::memcpy(t, s, static_cast<size_t>(n) * size);
    } else if (size == 1) {
      CopyRow<uint8_t>(n, s, row_src, t, row_dst);
    } else if (size == 2) {
      CopyRow<uint16_t>(n, s, row_src, t, row_dst);
    } else if (size == 4) {
      CopyRow<uint32_t>(n, s, row_src, t, row_dst);
    } else {
      CopyRow<uint64_t>(n, s, row_src, t, row_dst);
    }
  } while (at.Next());
}

absl::StatusOr<size_t> ElementBytes(DType dtype, std::string_view what) {
  const int bits = DTypeBits(dtype);
  if (bits < 8) return Unsupported(AbslView(what), " of the packed type ", DTypeName(dtype), " is not supported");
  return static_cast<size_t>(bits / 8);
}

absl::Status CopyAll(const Tensor& src, Tensor& dst) {
  if (src.bytes().size() != dst.bytes().size()) {
    return absl::InternalError(absl::StrCat("copy of ", src.bytes().size(), " bytes to ", dst.bytes().size()));
  }
  if (!src.bytes().empty()) std::memcpy(dst.mutable_bytes().data(), src.bytes().data(), src.bytes().size());
  return absl::OkStatus();
}

absl::Status ComputeViaFloat(Op::Compute compute, bool double_is_native, const Node& node, Inputs in, Outputs out) {
  const auto foreign = [&](DType t) {
    return IsFloat(t) && t != DType::kFloat32 && !(double_is_native && t == DType::kFloat64);
  };
  bool any = false;
  for (const Tensor* t : in) any = any || (t != nullptr && foreign(t->dtype()));
  for (const Tensor& t : out) any = any || foreign(t.dtype());
  if (!any) return compute(node, in, out);
  std::vector<Tensor> copies(in.size());
  std::vector<const Tensor*> pointers(in.begin(), in.end());
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == nullptr || !foreign(in[i]->dtype())) continue;
    ASSIGN_OR_RETURN(copies[i], quant::Cast(*in[i], DType::kFloat32));
    pointers[i] = &copies[i];
  }
  std::vector<Tensor> results(out.begin(), out.end());
  for (size_t i = 0; i < out.size(); ++i) {
    if (!Wanted(out, i) || !foreign(out[i].dtype())) continue;
    ASSIGN_OR_RETURN(results[i], Tensor::Allocate(DType::kFloat32, out[i].shape()));
  }
  RETURN_IF_ERROR(compute(node, pointers, Outputs(results)));
  for (size_t i = 0; i < out.size(); ++i) {
    if (!Wanted(out, i) || !foreign(out[i].dtype())) continue;
    ASSIGN_OR_RETURN(const Tensor rounded, quant::Cast(results[i], out[i].dtype()));
    RETURN_IF_ERROR(CopyAll(rounded, out[i]));
  }
  return absl::OkStatus();
}

absl::Status InferSameAsFirst(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status InferSameFloat(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(InferSameAsFirst(node, in, out));
  return CheckFloat(*in[0], "the input");
}

absl::StatusOr<DType> DTypeFromOnnx(int64_t type) {
  switch (type) {  // TensorProto.DataType of onnx.proto
    case 1:
      return DType::kFloat32;
    case 2:
      return DType::kUInt8;
    case 3:
      return DType::kInt8;
    case 4:
      return DType::kUInt16;
    case 5:
      return DType::kInt16;
    case 6:
      return DType::kInt32;
    case 7:
      return DType::kInt64;
    case 9:
      return DType::kBool;
    case 10:
      return DType::kFloat16;
    case 11:
      return DType::kFloat64;
    case 12:
      return DType::kUInt32;
    case 13:
      return DType::kUInt64;
    case 16:
      return DType::kBFloat16;
    case 21:
      return DType::kUInt4;
    case 22:
      return DType::kInt4;
    default:
      return Unsupported("ONNX element type ", type, " is not supported");
  }
}

}  // namespace quant::ops
