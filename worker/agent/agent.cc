// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/agent.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <random>
#include <thread>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/error_detail.h"
#include "common/net.h"
#include "common/proto_time.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "quant/v1/workers.pb.h"
#include "worker/agent/agent_state.h"
#include "worker/agent/blob_cache.h"
#include "worker/agent/heartbeat.h"
#include "worker/agent/job_runner.h"
#include "worker/agent/server_link.h"

namespace quant {
namespace {

// How long a drain waits for the server to answer the open polls before they are cancelled. A lease that is granted at
// the very moment of a cancel would stay unnoticed until it runs out.
constexpr absl::Duration kPollGrace = absl::Milliseconds(500);

// The phases of a job's process; fetch and upload are the agent's.
constexpr const char* kJobPhases[] = {"load", "calibrate", "quantize", "export", "verify", "evaluate", "benchmark"};

std::string HostName() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "worker";
  return name;
}

bool IsIdCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
}

std::string MakeWorkerId(const std::string& name) {
  std::string first = (name.empty() ? HostName() : name).substr(0, 64);
  for (char& c : first) {
    if (!IsIdCharacter(c)) c = '-';
  }
  return absl::StrCat(first, "-", ::getpid(), "-", RandomId("", 6));
}

absl::Status CheckOptions(const AgentOptions& options) {
  const auto bad = [](std::string message) { return absl::InvalidArgumentError(message); };
  if (options.server.empty()) return bad("--server is missing: give HOST:PORT of quantd");
  if (options.cache.empty()) return bad("--cache is missing: give a folder for this worker alone");
  if (options.slots < 1 || options.slots > 256) return bad(absl::StrCat("--slots is ", options.slots, ": 1 to 256"));
  if (options.threads < 1) return bad(absl::StrCat("--threads is ", options.threads, ": at least 1"));
  if (options.memory_bytes < 0) return bad(absl::StrCat("--memory is ", options.memory_bytes, ": not negative"));
  if (options.hang_timeout <= absl::ZeroDuration()) return bad("--hang-timeout must be positive");
  for (const auto& [phase, timeout] : options.phase_timeouts) {
    if (std::find(std::begin(kJobPhases), std::end(kJobPhases), phase) == std::end(kJobPhases)) {
      return bad(absl::StrCat("--phase-timeout ", Quoted(phase), ": the phases are ", absl::StrJoin(kJobPhases, ", ")));
    }
    if (timeout <= absl::ZeroDuration()) return bad(absl::StrCat("--phase-timeout ", phase, " must be positive"));
  }
  if (options.child_command.empty()) return bad("no program to run jobs with");
  const std::string& name = options.name;
  if (name.size() > 64 || !std::all_of(name.begin(), name.end(), IsIdCharacter)) {
    return bad(absl::StrCat("--name ", Quoted(name), ": at most 64 of [A-Za-z0-9._-]"));
  }
  return absl::OkStatus();
}

}  // namespace

struct Agent::Rep {
  Rep(AgentOptions o, AgentMetrics& m, std::unique_ptr<BlobCache> c, std::shared_ptr<ClientAuth> auth)
      : options(std::move(o)),
        metrics(m),
        worker_id(MakeWorkerId(options.name)),
        cache(std::move(c)),
        link(options.server, std::move(auth)),
        runner({.worker_id = worker_id,
                .child_command = options.child_command,
                .threads = options.threads,
                .memory_bytes = options.memory_bytes,
                .hang_timeout = options.hang_timeout,
                .phase_timeouts = options.phase_timeouts,
                .cancel_grace = options.cancel_grace,
                .release_grace = options.release_grace,
                .sandbox = options.sandbox},
               link, *cache, metrics) {
    info.set_id(worker_id);
    info.set_host(HostName());
    info.set_slots(options.slots);
    info.set_threads(options.threads);
    info.set_memory_bytes(options.memory_bytes);
    info.set_isa(options.isa);
    info.set_build(options.build);
  }

  const AgentOptions options;
  AgentMetrics& metrics;
  const std::string worker_id;
  const std::unique_ptr<BlobCache> cache;
  ServerLink link;
  JobRunner runner;
  AgentState state;
  v1::WorkerInfo info;  // not changed after construction
};

