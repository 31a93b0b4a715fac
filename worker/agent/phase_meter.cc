// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/phase_meter.h"

#include <algorithm>

namespace quant {
namespace {

constexpr size_t kMostPoints = 512;  // whatever a child sends

}  // namespace

void PhaseMeter::Window::Add(double value, SteadyTime now) {
  if (!points_.empty() && value < points_.back().value) points_.clear();  // another part of the work
  if (!points_.empty() && value == points_.back().value) return;
  points_.push_back({now, value});
  while (points_.size() > 2 && (points_[1].time <= now - kWindow || points_.size() > kMostPoints)) points_.pop_front();
}

double PhaseMeter::Window::PerSecond() const {
  if (points_.size() < 2) return 0;
  const absl::Duration time = points_.back().time - points_.front().time;
  if (time < kShortest) return 0;
  return (points_.back().value - points_.front().value) / absl::ToDoubleSeconds(time);
}

void PhaseMeter::Begin() {
  fraction_.Clear();
  counted_.Clear();
  unit_.clear();
}

void PhaseMeter::Report(double fraction, int64_t done, std::string_view unit, SteadyTime now) {
  if (unit != unit_) {
    counted_.Clear();
    unit_ = std::string(unit);
  }
  fraction_.Add(fraction, now);
  if (!unit.empty()) counted_.Add(static_cast<double>(done), now);
}

std::optional<absl::Duration> PhaseMeter::Remaining(SteadyTime now) const {
  const double rate = fraction_.PerSecond();
  if (!(rate > 0)) return std::nullopt;
  const double seconds = (1 - fraction_.value()) / rate;
  if (!(seconds < absl::ToDoubleSeconds(kLongest))) return std::nullopt;
  return std::max(absl::Seconds(seconds) - (now - fraction_.time()), absl::ZeroDuration());
}

}  // namespace quant
