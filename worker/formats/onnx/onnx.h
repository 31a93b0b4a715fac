// SPDX-License-Identifier: Apache-2.0
// Reads and writes ONNX files: the one place that sees ONNX's own protobuf messages.
#ifndef QUANT_WORKER_FORMATS_ONNX_ONNX_H_
#define QUANT_WORKER_FORMATS_ONNX_ONNX_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

struct OnnxImportOptions {
  // Bytes of all initializers together; a model that declares more is refused before anything is allocated.
  int64_t max_weight_bytes = int64_t{64} << 30;
};

//   ASSIGN_OR_RETURN(Graph graph, ImportOnnx("model.onnx"));
//   ...
//   RETURN_IF_ERROR(ExportOnnx(graph, "quantized.onnx"));
//
// Reads a .onnx file of opset 7 to 22 (ai.onnx; other domains are kept as they are), with external data beside it,
// which is memory-mapped. The result is a valid Graph (see graph.h) with opset >= 13 in which older operator forms are
// rewritten, Constant nodes are initializers, initializers are not among the inputs, fp16/bf16/double weights keep
// their dtype, every node has a unique name, and value_info is inferred as far as ONNX can.
//   INVALID_ARGUMENT: not an ONNX file, truncated, fails ONNX's checker, sizes that disagree or exceed the limits, an
//     external-data path that is absolute, leaves the folder (".."), or goes through a symbolic link.
//   NOT_FOUND: no such file.
//   UNIMPLEMENTED: training graphs, functions, sub-graphs (If, Loop, Scan), sparse or string tensors, an opset outside
//     7 to 22; the message lists every offending node.
absl::StatusOr<Graph> ImportOnnx(const std::filesystem::path& file, const OnnxImportOptions& options = {});

struct OnnxExportOptions {
  // Weights of more bytes than this go to a second file, <file>.data, each aligned to 4096 bytes; what is under 1024
  // bytes stays inside. A protobuf message cannot exceed 2 GiB.
  int64_t max_inline_bytes = int64_t{3} << 29;
  // Writes what ONNX Runtime does not run in other words: operators of set 23 in those of set 21, quantized linear
  // layers of any block size, 3 and 8 bits and codebooks in MatMulNBits, MatMulBnb4 or DequantizeLinear, with exactly
  // the same weights (lower.h). Otherwise the file is the graph as it stands.
  bool portable = true;
};

// Writes `graph` by temporary file, fsync and rename. The same graph gives the same bytes: no dates, maps in order.
// Names of inputs, outputs, values and nodes are kept; so is the operator set, except that 4-bit tensors and 16-bit
// quantization raise it to 21. The IR version is the lowest that fits (10 at opset 22, which ONNX Runtime 1.21 reads).
//   INVALID_ARGUMENT: the graph is not valid.  UNIMPLEMENTED: see RaiseOpset, and lower.h for what has no portable
//   form.  RESOURCE_EXHAUSTED: the disk is full.
absl::Status ExportOnnx(const Graph& graph, const std::filesystem::path& file, const OnnxExportOptions& options = {});

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_ONNX_H_
