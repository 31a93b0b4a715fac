// SPDX-License-Identifier: Apache-2.0
// What a tenant may use: read from a file (quantd --limits), followed without a restart.
//
//   {"default": {"max_queued_jobs": 1000, "max_running_jobs": 4, "requests_per_second": 50},
//    "tenants": {"acme": {"max_running_jobs": 16, "weight": 3}}}
//
// A tenant that is named has its own numbers, and the default's where it names none. 0 means no limit.
#ifndef QUANT_SERVER_AUTH_TENANT_LIMITS_H_
#define QUANT_SERVER_AUTH_TENANT_LIMITS_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/auth/file_watch.h"

namespace quant {

struct TenantLimits {
  int64_t max_queued_jobs = 0;   // unfinished jobs that no worker has
  int64_t max_running_jobs = 0;  // leased jobs; more wait in the queue
  int64_t max_stored_bytes = 0;  // distinct blobs of its manifests and uploads
  int64_t max_model_bytes = 0;   // of one model or dataset
  int64_t upload_bytes_per_second = 0;
  double requests_per_second = 0;  // with bursts of twice as many
  double weight = 1;               // share of the workers, against the other tenants that have jobs queued
};

// Thread-safe.
class LimitsTable {
 public:
  LimitsTable() = default;  // no limits
  // Reads the file.  NOT_FOUND.  INVALID_ARGUMENT: names what is wrong.
  static absl::StatusOr<std::unique_ptr<LimitsTable>> Open(std::filesystem::path file, Clock* clock);

  TenantLimits For(std::string_view tenant);
  // For tests.
  void Set(const std::string& tenant, const TenantLimits& limits);

 private:
  struct Table {
    TenantLimits others;
    std::map<std::string, TenantLimits, std::less<>> named;
  };
  static absl::StatusOr<Table> Parse(std::string_view text);
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Clock* clock_ = nullptr;
  Mutex mu_;
  std::unique_ptr<FileWatch> watch_ ABSL_GUARDED_BY(mu_);  // null without a file
  Table table_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_SERVER_AUTH_TENANT_LIMITS_H_
