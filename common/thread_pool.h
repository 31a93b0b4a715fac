// SPDX-License-Identifier: Apache-2.0
// ThreadPool: a few threads for work that waits for a disk. gRPC's callback threads are few (half the cores, at least
// two) and serve every rpc: a handler that syncs a file there would delay all others.
#ifndef QUANT_COMMON_THREAD_POOL_H_
#define QUANT_COMMON_THREAD_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace quant {

// Thread-safe.
class ThreadPool {
 public:
  // Tasks wait in a queue of at most `max_waiting`.
  ThreadPool(int threads, size_t max_waiting);
  // Runs what is waiting, then joins.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs `task` on a thread of the pool, in the order of the calls. False, and nothing runs, when the queue is full.
  [[nodiscard]] bool TryPost(std::function<void()> task);
  // As TryPost, beyond the limit: for the next step of a call that was admitted before and has one task at a time.
  void PostNext(std::function<void()> task);

 private:
  void Run();

  const size_t max_waiting_;
  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace quant

#endif  // QUANT_COMMON_THREAD_POOL_H_
