// SPDX-License-Identifier: Apache-2.0
#include "server/auth/open_calls.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace quant {

OpenCalls::~OpenCalls() {
  std::thread thread;
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

uint64_t OpenCalls::Add(Recheck recheck, End end) {
  MutexLock lock(&mu_);
  const uint64_t id = next_++;
  calls_.emplace(id, std::make_shared<const Call>(Call{std::move(recheck), std::move(end)}));
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  changed_.SignalAll();
  return id;
}

void OpenCalls::Remove(uint64_t id) {
  std::shared_ptr<const Call> removed;  // destroyed without the lock
  MutexLock lock(&mu_);
  const auto it = calls_.find(id);
  if (it == calls_.end()) return;
  removed = std::move(it->second);
  calls_.erase(it);
}

void OpenCalls::Run() {
  while (true) {
    std::vector<std::pair<uint64_t, std::shared_ptr<const Call>>> calls;
    {
      MutexLock lock(&mu_);
      while (!stopping_ && calls_.empty()) changed_.Wait(&mu_);
      const absl::Time due = absl::Now() + interval_;
      while (!stopping_ && absl::Now() < due) changed_.WaitFor(&mu_, due - absl::Now());
      if (stopping_) return;
      calls.assign(calls_.begin(), calls_.end());
    }
    for (const auto& [id, call] : calls) {
      const absl::Status status = call->recheck();
      if (status.ok()) continue;
      Remove(id);
      call->end(status);
    }
  }
}

}  // namespace quant
