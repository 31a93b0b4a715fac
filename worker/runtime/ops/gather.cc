// SPDX-License-Identifier: Apache-2.0
// Operators that pick elements by index: Gather, GatherElements, GatherND, ScatterElements, ScatterND, TopK, OneHot,
// Trilu. Indices count from the end when negative; one out of range is INVALID_ARGUMENT when it is met.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "worker/runtime/ops/util.h"

namespace quant::ops {
namespace {

absl::Status CheckIndices(const TensorDesc& desc) {
  if (desc.dtype == DType::kInt32 || desc.dtype == DType::kInt64) return absl::OkStatus();
  return Invalid("the indices are ", DTypeName(desc.dtype), "; int32 or int64 is needed");
}

// Element i of the indices, 0 <= result < n.
class IndexReader {
 public:
  explicit IndexReader(const Tensor& t) : wide_(t.dtype() == DType::kInt64), data_(t.bytes().data()) {}
  absl::StatusOr<int64_t> Get(int64_t i, int64_t n) const {
    const int64_t v = wide_ ? reinterpret_cast<const int64_t*>(data_)[i] : reinterpret_cast<const int32_t*>(data_)[i];
    if (v < -n || v >= n) return Invalid("index ", v, " is out of range for a dimension of ", n);
    return v < 0 ? v + n : v;
  }

 private:
  bool wide_;
  const std::byte* data_;
};

absl::Status InferGather(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "data").status());
  RETURN_IF_ERROR(CheckIndices(*in[1]));
  const Shape& x = in[0]->shape;
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), static_cast<int>(x.size())));
  out[0].dtype = in[0]->dtype;
  out[0].shape.assign(x.begin(), x.begin() + axis);
  out[0].shape.insert(out[0].shape.end(), in[1]->shape.begin(), in[1]->shape.end());
  out[0].shape.insert(out[0].shape.end(), x.begin() + axis + 1, x.end());
  return absl::OkStatus();
}

absl::Status ComputeGather(const Node& node, Inputs in, Outputs out) {
  const Shape& x = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), in[0]->rank()));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(in[0]->dtype(), "data"));
  const size_t a = static_cast<size_t>(axis);
  const int64_t outer = Product(x, 0, a), n = x[a], count = in[1]->elements();
  const int64_t row = Product(x, a + 1, x.size()) * static_cast<int64_t>(size);
  const IndexReader indices(*in[1]);
  const std::byte* src = in[0]->bytes().data();
  std::byte* dst = out[0].mutable_bytes().data();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < count; ++i, dst += row) {
      ASSIGN_OR_RETURN(const int64_t index, indices.Get(i, n));
      if (row > 0) std::memcpy(dst, src + (o * n + index) * row, static_cast<size_t>(row));
    }
  }
  return absl::OkStatus();
}

// GatherElements(data, indices): output[i0, i1, ...] = data[.., indices[i0, i1, ...], ..] along axis.
absl::Status CheckElementwiseIndices(const Node& node, const Shape& data, const TensorDesc& indices) {
  RETURN_IF_ERROR(CheckIndices(indices));
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), static_cast<int>(data.size())));
  bool fits = indices.shape.size() == data.size();
  for (size_t i = 0; fits && i < data.size(); ++i) fits = static_cast<int>(i) == axis || indices.shape[i] <= data[i];
  if (fits) return absl::OkStatus();
  return Invalid("indices ", ShapeString(indices.shape), " do not fit data ", ShapeString(data));
}

absl::Status InferGatherElements(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "data").status());
  RETURN_IF_ERROR(CheckElementwiseIndices(node, in[0]->shape, *in[1]));
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[1]->shape;
  return absl::OkStatus();
}

// Calls f(position in indices, offset in data) for every index.
template <typename F>
absl::Status ForEachElementIndex(const Node& node, const Shape& data, const Tensor& indices, F f) {
  if (indices.elements() == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", 0), static_cast<int>(data.size())));
  const size_t a = static_cast<size_t>(axis);
  std::vector<int64_t> strides = Strides(data);
  const int64_t along = strides[a];
  strides[a] = 0;
  const IndexReader reader(indices);
  Odometer at(indices.shape(), {strides});
  int64_t i = 0;
  do {
    ASSIGN_OR_RETURN(const int64_t index, reader.Get(i, data[a]));
    f(i++, at.offset(0) + index * along);
  } while (at.Next());
  return absl::OkStatus();
}

absl::Status ComputeGatherElements(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(in[0]->dtype(), "data"));
  const std::byte* src = in[0]->bytes().data();
  std::byte* dst = out[0].mutable_bytes().data();
  return ForEachElementIndex(node, in[0]->shape(), *in[1], [=](int64_t i, int64_t from) {
    std::memcpy(dst + static_cast<size_t>(i) * size, src + static_cast<size_t>(from) * size, size);
  });
}

