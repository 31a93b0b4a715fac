// SPDX-License-Identifier: Apache-2.0
// Operators that change or read shapes and make constants, but move no elements: Reshape, Flatten, Squeeze, Unsqueeze,
// Shape, Size, Constant, ConstantOfShape, Range.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

absl::Status ComputeCopy(const Node&, Inputs in, Outputs out) { return CopyAll(*in[0], out[0]); }

absl::Status InferReshape(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(Shape shape, ConstantInts(*in[1], "shape"));
  const bool allow_zero = node.Int("allowzero", 0) != 0;
  int unknown = -1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 0 && !allow_zero) {
      if (i >= x.size())
        return Invalid("shape ", ShapeString(shape), " copies dimension ", i, ", which the input ", ShapeString(x),
                       " lacks");
      shape[i] = x[i];
    } else if (shape[i] == -1) {
      if (unknown >= 0) return Invalid("shape ", ShapeString(shape), " has more than one -1");
      unknown = static_cast<int>(i);
    } else if (shape[i] < 0) {
      return Invalid("shape ", ShapeString(shape), " has the dimension ", shape[i]);
    }
  }
  const int64_t have = Product(x);
  if (unknown >= 0) {
    shape[static_cast<size_t>(unknown)] = 1;
    ASSIGN_OR_RETURN(const int64_t rest, ElementCount(shape));
    if (rest == 0 || have % rest != 0) {
      return Invalid(have, " elements of ", ShapeString(x), " do not fit a shape whose known dimensions hold ", rest);
    }
    shape[static_cast<size_t>(unknown)] = have / rest;
  }
  ASSIGN_OR_RETURN(const int64_t want, ElementCount(shape));
  if (want != have)
    return Invalid("the input ", ShapeString(x), " has ", have, " elements, shape ", ShapeString(shape), " needs ",
                   want);
  out[0].dtype = in[0]->dtype;
  out[0].shape = std::move(shape);
  return absl::OkStatus();
}

absl::Status InferFlatten(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  const Shape& x = in[0]->shape;
  const int64_t rank = static_cast<int64_t>(x.size());
  int64_t axis = node.Int("axis", 1);
  if (axis < -rank || axis > rank) return Invalid("axis ", axis, " is out of range for ", ShapeString(x));
  if (axis < 0) axis += rank;
  out[0].dtype = in[0]->dtype;
  out[0].shape = {Product(x, 0, static_cast<size_t>(axis)), Product(x, static_cast<size_t>(axis), x.size())};
  return absl::OkStatus();
}

absl::Status InferSqueeze(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 2));
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(const auto axes, IntsFromInputOrAttribute(node, in, 1, "axes"));
  std::vector<bool> drop(x.size(), false);
  if (axes.has_value()) {
    ASSIGN_OR_RETURN(const std::vector<int> normalized, NormalizeAxes(*axes, static_cast<int>(x.size())));
    for (const int a : normalized) {
      if (x[static_cast<size_t>(a)] != 1) return Invalid("axis ", a, " of ", ShapeString(x), " is not 1");
      drop[static_cast<size_t>(a)] = true;
    }
  } else {
    for (size_t i = 0; i < x.size(); ++i) drop[i] = x[i] == 1;
  }
  out[0].dtype = in[0]->dtype;
  out[0].shape.clear();
  for (size_t i = 0; i < x.size(); ++i) {
    if (!drop[i]) out[0].shape.push_back(x[i]);
  }
  return absl::OkStatus();
}

absl::Status InferUnsqueeze(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 2));
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(const auto axes, IntsFromInputOrAttribute(node, in, 1, "axes"));
  if (!axes.has_value()) return Invalid("axes is missing");
  const size_t rank = x.size() + axes->size();
  if (rank > kMaxRank) return Invalid("the result has rank ", rank, "; at most ", kMaxRank);
  ASSIGN_OR_RETURN(const std::vector<int> normalized, NormalizeAxes(*axes, static_cast<int>(rank)));
  out[0].dtype = in[0]->dtype;
  out[0].shape.assign(rank, 0);
  for (const int a : normalized) out[0].shape[static_cast<size_t>(a)] = 1;
  size_t from = 0;
  for (size_t i = 0; i < rank; ++i) {
    const bool added = std::find(normalized.begin(), normalized.end(), static_cast<int>(i)) != normalized.end();
    if (!added) out[0].shape[i] = x[from++];
  }
  return absl::OkStatus();
}

