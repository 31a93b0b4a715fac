// SPDX-License-Identifier: Apache-2.0
// The oneDNN backend computes in float32: a graph in float16, bfloat16 or float64 is rewritten to float32 first, and
// its inputs and outputs are converted at the border.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_LOWER_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_LOWER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant::onednn {

// kFloat16, kBFloat16 and kFloat64 become kFloat32, others stay.
DType LoweredType(DType dtype);

// `graph` itself when it has no such types; else a copy in which initializers, inputs, outputs, tensor attributes and
// the targets of Cast are float32. 16-bit constants that are only read through a Cast to float32, or through a Gather
// and such a Cast, stay as they are: language models mapped from a file. Rounding to 16 bits between operators is lost
// with them: results are nearer to those of exact arithmetic than a 16-bit runtime's. RESOURCE_EXHAUSTED when the
// converted weights do not fit in memory.
absl::StatusOr<std::shared_ptr<const Graph>> LowerToFloat32(std::shared_ptr<const Graph> graph);

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_LOWER_H_
