// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/onnx/tensor_proto.h"

#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "onnx/onnx_pb.h"

namespace quant {
namespace {

using onnx::TensorProto;

Shape DimsOf(const TensorProto& proto) { return Shape(proto.dims().begin(), proto.dims().end()); }

// Entries of the typed field that `elements` elements need: a byte of two for 4-bit types, else one each.
int64_t EntriesFor(DType dtype, int64_t elements) { return DTypeBits(dtype) == 4 ? (elements + 1) / 2 : elements; }

int TypedEntries(const TensorProto& proto, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return proto.float_data_size();
    case DType::kFloat64:
      return proto.double_data_size();
    case DType::kInt64:
      return proto.int64_data_size();
    case DType::kUInt32:
    case DType::kUInt64:
      return proto.uint64_data_size();
    default:
      return proto.int32_data_size();
  }
}

template <typename T, typename Field>
absl::Status CopyField(const Field& field, Tensor& dst) {
  std::byte* out = dst.mutable_bytes().data();
  for (int i = 0; i < field.size(); ++i) {
    if (!std::in_range<T>(field[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("entry ", i, " is ", field[i], ", which does not fit ", DTypeName(dst.dtype())));
    }
    const T v = static_cast<T>(field[i]);
    std::memcpy(out + static_cast<size_t>(i) * sizeof(T), &v, sizeof(T));
  }
  return absl::OkStatus();
}

// Some writers store a nibble pair or an int8 sign-extended, some as the plain byte: both fit in 8 bits either way.
absl::Status CopyBytes(const google::protobuf::RepeatedField<int32_t>& field, Tensor& dst) {
  std::byte* out = dst.mutable_bytes().data();
  for (int i = 0; i < field.size(); ++i) {
    if (field[i] < -128 || field[i] > 255) {
      return absl::InvalidArgumentError(absl::StrCat("entry ", i, " is ", field[i], ", which does not fit a byte"));
    }
    out[i] = static_cast<std::byte>(static_cast<unsigned>(field[i]) & 255u);
  }
  return absl::OkStatus();
}

absl::Status CopyTyped(const TensorProto& proto, Tensor& dst) {
  switch (dst.dtype()) {
    case DType::kFloat32:
      std::memcpy(dst.mutable_bytes().data(), proto.float_data().data(), dst.bytes().size());
      return absl::OkStatus();
    case DType::kFloat64:
      std::memcpy(dst.mutable_bytes().data(), proto.double_data().data(), dst.bytes().size());
      return absl::OkStatus();
    case DType::kInt64:
      return CopyField<int64_t>(proto.int64_data(), dst);
    case DType::kUInt32:
      return CopyField<uint32_t>(proto.uint64_data(), dst);
    case DType::kUInt64:
      return CopyField<uint64_t>(proto.uint64_data(), dst);
    case DType::kInt32:
      return CopyField<int32_t>(proto.int32_data(), dst);
    case DType::kInt16:
      return CopyField<int16_t>(proto.int32_data(), dst);
    case DType::kInt8:
      return CopyField<int8_t>(proto.int32_data(), dst);
    case DType::kUInt8:
    case DType::kBool:
      return CopyField<uint8_t>(proto.int32_data(), dst);
    case DType::kUInt16:
    case DType::kFloat16:   // bit patterns
    case DType::kBFloat16:  // bit patterns
      return CopyField<uint16_t>(proto.int32_data(), dst);
    case DType::kInt4:
    case DType::kUInt4:
      return CopyBytes(proto.int32_data(), dst);
  }
  return absl::InternalError("unknown dtype");
}

}  // namespace

absl::StatusOr<DType> FromOnnxType(int onnx_type) {
  switch (onnx_type) {
    case TensorProto::FLOAT:
      return DType::kFloat32;
    case TensorProto::DOUBLE:
      return DType::kFloat64;
    case TensorProto::FLOAT16:
      return DType::kFloat16;
    case TensorProto::BFLOAT16:
      return DType::kBFloat16;
    case TensorProto::INT8:
      return DType::kInt8;
    case TensorProto::UINT8:
      return DType::kUInt8;
    case TensorProto::INT16:
      return DType::kInt16;
    case TensorProto::UINT16:
      return DType::kUInt16;
    case TensorProto::INT32:
      return DType::kInt32;
    case TensorProto::UINT32:
      return DType::kUInt32;
    case TensorProto::INT64:
      return DType::kInt64;
    case TensorProto::UINT64:
      return DType::kUInt64;
    case TensorProto::BOOL:
      return DType::kBool;
    case TensorProto::INT4:
      return DType::kInt4;
    case TensorProto::UINT4:
      return DType::kUInt4;
    default:
      return absl::UnimplementedError(
          absl::StrCat("element type ",
                       TensorProto::DataType_IsValid(onnx_type)
                           ? TensorProto::DataType_Name(static_cast<TensorProto::DataType>(onnx_type))
                           : std::to_string(onnx_type),
                       " is not supported"));
  }
}

int ToOnnxType(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return TensorProto::FLOAT;
    case DType::kFloat64:
      return TensorProto::DOUBLE;
    case DType::kFloat16:
      return TensorProto::FLOAT16;
    case DType::kBFloat16:
      return TensorProto::BFLOAT16;
    case DType::kInt8:
      return TensorProto::INT8;
    case DType::kUInt8:
      return TensorProto::UINT8;
    case DType::kInt16:
      return TensorProto::INT16;
    case DType::kUInt16:
      return TensorProto::UINT16;
    case DType::kInt32:
      return TensorProto::INT32;
    case DType::kUInt32:
      return TensorProto::UINT32;
    case DType::kInt64:
      return TensorProto::INT64;
    case DType::kUInt64:
      return TensorProto::UINT64;
    case DType::kBool:
      return TensorProto::BOOL;
    case DType::kInt4:
      return TensorProto::INT4;
    case DType::kUInt4:
      return TensorProto::UINT4;
  }
  return TensorProto::UNDEFINED;
}

