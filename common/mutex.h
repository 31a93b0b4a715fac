// SPDX-License-Identifier: Apache-2.0
// Mutex, MutexLock, CondVar: std::mutex with the annotations of absl/base/thread_annotations.h.
//
// Why not absl::Mutex: Debian's Abseil is not instrumented, so ThreadSanitizer reports races on correctly locked code;
// std::mutex satisfies both TSan and clang's -Wthread-safety.
//
//   Mutex mu;
//   int pending ABSL_GUARDED_BY(mu) = 0;
//   { MutexLock lock(&mu); while (pending == 0) changed.Wait(&mu); }
//
// Thread-safety: these are the means of it. None of the types moves or copies.
#ifndef QUANT_COMMON_MUTEX_H_
#define QUANT_COMMON_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace quant {

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mu_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mu_.unlock(); }
  // True when the lock was free and is now held.
  bool TryLock() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) { return mu_.try_lock(); }

 private:
  friend class CondVar;
  std::mutex mu_;
};

// Holds a Mutex for its own lifetime.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mu) ABSL_EXCLUSIVE_LOCK_FUNCTION(mu) : mu_(mu) { mu_->Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mu_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mu_;
};

// A condition variable. Wakes may be spurious: test the condition in a loop.
class CondVar {
 public:
  CondVar() = default;
  CondVar(const CondVar&) = delete;
  CondVar& operator=(const CondVar&) = delete;

  void Wait(Mutex* mu) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::unique_lock<std::mutex> lock(mu->mu_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }

  // Waits at most `timeout` (negative: not at all; infinite: for ever). True when the time ran out.
  bool WaitFor(Mutex* mu, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    constexpr absl::Duration kLongest = absl::Hours(24 * 365);  // keeps the sum with "now" inside its type
    std::unique_lock<std::mutex> lock(mu->mu_, std::adopt_lock);
    const auto limit = absl::ToChronoNanoseconds(timeout < kLongest ? timeout : kLongest);
    const bool timed_out = cv_.wait_for(lock, limit) == std::cv_status::timeout;
    lock.release();
    return timed_out;
  }

  void Signal() { cv_.notify_one(); }
  void SignalAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace quant

#endif  // QUANT_COMMON_MUTEX_H_
