// SPDX-License-Identifier: Apache-2.0
// Threads of one call: OpenMP's, shared with OpenBLAS and oneDNN. While a ThreadScope lives, OpenMP regions and BLAS
// calls of this thread use that many; it puts the former number back. BLAS calls made inside a parallel region run on
// the calling thread alone, which is how all of this folder's products are split: into tiles of fixed size, so that
// results do not depend on the number of threads.
#ifndef QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_THREADS_H_
#define QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_THREADS_H_

#include <omp.h>

namespace quant::weight_only {

class ThreadScope {
 public:
  // 0: as many as OpenMP would use.
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) {
    if (threads > 0) omp_set_num_threads(threads);
  }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace quant::weight_only

#endif  // QUANT_WORKER_QUANTIZE_WEIGHT_ONLY_THREADS_H_
