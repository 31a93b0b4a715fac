// SPDX-License-Identifier: Apache-2.0
// BackgroundTask: work that a thread of a pool does beside the caller, or that the caller does when it comes to wait
// for it and no thread has begun. So it never takes longer than without the pool, and a pool of few threads serves any
// number of callers.
//
//   BackgroundTask hash = UpdateBeside(&pool, sha256, pieces);
//   Write(fd, pieces, offset);
//   hash.Wait();  // before `pieces` go
#ifndef QUANT_COMMON_BACKGROUND_TASK_H_
#define QUANT_COMMON_BACKGROUND_TASK_H_

#include <functional>
#include <memory>
#include <string_view>

#include "absl/types/span.h"
#include "common/digest.h"
#include "common/thread_pool.h"

namespace quant {

// Thread-compatible. Moves; the destructor and an assignment wait, the latter while the new task may already run.
class BackgroundTask {
 public:
  // Nothing to do: done.
  BackgroundTask();
  // `pool` outlives the task; a pool that is full leaves the work to Wait. `work` must not wait for other tasks.
  BackgroundTask(ThreadPool* pool, std::function<void()> work);
  ~BackgroundTask();
  BackgroundTask(BackgroundTask&&) noexcept = default;
  BackgroundTask& operator=(BackgroundTask&& other) noexcept;

  bool Done() const;
  // Returns when the work is done. What it wrote can be read afterwards.
  void Wait();

 private:
  struct State;
  std::shared_ptr<State> state_;  // the pool's entry may outlive the task
};

// sha256.Update of each piece, in the background if there is enough to be worth another thread. All of it stays until
// the task is done.
BackgroundTask UpdateBeside(ThreadPool* pool, Sha256& sha256, absl::Span<const std::string_view> pieces);

}  // namespace quant

#endif  // QUANT_COMMON_BACKGROUND_TASK_H_
