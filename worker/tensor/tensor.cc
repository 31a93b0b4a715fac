// SPDX-License-Identifier: Apache-2.0
#include "worker/tensor/tensor.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quant {
namespace {

constexpr size_t kAlignment = 64;

// Reads element i of any numeric type as To, through memcpy so that unaligned mapped bytes are fine.
template <typename From>
From Load(const std::byte* data, int64_t i) {
  From value;
  std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
  return value;
}

template <typename To, typename From>
To Convert(From v) {
  if constexpr (std::is_same_v<To, bool>) {
    return v != From{0};
  } else if constexpr (std::is_same_v<To, From> || std::is_floating_point_v<To>) {
    return static_cast<To>(v);
  } else if constexpr (std::is_floating_point_v<From>) {
    if (std::isnan(v)) return To{0};
    const double r = std::nearbyint(static_cast<double>(v));
    // The limits as doubles: the upper one of 64-bit types rounds up to 2^63 or 2^64, hence >=.
    if (r <= static_cast<double>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (r >= static_cast<double>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(r);
  } else if constexpr (std::is_same_v<From, bool>) {
    return v ? To{1} : To{0};
  } else {
    if (std::cmp_less(v, std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (std::cmp_greater(v, std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(v);
  }
}

int8_t Nibble(const std::byte* data, int64_t i, bool is_signed) {
  const unsigned b = std::to_integer<unsigned>(data[i / 2]);
  const unsigned n = (i % 2 == 0) ? (b & 15u) : (b >> 4);
  return static_cast<int8_t>(is_signed && n >= 8 ? static_cast<int>(n) - 16 : static_cast<int>(n));
}

// Calls f(i, value) for elements [begin, end) with their natural C++ type; 16-bit floats arrive as float.
template <typename F>
void ForEach(const Tensor& src, int64_t begin, int64_t end, F f) {
  const std::byte* p = src.bytes().data();
  const auto loop = [&]<typename T>(T /*tag*/) {
    for (int64_t i = begin; i < end; ++i) f(i, Load<T>(p, i));
  };
  switch (src.dtype()) {
    case DType::kFloat32:
      return loop(float{});
    case DType::kFloat64:
      return loop(double{});
    case DType::kFloat16:
      for (int64_t i = begin; i < end; ++i) f(i, Float16ToFloat(Load<uint16_t>(p, i)));
      return;
    case DType::kBFloat16:
      // BFloat16ToFloat, where the compiler sees it.
      for (int64_t i = begin; i < end; ++i) {
        f(i, std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(p, i)) << 16));
      }
      return;
    case DType::kInt8:
      return loop(int8_t{});
    case DType::kUInt8:
      return loop(uint8_t{});
    case DType::kInt16:
      return loop(int16_t{});
    case DType::kUInt16:
      return loop(uint16_t{});
    case DType::kInt32:
      return loop(int32_t{});
    case DType::kUInt32:
      return loop(uint32_t{});
    case DType::kInt64:
      return loop(int64_t{});
    case DType::kUInt64:
      return loop(uint64_t{});
    case DType::kBool:
      for (int64_t i = begin; i < end; ++i) f(i, Load<uint8_t>(p, i) != 0);
      return;
    case DType::kInt4:
    case DType::kUInt4:
      for (int64_t i = begin; i < end; ++i) f(i, Nibble(p, i, src.dtype() == DType::kInt4));
      return;
  }
}

template <typename F>
void ForEach(const Tensor& src, F f) {
  ForEach(src, 0, src.elements(), std::move(f));
}

template <typename T>
void CastTo(const Tensor& src, Tensor& dst) {
  T* out = reinterpret_cast<T*>(dst.mutable_bytes().data());
  ForEach(src, [out](int64_t i, auto v) { out[i] = Convert<T>(v); });
}

}  // namespace

absl::StatusOr<int64_t> ElementCount(std::span<const int64_t> shape) {
  if (shape.size() > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat("tensor has rank ", shape.size(), "; at most ", kMaxRank));
  }
  bool zero = false;
  int64_t n = 1;
  for (const int64_t d : shape) {
    if (d < 0) return absl::InvalidArgumentError(absl::StrCat("negative dimension in shape ", ShapeString(shape)));
    if (d == 0) zero = true;
    // Dimensions are bounded even beside a zero, so that no order of multiplication can overflow.
    if (d > kMaxElements || (d > 0 && n > kMaxElements / d)) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ShapeString(shape), " has more than ", kMaxElements, " elements"));
    }
    if (d > 0) n *= d;
  }
  return zero ? 0 : n;
}

