// SPDX-License-Identifier: Apache-2.0
// RateLimiter: token buckets per tenant, for requests (too many are refused) and uploaded bytes (too fast is slowed).
#ifndef QUANT_SERVER_AUTH_RATE_LIMITER_H_
#define QUANT_SERVER_AUTH_RATE_LIMITER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/auth/tenant_limits.h"

namespace quant {

class ServerMetrics;

// Thread-safe.
class RateLimiter {
 public:
  // `metrics` may be null. All must outlive the limiter.
  RateLimiter(LimitsTable* limits, ServerMetrics* metrics, Clock* clock)
      : limits_(limits), metrics_(metrics), clock_(clock) {}

  // Counts a request.
  //   RESOURCE_EXHAUSTED, reason RATE_LIMITED, with the time after which there is room for one more.
  absl::Status Admit(std::string_view tenant);

  // Counts bytes that were uploaded, and returns how long to wait before taking more. A tenant's uploads share the
  // rate.
  absl::Duration AfterUpload(std::string_view tenant, int64_t bytes);

 private:
  // Holds `level` of something that grows by `rate` a second up to `room`; below zero is debt.
  struct Bucket {
    double level = 0;
    absl::Time filled = absl::InfinitePast();
    void Fill(absl::Time now, double rate, double room);
  };

  LimitsTable* const limits_;
  ServerMetrics* const metrics_;
  Clock* const clock_;
  Mutex mu_;
  std::map<std::string, Bucket, std::less<>> requests_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Bucket, std::less<>> uploads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_RATE_LIMITER_H_
