// SPDX-License-Identifier: Apache-2.0
#include "common/clock.h"

#include "absl/time/clock.h"

namespace quant {
namespace {

class MachineClock : public Clock {
 public:
  absl::Time Now() override { return absl::Now(); }
};

}  // namespace

Clock& SystemClock() {
  static MachineClock* const clock = new MachineClock;  // never destroyed: used by threads during exit
  return *clock;
}

}  // namespace quant
