// SPDX-License-Identifier: Apache-2.0
// The calls of WorkerService but CompleteJob (queue_completion.cc).
#include <algorithm>
#include <utility>

#include "absl/log/log.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/view/job_inputs.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"
#include "server/queue/queue_metrics.h"
#include "server/queue/spec_check.h"
#include "server/queue/worker_report.h"

namespace quant {
namespace {

constexpr int kMaxLeasesPerHeartbeat = 1024;

absl::Status Draining(std::string_view worker_id) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("worker ", AbslView(worker_id), " was told to drain: it gets no more jobs")),
                    "WORKER_DRAINING");
}

}  // namespace

// ---------------------------------------------------------------- leasing

v1::LeaseJobResponse JobQueue::EmptyLease() const {
  v1::LeaseJobResponse response;
  SetProto(options_.heartbeat_interval, response.mutable_heartbeat_interval());
  return response;
}

void JobQueue::NoteHolder(std::string_view job_id, int64_t token, std::string_view holder) {
  MutexLock lock(&mu_);
  LiveJob* const live = live_.Find(job_id);
  if (live != nullptr && IsLeased(StateOf(live->row)) && live->row.token == token) live->holder = std::string(holder);
}

absl::StatusOr<std::vector<std::string>> JobQueue::LeasedInputs(std::string_view holder) {
  std::vector<std::string> ids;
  Deferred deferred;
  absl::Status status;
  {
    MutexLock lock(&mu_);
    if (peers_ != nullptr) status = CatchUp(&deferred);  // it may have been leased elsewhere a moment ago
    for (const std::string& id : live_.Leased()) {
      const LiveJob& live = *live_.Find(id);
      if (!live.holder.empty() && live.holder != holder) continue;
      for (std::string& input : ArtifactsOf(live.row.job.spec())) ids.push_back(std::move(input));
    }
  }
  RunAll(&deferred);
  if (!status.ok()) return status;
  return ids;
}

uint64_t JobQueue::Lease(const v1::LeaseJobRequest& request, LeaseCallback callback) {
  const bool told_to_drain = CheckWorkerInfo(request.worker()).ok() && ShareHeartbeat(request.worker(), false, {});
  Deferred deferred;
  uint64_t handle = 0;
  {
    MutexLock lock(&mu_);
    handle = next_handle_++;
    const absl::Status status = Park(request, handle, told_to_drain, callback, &deferred);
    if (!status.ok()) deferred.push_back([callback, status] { callback(status); });
  }
  RunAll(&deferred);
  return handle;
}

absl::Status JobQueue::Park(const v1::LeaseJobRequest& request, uint64_t handle, bool told_to_drain,
                            LeaseCallback callback, Deferred* deferred) {
  if (leases_ended_) return Stopping();
  const absl::Time now = clock_->Now();
  ASSIGN_OR_RETURN(KnownWorker * worker, workers_.Touch(request.worker(), now));
  const std::string& id = request.worker().id();
  if (told_to_drain) Drain(worker, deferred);
  if (worker->draining) return Draining(id);

  const int64_t slots = request.worker().slots();
  if (live_.LeasesOf(id) >= slots && peers_ != nullptr) {  // what was ended or confirmed elsewhere
    RETURN_IF_ERROR(CatchUp(deferred));
    RETURN_IF_ERROR(HearOfOthers(now));
  }
  if (live_.LeasesOf(id) >= slots) ReleaseUnconfirmed(id, deferred);
  const int64_t leases = live_.LeasesOf(id);
  if (leases >= slots) {
    return absl::InvalidArgumentError(absl::StrCat("worker ", id, " has ", slots, " slots and holds ", leases,
                                                   " leases: ask again when one has ended"));
  }
  // More calls than free slots: the oldest is of a connection that broke.
  int64_t parked = 0;
  auto oldest = waiters_.end();
  for (auto it = waiters_.begin(); it != waiters_.end(); ++it) {
    if (it->second.worker_id != id) continue;
    if (parked++ == 0) oldest = it;
  }
  if (leases + parked >= slots && oldest != waiters_.end()) Answer(oldest, EmptyLease(), deferred);

  if (static_cast<int64_t>(waiters_.size()) >= options_.max_parked) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(waiters_.size(), " LeaseJob calls wait, the limit is ",
                                                                options_.max_parked, ": ask again later")),
                      "TOO_MANY_CALLS", {}, absl::Seconds(5));
  }

  const absl::Duration wait = std::clamp(FromProto(request.wait()), absl::ZeroDuration(), options_.max_lease_wait);
  waiters_[handle] = {.worker_id = id, .until = now + wait, .callback = std::move(callback)};
  Dispatch(deferred);
  const auto waiter = waiters_.find(handle);
  if (waiter != waiters_.end() && wait == absl::ZeroDuration()) {
    Answer(waiter, EmptyLease(), deferred);
  } else {
    NoteDue(now + wait);
  }
  return absl::OkStatus();
}

