// SPDX-License-Identifier: Apache-2.0
#include "common/status_macros.h"
#include "worker/graph/passes/passes.h"

namespace quant {

absl::StatusOr<PrepareResult> Prepare(Graph& graph, const Evaluator& evaluate) {
  RETURN_IF_ERROR(graph.Validate());
  PrepareResult result;
  // Constants first: they uncover parameters behind Identity, Cast or Reshape. Each round but the last removes at least
  // one node, so this ends.
  for (bool changed = true; changed;) {
    ASSIGN_OR_RETURN(const int constants, FoldConstants(graph, evaluate));
    ASSIGN_OR_RETURN(const int no_ops, RemoveNoOps(graph));
    ASSIGN_OR_RETURN(const int affine, FoldChannelAffine(graph));
    ASSIGN_OR_RETURN(const int hard_swish, FuseHardSwish(graph));
    result.constants_folded += constants;
    result.no_ops_removed += no_ops;
    result.affine_folded += affine;
    result.hard_swish_fused += hard_swish;
    changed = constants + no_ops + affine + hard_swish > 0;
  }
  RETURN_IF_ERROR(graph.Validate());
  return result;
}

}  // namespace quant
