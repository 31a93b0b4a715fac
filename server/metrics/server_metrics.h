// SPDX-License-Identifier: Apache-2.0
// ServerMetrics: every metric of quantd. All names, labels and buckets stand in server_metrics.cc, rpc_metrics.cc and
// model_metrics.cc and nowhere else; docs/metrics.md explains them, server_metrics_test.cc pins the names.
//
// Labels are closed sets: a value that is not in its set becomes "other" (an empty one "none"), so that nothing from
// outside can make series without bound. Counters and gauges exist at 0 from the start; a histogram's label set appears
// with its first sample.
//
// Thread-safe; every function is a few atomic operations or one short lock, and never blocks on I/O. Free of prometheus
// headers. Callers hold a ServerMetrics*; where their header says it may be null, they test.
#ifndef QUANT_SERVER_METRICS_SERVER_METRICS_H_
#define QUANT_SERVER_METRICS_SERVER_METRICS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace quant {

class ServerMetrics {
 public:
  ServerMetrics();
  ~ServerMetrics();
  ServerMetrics(const ServerMetrics&) = delete;
  ServerMetrics& operator=(const ServerMetrics&) = delete;

  // Everything in Prometheus' text format 0.0.4. Values of the process (memory, CPU, descriptors) are read now.
  std::string Serialize() const;

  // ---- jobs
  // kind: "quantize", "calibrate", "benchmark", "analyze", "tune". method: "static", "gptq", … as in quantctl's
  // --method; "" for kinds without one. state, outcome, phase, reason: as named below.
  void JobSubmitted(std::string_view kind, std::string_view method);
  // outcome: "succeeded", "cached", "failed", "cancelled", "dead". reason: class of the error, "retryable", "final",
  // "poison";
  // "" for succeeded and cancelled. wait: in the queue until the newest attempt; run: of the newest attempt (zero when
  // it never ran); total: from Submit to now.
  void JobFinished(std::string_view kind, std::string_view method, std::string_view outcome, std::string_view reason,
                   absl::Duration wait, absl::Duration run, absl::Duration total);
  // The attempts a finished job took.
  void JobAttempts(int attempts);
  // phase: Progress.phase.
  void JobPhase(std::string_view phase, std::string_view method, absl::Duration duration);
  // reason: JobError.reason.
  void JobRetried(std::string_view reason);
  // state: "queued", "running", "retry_wait", "cancelling", "succeeded", "failed", "cancelled", "dead".
  void SetJobs(std::string_view state, int64_t count);
  // Ready jobs of a priority, 1 to 5.
  void SetQueueDepth(int priority, int64_t count);
  // Jobs at workers by Progress.phase; "" while a worker has not told one yet. Phases not named have none.
  void SetRunning(const std::map<std::string, int64_t>& jobs_by_phase);
  void SetQueueOldestAge(absl::Duration age);
  // cause: "heartbeat" (worker silent), "deadline" (attempt out of time), "kill_ignored" (cancellation ignored).
  void LeaseExpired(std::string_view cause);
  // call: "heartbeat", "complete".
  void StaleReportRejected(std::string_view call);
  // outcome: "hit" (answered from a result), "merged" (waits for a job in flight), "miss", "bypass" (not asked, or a
  // kind that always runs).
  void DedupRequest(std::string_view outcome);
  // From the request to the final state.
  void JobCancelled(absl::Duration latency);
  void SetWatchStreams(int64_t count);
  // One turn of the scheduler.
  void SchedulerLoop(absl::Duration duration);

  // ---- workers
  struct WorkerSample {
    std::string id;
    bool up = false;
    bool draining = false;
    absl::Time last_heartbeat;
    int64_t slots = 0;
    int64_t busy = 0;
    absl::Duration progress_age;  // of the job of the worker that has stood still longest; 0 without a job
  };
  // Replaces all worker series. The first 100 are shown one by one; all of them count in quant_workers.
  void SetWorkers(const std::vector<WorkerSample>& workers);

  // ---- blobs and artifacts
  void UploadStarted();  // a WriteBlob stream; pair with UploadEnded
  void UploadEnded();
  void UploadResumed();
  void UploadBytes(int64_t bytes);
  void UploadDigestMismatch();
  void DownloadBytes(int64_t bytes);
  void SetCas(int64_t objects, int64_t bytes);
  // What the blobs there are and those there is room for add up to. Not called: the store has no bound of its own.
  void SetCasCapacity(int64_t bytes);
  void CasSwept(int64_t reclaimed_bytes, absl::Duration duration);
  // kind: "model", "dataset".
  // A model or dataset expired; `bytes`: of blobs that nothing else names, for the sweep to reclaim.
  void ArtifactExpired(std::string_view kind, int64_t bytes);
  void SetArtifacts(std::string_view kind, int64_t count);
  // A request refused by a limit. resource: "queued_jobs", "stored_bytes", "model_bytes", "requests", "disk",
  // "blob_size", "watches". The first 50 tenants have series of their own, the others share "other".
  void QuotaRejected(std::string_view tenant, std::string_view resource);
  // How much of its quota a tenant uses, 1 being all. resource: "queued_jobs", "running_jobs", "stored_bytes".
  void SetQuotaUsed(std::string_view tenant, std::string_view resource, double ratio);

  // ---- what jobs measured
  // One variant of a model. `model` and `dataset` are made from names that users gave, so who calls bounds them, in
  // number and in characters. Absent values have no series.
  struct ModelSample {
    std::string model;
    std::string variant;  // "fp32" (the original), "int8", "w2" to "w8", "nf4", "fp4", "fp16", "bf16", "mixed"
    std::string dataset;  // "none": random data
    std::string method;   // as of a job; "none" for the original
    std::string format;   // "onnx", "gptq", …
    std::string isa;      // of the worker that measured
    // metric: "top1", "top5", "same_top" (0 to 1), "perplexity", "kl_divergence", "sqnr_db", "cosine".
    std::map<std::string, double> accuracy;
    std::map<std::string, double> drop;        // of top1, top5, perplexity: the share of the original's that is lost
    std::map<double, absl::Duration> latency;  // by quantile
    int64_t size_bytes = 0;
    // The original's median latency over this one's; without latencies this one's throughput over the original's; 0:
    // not measured.
    double speedup = 0;
  };
  // Replaces all series of models. Of two samples with the same model, variant, dataset and method the first counts.
  void SetModels(const std::vector<ModelSample>& models);

  // ---- store
  // op: "read", "write". A write is a committed (or failed) transaction.
  void StoreOperation(std::string_view op, absl::Duration duration, bool ok);

  // ---- the process
  void SetBuildInfo(std::string_view version, std::string_view isa);
  void SetDraining(bool draining);
  // file: "certificate", "authority".
  void SetCertificateExpiry(std::string_view file, absl::Time expiry);

  // ---- rpcs, for the interceptor
  // An index for the two functions below; that of "other" for a method nobody knows. full_method:
  // "/package.Service/Name".
  int RpcMethod(std::string_view full_method) const;
  // Also the names of gRPC's proposal A66 from now on. Before the first rpc.
  void EnableA66();
  // Whether RpcMessages wants to know.
  bool WantsMessageSizes(int method) const;
  void RpcStarted(int method);
  // code: a grpc::StatusCode.
  void RpcHandled(int method, int code, absl::Duration duration);
  // Of a whole rpc.
  void RpcMessages(int method, int64_t sent_bytes, int64_t received_bytes);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_METRICS_SERVER_METRICS_H_
