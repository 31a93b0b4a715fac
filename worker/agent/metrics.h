// SPDX-License-Identifier: Apache-2.0
// The worker's metrics: all names, labels and help texts are in metrics.cc. Label sets are closed; those known
// beforehand exist from the start, at 0.
#ifndef QUANT_WORKER_AGENT_METRICS_H_
#define QUANT_WORKER_AGENT_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/agent/blob_cache.h"
#include "worker/agent/supervisor.h"

namespace quant {

// Thread-safe.
class AgentMetrics {
 public:
  AgentMetrics();
  ~AgentMetrics();

  // Serves GET /metrics until this object ends. Returns the port, which is a free one when `address` asks for 0.
  //   INVALID_ARGUMENT: `address` is not HOST:PORT with a numeric or empty host.  UNAVAILABLE: the port is taken.
  absl::StatusOr<int> Serve(const std::string& address);
  // What /metrics answers.
  std::string Text() const;

  // The file whose certificate's end is told. Before Serve.
  void SetCertificate(const std::string& file);
  void SetInfo(const std::string& version, const std::string& isa, int slots, int64_t cache_limit_bytes);
  // "on", "partial" or "off": the sandbox of jobs.
  void SetSandbox(const std::string& state);
  void SlotBusy(bool busy);  // one more, or one less, of the slots is at work
  void SetConnected(bool connected);
  void Heartbeat(bool ok);
  // As OutcomeLabel and ReasonLabel of outcome.h.
  void JobEnded(const std::string& outcome, const std::string& reason);
  void ChildRss(int64_t change_bytes);  // of the sum over all children
  void ChildEnded(const ChildResult& child);
  void SetCache(const BlobCache::Stats& stats);
  void Uploaded(int64_t bytes);

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_METRICS_H_
