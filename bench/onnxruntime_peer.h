// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime beside our runtime in one process, through its C API. Debian's ONNX Runtime and our importer use one
// libonnx, whose operator registry each fills and which breaks the other's; so it is loaded with all its libraries into
// a namespace of its own (dlmopen(3)).
#ifndef QUANT_BENCH_ONNXRUNTIME_PEER_H_
#define QUANT_BENCH_ONNXRUNTIME_PEER_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tensor/tensor.h"

namespace quant {

// A model with its inputs, which the caller keeps alive. Not thread-safe.
class OnnxRuntimePeer {
 public:
  // UNIMPLEMENTED: this program was built without ONNX Runtime's header, or the library is not there;
  // INVALID_ARGUMENT: what ONNX Runtime says.
  static absl::StatusOr<std::unique_ptr<OnnxRuntimePeer>> Load(const std::string& file,
                                                               const std::vector<std::string>& input_names,
                                                               const std::vector<std::string>& output_names,
                                                               std::span<const Tensor> inputs, int threads);
  virtual ~OnnxRuntimePeer() = default;
  virtual absl::Status Run() = 0;
};

}  // namespace quant

#endif  // QUANT_BENCH_ONNXRUNTIME_PEER_H_
