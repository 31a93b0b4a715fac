// SPDX-License-Identifier: Apache-2.0
// Agent: the whole of a worker. One thread per slot (lease, fetch, run, upload, complete, again), one heartbeat thread
// for all of them, and the thread that calls Run, which conducts the drain.
#ifndef QUANT_WORKER_AGENT_AGENT_H_
#define QUANT_WORKER_AGENT_AGENT_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/client_auth.h"
#include "worker/agent/metrics.h"
#include "worker/agent/sandbox/sandbox.h"

namespace quant {

struct AgentOptions {
  std::string server;           // HOST:PORT of quantd
  ClientAuthOptions auth;       // what is shown to it
  std::filesystem::path cache;  // this worker's own folder: blobs and job folders
  int64_t cache_bytes = int64_t{20} << 30;
  std::string name;          // first part of the worker's id, at most 64 of [A-Za-z0-9._-]; empty: the host name
  int slots = 1;             // jobs at once
  int threads = 1;           // per job
  int64_t memory_bytes = 0;  // per job; 0: no limit
  absl::Duration hang_timeout = absl::Minutes(10);              // longest time without progress of a job
  std::map<std::string, absl::Duration> phase_timeouts;         // another one for a phase, e.g. "export"
  absl::Duration drain_grace = absl::Seconds(25);               // how long running jobs may go on once draining
  absl::Duration cancel_grace = absl::Seconds(5);               // SIGTERM to SIGKILL for a cancelled job
  absl::Duration release_grace = absl::Seconds(2);              // the same at the end of drain_grace
  absl::Duration lease_wait = absl::Seconds(30);                // length of the long poll
  SandboxMode sandbox = SandboxMode::kBestEffort;               // of a job's process
  std::vector<std::string> child_command = {"/proc/self/exe"};  // tests put another program here
  std::string build;                                            // WorkerInfo.build
  std::string isa;                                              // WorkerInfo.isa
};

class Agent {
 public:
  // Opens the cache and prepares everything; nothing is sent yet. `metrics` must outlive the agent.
  //   INVALID_ARGUMENT: an option out of range.  Others: from BlobCache::Open.
  static absl::StatusOr<std::unique_ptr<Agent>> Create(AgentOptions options, AgentMetrics& metrics);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  // NAME-PID-RANDOM: never used twice, since a server remembers of an id that it drains.
  const std::string& worker_id() const;

  // Works until drained: by Drain(), or by the server's word. Then takes no more jobs, lets running ones go on for
  // drain_grace, hands back what is left, and returns. `ready` is called once, on another thread, when the server has
  // answered for the first time. Call once.
  void Run(std::function<void()> ready);

  // Begins the drain; returns at once. Thread-safe, idempotent.
  void Drain();

 private:
  struct Rep;
  explicit Agent(std::unique_ptr<Rep> rep);
  void Slot();
  void WorkLease();
  const std::unique_ptr<Rep> rep_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_AGENT_H_
