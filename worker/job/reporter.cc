// SPDX-License-Identifier: Apache-2.0
#include "worker/job/reporter.h"

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/strings.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(200);
constexpr size_t kMaxMessage = 256;

void WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // the agent is gone: it will kill us, or its death has
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace

void Reporter::BeginPhase(std::string_view name) {
  const absl::Time now = absl::Now();
  if (!phase_.empty()) done_.emplace_back(phase_, absl::ToDoubleSeconds(now - phase_begin_));
  phase_ = std::string(name);
  phase_begin_ = now;
  Send(0, "", {}, /*always=*/true);
}

ProgressFn Reporter::Progress(double from, double to) {
  return [this, from, to](double fraction, std::string_view message, const Counted& counted) {
    Send(from + (to - from) * fraction, message, counted, /*always=*/false);
    return absl::OkStatus();
  };
}

std::vector<std::pair<std::string, double>> Reporter::Phases() const {
  std::vector<std::pair<std::string, double>> all = done_;
  if (!phase_.empty()) all.emplace_back(phase_, absl::ToDoubleSeconds(absl::Now() - phase_begin_));
  return all;
}

void Reporter::Send(double fraction, std::string_view message, const Counted& counted, bool always) {
  const absl::Time now = absl::Now();
  if (fd_ < 0 || (!always && now - last_sent_ < kInterval)) return;
  last_sent_ = now;
  quant::v1::Progress progress;
  progress.set_phase(phase_);
  progress.set_fraction(fraction);
  const std::string_view between = part_.empty() || message.empty() ? "" : ": ";
  progress.set_message(absl::StrCat(part_, AbslView(between), AbslView(message)).substr(0, kMaxMessage));
  progress.set_done(counted.done);
  progress.set_total(counted.total);
  progress.set_unit(counted.unit);
  std::string frame(4, '\0');
  progress.AppendToString(&frame);
  const uint32_t size = static_cast<uint32_t>(frame.size() - 4);
  for (int i = 0; i < 4; ++i) frame[static_cast<size_t>(i)] = static_cast<char>((size >> (8 * i)) & 0xff);
  WriteAll(fd_, frame);
}

}  // namespace quant
