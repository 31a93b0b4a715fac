// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/metrics.h"

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <exception>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/mutex.h"
#include "common/net.h"
#include "common/process_usage.h"
#include "common/status_macros.h"
#include "common/tls.h"

namespace quant {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Registry;

Gauge& AddGauge(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}
Counter& AddCounter(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
const Histogram::BucketBoundaries kRssBounds = {0.0625 * kGiB, 0.25 * kGiB, 0.5 * kGiB, 1 * kGiB,  2 * kGiB,
                                                4 * kGiB,      8 * kGiB,    16 * kGiB,  32 * kGiB, 64 * kGiB};

// How a job's process ended, for quant_worker_children_total.
const char* EndOf(const ChildResult& child) {
  if (child.stopped == StopCause::kMemory) return "oom";
  if (child.stopped != StopCause::kNone) return "stopped";
  if (WIFSIGNALED(child.exit.wait_status)) {
    // Nobody but a kernel that is short of memory sends SIGKILL to a job's process that this worker did not stop.
    return WTERMSIG(child.exit.wait_status) == SIGKILL ? "oom" : "signal";
  }
  return WEXITSTATUS(child.exit.wait_status) == 0 ? "ok" : "exit";
}

// The process of the agent itself, and what the file of its certificate says: read at each scrape.
class Measured : public prometheus::Collectable {
 public:
  explicit Measured(Registry& registry)
      : registry_(registry),
        resident_(AddGauge(registry, "process_resident_memory_bytes", "Resident memory of the agent.")),
        cpu_(AddCounter(registry, "process_cpu_seconds_total", "User and system CPU time of the agent.")),
        open_fds_(AddGauge(registry, "process_open_fds", "Open file descriptors.")),
        max_fds_(AddGauge(registry, "process_max_fds", "Limit of open file descriptors.")),
        expiry_(prometheus::BuildGauge()
                    .Name("quant_tls_certificate_expiry_timestamp_seconds")
                    .Help("When the first certificate of the file expires, in seconds since 1970.")
                    .Register(registry)) {
    AddGauge(registry, "process_start_time_seconds", "When the process started, in seconds since 1970.")
        .Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  }
  void SetCertificate(const std::string& file) { certificate_ = file; }

  std::vector<prometheus::MetricFamily> Collect() const override {
    MutexLock lock(&mu_);
    const ProcessUsage usage = ReadProcessUsage();
    resident_.Set(static_cast<double>(usage.resident_bytes));
    cpu_.Increment(std::max(0.0, usage.cpu_seconds - cpu_.Value()));
    open_fds_.Set(static_cast<double>(usage.open_fds));
    max_fds_.Set(static_cast<double>(usage.max_fds));
    if (!certificate_.empty()) {
      const absl::StatusOr<absl::Time> expiry = CertificateExpiry(certificate_);
      if (expiry.ok()) {
        expiry_.Add({{"file", "certificate"}}).Set(absl::ToDoubleSeconds(*expiry - absl::UnixEpoch()));
      }
    }
    return registry_.Collect();
  }

 private:
  Registry& registry_;
  Gauge& resident_;
  Counter& cpu_;
  Gauge& open_fds_;
  Gauge& max_fds_;
  prometheus::Family<Gauge>& expiry_;
  std::string certificate_;  // constant once served
  mutable Mutex mu_;
};

}  // namespace

struct AgentMetrics::Rep {
  std::shared_ptr<Registry> registry = std::make_shared<Registry>();
  std::shared_ptr<Measured> measured = std::make_shared<Measured>(*registry);  // shared: the exposer holds a weak_ptr

