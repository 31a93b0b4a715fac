// SPDX-License-Identifier: Apache-2.0
#include "server/queue/queue_metrics.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/proto_time.h"
#include "server/queue/queue_internal.h"
#include "server/queue/spec_check.h"

namespace quant {
namespace {

// A label of its own for the metric, which wants "" where there is no method.
std::string_view Method(const v1::JobSpec& spec) { return MethodLabel(spec); }

std::string_view ClassLabel(v1::ErrorClass error_class) {
  switch (error_class) {
    case v1::ERROR_CLASS_RETRYABLE:
      return "retryable";
    case v1::ERROR_CLASS_FINAL:
      return "final";
    case v1::ERROR_CLASS_POISON:
      return "poison";
    default:
      return "";
  }
}

}  // namespace

void CountSubmitted(const v1::JobSpec& spec, ServerMetrics* metrics) {
  metrics->JobSubmitted(JobKindName(spec), Method(spec));
}

void CountTransition(JobEvent event, const JobRow& before, const JobRow& after, absl::Time now,
                     ServerMetrics* metrics) {
  const v1::Job& job = after.job;
  const JobState state = StateOf(after);
  if (state == JobState::kRetryWait) metrics->JobRetried(job.error().reason());
  if (state == JobState::kCancelled) {
    const bool asked_before = StateOf(before) == JobState::kCancelling;
    metrics->JobCancelled(asked_before ? now - before.cancel_time : absl::ZeroDuration());
  }
  if (!EndsWatch(state)) return;
  // DEAD -> CANCELLED: it was counted as finished when it died.
  if (event == JobEvent::kCancel && StateOf(before) == JobState::kDead) return;
  const absl::Time created = FromProto(job.create_time());
  const bool ran = job.has_start_time();
  const absl::Time started = ran ? FromProto(job.start_time()) : now;
  metrics->JobFinished(JobKindName(job.spec()), Method(job.spec()),
                       event == JobEvent::kCached ? "cached" : JobStateLabel(state),
                       ClassLabel(job.error().error_class()), started - created,
                       ran ? now - started : absl::ZeroDuration(), now - created);
  metrics->JobAttempts(job.attempt());
}

void CountPhases(const v1::JobSpec& spec, const v1::Report& report, ServerMetrics* metrics) {
  for (const v1::Phase& phase : report.phases()) {
    if (phase.seconds() >= 0) metrics->JobPhase(phase.name(), Method(spec), absl::Seconds(phase.seconds()));
  }
}

void SetQueueGauges(const LiveJobs& live, absl::Time now, ServerMetrics* metrics) {
  absl::Time oldest = now;
  const auto depths = live.Depths();
  for (size_t i = 0; i < depths.size(); ++i) {
    metrics->SetQueueDepth(static_cast<int>(i) + kHighestPriority, depths[i].queued);
    oldest = std::min(oldest, depths[i].oldest);
  }
  metrics->SetQueueOldestAge(now - oldest);
}

void SetPhaseGauges(const LiveJobs& live, ServerMetrics* metrics) {
  std::map<std::string, int64_t> phases;
  for (const std::string& id : live.Leased()) ++phases[live.Find(id)->row.job.progress().phase()];
  metrics->SetRunning(phases);
}

void SetQuotaGauges(const LiveJobs& live, LimitsTable* limits, ServerMetrics* metrics) {
  for (const std::string& tenant : live.Tenants()) {
    const TenantLimits of_tenant = limits->For(tenant);
    const LiveJobs::TenantCount count = live.CountOf(tenant);
    const auto set = [&](std::string_view resource, int64_t used, int64_t limit) {
      if (limit > 0) metrics->SetQuotaUsed(tenant, resource, static_cast<double>(used) / static_cast<double>(limit));
    };
    set("queued_jobs", count.unfinished - count.leased, of_tenant.max_queued_jobs);
    set("running_jobs", count.leased, of_tenant.max_running_jobs);
  }
}

void SetWorkerGauges(const WorkerTable& workers, const LiveJobs& live, absl::Duration silence, absl::Time now,
                     ServerMetrics* metrics) {
  std::vector<ServerMetrics::WorkerSample> samples;
  for (const KnownWorker* worker : workers.All()) {
    absl::Time moved = now;
    for (const std::string& id : live.JobsOf(worker->info.id())) moved = std::min(moved, live.Find(id)->moved);
    samples.push_back({.id = worker->info.id(),
                       .up = now - worker->heard < silence,
                       .draining = worker->draining,
                       .last_heartbeat = worker->heard,
                       .slots = worker->info.slots(),
                       .busy = live.LeasesOf(worker->info.id()),
                       .progress_age = now - moved});
  }
  metrics->SetWorkers(samples);
}

}  // namespace quant
