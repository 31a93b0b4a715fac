// SPDX-License-Identifier: Apache-2.0
// Reads and writes ONNX files: the one place that sees ONNX's own protobuf messages.
#ifndef QUANT_WORKER_FORMATS_ONNX_ONNX_H_
#define QUANT_WORKER_FORMATS_ONNX_ONNX_H_

#include <filesystem>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

struct OnnxImportOptions {
  // Bytes of all initializers together; a model that declares more is refused before anything is allocated.
  int64_t max_weight_bytes = int64_t{64} << 30;
};

// Reads a .onnx file of opset 7 to 22 (ai.onnx; other domains are kept as they are), with external data beside it,
// which is memory-mapped. The result is a valid Graph (see graph.h) with opset >= 13 in which older operator forms are
// rewritten, fp16/bf16/double weights keep their dtype, every node has a unique name, and value_info is inferred.
//   INVALID_ARGUMENT: not an ONNX file, truncated, fails ONNX's checker, sizes that disagree or exceed the limits, an
//     external-data path that is absolute, leaves the folder (".."), or goes through a symbolic link.
//   UNIMPLEMENTED: training graphs, functions, sub-graphs (If, Loop, Scan), sparse or string tensors, an opset outside
//     7 to 22; the message lists every offending node.
absl::StatusOr<Graph> ImportOnnx(const std::filesystem::path& file, const OnnxImportOptions& options = {});

// Writes `graph` as a single .onnx file (external data beside it as <file>.data when the weights exceed 1.5 GiB), by
// temporary file and rename. The same graph gives the same bytes: no dates, maps in order. Inputs, outputs and node
// names are kept.  INVALID_ARGUMENT: the graph is not valid.  RESOURCE_EXHAUSTED: the disk is full.
absl::Status ExportOnnx(const Graph& graph, const std::filesystem::path& file);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_ONNX_H_
