// SPDX-License-Identifier: Apache-2.0
#include "server/metrics/server_metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "common/mutex.h"
#include "common/process_usage.h"
#include "server/metrics/metric_families.h"
#include "server/metrics/model_metrics.h"
#include "server/metrics/rpc_metrics.h"

namespace quant {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using prometheus::Registry;

// The closed label sets. Every label value that leaves this file is in one of them, in kMethods, or is the id of one of
// at most kMaxWorkers workers or the name of one of at most kMaxTenants tenants.
constexpr std::array kKinds = {"quantize", "calibrate", "benchmark", "analyze", "tune"};
constexpr std::array kOutcomes = {"succeeded", "cached", "failed", "cancelled", "dead"};
constexpr std::array kReasons = {"none", "retryable", "final", "poison"};
constexpr std::array kDedup = {"hit", "merged", "miss", "bypass"};
constexpr std::array kStates = {"queued",    "running", "retry_wait", "cancelling",
                                "succeeded", "failed",  "cancelled",  "dead"};
constexpr std::array kPhases = {"fetch",  "load",     "calibrate", "quantize", "export",
                                "verify", "evaluate", "benchmark", "upload"};
constexpr std::array kRunningPhases = {"none",   "fetch",  "load",     "calibrate", "quantize",
                                       "export", "verify", "evaluate", "benchmark", "upload"};
constexpr std::array kErrors = {"MODEL_INVALID", "OPERATOR_UNSUPPORTED", "DATA_MISMATCH", "DATA_NOT_FINITE",
                                "OUT_OF_MEMORY", "CHILD_CRASHED",        "CHILD_HUNG",    "TIMEOUT",
                                "LEASE_LOST",    "VERIFY_FAILED",        "INTERNAL"};
constexpr std::array kCauses = {"heartbeat", "deadline", "kill_ignored"};
constexpr std::array kCalls = {"heartbeat", "complete"};
constexpr std::array kResources = {"queued_jobs", "running_jobs", "stored_bytes", "model_bytes",
                                   "requests",    "disk",         "blob_size",    "watches"};
constexpr std::array kOperations = {"read", "write"};
constexpr std::array kArtifacts = {"model", "dataset"};
constexpr std::array kWorkerStates = {"up", "draining", "lost"};
constexpr std::array kSlotStates = {"busy", "free"};
constexpr std::array kCertificateFiles = {"certificate", "authority"};
constexpr size_t kMaxWorkers = 100;
constexpr size_t kMaxTenants = 50;

// 0.1 s to 12 h: a queue or a job is of interest over all of it.
const Buckets kJobBuckets = {0.1, 0.3, 1, 3, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200, 14400, 43200};
const Buckets kStoreBuckets = {0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5};
const Buckets kCancelBuckets = {0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120};
const Buckets kSweepBuckets = {0.01, 0.1, 1, 10, 60, 600};
const Buckets kAttemptBuckets = {1, 2, 3, 4, 5, 7, 10};

// One series per value of a single label, made at 0.
template <typename T>
class ByLabel {
 public:
  template <size_t N>
  ByLabel(Family<T>& family, const char* label, const std::array<const char*, N>& values, bool with_other) {
    for (const char* value : values) series_.emplace(value, &family.Add({{label, value}}));
    if (with_other) series_.emplace("other", &family.Add({{label, "other"}}));
  }
  // Null when the value is in no series.
  T* At(std::string_view value) const {
    auto it = series_.find(value);
    if (it == series_.end()) it = series_.find("other");
    return it == series_.end() ? nullptr : it->second;
  }

 private:
  std::map<std::string, T*, std::less<>> series_;
};

void Increment(Counter* counter, double by = 1) {
  if (counter != nullptr) counter->Increment(by);
}
void Set(Gauge* gauge, double value) {
  if (gauge != nullptr) gauge->Set(value);
}

}  // namespace

struct ServerMetrics::Impl {
  Registry registry;

