// SPDX-License-Identifier: Apache-2.0
// ModelBoard: keeps the metrics of models (ServerMetrics::SetModels) at what the newest quantize jobs measured. It
// reads the store, so the numbers are there again after a restart and go with the job or its model: at the next tick
// where this server did it, else within half a minute.
#ifndef QUANT_SERVER_QUEUE_MODEL_BOARD_H_
#define QUANT_SERVER_QUEUE_MODEL_BOARD_H_

#include <atomic>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/mutex.h"
#include "quant/v1/jobs.pb.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/artifact_catalog.h"
#include "server/store/job_store.h"

namespace quant {

// Models shown at most: quantized variants with a model, variant, dataset and method of their own, newest first.
inline constexpr int kBoardModels = 20;

// The variant and its original as a job's report has them, without the names of model and dataset.
std::pair<ServerMetrics::ModelSample, ServerMetrics::ModelSample> SamplesOf(const v1::JobSpec& spec,
                                                                            const v1::Report& report);

// A name that a user gave, as a label: at most 48 characters of [A-Za-z0-9._-], others become "_"; after the tenant's
// name and "/" unless that is the default one. "unnamed" when it is empty.
std::string AliasOf(const std::string& tenant, const std::string& name);

// Thread-safe. All must outlive it; `metrics` may be null.
class ModelBoard {
 public:
  ModelBoard(JobStore* store, ArtifactCatalog* catalog, ServerMetrics* metrics)
      : store_(store), catalog_(catalog), metrics_(metrics) {}

  // A job came to have a result, or one with a result is gone.
  void Changed() { changed_ = true; }
  // Reads anew when something changed, or has not been looked at for half a minute. Calls the store and the catalog.
  void Refresh(absl::Time now);

 private:
  struct Measured {
    ServerMetrics::ModelSample original;
    ServerMetrics::ModelSample variant;
    std::string model;  // its alias, for when the input is deleted
  };
  absl::Status Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Null: the result cannot be read.
  const Measured* Find(const JobRow& row, const v1::Model& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  JobStore* const store_;
  ArtifactCatalog* const catalog_;
  ServerMetrics* const metrics_;
  std::atomic<bool> changed_{false};
  Mutex mu_;
  absl::Time next_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::map<std::string, Measured> known_ ABSL_GUARDED_BY(mu_);  // by job
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_MODEL_BOARD_H_
