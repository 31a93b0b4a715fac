// SPDX-License-Identifier: Apache-2.0
// Element types of tensors, and the conversions between the 16-bit floating-point types and float.
#ifndef QUANT_WORKER_TENSOR_DTYPE_H_
#define QUANT_WORKER_TENSOR_DTYPE_H_

#include <cstdint>
#include <optional>

namespace quant {

// The types a tensor can have. kInt4/kUInt4 hold two elements per byte, the first in the low nibble (ONNX order); a
// tensor of n such elements has (n + 1) / 2 bytes.
enum class DType : uint8_t {
  kFloat32,
  kFloat64,
  kFloat16,   // IEEE 754 binary16
  kBFloat16,  // upper half of binary32
  kInt8,
  kUInt8,
  kInt16,
  kUInt16,
  kInt32,
  kUInt32,
  kInt64,
  kUInt64,
  kBool,  // one byte, 0 or 1
  kInt4,
  kUInt4,
};

// "float32", "int8", "bfloat16", ...
const char* DTypeName(DType dtype);

// Bits per element: 4, 8, 16, 32 or 64.
int DTypeBits(DType dtype);

// Whether the type is one of the four floating-point types.
bool IsFloat(DType dtype);

// Bytes of `elements` elements; nullopt on overflow of int64.
std::optional<int64_t> DTypeBytes(DType dtype, int64_t elements);

// The DType of a C++ type. float16 and bfloat16 are raw uint16_t bits and have no C++ type of their own.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kInt8;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kUInt8;
};
template <>
struct DTypeOf<int16_t> {
  static constexpr DType value = DType::kInt16;
};
template <>
struct DTypeOf<uint16_t> {
  static constexpr DType value = DType::kUInt16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOf<uint32_t> {
  static constexpr DType value = DType::kUInt32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct DTypeOf<uint64_t> {
  static constexpr DType value = DType::kUInt64;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};

// Exact widening; NaN payloads keep their upper bits.
float Float16ToFloat(uint16_t bits);
float BFloat16ToFloat(uint16_t bits);

// Round half to even; overflow gives infinity (float16) and NaN stays a quiet NaN.
uint16_t FloatToFloat16(float value);
uint16_t FloatToBFloat16(float value);

}  // namespace quant

#endif  // QUANT_WORKER_TENSOR_DTYPE_H_