  // ---- jobs
  Family<Counter>& submitted = CounterFamily(registry, "quant_jobs_submitted_total", "Jobs stored by SubmitJob.");
  Family<Counter>& finished =
      CounterFamily(registry, "quant_jobs_finished_total", "Jobs that reached a final state or DEAD.");
  ByLabel<Gauge> jobs{GaugeFamily(registry, "quant_jobs", "Jobs in each state now."), "state", kStates, false};
  ByLabel<Gauge> phases{GaugeFamily(registry, "quant_jobs_running", "Jobs at workers now, by phase."), "phase",
                        kRunningPhases, true};
  Family<Gauge>& depth = GaugeFamily(registry, "quant_queue_depth", "Jobs ready for a worker, by priority.");
  Gauge& oldest =
      GaugeFamily(registry, "quant_queue_oldest_age_seconds", "Time the oldest ready job has waited; 0 without one.")
          .Add({});
  Family<Histogram>& wait =
      HistogramFamily(registry, "quant_job_queue_wait_seconds", "Time in the queue of finished jobs.");
  Family<Histogram>& run =
      HistogramFamily(registry, "quant_job_run_seconds", "Time of the last attempt of finished jobs.");
  Family<Histogram>& total =
      HistogramFamily(registry, "quant_job_total_seconds", "Time from Submit to the end of finished jobs.");
  Family<Histogram>& phase = HistogramFamily(registry, "quant_job_phase_seconds", "Time spent in a phase of a job.");
  Histogram& attempts =
      HistogramFamily(registry, "quant_job_attempts", "Attempts of finished jobs.").Add({}, kAttemptBuckets);
  ByLabel<Counter> retries{
      CounterFamily(registry, "quant_job_retries_total", "Attempts that ended and are tried again."), "reason", kErrors,
      true};
  ByLabel<Counter> lease_expirations{
      CounterFamily(registry, "quant_lease_expirations_total", "Leases taken from a worker."), "cause", kCauses, true};
  ByLabel<Counter> stale{CounterFamily(registry, "quant_stale_reports_rejected_total",
                                       "Reports of a worker that no longer held the lease."),
                         "call", kCalls, true};
  ByLabel<Counter> dedup{
      CounterFamily(registry, "quant_dedup_requests_total", "Submissions by what was there of the same work."),
      "outcome", kDedup, true};
  Histogram& cancel = HistogramFamily(registry, "quant_cancel_latency_seconds", "Time from CancelJob to the job's end.")
                          .Add({}, kCancelBuckets);
  Gauge& watches = GaugeFamily(registry, "quant_watch_streams", "Open WatchJob streams.").Add({});
  Histogram& loop = HistogramFamily(registry, "quant_scheduler_loop_seconds", "Time of one turn of the scheduler.")
                        .Add({}, kStoreBuckets);

  // ---- workers
  ByLabel<Gauge> workers{GaugeFamily(registry, "quant_workers", "Workers seen in the last hour, by state."), "state",
                         kWorkerStates, false};
  ByLabel<Gauge> slots{GaugeFamily(registry, "quant_worker_slots", "Job slots of workers that are up."), "state",
                       kSlotStates, false};
  Family<Gauge>& worker_up = GaugeFamily(registry, "quant_worker_up", "1 while the worker is heard of.");
  Family<Gauge>& worker_heartbeat = GaugeFamily(registry, "quant_worker_last_heartbeat_timestamp_seconds",
                                                "When the worker was last heard of, in seconds since 1970.");
  Family<Gauge>& worker_progress =
      GaugeFamily(registry, "quant_worker_progress_age_seconds",
                  "Longest time that a job of the worker has stood still: no new phase, fraction or message.");

