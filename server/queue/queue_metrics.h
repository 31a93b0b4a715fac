// SPDX-License-Identifier: Apache-2.0
// What the queue counts, in one place: which transition moves which metric.
#ifndef QUANT_SERVER_QUEUE_QUEUE_METRICS_H_
#define QUANT_SERVER_QUEUE_QUEUE_METRICS_H_

#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/job_state.h"
#include "server/queue/live_jobs.h"
#include "server/queue/worker_table.h"
#include "server/store/job_store.h"

namespace quant {

void CountSubmitted(const v1::JobSpec& spec, ServerMetrics* metrics);
// `event` took a job from `before` to `after` at `now`.
void CountTransition(JobEvent event, const JobRow& before, const JobRow& after, absl::Time now, ServerMetrics* metrics);
// The phases of a finished job's report.
void CountPhases(const v1::JobSpec& spec, const v1::Report& report, ServerMetrics* metrics);
void SetQueueGauges(const LiveJobs& live, absl::Time now, ServerMetrics* metrics);
void SetPhaseGauges(const LiveJobs& live, ServerMetrics* metrics);
// What tenants with quotas of jobs use of them.
void SetQuotaGauges(const LiveJobs& live, LimitsTable* limits, ServerMetrics* metrics);
// A worker is up when it was heard of within `silence`.
void SetWorkerGauges(const WorkerTable& workers, const LiveJobs& live, absl::Duration silence, absl::Time now,
                     ServerMetrics* metrics);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_QUEUE_METRICS_H_
