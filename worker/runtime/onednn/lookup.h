// SPDX-License-Identifier: Apache-2.0
// Functions of one 8-bit code as tables of 256 codes.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_LOOKUP_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_LOOKUP_H_

#include <array>
#include <cstdint>
#include <span>

#include "worker/runtime/onednn/builder.h"

namespace quant::onednn {

// Indexed by the byte of the source code (s8 codes by their two's complement), giving the byte of the result.
using LookupTable = std::array<uint8_t, 256>;

// The codes that `nodes`, the last of them a QuantizeLinear to 8 bits, give for every code of a value on `grid`, each
// node reading the one before and constants. Computed by the operators' own implementations.
absl::StatusOr<LookupTable> MakeLookupTable(PlanBuilder& builder, DType codes, Grid grid, std::span<const int> nodes);

// DequantizeLinear -> functions of one value -> QuantizeLinear from `node_index` on, as one step; false when the graph
// there is something else.
absl::StatusOr<bool> EmitLookup(PlanBuilder& builder, int node_index);

}  // namespace quant::onednn

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_LOOKUP_H_