  // ---- blobs and artifacts
  Counter& upload_bytes =
      CounterFamily(registry, "quant_upload_bytes_total", "Bytes of blobs received and stored.").Add({});
  Counter& upload_resumed =
      CounterFamily(registry, "quant_upload_resumed_total", "Uploads that went on from an earlier stream.").Add({});
  Counter& upload_mismatch =
      CounterFamily(registry, "quant_upload_digest_mismatch_total", "Uploads whose bytes did not match their digest.")
          .Add({});
  Gauge& uploads = GaugeFamily(registry, "quant_uploads_in_progress", "Open WriteBlob streams.").Add({});
  Counter& download_bytes = CounterFamily(registry, "quant_download_bytes_total", "Bytes of blobs sent.").Add({});
  Gauge& cas_bytes = GaugeFamily(registry, "quant_cas_bytes", "Bytes of stored blobs.").Add({});
  Family<Gauge>& cas_capacity =
      GaugeFamily(registry, "quant_cas_capacity_bytes",
                  "Bytes of blobs that the disk has room for; none for a store without bound.");
  Gauge& cas_objects = GaugeFamily(registry, "quant_cas_objects", "Stored blobs.").Add({});
  Counter& cas_reclaimed =
      CounterFamily(registry, "quant_cas_gc_reclaimed_bytes_total", "Bytes of unreferenced blobs removed.").Add({});
  Histogram& cas_gc =
      HistogramFamily(registry, "quant_cas_gc_duration_seconds", "Time of a sweep for unreferenced blobs.")
          .Add({}, kSweepBuckets);
  ByLabel<Gauge> artifacts{GaugeFamily(registry, "quant_artifacts", "Stored models and datasets."), "kind", kArtifacts,
                           false};
  ByLabel<Counter> expired{
      CounterFamily(registry, "quant_artifacts_expired_total", "Models and datasets deleted as their time was over."),
      "kind", kArtifacts, false};
  Counter& expired_bytes = CounterFamily(registry, "quant_artifacts_expired_bytes_total",
                                         "Bytes that only expired models and datasets named, left to the sweep.")
                               .Add({});
  Family<Counter>& quota =
      CounterFamily(registry, "quant_quota_rejections_total", "Requests refused by a limit, by tenant.");
  Family<Gauge>& quota_used =
      GaugeFamily(registry, "quant_tenant_quota_used_ratio", "Share of its quota that a tenant uses.");

  // ---- store
  Family<Histogram>& store_seconds =
      HistogramFamily(registry, "quant_store_operation_seconds", "Time of reads and committed writes of the database.");
  ByLabel<Counter> store_errors{
      CounterFamily(registry, "quant_store_errors_total", "Failed operations of the database."), "op", kOperations,
      true};
  std::map<std::string, Histogram*, std::less<>> store_by_op;

  // ---- process
  Family<Gauge>& build = GaugeFamily(registry, "quant_build_info", "1; the labels tell the build.");
  Family<Gauge>& certificates = GaugeFamily(registry, "quant_tls_certificate_expiry_timestamp_seconds",
                                            "When the first certificate of the file expires, in seconds since 1970.");
  Gauge& draining = GaugeFamily(registry, "quant_draining", "1 while the server is stopping.").Add({});
  Gauge& resident = GaugeFamily(registry, "process_resident_memory_bytes", "Resident memory.").Add({});
  Counter& cpu = CounterFamily(registry, "process_cpu_seconds_total", "User and system CPU time.").Add({});
  Gauge& open_fds = GaugeFamily(registry, "process_open_fds", "Open file descriptors.").Add({});
  Gauge& max_fds = GaugeFamily(registry, "process_max_fds", "Limit of open file descriptors.").Add({});
  Gauge& start_time =
      GaugeFamily(registry, "process_start_time_seconds", "When the process started, in seconds since 1970.").Add({});

  RpcMetrics rpcs{registry};
  ModelMetrics models{registry};

  Mutex tenants_mu;
  std::set<std::string, std::less<>> tenants ABSL_GUARDED_BY(tenants_mu);  // those with series of their own
  std::string TenantLabel(std::string_view tenant) {
    MutexLock lock(&tenants_mu);
    if (tenants.find(tenant) != tenants.end()) return std::string(tenant);
    if (tenants.size() >= kMaxTenants) return "other";
    return *tenants.emplace(tenant).first;
  }

  Mutex mu;  // SetWorkers and SetBuildInfo replace series
  std::vector<std::array<Gauge*, 3>> worker_series ABSL_GUARDED_BY(mu);
  Gauge* build_series ABSL_GUARDED_BY(mu) = nullptr;
  mutable std::mutex serialize_mu;

