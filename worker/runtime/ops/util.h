// SPDX-License-Identifier: Apache-2.0
// What the operator files share: error messages, checks of inputs and attributes, broadcasting, strided copies, and
// dispatch over element types. Internal to worker/runtime.
#ifndef QUANT_WORKER_RUNTIME_OPS_UTIL_H_
#define QUANT_WORKER_RUNTIME_OPS_UTIL_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/runtime/op.h"

namespace quant::ops {

// The arguments of every Op::Infer and Op::Compute.
using Descs = std::span<const TensorDesc* const>;
using OutDescs = std::span<TensorDesc>;
using Inputs = std::span<const Tensor* const>;
using Outputs = std::span<Tensor>;

// One row of the table.
struct OpEntry {
  const char* op_type;
  Op op;
  const char* domain = "";
};

// Attributes such as strides, pads and kernel sizes are at most this, so that sums of products of two fit an int64.
inline constexpr int64_t kMaxAttribute = int64_t{1} << 30;

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}
template <typename... Args>
absl::Status Unsupported(const Args&... args) {
  return absl::UnimplementedError(absl::StrCat(args...));
}

// INVALID_ARGUMENT unless the node has between `min_in` and `max_in` inputs, the first `required` of them present, and
// at most `max_out` outputs (and at least one).
absl::Status CheckArity(const Node& node, Descs in, size_t required, size_t max_in, size_t max_out = 1);

// Input i, or null when it is absent.
template <typename T>
const T* At(std::span<const T* const> in, size_t i) {
  return i < in.size() ? in[i] : nullptr;
}

// Whether output i is wanted: listed and not absent (backends pass an empty handle for an absent output).
inline bool Wanted(Outputs out, size_t i) { return i < out.size() && out[i].writable(); }

// INVALID_ARGUMENT unless `desc` has a floating-point type; `what` names it in the message.
absl::Status CheckFloat(const TensorDesc& desc, std::string_view what);
absl::Status CheckSameType(const TensorDesc& a, const TensorDesc& b);
absl::Status CheckMinRank(const TensorDesc& desc, int rank, std::string_view what);

// 0 <= result < rank for -rank <= axis < rank; INVALID_ARGUMENT otherwise.
absl::StatusOr<int> NormalizeAxis(int64_t axis, int rank);

// The axes normalised, in order; INVALID_ARGUMENT for one that is out of range or repeats.
absl::StatusOr<std::vector<int>> NormalizeAxes(std::span<const int64_t> axes, int rank);

// The content of an integer input that shapes depend on: UNIMPLEMENTED when it is not constant, INVALID_ARGUMENT when
// it is not an integer tensor of rank 0 or 1.
absl::StatusOr<std::vector<int64_t>> ConstantInts(const TensorDesc& desc, std::string_view what);

// Integers from input `i` when it is present, else from attribute `key`, else nullopt.
absl::StatusOr<std::optional<std::vector<int64_t>>> IntsFromInputOrAttribute(const Node& node, Descs in, size_t i,
                                                                             std::string_view key);
absl::StatusOr<std::optional<std::vector<int64_t>>> IntsFromInputOrAttribute(const Node& node, Inputs in, size_t i,
                                                                             std::string_view key);

// Multidirectional (numpy) broadcasting; INVALID_ARGUMENT when the shapes do not fit.
absl::StatusOr<Shape> Broadcast(std::span<const int64_t> a, std::span<const int64_t> b);

// Row-major strides in elements.
std::vector<int64_t> Strides(std::span<const int64_t> shape);

// Strides for reading a tensor of `shape` as if it had been broadcast to `target` (0 along expanded axes).
std::vector<int64_t> BroadcastStrides(std::span<const int64_t> shape, std::span<const int64_t> target);

// Product of shape[begin, end).
int64_t Product(std::span<const int64_t> shape, size_t begin, size_t end);
inline int64_t Product(std::span<const int64_t> shape) { return Product(shape, 0, shape.size()); }

// Counts through `dims` in row-major order and keeps one offset per stride vector up to date. `dims` without a zero.
class Odometer {
 public:
  Odometer(std::span<const int64_t> dims, std::vector<std::vector<int64_t>> strides);
  // To the next position; false after the last.
  bool Next();
  int64_t offset(size_t i) const { return offsets_[i]; }