absl::Status CheckNoReduction(const Node& node) {
  const std::string reduction = node.String("reduction", "none");
  return reduction == "none" ? absl::OkStatus() : Unsupported("reduction '", reduction, "' is not supported");
}

absl::Status InferScatterElements(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "data").status());
  RETURN_IF_ERROR(CheckNoReduction(node));
  RETURN_IF_ERROR(CheckSameType(*in[0], *in[2]));
  RETURN_IF_ERROR(CheckElementwiseIndices(node, in[0]->shape, *in[1]));
  if (in[2]->shape != in[1]->shape)
    return Invalid("updates ", ShapeString(in[2]->shape), " and indices ", ShapeString(in[1]->shape), " differ");
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeScatterElements(const Node& node, Inputs in, Outputs out) {
  RETURN_IF_ERROR(CopyAll(*in[0], out[0]));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(in[0]->dtype(), "data"));
  const std::byte* src = in[2]->bytes().data();
  std::byte* dst = out[0].mutable_bytes().data();
  return ForEachElementIndex(node, in[0]->shape(), *in[1], [=](int64_t i, int64_t to) {
    std::memcpy(dst + static_cast<size_t>(to) * size, src + static_cast<size_t>(i) * size, size);
  });
}

// GatherND and ScatterND: the last dimension of indices (k values) names a slice of data after `batch` dimensions.
struct SliceIndices {
  int64_t batches, per_batch, k, slice;  // slice: elements of data[index]
  int64_t batch_size;                    // elements of data per batch
  std::vector<int64_t> dims, strides;    // of the k indexed dimensions
};

absl::StatusOr<SliceIndices> GetSliceIndices(const Node& node, std::span<const int64_t> data,
                                             std::span<const int64_t> indices) {
  const int64_t batch = node.op_type == "GatherND" ? node.Int("batch_dims", 0) : 0;
  if (indices.empty() || batch < 0 || batch >= static_cast<int64_t>(std::min(data.size(), indices.size()))) {
    return Invalid("indices ", ShapeString(indices), " and batch_dims ", batch, " do not fit data ", ShapeString(data));
  }
  const size_t b = static_cast<size_t>(batch);
  const int64_t k = indices.back();
  if (k < 1 || k > static_cast<int64_t>(data.size() - b) ||
      !std::equal(data.begin(), data.begin() + batch, indices.begin())) {
    return Invalid("indices ", ShapeString(indices), " do not fit data ", ShapeString(data));
  }
  SliceIndices s;
  s.k = k;
  s.batches = Product(data, 0, b);
  s.per_batch = Product(indices, b, indices.size() - 1);
  s.batch_size = Product(data, b, data.size());
  s.slice = Product(data, b + static_cast<size_t>(k), data.size());
  int64_t stride = s.slice;
  s.dims.assign(data.begin() + batch, data.begin() + batch + k);
  s.strides.resize(s.dims.size());
  for (size_t i = s.dims.size(); i-- > 0; stride *= std::max<int64_t>(s.dims[i], 1)) s.strides[i] = stride;
  return s;
}

// Calls f(number of the index, element offset of its slice in data).
template <typename F>
absl::Status ForEachSlice(const SliceIndices& s, const Tensor& indices, F f) {
  const IndexReader reader(indices);
  for (int64_t i = 0; i < s.batches * s.per_batch; ++i) {
    int64_t offset = i / s.per_batch * s.batch_size;
    for (int64_t d = 0; d < s.k; ++d) {
      ASSIGN_OR_RETURN(const int64_t index, reader.Get(i * s.k + d, s.dims[static_cast<size_t>(d)]));
      offset += index * s.strides[static_cast<size_t>(d)];
    }
    f(i, offset);
  }
  return absl::OkStatus();
}

absl::Status InferGatherNd(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "data").status());
  RETURN_IF_ERROR(CheckIndices(*in[1]));
  ASSIGN_OR_RETURN(const SliceIndices s, GetSliceIndices(node, in[0]->shape, in[1]->shape));
  out[0].dtype = in[0]->dtype;
  out[0].shape.assign(in[1]->shape.begin(), in[1]->shape.end() - 1);
  out[0].shape.insert(out[0].shape.end(), in[0]->shape.begin() + node.Int("batch_dims", 0) + s.k, in[0]->shape.end());
  return absl::OkStatus();
}

