// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts in a graph: each expert computes every token, and its output is multiplied by the token's share,
//
//   shares = ScatterElements(zeros, chosen, weights) -> Split into one value per expert -> Mul(expert's output, .)
//
// a share of 0 meaning that the token was not routed to it.
#ifndef QUANT_WORKER_GRAPH_ROUTING_H_
#define QUANT_WORKER_GRAPH_ROUTING_H_

#include <map>
#include <string>

#include "worker/graph/graph.h"

namespace quant {

// Linear layers that serve one expert only, by name -> the value with the shares of its tokens. A layer is an expert's
// when all that is made of its output goes through that one multiplication.
std::map<std::string, std::string> RoutedLinears(const Graph& graph);

}  // namespace quant

#endif  // QUANT_WORKER_GRAPH_ROUTING_H_