Agent::Agent(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Agent::~Agent() = default;

absl::StatusOr<std::unique_ptr<Agent>> Agent::Create(AgentOptions options, AgentMetrics& metrics) {
  RETURN_IF_ERROR(CheckOptions(options));
  const absl::StatusOr<HostPort> address = ParseHostPort(options.server);
  ASSIGN_OR_RETURN(std::shared_ptr<ClientAuth> auth,
                   ClientAuth::Create(options.auth, address.ok() ? address->host : options.server));
  ASSIGN_OR_RETURN(std::unique_ptr<BlobCache> cache, BlobCache::Open(options.cache, options.cache_bytes));
  metrics.SetInfo(options.build, options.isa, options.slots, options.cache_bytes);
  metrics.SetCache(cache->stats());
  return std::unique_ptr<Agent>(
      new Agent(std::make_unique<Rep>(std::move(options), metrics, std::move(cache), std::move(auth))));
}

const std::string& Agent::worker_id() const { return rep_->worker_id; }

void Agent::Drain() { rep_->state.Drain(); }

void Agent::Run(std::function<void()> ready) {
  AgentState& state = rep_->state;
  HeartbeatLoop heartbeat(rep_->info, rep_->link, state, rep_->metrics, std::move(ready));
  std::thread beats([&] { heartbeat.Run(); });
  // A slot's thread also is what its child's life hangs on (PR_SET_PDEATHSIG): it ends only when its child has.
  std::vector<std::thread> slots;
  slots.reserve(static_cast<size_t>(rep_->options.slots));
  for (int i = 0; i < rep_->options.slots; ++i) slots.emplace_back([this] { Slot(); });

  state.WaitForDrain();
  LOG(INFO) << "draining: running jobs have " << absl::FormatDuration(rep_->options.drain_grace) << " to finish";
  state.WaitNoClaims(kPollGrace);
  rep_->link.CancelLeaseCalls();
  if (!state.WaitIdle(rep_->options.drain_grace)) {
    LOG(INFO) << "handing back the jobs that are still running";
    state.GiveAll(LeaseOrder::kRelease);
  }
  for (std::thread& slot : slots) slot.join();
  state.Stop();  // heartbeats go on to the very end: the server must not give up what is being completed
  beats.join();
  LOG(INFO) << "drained";
}

void Agent::Slot() {
  while (rep_->state.BeginClaim()) WorkLease();
}

void Agent::WorkLease() {
  AgentState& state = rep_->state;
  v1::LeaseJobRequest request;
  *request.mutable_worker() = rep_->info;
  SetProto(rep_->options.lease_wait, request.mutable_wait());
  v1::LeaseJobResponse response;
  const absl::Status status = rep_->link.LeaseJob(request, response);
  if (status.ok() && response.has_lease()) {
    const v1::Lease& lease = response.lease();
    const std::shared_ptr<ActiveLease> active = state.Add(lease.job().id(), lease.token());
    state.EndClaim();  // after Add: a drain must see either the claim or the lease
    rep_->metrics.SlotBusy(true);
    // Granted while a drain began: nothing was done for it yet, so it goes back at once.
    if (state.draining()) active->Give(LeaseOrder::kRelease);
    rep_->runner.Run(lease, *active);
    rep_->metrics.SlotBusy(false);
    state.Remove(*active);
    return;
  }
  state.EndClaim();
  if (status.ok() || state.draining()) return;
  if (ReasonOf(status) == "WORKER_DRAINING") {
    LOG(INFO) << "the server says that this worker is to drain";
    return state.Drain();
  }
  // A server that is away is waited for by BeginClaim, once the heartbeat loop knows; this is only for the time until
  // then, and for a server that refuses us.
  const bool away = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
  if (!away) LOG(ERROR) << "the server refuses to lease jobs to this worker: " << status;
  thread_local std::minstd_rand random{std::random_device{}()};
  const double jitter = std::uniform_real_distribution<double>(0.5, 1.0)(random);
  const absl::Duration asked = std::min(RetryAfterOf(status), absl::Seconds(30));
  state.SleepUnlessDraining(std::max(asked, (away ? absl::Milliseconds(300) : absl::Seconds(5)) * jitter));
}

}  // namespace quant
