// SPDX-License-Identifier: Apache-2.0
// Counts what goes through operator new between two calls, in this program and in the libraries it loads.
#ifndef QUANT_WORKER_RUNTIME_ONEDNN_TESTING_COUNT_ALLOCATIONS_H_
#define QUANT_WORKER_RUNTIME_ONEDNN_TESTING_COUNT_ALLOCATIONS_H_

#include <cstddef>

namespace quant::testing {

struct Allocations {
  size_t bytes = 0;
  size_t greatest_bytes = 0;
};

void StartCountingAllocations();
Allocations StopCountingAllocations();

}  // namespace quant::testing

#endif  // QUANT_WORKER_RUNTIME_ONEDNN_TESTING_COUNT_ALLOCATIONS_H_
