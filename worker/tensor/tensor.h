// SPDX-License-Identifier: Apache-2.0
// Tensor: a dense row-major array of one DType, a value type over shared storage.
//
//   ASSIGN_OR_RETURN(Tensor t, Tensor::Allocate(DType::kFloat32, {2, 3}));
//   t.mutable_data<float>()[0] = 1.0f;
//
// Copying a Tensor copies a handle: both see the same bytes. Storage is either owned (aligned to 64 bytes) or borrowed
// from something that is kept alive with it, such as a memory-mapped file; borrowed storage may be unaligned and
// read-only, so code that reads weights uses ToFloat() or memcpy unless it allocated them itself.
//
// Thread-safety: thread-compatible; concurrent reads of shared storage are fine.
#ifndef QUANT_WORKER_TENSOR_TENSOR_H_
#define QUANT_WORKER_TENSOR_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/log/check.h"
#include "absl/status/statusor.h"
#include "worker/tensor/dtype.h"

namespace quant {

using Shape = std::vector<int64_t>;

// Limits on shapes from outside: rank, and elements of one tensor.
inline constexpr int kMaxRank = 8;
inline constexpr int64_t kMaxElements = int64_t{1} << 40;

// Product of the dimensions; 1 for rank 0. INVALID_ARGUMENT for rank over kMaxRank, a negative dimension, or more than
// kMaxElements elements.
absl::StatusOr<int64_t> ElementCount(std::span<const int64_t> shape);

// "[1,3,224,224]".
std::string ShapeString(std::span<const int64_t> shape);

class Tensor {
 public:
  // An empty handle: float32, shape [0], no storage.
  Tensor() = default;

  // Owned storage, zero-filled, 64-byte aligned. INVALID_ARGUMENT as ElementCount; RESOURCE_EXHAUSTED when memory
  // cannot be had.
  static absl::StatusOr<Tensor> Allocate(DType dtype, Shape shape);

  // Over `bytes`, which `owner` keeps alive (shared: a mapping serves many tensors). INVALID_ARGUMENT unless
  // bytes.size() is exactly what dtype and shape need. The result is read-only.
  static absl::StatusOr<Tensor> Borrow(DType dtype, Shape shape, std::span<const std::byte> bytes,
                                       std::shared_ptr<const void> owner);

  // A writable view of the first bytes of `memory` (an arena), which the caller keeps alive and which must be large
  // enough and aligned to 64 bytes; CHECK-fails otherwise (a programming error). Nothing is allocated but the shape.
  static Tensor Over(DType dtype, Shape shape, std::span<std::byte> memory);

  // Owned copies of values; CHECK-fails if values.size() does not fit the shape (a programming error).
  template <typename T>
  static Tensor Of(Shape shape, std::span<const T> values);
  template <typename T>
  static Tensor Of(Shape shape, const std::vector<T>& values) {
    return Of<T>(std::move(shape), std::span<const T>(values));
  }
  static Tensor Scalar(float value) { return Of<float>({}, std::span<const float>(&value, 1)); }
  static Tensor Scalar(int64_t value) { return Of<int64_t>({}, std::span<const int64_t>(&value, 1)); }

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t dim(int axis) const { return shape_[static_cast<size_t>(axis)]; }
  int64_t elements() const { return elements_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  bool writable() const { return writable_; }

  // Elements in place. CHECK-fails on another dtype, on borrowed unaligned storage, or (mutable) read-only storage.
  template <typename T>
  std::span<const T> data() const;
  template <typename T>
  std::span<T> mutable_data();
  // Bytes for writing; CHECK-fails on read-only storage.
  std::span<std::byte> mutable_bytes();

  // The same bytes under another shape with as many elements; CHECK-fails otherwise.
  Tensor Reshaped(Shape shape) const;

  // An owned deep copy.
  absl::StatusOr<Tensor> Clone() const;

 private:
  DType dtype_ = DType::kFloat32;
  bool writable_ = false;
  Shape shape_ = {0};
  int64_t elements_ = 0;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  // Shared because a handle, its reshaped views and every tensor of one mapped file point into the same bytes.
  std::shared_ptr<const void> owner_;
};

// Conversion to another dtype, element by element, owned result. Float to integer: round half to even, saturate, NaN to
// 0. Integer to integer: saturate. Float64 to float32 and float to 16 bits: round half to even. Bool: 0 or 1 (nonzero
// is 1). int4/uint4 are unpacked and packed. Reads borrowed unaligned storage safely.
absl::StatusOr<Tensor> Cast(const Tensor& src, DType dst);

// All elements as float; the fast path of Cast to kFloat32 for what holds any numeric type.
absl::StatusOr<std::vector<float>> ToFloat(const Tensor& src);
// Elements [begin, begin + dst.size()) of them, counted in row-major order.
void ToFloat(const Tensor& src, int64_t begin, std::span<float> dst);

// All elements as int64 (integer and bool types only; INVALID_ARGUMENT for floats): shapes, axes, indices.
absl::StatusOr<std::vector<int64_t>> ToInt64(const Tensor& src);

// ---- implementation

template <typename T>
std::span<const T> Tensor::data() const {
  CHECK(dtype_ == DTypeOf<T>::value || (sizeof(T) == 2 && DTypeBits(dtype_) == 16)) << DTypeName(dtype_);
  CHECK_EQ(reinterpret_cast<uintptr_t>(data_) % alignof(T), 0u) << "unaligned borrowed tensor";
  return {reinterpret_cast<const T*>(data_), static_cast<size_t>(elements_)};
}

template <typename T>
std::span<T> Tensor::mutable_data() {
  CHECK(writable_) << "read-only tensor";
  const std::span<const T> view = data<T>();
  return {const_cast<T*>(view.data()), view.size()};
}

template <typename T>
Tensor Tensor::Of(Shape shape, std::span<const T> values) {
  absl::StatusOr<Tensor> t = Allocate(DTypeOf<T>::value, std::move(shape));
  CHECK_OK(t.status());
  CHECK_EQ(t->elements(), static_cast<int64_t>(values.size()));
  std::span<T> dst = t->mutable_data<T>();
  for (size_t i = 0; i < values.size(); ++i) dst[i] = values[i];
  return *std::move(t);
}

}  // namespace quant

#endif  // QUANT_WORKER_TENSOR_TENSOR_H_
