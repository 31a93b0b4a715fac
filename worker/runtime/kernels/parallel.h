// SPDX-License-Identifier: Apache-2.0
// Splits a range over OpenMP threads, the same pool that oneDNN uses: two pools would fight for the cores.
#ifndef QUANT_WORKER_RUNTIME_KERNELS_PARALLEL_H_
#define QUANT_WORKER_RUNTIME_KERNELS_PARALLEL_H_

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace quant::kernels {

// Calls body(begin, end) over [0, n) in at most `threads` pieces whose bounds are multiples of `grain`, each on its own
// thread; on this thread alone when there is one piece. Every element is computed the same way whatever the split, so
// results do not depend on `threads`. body must not throw.
template <class Body>
void ParallelRanges(int threads, int64_t n, int64_t grain, const Body& body) {
  const int64_t grains = (n + grain - 1) / grain;
  const int pieces = static_cast<int>(std::min<int64_t>(threads, grains));
  if (pieces <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
#pragma omp parallel num_threads(pieces)
  {
    const int64_t count = omp_get_num_threads();
    const int64_t id = omp_get_thread_num();
    const int64_t begin = grains * id / count * grain;
    const int64_t end = std::min(n, grains * (id + 1) / count * grain);
    if (begin < end) body(begin, end);
  }
}

// Calls body(task, thread) for tasks [0, n) of unequal length, each on the next free thread; 0 <= thread < threads
// tells which scratch memory is the body's own. Every task computes the same whichever thread runs it. body must not
// throw.
template <class Body>
void ParallelTasks(int threads, int64_t n, const Body& body) {
  const int used = static_cast<int>(std::min<int64_t>(threads, n));
  if (used <= 1) {
    for (int64_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
#pragma omp parallel for schedule(dynamic) num_threads(used)
  for (int64_t i = 0; i < n; ++i) body(i, omp_get_thread_num());
}

}  // namespace quant::kernels

#endif  // QUANT_WORKER_RUNTIME_KERNELS_PARALLEL_H_