// The dimensions [start, end) that Shape returns.
std::pair<int64_t, int64_t> ShapeRange(const Node& node, int64_t rank) {
  const auto clamp = [rank](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
  const int64_t start = clamp(node.Int("start", 0)), end = clamp(node.Int("end", rank));
  return {start, std::max(start, end)};
}

absl::Status InferShape(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  const auto [start, end] = ShapeRange(node, static_cast<int64_t>(in[0]->shape.size()));
  out[0].dtype = DType::kInt64;
  out[0].shape = {end - start};
  return absl::OkStatus();
}

absl::Status ComputeShape(const Node& node, Inputs in, Outputs out) {
  const auto [start, end] = ShapeRange(node, in[0]->rank());
  std::copy(in[0]->shape().begin() + start, in[0]->shape().begin() + end, MutablePtr<int64_t>(out[0]));
  return absl::OkStatus();
}

absl::Status InferSize(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  out[0] = {DType::kInt64, {}, nullptr};
  return absl::OkStatus();
}

absl::Status ComputeSize(const Node&, Inputs in, Outputs out) {
  *MutablePtr<int64_t>(out[0]) = in[0]->elements();
  return absl::OkStatus();
}

// The tensor a Constant node stands for.
absl::StatusOr<Tensor> ConstantValue(const Node& node) {
  if (const auto it = node.attributes.find("value"); it != node.attributes.end()) {
    if (const Tensor* t = std::get_if<Tensor>(&it->second)) return *t;
  }
  if (node.Has("value_float")) return Tensor::Scalar(node.Float("value_float", 0));
  if (node.Has("value_int")) return Tensor::Scalar(node.Int("value_int", 0));
  if (node.Has("value_floats")) {
    const std::vector<float> v = node.Floats("value_floats");
    return Tensor::Of<float>({static_cast<int64_t>(v.size())}, v);
  }
  if (node.Has("value_ints")) {
    const std::vector<int64_t> v = node.Ints("value_ints");
    return Tensor::Of<int64_t>({static_cast<int64_t>(v.size())}, v);
  }
  return Unsupported(
      "the constant is neither a dense tensor nor numbers (strings and sparse tensors are not supported)");
}

absl::Status InferConstant(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 0, 0));
  ASSIGN_OR_RETURN(const Tensor value, ConstantValue(node));
  out[0].dtype = value.dtype();
  out[0].shape = value.shape();
  return absl::OkStatus();
}

absl::Status ComputeConstant(const Node& node, Inputs, Outputs out) {
  ASSIGN_OR_RETURN(const Tensor value, ConstantValue(node));
  return CopyAll(value, out[0]);
}

absl::StatusOr<Tensor> FillValue(const Node& node) {
  const auto it = node.attributes.find("value");
  const Tensor* value = it == node.attributes.end() ? nullptr : std::get_if<Tensor>(&it->second);
  if (value == nullptr) return Tensor::Scalar(0.0f);
  if (value->elements() != 1) return Invalid("value has ", value->elements(), " elements; exactly one is needed");
  return *value;
}

absl::Status InferConstantOfShape(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 1));
  ASSIGN_OR_RETURN(out[0].shape, ConstantInts(*in[0], "the shape"));
  RETURN_IF_ERROR(ElementCount(out[0].shape).status());
  ASSIGN_OR_RETURN(const Tensor value, FillValue(node));
  out[0].dtype = value.dtype();
  return ElementBytes(value.dtype(), "ConstantOfShape").status();
}

absl::Status ComputeConstantOfShape(const Node& node, Inputs, Outputs out) {
  ASSIGN_OR_RETURN(const Tensor value, FillValue(node));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(value.dtype(), "ConstantOfShape"));
  std::byte* dst = out[0].mutable_bytes().data();
  for (int64_t i = 0; i < out[0].elements(); ++i, dst += size) std::memcpy(dst, value.bytes().data(), size);
  return absl::OkStatus();
}

// Range(start, limit, delta): ceil((limit - start) / delta) elements, at least none.
absl::Status InferRange(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  for (const TensorDesc* d : in) {
    RETURN_IF_ERROR(CheckSameType(*in[0], *d));
    if (Product(d->shape) != 1)
      return Invalid("start, limit and delta must be scalars, one is ", ShapeString(d->shape));
    if (d->constant == nullptr) return Unsupported("the range is computed from data while running");
  }
  out[0].dtype = in[0]->dtype;
  return DispatchNumeric(in[0]->dtype, [&]<typename T>(T) {
    T v[3];
    for (size_t i = 0; i < 3; ++i) std::memcpy(&v[i], in[i]->constant->bytes().data(), sizeof(T));
    const double n = std::ceil((static_cast<double>(v[1]) - static_cast<double>(v[0])) / static_cast<double>(v[2]));
    if (v[2] == T{0} || !(n < static_cast<double>(kMaxElements))) {
      return Invalid("range from ", v[0], " to ", v[1], " by ", v[2], " has no length or more than ", kMaxElements,
                     " elements");
    }
    out[0].shape = {std::max<int64_t>(0, static_cast<int64_t>(std::max(n, 0.0)))};
    return absl::OkStatus();
  });
}

absl::Status ComputeRange(const Node&, Inputs in, Outputs out) {
  return DispatchNumeric(out[0].dtype(), [&]<typename T>(T) {
    const T start = *Ptr<T>(*in[0]), delta = *Ptr<T>(*in[2]);
    T* y = MutablePtr<T>(out[0]);
    for (int64_t i = 0; i < out[0].elements(); ++i) {
      if constexpr (std::is_floating_point_v<T>) {
        y[i] = static_cast<T>(static_cast<double>(start) + static_cast<double>(i) * static_cast<double>(delta));
      } else {
        y[i] = static_cast<T>(static_cast<uint64_t>(start) + static_cast<uint64_t>(i) * static_cast<uint64_t>(delta));
      }
    }
    return absl::OkStatus();
  });
}

constexpr OpEntry kOps[] = {
    {"Constant", {InferConstant, ComputeConstant}},
    {"ConstantOfShape", {InferConstantOfShape, ComputeConstantOfShape}},
    {"Flatten", {InferFlatten, ComputeCopy}},
    {"Range", {InferRange, ViaFloatOrDouble<ComputeRange>}},
    {"Reshape", {InferReshape, ComputeCopy}},
    {"Shape", {InferShape, ComputeShape}},
    {"Size", {InferSize, ComputeSize}},
    {"Squeeze", {InferSqueeze, ComputeCopy}},
    {"Unsqueeze", {InferUnsqueeze, ComputeCopy}},
};

}  // namespace

std::span<const OpEntry> ShapeOps() { return kOps; }

}  // namespace quant::ops