  Impl() {
    // What can be told apart at Submit; analyze has the method of its recipe, the others have none.
    for (const char* kind : kKinds) {
      const bool has_method = std::string_view(kind) == "quantize" || std::string_view(kind) == "analyze";
      for (const char* method : kMethods) {
        if (has_method == (std::string_view(method) == "none")) continue;
        const Labels base = {{"kind", kind}, {"method", method}};
        submitted.Add(base);
        for (const auto& [outcome, reason] :
             std::initializer_list<std::pair<const char*, const char*>>{{"succeeded", "none"},
                                                                        {"cached", "none"},
                                                                        {"cancelled", "none"},
                                                                        {"failed", "final"},
                                                                        {"dead", "retryable"}}) {
          finished.Add({{"kind", kind}, {"method", method}, {"outcome", outcome}, {"reason", reason}});
        }
      }
    }
    for (int priority = 1; priority <= 5; ++priority) depth.Add({{"priority", std::to_string(priority)}});
    for (const char* resource : kResources) quota.Add({{"tenant", TenantLabel("default")}, {"resource", resource}});
    for (const char* op : kOperations) store_by_op[op] = &store_seconds.Add({{"op", op}}, kStoreBuckets);

    start_time.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  }

  void ReadProcess() {
    const ProcessUsage usage = ReadProcessUsage();
    resident.Set(static_cast<double>(usage.resident_bytes));
    cpu.Increment(std::max(0.0, usage.cpu_seconds - cpu.Value()));
    open_fds.Set(static_cast<double>(usage.open_fds));
    max_fds.Set(static_cast<double>(usage.max_fds));
  }
};

ServerMetrics::ServerMetrics() : impl_(std::make_unique<Impl>()) {}
ServerMetrics::~ServerMetrics() = default;

std::string ServerMetrics::Serialize() const {
  std::lock_guard<std::mutex> lock(impl_->serialize_mu);
  impl_->ReadProcess();
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  // Sorted, so that a person can read it and two scrapes can be compared.
  std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (prometheus::MetricFamily& family : families) {
    std::sort(family.metric.begin(), family.metric.end(),
              [](const auto& a, const auto& b) { return a.label < b.label; });
  }
  // prometheus-cpp shows a family without series as its HELP and TYPE lines; that is fine with Prometheus.
  return prometheus::TextSerializer().Serialize(families);
}

void ServerMetrics::JobSubmitted(std::string_view kind, std::string_view method) {
  impl_->submitted.Add({{"kind", In(kKinds, kind)}, {"method", In(kMethods, method)}}).Increment();
}

void ServerMetrics::JobFinished(std::string_view kind, std::string_view method, std::string_view outcome,
                                std::string_view reason, absl::Duration wait, absl::Duration run,
                                absl::Duration total) {
  const Labels labels = {
      {"kind", In(kKinds, kind)}, {"method", In(kMethods, method)}, {"outcome", In(kOutcomes, outcome)}};
  Labels with_reason = labels;
  with_reason["reason"] = In(kReasons, reason);
  impl_->finished.Add(with_reason).Increment();
  impl_->wait.Add(labels, kJobBuckets).Observe(Seconds(wait));
  impl_->run.Add(labels, kJobBuckets).Observe(Seconds(run));
  impl_->total.Add(labels, kJobBuckets).Observe(Seconds(total));
}

void ServerMetrics::JobAttempts(int attempts) { impl_->attempts.Observe(attempts); }

void ServerMetrics::JobPhase(std::string_view phase, std::string_view method, absl::Duration duration) {
  impl_->phase.Add({{"phase", In(kPhases, phase)}, {"method", In(kMethods, method)}}, kJobBuckets)
      .Observe(Seconds(duration));
}

void ServerMetrics::JobRetried(std::string_view reason) { Increment(impl_->retries.At(reason)); }

void ServerMetrics::SetJobs(std::string_view state, int64_t count) {
  Set(impl_->jobs.At(state), static_cast<double>(count));
}

