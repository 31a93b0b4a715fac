// SPDX-License-Identifier: Apache-2.0
// JobRunner: the life of one lease, from the first blob to CompleteJob.
//
//   fetch    pin and download the inputs, link them into the job's folder
//   run      the child process; its progress goes to the lease, and from there into heartbeats
//   upload   hash output/, upload what the server lacks
//   complete tell the outcome, again and again while the server is away and the lease may live
//
// Whatever goes wrong on the way becomes an outcome (outcome.h) or, when the lease is lost, silence.
#ifndef QUANT_WORKER_AGENT_JOB_RUNNER_H_
#define QUANT_WORKER_AGENT_JOB_RUNNER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/agent/blob_cache.h"
#include "worker/agent/job_folder.h"
#include "worker/agent/lease.h"
#include "worker/agent/metrics.h"
#include "worker/agent/sandbox/sandbox.h"
#include "worker/agent/server_link.h"
#include "worker/agent/steady.h"

namespace quant {

struct JobRunnerOptions {
  std::string worker_id;
  // Program and leading arguments of a job's process; "--run-job FOLDER --threads N --memory BYTES --sandbox
  // MODE" is appended.
  std::vector<std::string> child_command = {"/proc/self/exe"};
  int threads = 1;
  int64_t memory_bytes = 0;  // per job; 0: no limit
  absl::Duration hang_timeout = absl::Minutes(10);
  std::map<std::string, absl::Duration> phase_timeouts;
  absl::Duration cancel_grace = absl::Seconds(5);
  absl::Duration release_grace = absl::Seconds(2);
  SandboxMode sandbox = SandboxMode::kBestEffort;
};

// Thread-safe: every slot runs its leases through the same object.
class JobRunner {
 public:
  JobRunner(JobRunnerOptions options, ServerLink& link, BlobCache& cache, AgentMetrics& metrics);

  // Blocks until the lease is over. `active` is its entry in the AgentState; the caller removes it afterwards.
  void Run(const v1::Lease& lease, ActiveLease& active);

 private:
  struct Work;  // one lease being worked

  void Attempt(Work& work);
  absl::Status Fetch(Work& work, JobFolder& folder);
  void RunProcess(Work& work, JobFolder& folder);
  absl::Status Upload(Work& work, const JobFolder& folder);
  void Complete(Work& work, const JobFolder* folder);
  absl::Status CallComplete(Work& work);

  const JobRunnerOptions options_;
  ServerLink& link_;
  BlobCache& cache_;
  AgentMetrics& metrics_;
};

}  // namespace quant

#endif  // QUANT_WORKER_AGENT_JOB_RUNNER_H_