void JobQueue::Answer(std::map<uint64_t, Waiter>::iterator waiter, absl::StatusOr<v1::LeaseJobResponse> answer,
                      Deferred* deferred) {
  deferred->push_back(
      [callback = std::move(waiter->second.callback), answer = std::move(answer)] { callback(answer); });
  waiters_.erase(waiter);
}

void JobQueue::ReleaseUnconfirmed(const std::string& worker_id, Deferred* deferred) {
  for (const std::string& id : live_.JobsOf(worker_id)) {
    const LiveJob* live = live_.Find(id);
    if (live->confirmed || live->publishing || live->won) continue;
    // It asks for more than its slots hold, and has never named this lease: the answer did not reach it.
    JobRow row = live->row;
    row.job.set_attempt(std::max(0, row.job.attempt() - 1));
    Apply(JobEvent::kRelease, std::move(row), deferred).IgnoreError();  // logged there; the lease will run out
  }
}

void JobQueue::AbandonLease(uint64_t handle) {
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    const auto waiter = waiters_.find(handle);
    if (waiter != waiters_.end()) Answer(waiter, absl::CancelledError("the caller is gone"), &deferred);
  }
  RunAll(&deferred);
}

void JobQueue::EndLeases() {
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    leases_ended_ = true;
    while (!waiters_.empty()) Answer(waiters_.begin(), Stopping(), &deferred);
  }
  RunAll(&deferred);
}

absl::Status JobQueue::FillLease(const Grant& grant, v1::Lease* lease) {
  *lease->mutable_job() = grant.job;
  lease->set_token(grant.token);
  SetProto(grant.deadline, lease->mutable_deadline());
  const auto model = [&](const std::string& id, v1::Model* out) {
    ASSIGN_OR_RETURN(*out, catalog_->GetModel(OpenPrincipal(), id));
    return absl::OkStatus();
  };
  const auto dataset = [&](const std::string& id, v1::Dataset* out) {
    ASSIGN_OR_RETURN(*out, catalog_->GetDataset(OpenPrincipal(), id));
    return absl::OkStatus();
  };
  const JobInputs inputs = InputsOf(grant.job.spec());
  RETURN_IF_ERROR(model(inputs.model, lease->mutable_model()));
  if (!inputs.baseline.empty()) RETURN_IF_ERROR(model(inputs.baseline, lease->mutable_baseline_model()));
  if (!inputs.calibration.empty()) {
    RETURN_IF_ERROR(dataset(inputs.calibration, lease->mutable_calibration_dataset()));
  }
  if (!inputs.evaluation.empty()) RETURN_IF_ERROR(dataset(inputs.evaluation, lease->mutable_evaluation_dataset()));
  return absl::OkStatus();
}

