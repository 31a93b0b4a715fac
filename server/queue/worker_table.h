// SPDX-License-Identifier: Apache-2.0
// WorkerTable: the workers seen lately. In memory only: after a restart it is learned again from heartbeats.
#ifndef QUANT_SERVER_QUEUE_WORKER_TABLE_H_
#define QUANT_SERVER_QUEUE_WORKER_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/v1/workers.pb.h"

namespace quant {

struct KnownWorker {
  v1::WorkerInfo info;
  absl::Time registered;
  absl::Time heard;
  bool draining = false;  // told to drain, or said so itself
};

// INVALID_ARGUMENT: an id that is empty, too long or has other characters than [A-Za-z0-9._-]; slots outside 1..1024;
// negative threads or memory; a text of more than 255 bytes.
absl::Status CheckWorkerInfo(const v1::WorkerInfo& info);

// Thread-compatible.
class WorkerTable {
 public:
  WorkerTable(int64_t max_workers, absl::Duration retention) : max_workers_(max_workers), retention_(retention) {}

  // Takes a sign of life. The pointer is good until the next call.
  //   INVALID_ARGUMENT: CheckWorkerInfo.
  //   RESOURCE_EXHAUSTED, reason TOO_MANY_WORKERS: the table is full of workers heard within the retention.
  absl::StatusOr<KnownWorker*> Touch(const v1::WorkerInfo& info, absl::Time now);
  // Null when unknown.
  KnownWorker* Find(std::string_view id);
  // Forgets workers silent for the retention.
  void Forget(absl::Time now);
  // Sorted by id.
  std::vector<const KnownWorker*> All() const;

 private:
  const int64_t max_workers_;
  const absl::Duration retention_;
  std::map<std::string, KnownWorker, std::less<>> workers_;
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_WORKER_TABLE_H_