std::string ShapeString(std::span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ","), "]"); }

absl::StatusOr<Tensor> Tensor::Allocate(DType dtype, Shape shape) {
  const absl::StatusOr<int64_t> elements = ElementCount(shape);
  if (!elements.ok()) return elements.status();
  const std::optional<int64_t> bytes = DTypeBytes(dtype, *elements);
  if (!bytes) return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(shape), " is too large"));
  const size_t size = static_cast<size_t>(*bytes);
  const size_t padded = (size + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
  void* p = std::aligned_alloc(kAlignment, padded);
  if (p == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for a tensor of ", size, " bytes, shape ", ShapeString(shape)));
  }
  std::memset(p, 0, padded);
  Tensor t;
  t.dtype_ = dtype;
  t.writable_ = true;
  t.shape_ = std::move(shape);
  t.elements_ = *elements;
  t.data_ = static_cast<const std::byte*>(p);
  t.size_ = size;
  t.owner_ = std::shared_ptr<const void>(p, [](const void* q) { std::free(const_cast<void*>(q)); });
  return t;
}

absl::StatusOr<Tensor> Tensor::Borrow(DType dtype, Shape shape, std::span<const std::byte> bytes,
                                      std::shared_ptr<const void> owner) {
  const absl::StatusOr<int64_t> elements = ElementCount(shape);
  if (!elements.ok()) return elements.status();
  const std::optional<int64_t> want = DTypeBytes(dtype, *elements);
  if (!want || static_cast<size_t>(*want) != bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor of ", DTypeName(dtype), " ", ShapeString(shape), " needs ",
                                                   want.value_or(-1), " bytes, there are ", bytes.size()));
  }
  Tensor t;
  t.dtype_ = dtype;
  t.shape_ = std::move(shape);
  t.elements_ = *elements;
  t.data_ = bytes.data();
  t.size_ = bytes.size();
  t.owner_ = std::move(owner);
  return t;
}

Tensor Tensor::Over(DType dtype, Shape shape, std::span<std::byte> memory) {
  const absl::StatusOr<int64_t> elements = ElementCount(shape);
  CHECK_OK(elements.status());
  const std::optional<int64_t> bytes = DTypeBytes(dtype, *elements);
  CHECK(bytes && static_cast<size_t>(*bytes) <= memory.size()) << ShapeString(shape) << " in " << memory.size();
  CHECK_EQ(reinterpret_cast<uintptr_t>(memory.data()) % kAlignment, 0u);
  Tensor t;
  t.dtype_ = dtype;
  t.writable_ = true;
  t.shape_ = std::move(shape);
  t.elements_ = *elements;
  t.data_ = memory.data();
  t.size_ = static_cast<size_t>(*bytes);
  return t;
}

std::span<std::byte> Tensor::mutable_bytes() {
  CHECK(writable_) << "read-only tensor";
  return {const_cast<std::byte*>(data_), size_};
}

Tensor Tensor::Reshaped(Shape shape) const {
  const absl::StatusOr<int64_t> elements = ElementCount(shape);
  CHECK(elements.ok() && *elements == elements_) << ShapeString(shape_) << " to " << ShapeString(shape);
  Tensor t = *this;
  t.shape_ = std::move(shape);
  return t;
}

