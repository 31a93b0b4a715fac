// SPDX-License-Identifier: Apache-2.0
// Where a tensor in an ONNX "external data" file is. The entries come from the model and are not trusted. Internal to
// formats/onnx.
//
// Format: onnx/onnx docs/ExternalData.md; the rules on paths follow the CVEs listed there against other readers: only
// plain files below the model's own folder, no "..", no symbolic links, no unknown keys.
#ifndef QUANT_WORKER_FORMATS_ONNX_EXTERNAL_DATA_H_
#define QUANT_WORKER_FORMATS_ONNX_EXTERNAL_DATA_H_

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "worker/formats/file/mapped_file.h"
#include "worker/tensor/tensor.h"

namespace onnx {
class TensorProto;
}  // namespace onnx

namespace quant {

// Maps each data file once. Thread-compatible.
class ExternalData {
 public:
  explicit ExternalData(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // The tensor described by `proto`, borrowed from the mapping. INVALID_ARGUMENT: an unknown or repeated key, a path
  // that leaves the folder, a range outside the file, a length that differs from what dtype and shape need.
  absl::StatusOr<Tensor> Read(const onnx::TensorProto& proto);

 private:
  std::filesystem::path folder_;
  std::map<std::string, std::shared_ptr<const MappedFile>> files_;
};

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_EXTERNAL_DATA_H_
