// SPDX-License-Identifier: Apache-2.0
#include "common/transfer/retry.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"

namespace quant {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(50);
constexpr absl::Duration kLongestServerWait = absl::Seconds(30);

}  // namespace

bool IsWorthRepeating(const absl::Status& status) {
  if (absl::IsUnavailable(status)) return true;
  return absl::IsResourceExhausted(status) && RetryAfterOf(status) > absl::ZeroDuration();
}

bool IsBrokenStream(const absl::Status& status) {
  if (IsWorthRepeating(status)) return true;
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
      return true;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      // What gRPC itself says when HTTP/2 resets a stream; an error of the service carries a reason.
      return ReasonOf(status).empty() &&
             (absl::StrContains(status.message(), "RST_STREAM") ||
              absl::StrContains(status.message(), "Stream removed") || absl::StrContains(status.message(), "GOAWAY"));
    default:
      return false;
  }
}

Backoff::Backoff(RetryOptions options) : options_(std::move(options)), random_(std::random_device{}()) {}

void Backoff::Progress() { failures_ = 0; }

absl::Status Backoff::Wait(const absl::Status& last) {
  const auto now = std::chrono::steady_clock::now();
  if (failures_++ == 0) first_failure_ = now;
  const absl::Duration elapsed = absl::FromChrono(now - first_failure_);
  if (elapsed >= options_.give_up_after) {
    absl::Status gave_up(last.code(), absl::StrCat(last.message(), " (gave up after ", failures_, " attempts in ",
                                                   absl::FormatDuration(absl::Trunc(elapsed, absl::Seconds(1))), ")"));
    last.ForEachPayload([&](auto url, const absl::Cord& payload) { gave_up.SetPayload(url, payload); });
    return gave_up;
  }
  absl::Duration wait = options_.first_wait;
  for (int i = 1; i < failures_ && wait < options_.longest_wait; ++i) wait *= 2;
  wait = std::min(wait, options_.longest_wait) * std::uniform_real_distribution<double>(0.75, 1.25)(random_);
  wait = std::max(wait, std::min(RetryAfterOf(last), kLongestServerWait));
  while (wait > absl::ZeroDuration()) {
    if (options_.cancelled && options_.cancelled()) return absl::CancelledError("stopped while waiting for the server");
    const absl::Duration step = options_.cancelled ? std::min(wait, kPoll) : wait;
    if (options_.sleep) {
      options_.sleep(step);
    } else {
      absl::SleepFor(step);
    }
    wait -= step;
  }
  return absl::OkStatus();
}

}  // namespace quant