absl::StatusOr<Tensor> Tensor::Clone() const {
  absl::StatusOr<Tensor> t = Allocate(dtype_, shape_);
  if (!t.ok()) return t.status();
  if (size_ > 0) std::memcpy(t->mutable_bytes().data(), data_, size_);
  return t;
}

absl::StatusOr<Tensor> Cast(const Tensor& src, DType dst_type) {
  if (src.dtype() == dst_type) return src.Clone();
  absl::StatusOr<Tensor> dst = Tensor::Allocate(dst_type, src.shape());
  if (!dst.ok()) return dst.status();
  switch (dst_type) {
    case DType::kFloat32:
      CastTo<float>(src, *dst);
      break;
    case DType::kFloat64:
      CastTo<double>(src, *dst);
      break;
    case DType::kFloat16:
    case DType::kBFloat16: {
      uint16_t* out = reinterpret_cast<uint16_t*>(dst->mutable_bytes().data());
      const bool half = dst_type == DType::kFloat16;
      ForEach(src, [=](int64_t i, auto v) {
        const float f = static_cast<float>(v);
        out[i] = half ? FloatToFloat16(f) : FloatToBFloat16(f);
      });
      break;
    }
    case DType::kInt8:
      CastTo<int8_t>(src, *dst);
      break;
    case DType::kUInt8:
      CastTo<uint8_t>(src, *dst);
      break;
    case DType::kInt16:
      CastTo<int16_t>(src, *dst);
      break;
    case DType::kUInt16:
      CastTo<uint16_t>(src, *dst);
      break;
    case DType::kInt32:
      CastTo<int32_t>(src, *dst);
      break;
    case DType::kUInt32:
      CastTo<uint32_t>(src, *dst);
      break;
    case DType::kInt64:
      CastTo<int64_t>(src, *dst);
      break;
    case DType::kUInt64:
      CastTo<uint64_t>(src, *dst);
      break;
    case DType::kBool: {
      uint8_t* out = reinterpret_cast<uint8_t*>(dst->mutable_bytes().data());
      ForEach(src, [out](int64_t i, auto v) { out[i] = Convert<bool>(v) ? 1 : 0; });
      break;
    }
    case DType::kInt4:
    case DType::kUInt4: {
      std::byte* out = dst->mutable_bytes().data();
      const int lo = dst_type == DType::kInt4 ? -8 : 0;
      const int hi = dst_type == DType::kInt4 ? 7 : 15;
      ForEach(src, [=](int64_t i, auto v) {
        int q = Convert<int>(v);
        q = q < lo ? lo : (q > hi ? hi : q);
        const unsigned nibble = static_cast<unsigned>(q) & 15u;
        out[i / 2] |= static_cast<std::byte>(i % 2 == 0 ? nibble : nibble << 4);
      });
      break;
    }
  }
  return dst;
}

absl::StatusOr<std::vector<float>> ToFloat(const Tensor& src) {
  std::vector<float> out(static_cast<size_t>(src.elements()));
  ToFloat(src, 0, out);
  return out;
}

void ToFloat(const Tensor& src, int64_t begin, std::span<float> dst) {
  const int64_t end = begin + static_cast<int64_t>(dst.size());
  CHECK(begin >= 0 && end <= src.elements());
  if (src.dtype() == DType::kFloat32) {
    if (!dst.empty()) std::memcpy(dst.data(), src.bytes().data() + begin * 4, dst.size_bytes());
    return;
  }
  ForEach(src, begin, end, [to = dst.data(), begin](int64_t i, auto v) { to[i - begin] = Convert<float>(v); });
}

absl::StatusOr<std::vector<int64_t>> ToInt64(const Tensor& src) {
  if (IsFloat(src.dtype())) {
    return absl::InvalidArgumentError(absl::StrCat("integers expected, the tensor is ", DTypeName(src.dtype())));
  }
  std::vector<int64_t> out(static_cast<size_t>(src.elements()));
  ForEach(src, [&out](int64_t i, auto v) { out[static_cast<size_t>(i)] = Convert<int64_t>(v); });
  return out;
}

}  // namespace quant
