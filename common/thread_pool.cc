// SPDX-License-Identifier: Apache-2.0
#include "common/thread_pool.h"

#include <utility>

namespace quant {

ThreadPool::ThreadPool(int threads, size_t max_waiting) : max_waiting_(max_waiting) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

bool ThreadPool::TryPost(std::function<void()> task) {
  MutexLock lock(&mu_);
  if (waiting_.size() >= max_waiting_) return false;
  waiting_.push_back(std::move(task));
  changed_.Signal();
  return true;
}

void ThreadPool::PostNext(std::function<void()> task) {
  MutexLock lock(&mu_);
  waiting_.push_back(std::move(task));
  changed_.Signal();
}

void ThreadPool::Run() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(&mu_);
      while (waiting_.empty()) {
        if (stopping_) return;
        changed_.Wait(&mu_);
      }
      task = std::move(waiting_.front());
      waiting_.pop_front();
    }
    task();
  }
}

}  // namespace quant
