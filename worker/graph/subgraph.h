// SPDX-License-Identifier: Apache-2.0
// Cutting a graph at values.
#ifndef QUANT_WORKER_GRAPH_SUBGRAPH_H_
#define QUANT_WORKER_GRAPH_SUBGRAPH_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/graph/graph.h"

namespace quant {

// The part of `graph` that computes `outputs` when the values in `inputs` are given: nodes between them in their order,
// the initializers they read (shared, not copied), and as inputs `inputs` first, in their order, then those of the
// graph's own inputs that are still needed. Values of `inputs` and `outputs` take their types from value_info where it
// has them, else float32 of unknown shape. An output may be one of the inputs' neighbours but not an input itself.
// INVALID_ARGUMENT: a value that the graph does not define.
absl::StatusOr<Graph> Subgraph(const Graph& graph, std::span<const ValueInfo> inputs,
                               std::span<const std::string> outputs);

}  // namespace quant

#endif  // QUANT_WORKER_GRAPH_SUBGRAPH_H_