void JobQueue::Deliver(const Grant& grant) {
  v1::LeaseJobResponse response = EmptyLease();
  const absl::Status filled = FillLease(grant, response.mutable_lease());
  if (filled.ok()) {
    grant.callback(std::move(response));
    return;
  }
  const LogScope scope(LogFieldsOf(grant.job));
  LOG(WARNING) << "queue: job " << grant.job.id() << " cannot be sent: " << filled;
  v1::CompleteJobRequest end;
  end.set_worker_id(grant.job.worker_id());
  end.set_job_id(grant.job.id());
  end.set_token(grant.token);
  if (absl::IsNotFound(filled)) {  // deleted between Submit's check and its insert
    v1::JobError* error = end.mutable_failure();
    error->set_error_class(v1::ERROR_CLASS_FINAL);
    error->set_reason("MODEL_INVALID");
    error->set_message(absl::StrCat("an input of the job is gone: ", std::string(StdView(filled.message()))));
  } else {
    end.mutable_released();
    MutexLock lock(&mu_);
    Pause();
  }
  Complete(end).IgnoreError();  // else the lease runs out
  response.clear_lease();
  grant.callback(std::move(response));
}

// ---------------------------------------------------------------- heartbeats

absl::StatusOr<v1::HeartbeatResponse> JobQueue::Heartbeat(const v1::HeartbeatRequest& request) {
  if (request.leases_size() > kMaxLeasesPerHeartbeat) {
    return absl::InvalidArgumentError(
        absl::StrCat("leases has ", request.leases_size(), " entries; at most ", kMaxLeasesPerHeartbeat, " are taken"));
  }
  v1::HeartbeatResponse response;
  SetProto(options_.heartbeat_interval, response.mutable_heartbeat_interval());
  Deferred deferred;
  std::vector<JobPeers::LeaseId> held;
  {
    MutexLock lock(&mu_);
    const absl::Time now = clock_->Now();
    ASSIGN_OR_RETURN(KnownWorker * worker, workers_.Touch(request.worker(), now));
    if (request.draining()) Drain(worker, &deferred);
    response.set_drain(worker->draining);
    for (const v1::LeaseProgress& lease : request.leases()) {
      v1::LeaseInstruction* instruction = response.add_instructions();
      instruction->set_job_id(lease.job_id());
      instruction->set_token(lease.token());
      instruction->set_command(Hear(request.worker().id(), lease, now, &deferred));
      if (instruction->command() != v1::LEASE_COMMAND_LEASE_LOST) held.push_back({lease.job_id(), lease.token()});
    }
  }
  if (ShareHeartbeat(request.worker(), request.draining(), held) && !response.drain()) {
    response.set_drain(true);
    MutexLock lock(&mu_);
    if (KnownWorker* const worker = workers_.Find(request.worker().id())) Drain(worker, &deferred);
  }
  RunAll(&deferred);
  return response;
}

