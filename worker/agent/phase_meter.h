// SPDX-License-Identifier: Apache-2.0
// PhaseMeter: how fast a phase goes and when it will end, from its own reports of the last minute.
//
//   rate      = counted since the window's first report / time between
//   remaining = (1 - fraction) * time between / fraction gained since  - time since the last report
//
// The window holds the reports of the last kWindow, and the last one before it: a phase whose steps are longer than
// that is measured by its last step. A phase that goes on at a resume point begins with its first report, so that what
// an earlier attempt did makes it no faster.
#ifndef QUANT_WORKER_AGENT_PHASE_METER_H_
#define QUANT_WORKER_AGENT_PHASE_METER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "worker/agent/steady.h"

namespace quant {

// Thread-compatible.
class PhaseMeter {
 public:
  static constexpr absl::Duration kWindow = absl::Seconds(60);
  static constexpr absl::Duration kShortest = absl::Milliseconds(500);  // less says nothing yet
  static constexpr absl::Duration kLongest = absl::Hours(24 * 365);     // more is no forecast

  // A new phase: forgets the one before.
  void Begin();
  // `fraction` is 0..1; `done` counts `unit`s, or is 0.
  void Report(double fraction, int64_t done, std::string_view unit, SteadyTime now);

  // Units a second; 0: not known.
  double Rate() const { return counted_.PerSecond(); }
  std::optional<absl::Duration> Remaining(SteadyTime now) const;

 private:
  // Reports in which a value grew.
  class Window {
   public:
    void Clear() { points_.clear(); }
    void Add(double value, SteadyTime now);
    double PerSecond() const;
    double value() const { return points_.empty() ? 0 : points_.back().value; }
    SteadyTime time() const { return points_.empty() ? SteadyTime() : points_.back().time; }

   private:
    struct Point {
      SteadyTime time;
      double value;
    };
    std::deque<Point> points_;  // at most kMostPoints
  };

  Window fraction_;
  Window counted_;
  std::string unit_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_PHASE_METER_H_