  prometheus::Family<Gauge>& info = prometheus::BuildGauge()
                                        .Name("quant_worker_info")
                                        .Help("1; the labels say what this worker is.")
                                        .Register(*registry);
  prometheus::Family<Gauge>& sandbox = prometheus::BuildGauge()
                                           .Name("quant_worker_sandbox")
                                           .Help("1; the label says what the sandbox of jobs is.")
                                           .Register(*registry);
  prometheus::Family<Gauge>& slots =
      prometheus::BuildGauge().Name("quant_worker_slots").Help("Job slots by state.").Register(*registry);
  Gauge& free = slots.Add({{"state", "free"}});
  Gauge& busy = slots.Add({{"state", "busy"}});
  Gauge& connected = AddGauge(*registry, "quant_worker_connected",
                              "1 while the server answers heartbeats; at 0 the worker takes no jobs.");
  Gauge& last_heartbeat = AddGauge(*registry, "quant_worker_last_heartbeat_timestamp_seconds",
                                   "Unix time of the newest answered heartbeat.");
  Counter& heartbeat_failures =
      AddCounter(*registry, "quant_worker_heartbeat_failures_total", "Heartbeats the server did not answer.");
  prometheus::Family<Counter>& jobs = prometheus::BuildCounter()
                                          .Name("quant_worker_jobs_total")
                                          .Help("Leases ended, by outcome and reason.")
                                          .Register(*registry);
  prometheus::Family<Counter>& killed = prometheus::BuildCounter()
                                            .Name("quant_worker_children_killed_total")
                                            .Help("Job processes this worker ended, by cause.")
                                            .Register(*registry);
  prometheus::Family<Counter>& children = prometheus::BuildCounter()
                                              .Name("quant_worker_children_total")
                                              .Help("Job processes that ended, by how.")
                                              .Register(*registry);
  Gauge& rss = AddGauge(*registry, "quant_worker_job_rss_bytes", "Resident memory of all job processes now.");
  Histogram& peak_rss = prometheus::BuildHistogram()
                            .Name("quant_worker_job_peak_rss_bytes")
                            .Help("Largest resident memory of each job process.")
                            .Register(*registry)
                            .Add({}, kRssBounds);
  Counter& cpu = AddCounter(*registry, "quant_worker_cpu_seconds_total", "CPU time of ended job processes.");
  Gauge& cache_bytes =
      AddGauge(*registry, "quant_worker_cache_bytes", "Bytes of blobs in the cache, with reserved room.");
  Gauge& cache_limit = AddGauge(*registry, "quant_worker_cache_limit_bytes", "The cache's --cache-bytes.");
  Counter& cache_hits =
      AddCounter(*registry, "quant_worker_cache_hit_bytes_total", "Bytes of job inputs that were in the cache.");
  Counter& cache_misses =
      AddCounter(*registry, "quant_worker_cache_miss_bytes_total", "Bytes of job inputs that were downloaded.");
  Counter& cache_evicted =
      AddCounter(*registry, "quant_worker_cache_evicted_bytes_total", "Bytes removed from the cache to make room.");
  Counter& uploaded =
      AddCounter(*registry, "quant_worker_uploaded_bytes_total", "Bytes of results sent to the server.");

  Mutex mu;
  BlobCache::Stats cache ABSL_GUARDED_BY(mu);    // as last told, since counters take differences
  std::unique_ptr<prometheus::Exposer> exposer;  // last, so that it ends first
};

AgentMetrics::AgentMetrics() : rep_(std::make_unique<Rep>()) {
  for (const char* outcome : {"succeeded", "cancelled", "released", "lost"}) {
    rep_->jobs.Add({{"outcome", outcome}, {"reason", ""}});
  }
  for (const char* reason : {"OUT_OF_MEMORY", "CHILD_CRASHED", "CHILD_HUNG", "TIMEOUT", "INTERNAL"}) {
    rep_->jobs.Add({{"outcome", "failed"}, {"reason", reason}});
  }
  for (StopCause cause : {StopCause::kRelease, StopCause::kCancel, StopCause::kLost, StopCause::kMemory,
                          StopCause::kThreads, StopCause::kHang, StopCause::kTimeout, StopCause::kProtocol}) {
    rep_->killed.Add({{"cause", StopCauseName(cause)}});
  }
  for (const char* end : {"ok", "oom", "signal", "exit", "stopped"}) rep_->children.Add({{"end", end}});
}
AgentMetrics::~AgentMetrics() = default;

absl::StatusOr<int> AgentMetrics::Serve(const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  // civetweb, below the exposer, takes "PORT" or "IP:PORT" and no names.
  const bool numeric = std::all_of(at.host.begin(), at.host.end(), [](char c) {
    return (c >= '0' && c <= '9') || c == '.' || c == ':' || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  });
  if (!numeric) {
    return absl::InvalidArgumentError(
        absl::StrCat("--metrics ", address, ": the host must be a numeric address, e.g. 127.0.0.1:9101 or :9101"));
  }
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(at.host.empty() ? absl::StrCat(at.port) : at.ToString());
    exposer->RegisterCollectable(rep_->measured);
    const std::vector<int> ports = exposer->GetListeningPorts();
    if (ports.empty()) return absl::UnavailableError(absl::StrCat("cannot listen on ", address));
    rep_->exposer = std::move(exposer);
    return ports.front();
  } catch (const std::exception& e) {  // CivetException
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", e.what(), "; is the port in use?"));
  }
}

