// SPDX-License-Identifier: Apache-2.0
// AWQ's equivalent scales in a block (Lin et al. 2023, arXiv 2306.00978, section 3.2): which layers can be scaled, and
// scaling them. The mappings are derived from the graph, not from names:
//
//   x = Norm(h) * gamma (+ beta)      gamma and beta are divided by s          input norm -> q, k, v; gate, up
//   x = a * U(..)                     the rows of linear layer U (and its bias) up -> down
//   x = Attention(q, k, V(..))        the rows of V, as many heads as q has     v -> o
//
// and hold only when every reader of x is a layer of the group, and the divided values have no other reader. The
// columns of the group's weights are multiplied by s; the block computes the same.
#ifndef QUANT_WORKER_QUANTIZE_LANGUAGE_AWQ_BLOCK_H_
#define QUANT_WORKER_QUANTIZE_LANGUAGE_AWQ_BLOCK_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "worker/calibrate/hessian.h"
#include "worker/graph/graph.h"
#include "worker/quantize/language/block.h"
#include "worker/quantize/language/linear_method.h"

namespace quant {

// Searches scales for a group's input on the method's grid and applies them to the block's graph: its initializers are
// replaced by float32 ones, norms by ones of their own type (what rounding them changes is made good in the weights).
// Everything replaced besides the group's own weights is put into `changed`, by name. Returns a note: why the group was
// not scaled, or "" when it was (or when no scale was better than none, and then `changed` stays as it was).
absl::StatusOr<std::string> ScaleGroup(Graph* graph, const InputGroup& group, const HessianMatrix& hessian,
                                       const LinearMethod& method, int threads, std::map<std::string, Tensor>* changed);

}  // namespace quant

#endif  // QUANT_WORKER_QUANTIZE_LANGUAGE_AWQ_BLOCK_H_