void ServerMetrics::SetQueueDepth(int priority, int64_t count) {
  if (priority < 1 || priority > 5) return;
  impl_->depth.Add({{"priority", std::to_string(priority)}}).Set(static_cast<double>(count));
}

void ServerMetrics::SetRunning(const std::map<std::string, int64_t>& jobs_by_phase) {
  std::map<Gauge*, int64_t> counts;  // several unknown phases are one "other"
  for (const char* phase : kRunningPhases) counts[impl_->phases.At(phase)] = 0;
  counts[impl_->phases.At("other")] = 0;
  for (const auto& [phase, count] : jobs_by_phase) counts[impl_->phases.At(phase.empty() ? "none" : phase)] += count;
  for (const auto& [gauge, count] : counts) gauge->Set(static_cast<double>(count));
}

void ServerMetrics::SetQueueOldestAge(absl::Duration age) { impl_->oldest.Set(Seconds(age)); }
void ServerMetrics::LeaseExpired(std::string_view cause) { Increment(impl_->lease_expirations.At(cause)); }
void ServerMetrics::StaleReportRejected(std::string_view call) { Increment(impl_->stale.At(call)); }
void ServerMetrics::DedupRequest(std::string_view outcome) { Increment(impl_->dedup.At(outcome)); }
void ServerMetrics::JobCancelled(absl::Duration latency) { impl_->cancel.Observe(Seconds(latency)); }
void ServerMetrics::SetWatchStreams(int64_t count) { impl_->watches.Set(static_cast<double>(count)); }
void ServerMetrics::SchedulerLoop(absl::Duration duration) { impl_->loop.Observe(Seconds(duration)); }

void ServerMetrics::SetWorkers(const std::vector<WorkerSample>& workers) {
  MutexLock lock(&impl_->mu);
  // Removing and adding is what prometheus-cpp offers to forget a label; a scrape in between would miss series.
  std::lock_guard<std::mutex> no_scrape(impl_->serialize_mu);
  for (const auto& [up, heartbeat, progress] : impl_->worker_series) {
    impl_->worker_up.Remove(up);
    impl_->worker_heartbeat.Remove(heartbeat);
    impl_->worker_progress.Remove(progress);
  }
  impl_->worker_series.clear();
  int64_t up = 0;
  int64_t draining = 0;
  int64_t busy = 0;
  int64_t free = 0;
  for (const WorkerSample& worker : workers) {
    if (worker.up) {
      ++(worker.draining ? draining : up);
      busy += worker.busy;
      if (!worker.draining) free += std::max<int64_t>(0, worker.slots - worker.busy);
    }
    if (impl_->worker_series.size() >= kMaxWorkers) continue;
    if (impl_->worker_up.Has({{"worker", worker.id}})) continue;  // an id twice would share, then doubly free, a series
    Gauge& is_up = impl_->worker_up.Add({{"worker", worker.id}});
    is_up.Set(worker.up ? 1 : 0);
    Gauge& heartbeat = impl_->worker_heartbeat.Add({{"worker", worker.id}});
    heartbeat.Set(absl::ToDoubleSeconds(worker.last_heartbeat - absl::UnixEpoch()));
    Gauge& progress = impl_->worker_progress.Add({{"worker", worker.id}});
    progress.Set(Seconds(worker.progress_age));
    impl_->worker_series.push_back({&is_up, &heartbeat, &progress});
  }
  Set(impl_->workers.At("up"), static_cast<double>(up));
  Set(impl_->workers.At("draining"), static_cast<double>(draining));
  Set(impl_->workers.At("lost"), static_cast<double>(static_cast<int64_t>(workers.size()) - up - draining));
  Set(impl_->slots.At("busy"), static_cast<double>(busy));
  Set(impl_->slots.At("free"), static_cast<double>(free));
}