std::string AgentMetrics::Text() const { return prometheus::TextSerializer().Serialize(rep_->measured->Collect()); }

void AgentMetrics::SetCertificate(const std::string& file) { rep_->measured->SetCertificate(file); }

void AgentMetrics::SetInfo(const std::string& version, const std::string& isa, int slots, int64_t cache_limit_bytes) {
  rep_->info.Add({{"version", version}, {"isa", isa}}).Set(1);
  rep_->free.Set(slots);
  rep_->cache_limit.Set(static_cast<double>(cache_limit_bytes));
}

void AgentMetrics::SetSandbox(const std::string& state) { rep_->sandbox.Add({{"state", state}}).Set(1); }

void AgentMetrics::SlotBusy(bool busy) {
  rep_->busy.Increment(busy ? 1 : -1);
  rep_->free.Increment(busy ? -1 : 1);
}

void AgentMetrics::SetConnected(bool connected) { rep_->connected.Set(connected ? 1 : 0); }

void AgentMetrics::Heartbeat(bool ok) {
  if (ok) {
    rep_->last_heartbeat.Set(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  } else {
    rep_->heartbeat_failures.Increment();
  }
}

void AgentMetrics::JobEnded(const std::string& outcome, const std::string& reason) {
  rep_->jobs.Add({{"outcome", outcome}, {"reason", reason}}).Increment();
}

void AgentMetrics::ChildRss(int64_t change_bytes) { rep_->rss.Increment(static_cast<double>(change_bytes)); }

void AgentMetrics::ChildEnded(const ChildResult& child) {
  rep_->peak_rss.Observe(static_cast<double>(child.exit.peak_rss_bytes));
  rep_->cpu.Increment(child.exit.cpu_seconds);
  rep_->children.Add({{"end", EndOf(child)}}).Increment();
  if (child.stopped != StopCause::kNone) rep_->killed.Add({{"cause", StopCauseName(child.stopped)}}).Increment();
}

void AgentMetrics::SetCache(const BlobCache::Stats& stats) {
  MutexLock lock(&rep_->mu);
  rep_->cache_bytes.Set(static_cast<double>(stats.bytes));
  // Two slots may tell in the wrong order: a counter only grows.
  const auto raise = [](Counter& counter, int64_t& told, int64_t now) {
    if (now > told) counter.Increment(static_cast<double>(now - told));
    told = std::max(told, now);
  };
  raise(rep_->cache_hits, rep_->cache.hit_bytes, stats.hit_bytes);
  raise(rep_->cache_misses, rep_->cache.miss_bytes, stats.miss_bytes);
  raise(rep_->cache_evicted, rep_->cache.evicted_bytes, stats.evicted_bytes);
}

void AgentMetrics::Uploaded(int64_t bytes) { rep_->uploaded.Increment(static_cast<double>(bytes)); }

}  // namespace quant
