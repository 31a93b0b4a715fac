// SPDX-License-Identifier: Apache-2.0
// Rewrites a graph from one version of the ONNX operator set to a later one. Internal to formats/onnx, graph in, graph
// out: no ONNX messages here.
//
// What changed between versions is in onnx/onnx docs/Changelog.md; only changes of form or meaning matter here, not
// added types or options whose default is the old behaviour.
#ifndef QUANT_WORKER_FORMATS_ONNX_LIFT_H_
#define QUANT_WORKER_FORMATS_ONNX_LIFT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "worker/graph/graph.h"

namespace quant {

// From operator set 7..12 to 13, and (whatever the version) the experimental ImageScaler, Crop and Affine to standard
// operators. Values keep their names; a node that becomes several leaves its name to the one with the original output.
// UNIMPLEMENTED for a form that has no equivalent (BatchNormalization with spatial=0, a Dropout mask that is used,
// Resize mode tf_half_pixel_for_nn), naming the node.
absl::Status LiftToOpset13(Graph& graph);

// From 13 or later to `target` (at most 23; nothing happens when the graph is there already). UNIMPLEMENTED naming the
// node for GroupNormalization and DFT across the versions that redefined them.
absl::Status RaiseOpset(Graph& graph, int64_t target);

}  // namespace quant

#endif  // QUANT_WORKER_FORMATS_ONNX_LIFT_H_