void ServerMetrics::UploadStarted() { impl_->uploads.Increment(); }
void ServerMetrics::UploadEnded() { impl_->uploads.Decrement(); }
void ServerMetrics::UploadResumed() { impl_->upload_resumed.Increment(); }
void ServerMetrics::UploadBytes(int64_t bytes) { impl_->upload_bytes.Increment(static_cast<double>(bytes)); }
void ServerMetrics::UploadDigestMismatch() { impl_->upload_mismatch.Increment(); }
void ServerMetrics::DownloadBytes(int64_t bytes) { impl_->download_bytes.Increment(static_cast<double>(bytes)); }

void ServerMetrics::SetCas(int64_t objects, int64_t bytes) {
  impl_->cas_objects.Set(static_cast<double>(objects));
  impl_->cas_bytes.Set(static_cast<double>(bytes));
}

void ServerMetrics::SetCasCapacity(int64_t bytes) { impl_->cas_capacity.Add({}).Set(static_cast<double>(bytes)); }

void ServerMetrics::CasSwept(int64_t reclaimed_bytes, absl::Duration duration) {
  impl_->cas_reclaimed.Increment(static_cast<double>(reclaimed_bytes));
  impl_->cas_gc.Observe(Seconds(duration));
}

void ServerMetrics::ArtifactExpired(std::string_view kind, int64_t bytes) {
  if (Counter* counter = impl_->expired.At(kind)) counter->Increment();
  impl_->expired_bytes.Increment(static_cast<double>(bytes));
}

void ServerMetrics::SetArtifacts(std::string_view kind, int64_t count) {
  Set(impl_->artifacts.At(kind), static_cast<double>(count));
}

void ServerMetrics::QuotaRejected(std::string_view tenant, std::string_view resource) {
  impl_->quota.Add({{"tenant", impl_->TenantLabel(tenant)}, {"resource", In(kResources, resource)}}).Increment();
}

void ServerMetrics::SetQuotaUsed(std::string_view tenant, std::string_view resource, double ratio) {
  const std::string label = impl_->TenantLabel(tenant);
  if (label == "other") return;  // shares of different tenants do not add up
  impl_->quota_used.Add({{"tenant", label}, {"resource", In(kResources, resource)}}).Set(ratio);
}

void ServerMetrics::StoreOperation(std::string_view op, absl::Duration duration, bool ok) {
  if (!ok) Increment(impl_->store_errors.At(op));
  if (const auto it = impl_->store_by_op.find(op); it != impl_->store_by_op.end())
    it->second->Observe(Seconds(duration));
}

void ServerMetrics::SetBuildInfo(std::string_view version, std::string_view isa) {
  MutexLock lock(&impl_->mu);
  if (impl_->build_series != nullptr) impl_->build.Remove(impl_->build_series);
  impl_->build_series = &impl_->build.Add({{"version", std::string(version)}, {"isa", std::string(isa)}});
  impl_->build_series->Set(1);
}

void ServerMetrics::SetCertificateExpiry(std::string_view file, absl::Time expiry) {
  impl_->certificates.Add({{"file", In(kCertificateFiles, file)}})
      .Set(absl::ToDoubleSeconds(expiry - absl::UnixEpoch()));
}

void ServerMetrics::SetDraining(bool draining) { impl_->draining.Set(draining ? 1 : 0); }

int ServerMetrics::RpcMethod(std::string_view full_method) const { return impl_->rpcs.Method(full_method); }
void ServerMetrics::EnableA66() { impl_->rpcs.EnableA66(); }
bool ServerMetrics::WantsMessageSizes(int method) const { return impl_->rpcs.WantsSizes(method); }
void ServerMetrics::RpcStarted(int method) { impl_->rpcs.Started(method); }
void ServerMetrics::RpcHandled(int method, int code, absl::Duration duration) {
  impl_->rpcs.Handled(method, code, duration);
}
void ServerMetrics::RpcMessages(int method, int64_t sent_bytes, int64_t received_bytes) {
  impl_->rpcs.Messages(method, sent_bytes, received_bytes);
}

void ServerMetrics::SetModels(const std::vector<ModelSample>& models) {
  std::lock_guard<std::mutex> no_scrape(impl_->serialize_mu);  // as in SetWorkers
  impl_->models.Set(models);
}

}  // namespace quant
