// SPDX-License-Identifier: Apache-2.0
// Clock: where time comes from, so that tests need not sleep. A seam: everything that compares times takes a Clock&.
#ifndef QUANT_COMMON_CLOCK_H_
#define QUANT_COMMON_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace quant {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall-clock time; may jump when the machine's clock is set.
  virtual absl::Time Now() = 0;
};

// The machine's clock; lives for ever.
Clock& SystemClock();

// Stands still until told otherwise.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time now) : now_(now) {}
  absl::Time Now() override {
    MutexLock lock(&mu_);
    return now_;
  }
  void Advance(absl::Duration by) {
    MutexLock lock(&mu_);
    now_ += by;
  }

 private:
  Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_COMMON_CLOCK_H_
