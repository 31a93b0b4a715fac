// SPDX-License-Identifier: Apache-2.0
// The first half of reading an ONNX file: bytes to a checked ModelProto. Internal to formats/onnx; the calls into
// libonnx, which throws, are all in model_proto.cc.
#ifndef QUANT_WORKER_FORMATS_ONNX_MODEL_PROTO_H_
#define QUANT_WORKER_FORMATS_ONNX_MODEL_PROTO_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace onnx {
class ModelProto;
}  // namespace onnx

namespace quant {

struct ParsedOnnx {
  // Shared only because ModelProto is incomplete here and shared_ptr carries the deleter.
  std::shared_ptr<onnx::ModelProto> proto;
  int64_t opset = 0;
  // Initializers kept in other files, mapped. In `proto` each of these is a graph input of the same name instead, so
  // that the checker and shape inference neither open files nor miss a value.
  std::map<std::string, Tensor> external;
};

// Reads `file`, refuses what we do not support (listing all of it), resolves external data, runs ONNX's checker and its
// shape inference. Errors as ImportOnnx in onnx.h.
absl::StatusOr<ParsedOnnx> ParseOnnx(const std::filesystem::path& file, int64_t max_weight_bytes);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_MODEL_PROTO_H_
