// SPDX-License-Identifier: Apache-2.0
#include "server/auth/rate_limiter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/strings.h"
#include "server/metrics/server_metrics.h"

namespace quant {

void RateLimiter::Bucket::Fill(absl::Time now, double rate, double room) {
  if (filled == absl::InfinitePast()) {
    level = room;
  } else if (now > filled) {
    level = std::min(room, level + rate * absl::ToDoubleSeconds(now - filled));
  }
  filled = now;
}

absl::Status RateLimiter::Admit(std::string_view tenant) {
  const double rate = limits_->For(tenant).requests_per_second;
  if (rate <= 0) return absl::OkStatus();
  double missing = 0;
  {
    MutexLock lock(&mu_);
    Bucket& bucket = requests_[std::string(tenant)];
    bucket.Fill(clock_->Now(), rate, std::max(1.0, 2 * rate));
    if (bucket.level >= 1) {
      bucket.level -= 1;
      return absl::OkStatus();
    }
    missing = 1 - bucket.level;
  }
  if (metrics_ != nullptr) metrics_->QuotaRejected(tenant, "requests");
  const absl::Duration wait = absl::Seconds(missing / rate);
  return WithReason(absl::ResourceExhaustedError(absl::StrCat("tenant ", Quoted(tenant), " may make ", rate,
                                                              " requests a second: try again later")),
                    "RATE_LIMITED", {{"resource", "requests"}}, std::max(wait, absl::Milliseconds(10)));
}

absl::Duration RateLimiter::AfterUpload(std::string_view tenant, int64_t bytes) {
  const double rate = static_cast<double>(limits_->For(tenant).upload_bytes_per_second);
  if (rate <= 0) return absl::ZeroDuration();
  MutexLock lock(&mu_);
  Bucket& bucket = uploads_[std::string(tenant)];
  bucket.Fill(clock_->Now(), rate, rate);  // a second's worth may come at once
  bucket.level -= static_cast<double>(bytes);
  return bucket.level >= 0 ? absl::ZeroDuration() : absl::Seconds(-bucket.level / rate);
}

}  // namespace quant