absl::Status ComputeGatherNd(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const SliceIndices s, GetSliceIndices(node, in[0]->shape(), in[1]->shape()));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(in[0]->dtype(), "data"));
  const size_t bytes = static_cast<size_t>(s.slice) * size;
  const std::byte* src = in[0]->bytes().data();
  std::byte* dst = out[0].mutable_bytes().data();
  return ForEachSlice(s, *in[1], [=](int64_t i, int64_t offset) {
    if (bytes > 0) std::memcpy(dst + static_cast<size_t>(i) * bytes, src + static_cast<size_t>(offset) * size, bytes);
  });
}

absl::Status InferScatterNd(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "data").status());
  RETURN_IF_ERROR(CheckNoReduction(node));
  RETURN_IF_ERROR(CheckIndices(*in[1]));
  RETURN_IF_ERROR(CheckSameType(*in[0], *in[2]));
  ASSIGN_OR_RETURN(const SliceIndices s, GetSliceIndices(node, in[0]->shape, in[1]->shape));
  Shape updates(in[1]->shape.begin(), in[1]->shape.end() - 1);
  updates.insert(updates.end(), in[0]->shape.begin() + s.k, in[0]->shape.end());
  if (in[2]->shape != updates)
    return Invalid("updates ", ShapeString(in[2]->shape), "; ", ShapeString(updates), " is needed");
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeScatterNd(const Node& node, Inputs in, Outputs out) {
  RETURN_IF_ERROR(CopyAll(*in[0], out[0]));
  ASSIGN_OR_RETURN(const SliceIndices s, GetSliceIndices(node, in[0]->shape(), in[1]->shape()));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(in[0]->dtype(), "data"));
  const size_t bytes = static_cast<size_t>(s.slice) * size;
  const std::byte* src = in[2]->bytes().data();
  std::byte* dst = out[0].mutable_bytes().data();
  return ForEachSlice(s, *in[1], [=](int64_t i, int64_t offset) {
    if (bytes > 0) std::memcpy(dst + static_cast<size_t>(offset) * size, src + static_cast<size_t>(i) * bytes, bytes);
  });
}

// TopK(X, K) -> values, indices along axis; equal values in the order of their indices, NaN as the largest value.
absl::Status InferTopK(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 2, 2, 2));
  if (DTypeBits(in[0]->dtype) < 8 || in[0]->dtype == DType::kBool) return Invalid("X is ", DTypeName(in[0]->dtype));
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), static_cast<int>(in[0]->shape.size())));
  ASSIGN_OR_RETURN(const std::vector<int64_t> k, ConstantInts(*in[1], "K"));
  const int64_t n = in[0]->shape[static_cast<size_t>(axis)];
  if (k.size() != 1 || k[0] < 0 || k[0] > n) {
    return Invalid("K is ", ShapeString(k), "; one value in [0, ", n, "] is needed (axis ", axis, " of ",
                   ShapeString(in[0]->shape), ")");
  }
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].dtype = i == 0 ? in[0]->dtype : DType::kInt64;
    out[i].shape = in[0]->shape;
    out[i].shape[static_cast<size_t>(axis)] = k[0];
  }
  return absl::OkStatus();
}

template <typename T>
bool IsNan(T v) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(v);
  return false;
}

absl::Status ComputeTopK(const Node& node, Inputs in, Outputs out) {
  const Shape& shape = in[0]->shape();
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), in[0]->rank()));
  ASSIGN_OR_RETURN(const std::vector<int64_t> ks, ToInt64(*in[1]));
  const size_t a = static_cast<size_t>(axis);
  const int64_t outer = Product(shape, 0, a), n = shape[a], inner = Product(shape, a + 1, shape.size()), k = ks.at(0);
  if (k < 0 || k > n) return Invalid("K is ", k, " for a dimension of ", n);
  const bool largest = node.Int("largest", 1) != 0;
  std::vector<int64_t> order(static_cast<size_t>(n));
  return DispatchNumeric(in[0]->dtype(), [&]<typename T>(T) {
    for (int64_t line = 0; line < outer * inner; ++line) {
      const int64_t o = line / inner, i = line % inner;
      const T* x = Ptr<T>(*in[0]) + o * n * inner + i;
      for (int64_t j = 0; j < n; ++j) order[static_cast<size_t>(j)] = j;
      std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t p, int64_t q) {
        const T u = x[p * inner], v = x[q * inner];
        const bool nan_u = IsNan(u), nan_v = IsNan(v);
        if (nan_u != nan_v) return largest ? nan_u : nan_v;
        if (!nan_u && u != v) return largest ? u > v : u < v;
        return p < q;
      });
      for (int64_t j = 0; j < k; ++j) {
        const int64_t to = (o * k + j) * inner + i, from = order[static_cast<size_t>(j)];
        if (Wanted(out, 0)) MutablePtr<T>(out[0])[to] = x[from * inner];
        if (Wanted(out, 1)) MutablePtr<int64_t>(out[1])[to] = from;
      }
    }
    return absl::OkStatus();
  });
}