v1::LeaseCommand JobQueue::Hear(const std::string& worker_id, const v1::LeaseProgress& lease, absl::Time now,
                                Deferred* deferred) {
  LiveJob* live = live_.Find(lease.job_id());
  const auto held = [&] { return live != nullptr && IsHeldBy(live->row, lease.token(), worker_id); };
  if (peers_ != nullptr && !held()) {  // the lease may be of another server, just now
    const absl::Status found = Find(lease.job_id()).status();
    live = live_.Find(lease.job_id());
    // Nothing is lost before the store has said so.
    if (!found.ok() && !absl::IsNotFound(found)) return v1::LEASE_COMMAND_CONTINUE;
  }
  if (!held()) {
    if (metrics_ != nullptr) metrics_->StaleReportRejected("heartbeat");
    return v1::LEASE_COMMAND_LEASE_LOST;
  }
  live->last_heard = now;
  live->confirmed = true;
  if (lease.has_progress() && !live->publishing) {
    v1::Progress progress = CleanProgress(lease.progress(), now);
    v1::Job& job = live->row.job;
    if (!SameProgress(progress, job.progress()) && (live->sequence_saved || SaveSequence(live))) {
      *job.mutable_progress() = std::move(progress);
      live->moved = now;
      job.set_sequence(job.sequence() + 1);
      if (watches_.IsWatched(job.id())) {
        const WatchEvent event{.job = std::make_shared<const v1::Job>(job), .end = std::nullopt};
        watches_.Publish(job.id(), event, now + options_.watch_keepalive, deferred);
      }
      if (now - live->progress_saved >= options_.progress_save) {
        live->progress_saved = now;
        const LogScope scope(LogFieldsOf(job));
        const absl::Status saved = store_->Update(live->row, VersionOf(live->row));
        LOG_IF(WARNING, !saved.ok()) << "queue: saving the progress of job " << job.id() << ": " << saved;
        if (absl::IsAborted(saved)) {  // another server has moved it on: cancelled, perhaps
          Resync(lease.job_id());
          live = live_.Find(lease.job_id());
          if (!held()) return v1::LEASE_COMMAND_LEASE_LOST;
        }
      }
    }
  }
  return StateOf(live->row) == JobState::kCancelling ? v1::LEASE_COMMAND_CANCEL : v1::LEASE_COMMAND_CONTINUE;
}

// ---------------------------------------------------------------- workers

void JobQueue::Drain(KnownWorker* worker, Deferred* deferred) {
  worker->draining = true;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    const auto waiter = it++;
    if (waiter->second.worker_id == worker->info.id()) Answer(waiter, Draining(worker->info.id()), deferred);
  }
}

v1::Worker JobQueue::Describe(const KnownWorker& worker, absl::Time now) {
  v1::Worker out;
  *out.mutable_info() = worker.info;
  for (const std::string& id : live_.JobsOf(worker.info.id())) out.add_job_ids(id);
  SetProto(worker.heard, out.mutable_heartbeat_time());
  SetProto(worker.registered, out.mutable_register_time());
  out.set_draining(worker.draining);
  out.set_lost(now - worker.heard >= Silence());
  return out;
}

v1::ListWorkersResponse JobQueue::ListWorkers() {
  absl::StatusOr<std::vector<JobPeers::Worker>> everywhere = absl::UnimplementedError("alone");
  if (peers_ != nullptr) everywhere = peers_->Workers(options_.worker_retention);
  v1::ListWorkersResponse response;
  MutexLock lock(&mu_);
  const absl::Time now = clock_->Now();
  if (everywhere.ok()) {
    for (JobPeers::Worker& worker : *everywhere) {
      *response.add_workers() = Describe({.info = std::move(worker.info),
                                          .registered = now - worker.registered_ago,
                                          .heard = now - worker.heard_ago,
                                          .draining = worker.draining},
                                         now);
    }
    return response;
  }
  workers_.Forget(now);
  for (const KnownWorker* worker : workers_.All()) *response.add_workers() = Describe(*worker, now);
  return response;
}

int64_t JobQueue::Demand() {
  MutexLock lock(&mu_);
  return live_.Demand(options_.limits);
}

absl::StatusOr<v1::Worker> JobQueue::DrainWorker(std::string_view id) {
  if (peers_ != nullptr) RETURN_IF_ERROR(peers_->Drain(id));
  Deferred deferred;
  v1::Worker out;
  bool known = false;
  {
    MutexLock lock(&mu_);
    KnownWorker* worker = workers_.Find(id);
    known = worker != nullptr;
    if (known) {
      Drain(worker, &deferred);
      out = Describe(*worker, clock_->Now());
    }
  }
  RunAll(&deferred);
  if (known) return out;
  if (peers_ != nullptr) {  // it talks to another server
    const v1::ListWorkersResponse all = ListWorkers();
    for (const v1::Worker& worker : all.workers()) {
      if (worker.info().id() == id) return worker;
    }
  }
  return absl::NotFoundError(absl::StrCat("there is no worker ", Quoted(id)));
}

}  // namespace quant
