// SPDX-License-Identifier: Apache-2.0
// ONNX's TensorProto and our Tensor. Internal to formats/onnx.
#ifndef QUANT_WORKER_FORMATS_ONNX_TENSOR_PROTO_H_
#define QUANT_WORKER_FORMATS_ONNX_TENSOR_PROTO_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace onnx {
class TensorProto;
}  // namespace onnx

namespace quant {

// The dtype of a TensorProto.DataType. UNIMPLEMENTED for strings, complex numbers and float8.
absl::StatusOr<DType> FromOnnxType(int onnx_type);
int ToOnnxType(DType dtype);

// Bytes that dtype and dims call for, whatever data there is. INVALID_ARGUMENT for dims outside the limits of
// tensor.h; UNIMPLEMENTED for a type we do not have.
absl::StatusOr<int64_t> DeclaredBytes(const onnx::TensorProto& proto);

// Whether the data inside the message (raw_data or the typed field) is exactly as long as declared, so that nothing is
// allocated for a tensor that only claims to be large. INVALID_ARGUMENT naming both sizes.
absl::Status CheckInlineData(const onnx::TensorProto& proto);

// Moves the data out of the message, which must not be external. Errors as the two above; INVALID_ARGUMENT too when an
// entry of int32_data does not fit the type.
absl::StatusOr<Tensor> TakeTensor(onnx::TensorProto& proto);

// Writes dtype, dims, name and, when `with_data`, the bytes as raw_data.
void FillTensorProto(std::string_view name, const Tensor& tensor, bool with_data, onnx::TensorProto* proto);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_TENSOR_PROTO_H_