 private:
  std::vector<int64_t> dims_, position_;
  std::vector<std::vector<int64_t>> strides_;
  std::vector<int64_t> offsets_;
};

// dst[i * dst_strides] = src[i * src_strides] for every index i of `dims`; elements of `size` bytes (1, 2, 4 or 8),
// strides in elements (negative and 0 allowed for src). src and dst point to the element of index 0.
void CopyStrided(size_t size, std::span<const int64_t> dims, const std::byte* src, std::span<const int64_t> src_strides,
                 std::byte* dst, std::span<const int64_t> dst_strides);

// Bytes per element; UNIMPLEMENTED for the packed 4-bit types, naming `what`.
absl::StatusOr<size_t> ElementBytes(DType dtype, std::string_view what);

// The same bytes into dst (same dtype and element count).
absl::Status CopyAll(const Tensor& src, Tensor& dst);

// Signed or unsigned bytes of a bool tensor: any nonzero byte is true (bytes from a file need not be 0 or 1).
inline const uint8_t* BoolData(const Tensor& t) { return reinterpret_cast<const uint8_t*>(t.bytes().data()); }

// A pointer to elements without the dtype check of data<T>(); used after dispatch on the dtype.
template <typename T>
const T* Ptr(const Tensor& t) {
  return reinterpret_cast<const T*>(t.bytes().data());
}
template <typename T>
T* MutablePtr(Tensor& t) {
  return reinterpret_cast<T*>(t.mutable_bytes().data());
}

// Calls f(T{}) with the C++ type of a float32/float64/integer dtype; UNIMPLEMENTED for others.
template <typename F>
absl::Status DispatchNumeric(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kInt8:
      return f(int8_t{});
    case DType::kUInt8:
      return f(uint8_t{});
    case DType::kInt16:
      return f(int16_t{});
    case DType::kUInt16:
      return f(uint16_t{});
    case DType::kInt32:
      return f(int32_t{});
    case DType::kUInt32:
      return f(uint32_t{});
    case DType::kInt64:
      return f(int64_t{});
    case DType::kUInt64:
      return f(uint64_t{});
    default:
      return Unsupported("element type ", DTypeName(dtype), " is not supported by this operator");
  }
}

// Runs `compute` on float32 copies of the floating-point inputs and rounds its results to the outputs' own types. When
// nothing needs it (`is_native` for every floating-point type present), runs it directly.
absl::Status ComputeViaFloat(Op::Compute compute, bool double_is_native, const Node& node, Inputs in, Outputs out);

// An Op::Compute written for float32 (and non-float types), made to serve the other floating-point types too.
template <Op::Compute kCompute>
absl::Status ViaFloat(const Node& node, Inputs in, Outputs out) {
  return ComputeViaFloat(kCompute, /*double_is_native=*/false, node, in, out);
}
// The same for one that handles float64 itself.
template <Op::Compute kCompute>
absl::Status ViaFloatOrDouble(const Node& node, Inputs in, Outputs out) {
  return ComputeViaFloat(kCompute, /*double_is_native=*/true, node, in, out);
}

// Shape rule of operators whose output is like their first input.
absl::Status InferSameAsFirst(const Node& node, Descs in, OutDescs out);
// The same, floating-point types only.
absl::Status InferSameFloat(const Node& node, Descs in, OutDescs out);

// DType of an ONNX TensorProto.DataType number; UNIMPLEMENTED for the ones we do not have.
absl::StatusOr<DType> DTypeFromOnnx(int64_t type);

// The families of operators; op.cc makes the table of them.
std::span<const OpEntry> ConvOps();
std::span<const OpEntry> PoolOps();
std::span<const OpEntry> MatMulOps();
std::span<const OpEntry> NormOps();
std::span<const OpEntry> UnaryOps();
std::span<const OpEntry> BinaryOps();
std::span<const OpEntry> ReduceOps();
std::span<const OpEntry> ShapeOps();
std::span<const OpEntry> MoveOps();
std::span<const OpEntry> CastOps();
std::span<const OpEntry> QuantizeOps();
std::span<const OpEntry> GatherOps();
std::span<const OpEntry> ResizeOps();
std::span<const OpEntry> RecurrentOps();
std::span<const OpEntry> EinsumOps();
std::span<const OpEntry> AttentionOps();
std::span<const OpEntry> PackedLinearOps();

}  // namespace quant::ops

#endif  // QUANT_WORKER_RUNTIME_OPS_UTIL_H_