// OneHot(indices, depth, values = [off, on]); an index outside [-depth, depth) gives a row of off.
absl::Status InferOneHot(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 3, 3));
  RETURN_IF_ERROR(ElementBytes(in[2]->dtype, "values").status());
  RETURN_IF_ERROR(CheckIndices(*in[0]));
  ASSIGN_OR_RETURN(const std::vector<int64_t> depth, ConstantInts(*in[1], "depth"));
  if (depth.size() != 1 || depth[0] < 1 || in[2]->shape != Shape{2})
    return Invalid("depth must be one positive number and values two");
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), static_cast<int>(in[0]->shape.size()) + 1));
  out[0].dtype = in[2]->dtype;
  out[0].shape = in[0]->shape;
  out[0].shape.insert(out[0].shape.begin() + axis, depth[0]);
  return absl::OkStatus();
}

absl::Status ComputeOneHot(const Node& node, Inputs in, Outputs out) {
  ASSIGN_OR_RETURN(const int axis, NormalizeAxis(node.Int("axis", -1), out[0].rank()));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(out[0].dtype(), "values"));
  const Shape& shape = out[0].shape();
  const size_t a = static_cast<size_t>(axis);
  const int64_t outer = Product(shape, 0, a), depth = shape[a], inner = Product(shape, a + 1, shape.size());
  const IndexReader indices(*in[0]);
  const std::byte* values = in[2]->bytes().data();
  std::byte* dst = out[0].mutable_bytes().data();
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t d = 0; d < depth; ++d) {
      for (int64_t i = 0; i < inner; ++i, dst += size) {
        const absl::StatusOr<int64_t> index = indices.Get(o * inner + i, depth);
        std::memcpy(dst, values + (index.ok() && *index == d ? size : 0), size);
      }
    }
  }
  return absl::OkStatus();
}

// Trilu(input, k): the upper (or lower) triangle of the last two dimensions, zero elsewhere.
absl::Status InferTrilu(const Node& node, Descs in, OutDescs out) {
  RETURN_IF_ERROR(CheckArity(node, in, 1, 2));
  RETURN_IF_ERROR(ElementBytes(in[0]->dtype, "the input").status());
  RETURN_IF_ERROR(CheckMinRank(*in[0], 2, "the input"));
  if (At(in, 1) != nullptr && (in[1]->dtype != DType::kInt64 || Product(in[1]->shape) != 1))
    return Invalid("k must be one int64");
  out[0].dtype = in[0]->dtype;
  out[0].shape = in[0]->shape;
  return absl::OkStatus();
}

absl::Status ComputeTrilu(const Node& node, Inputs in, Outputs out) {
  RETURN_IF_ERROR(CopyAll(*in[0], out[0]));
  ASSIGN_OR_RETURN(const size_t size, ElementBytes(out[0].dtype(), "the input"));
  const Shape& shape = out[0].shape();
  const int64_t rows = shape[shape.size() - 2], columns = shape.back();
  // Clamped: beyond +-(rows + columns) nothing changes, and adding it to a row cannot overflow.
  const int64_t k = At(in, 1) ? std::clamp(*Ptr<int64_t>(*in[1]), -rows - columns, rows + columns) : 0;
  const bool upper = node.Int("upper", 1) != 0;
  std::byte* dst = out[0].mutable_bytes().data();
  for (int64_t i = 0; i < out[0].elements(); ++i, dst += size) {
    const int64_t row = i / columns % rows, column = i % columns;
    if (upper ? column < row + k : column > row + k) std::memset(dst, 0, size);
  }
  return absl::OkStatus();
}

constexpr OpEntry kOps[] = {
    {"Gather", {InferGather, ComputeGather}},
    {"GatherElements", {InferGatherElements, ComputeGatherElements}},
    {"GatherND", {InferGatherNd, ComputeGatherNd}},
    {"OneHot", {InferOneHot, ComputeOneHot}},
    {"ScatterElements", {InferScatterElements, ComputeScatterElements}},
    {"ScatterND", {InferScatterNd, ComputeScatterNd}},
    {"TopK", {InferTopK, ViaFloatOrDouble<ComputeTopK>}},
    {"Trilu", {InferTrilu, ComputeTrilu}},
};

}  // namespace

std::span<const OpEntry> GatherOps() { return kOps; }

}  // namespace quant::ops