absl::StatusOr<int64_t> DeclaredBytes(const TensorProto& proto) {
  ASSIGN_OR_RETURN(const DType dtype, FromOnnxType(proto.data_type()));
  ASSIGN_OR_RETURN(const int64_t elements, ElementCount(DimsOf(proto)));
  const std::optional<int64_t> bytes = DTypeBytes(dtype, elements);
  if (!bytes) return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(DimsOf(proto)), " is too large"));
  return *bytes;
}

absl::Status CheckInlineData(const TensorProto& proto) {
  ASSIGN_OR_RETURN(const int64_t bytes, DeclaredBytes(proto));
  ASSIGN_OR_RETURN(const DType dtype, FromOnnxType(proto.data_type()));
  if (proto.has_segment()) return absl::UnimplementedError("tensors in segments are not supported");
  int64_t have = 0;
  if (proto.has_raw_data()) {
    have = static_cast<int64_t>(proto.raw_data().size());
  } else {
    ASSIGN_OR_RETURN(const int64_t elements, ElementCount(DimsOf(proto)));
    const int64_t entries = TypedEntries(proto, dtype);
    if (entries == EntriesFor(dtype, elements)) return absl::OkStatus();
    have = *DTypeBytes(dtype, DTypeBits(dtype) == 4 ? 2 * entries : entries);
  }
  if (have == bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("declares ", DTypeName(dtype), " ", ShapeString(DimsOf(proto)), ", ",
                                                 bytes, " bytes, but holds ", have, " bytes of data"));
}

absl::StatusOr<Tensor> TakeTensor(TensorProto& proto) {
  RETURN_IF_ERROR(CheckInlineData(proto));
  ASSIGN_OR_RETURN(const DType dtype, FromOnnxType(proto.data_type()));
  ASSIGN_OR_RETURN(Tensor tensor, Tensor::Allocate(dtype, DimsOf(proto)));
  if (tensor.bytes().empty()) return tensor;
  if (proto.has_raw_data()) {
    std::memcpy(tensor.mutable_bytes().data(), proto.raw_data().data(), tensor.bytes().size());
    std::string().swap(*proto.mutable_raw_data());
  } else {
    RETURN_IF_ERROR(CopyTyped(proto, tensor));
    proto.Clear();
  }
  if (dtype == DType::kBool) {
    for (std::byte& b : tensor.mutable_bytes()) b = static_cast<std::byte>(b != std::byte{0});
  }
  return tensor;
}

void FillTensorProto(std::string_view name, const Tensor& tensor, bool with_data, TensorProto* proto) {
  proto->set_name(std::string(name));
  proto->set_data_type(ToOnnxType(tensor.dtype()));
  for (const int64_t d : tensor.shape()) proto->add_dims(d);
  if (with_data) {
    proto->set_raw_data(reinterpret_cast<const char*>(tensor.bytes().data()), tensor.bytes().size());
  }
}

}  // namespace quant
