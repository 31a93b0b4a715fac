// SPDX-License-Identifier: Apache-2.0
// The calls of WorkerService.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/log/log.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/view/method_name.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"
#include "server/queue/queue_metrics.h"
#include "server/queue/spec_check.h"

namespace quant {
namespace {

constexpr size_t kMaxPhaseBytes = 32;
constexpr size_t kMaxProgressBytes = 256;
constexpr size_t kMaxUnitBytes = 16;
constexpr absl::Duration kMaxRemaining = absl::Hours(24 * 366);
constexpr size_t kMaxErrorBytes = 4096;
constexpr size_t kMaxReasonBytes = 63;
constexpr size_t kMaxModelNameBytes = 128;
constexpr int kMaxLeasesPerHeartbeat = 1024;

// `text` cut to at most `max` bytes between two UTF-8 characters.
std::string Cut(std::string_view text, size_t max) {
  if (text.size() <= max) return std::string(text);
  while (max > 0 && (static_cast<unsigned char>(text[max]) & 0xc0) == 0x80) --max;
  return std::string(text.substr(0, max));
}

bool IsReason(std::string_view reason) {
  return !reason.empty() && reason.size() <= kMaxReasonBytes && std::all_of(reason.begin(), reason.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// What a worker says of its progress, inside the limits of the contract.
v1::Progress CleanProgress(const v1::Progress& in, absl::Time now) {
  v1::Progress out;
  out.set_phase(Cut(in.phase(), kMaxPhaseBytes));
  out.set_fraction(std::isfinite(in.fraction()) ? std::clamp(in.fraction(), 0.0, 1.0) : 0.0);
  out.set_message(Cut(in.message(), kMaxProgressBytes));
  SetProto(in.has_update_time() ? FromProto(in.update_time()) : now, out.mutable_update_time());
  if (in.has_phase_start_time()) SetProto(FromProto(in.phase_start_time()), out.mutable_phase_start_time());
  out.set_total(std::max<int64_t>(in.total(), 0));
  out.set_done(std::clamp<int64_t>(in.done(), 0, out.total()));
  out.set_unit(Cut(in.unit(), kMaxUnitBytes));
  out.set_rate(std::isfinite(in.rate()) && in.rate() > 0 ? in.rate() : 0.0);
  const absl::Duration remaining = in.has_remaining() ? FromProto(in.remaining()) : absl::InfiniteDuration();
  if (remaining >= absl::ZeroDuration() && remaining <= kMaxRemaining) SetProto(remaining, out.mutable_remaining());
  return out;
}

// Nothing that happened: the rate and the remaining time alone change with every second of standing still.
bool SameProgress(const v1::Progress& a, const v1::Progress& b) {
  return a.phase() == b.phase() && a.fraction() == b.fraction() && a.message() == b.message() && a.done() == b.done();
}

// An error as the contract promises it. A class that is missing counts as retryable: another attempt can do no harm,
// and the attempts are bounded.
v1::JobError CleanError(const v1::JobError& in, const v1::Progress& progress) {
  v1::JobError out;
  const bool known = v1::ErrorClass_IsValid(in.error_class()) && in.error_class() != v1::ERROR_CLASS_UNSPECIFIED;
  out.set_error_class(known ? in.error_class() : v1::ERROR_CLASS_RETRYABLE);
  out.set_reason(IsReason(in.reason()) ? in.reason() : "INTERNAL");
  out.set_message(Cut(in.message(), kMaxErrorBytes));
  out.set_phase(Cut(in.phase().empty() ? progress.phase() : in.phase(), kMaxPhaseBytes));
  return out;
}

absl::Status Draining(std::string_view worker_id) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("worker ", AbslView(worker_id), " was told to drain: it gets no more jobs")),
                    "WORKER_DRAINING");
}

absl::Status Stale(const v1::CompleteJobRequest& request, int64_t newest) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("lease ", request.token(), " of job ", Quoted(request.job_id()),
                                                 " is gone (the job's newest is ", newest, "): discard the work")),
      "LEASE_STALE");
}

bool IsHeldBy(const JobRow& row, int64_t token, std::string_view worker_id) {
  return IsLeased(StateOf(row)) && token > 0 && row.token == token && row.job.worker_id() == worker_id;
}

// Kinds that make a model need its files, the others must not have any.
absl::Status CheckResult(const v1::Job& job, const v1::JobResult& result) {
  if (job.spec().has_quantize() && result.files().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("success.files of quantize job ", job.id(), " is empty"));
  }
  if (!job.spec().has_quantize() && !result.files().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("success.files of job ", job.id(), " has ", result.files_size(),
                                                   " entries; a ", AbslView(JobKindName(job.spec())),
                                                   " job makes no model"));
  }
  return absl::OkStatus();
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
  const v1::JobSpec& spec = grant.job.spec();
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
  if (spec.has_quantize()) {
    const v1::QuantizeSpec& quantize = spec.quantize();
    RETURN_IF_ERROR(model(quantize.model_id(), lease->mutable_model()));
    if (!quantize.calibration_dataset_id().empty()) {
      RETURN_IF_ERROR(dataset(quantize.calibration_dataset_id(), lease->mutable_calibration_dataset()));
    }
    if (!quantize.evaluation_dataset_id().empty()) {
      RETURN_IF_ERROR(dataset(quantize.evaluation_dataset_id(), lease->mutable_evaluation_dataset()));
    }
  } else if (spec.has_benchmark()) {
    const v1::BenchmarkSpec& benchmark = spec.benchmark();
    RETURN_IF_ERROR(model(benchmark.model_id(), lease->mutable_model()));
    if (!benchmark.baseline_model_id().empty()) {
      RETURN_IF_ERROR(model(benchmark.baseline_model_id(), lease->mutable_baseline_model()));
    }
    if (!benchmark.dataset_id().empty()) {
      RETURN_IF_ERROR(dataset(benchmark.dataset_id(), lease->mutable_evaluation_dataset()));
    }
  }
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

// ---------------------------------------------------------------- completion

absl::StatusOr<JobRow> JobQueue::FindHeld(const v1::CompleteJobRequest& request, bool* repeated) {
  *repeated = false;
  absl::StatusOr<JobRow> row = Find(request.job_id());
  if (absl::IsNotFound(row.status())) return Stale(request, 0);  // deleted, so it was not leased
  RETURN_IF_ERROR(row.status());
  if (IsHeldBy(*row, request.token(), request.worker_id())) return row;
  if (request.token() > 0 && row->completed_token == request.token()) {
    *repeated = true;
    return row;
  }
  if (metrics_ != nullptr) metrics_->StaleReportRejected("complete");
  return Stale(request, row->token);
}

absl::StatusOr<v1::Job> JobQueue::Complete(const v1::CompleteJobRequest& request) {
  if (request.outcome_case() == v1::CompleteJobRequest::OUTCOME_NOT_SET) {
    return absl::InvalidArgumentError("no outcome: set success, failure, cancelled or released");
  }
  if (request.has_success()) return CompleteSuccess(request);
  Deferred deferred;
  absl::StatusOr<v1::Job> job;
  int tries = 0;
  {
    MutexLock lock(&mu_);
    do {
      bool repeated = false;
      ASSIGN_OR_RETURN(JobRow row, FindHeld(request, &repeated));
      if (repeated) return std::move(row.job);
      const LiveJob* live = live_.Find(request.job_id());
      if (live->publishing || live->won) return BeingPublished(request.job_id());
      job = ApplyOutcome(request, std::move(row), &deferred);
    } while (ChangedMeanwhile(job.status(), &tries));
    if (absl::IsAborted(job.status())) job = BeingPublished(request.job_id());  // its result came to another server
    Dispatch(&deferred);
  }
  RunAll(&deferred);
  return job;
}

absl::StatusOr<v1::Job> JobQueue::ApplyOutcome(const v1::CompleteJobRequest& request, JobRow row, Deferred* deferred) {
  row.completed_token = request.token();
  if (request.has_failure()) {
    v1::JobError error = CleanError(request.failure(), row.job.progress());
    if (error.error_class() != v1::ERROR_CLASS_FINAL) return ApplyLoss(std::move(row), std::move(error), deferred);
    *row.job.mutable_error() = std::move(error);
    return Apply(JobEvent::kFail, std::move(row), deferred);
  }
  if (request.has_cancelled()) return Apply(JobEvent::kWorkerCancelled, std::move(row), deferred);
  row.job.set_attempt(std::max(0, row.job.attempt() - 1));
  return Apply(JobEvent::kRelease, std::move(row), deferred);
}

absl::Status JobQueue::BeingPublished(const std::string& id) {
  return absl::UnavailableError(
      absl::StrCat("a result of job ", id, " is being published at this moment: repeat the call"));
}

absl::StatusOr<v1::Job> JobQueue::CompleteSuccess(const v1::CompleteJobRequest& request) {
  {
    MutexLock lock(&mu_);
    bool repeated = false;
    ASSIGN_OR_RETURN(JobRow row, FindHeld(request, &repeated));
    if (repeated) return std::move(row.job);
    LiveJob* live = live_.Find(request.job_id());
    if (live->publishing) return BeingPublished(request.job_id());
    RETURN_IF_ERROR(CheckResult(row.job, request.success()));
    const std::string bytes = request.success().SerializeAsString();
    absl::Status put = store_->PutResult(request.job_id(), VersionOf(row), bytes);
    if (absl::IsAborted(put)) {  // cancelled meanwhile at another server, or lost
      ASSIGN_OR_RETURN(row, FindHeld(request, &repeated));
      if (repeated) return std::move(row.job);
      put = store_->PutResult(request.job_id(), VersionOf(row), bytes);
      live = live_.Find(request.job_id());
    }
    RETURN_IF_ERROR(put);
    live->publishing = true;
  }
  return FinishPublication(request.job_id(), request.token(), request.success());
}

absl::StatusOr<std::string> JobQueue::PublishModel(const std::string& tenant, const v1::Job& job,
                                                   const v1::JobResult& result) {
  const v1::QuantizeSpec& spec = job.spec().quantize();
  std::string name = spec.output_name();
  if (name.empty()) {
    const absl::StatusOr<v1::Model> input = catalog_->GetModel(OpenPrincipal(), spec.model_id());
    const std::string base = input.ok() && !input->name().empty() ? input->name() : spec.model_id();
    const std::string suffix = absl::StrCat("-", std::string(MethodName(spec.recipe())));
    name = Cut(base, kMaxModelNameBytes - suffix.size()) + suffix;
  }
  ASSIGN_OR_RETURN(const v1::Model model,
                   catalog_->PublishResult(tenant, job.id(), name, {result.files().begin(), result.files().end()}));
  return model.id();
}

absl::StatusOr<v1::Job> JobQueue::FinishPublication(const std::string& id, int64_t token, const v1::JobResult& result) {
  v1::Job job;
  std::string tenant;
  {
    MutexLock lock(&mu_);
    const LiveJob* live = live_.Find(id);
    if (live == nullptr) return EndedElsewhere(id, token);
    job = live->row.job;
    tenant = live->row.tenant;
  }
  absl::StatusOr<std::string> model_id = std::string();
  if (!result.files().empty()) model_id = PublishModel(tenant, job, result);

  Deferred deferred;
  absl::StatusOr<v1::Job> done;
  {
    MutexLock lock(&mu_);
    LiveJob* live = live_.Find(id);
    if (live == nullptr || live->row.token != token || !IsLeased(StateOf(live->row))) {
      return EndedElsewhere(id, token);
    }
    if (model_id.ok()) {
      int tries = 0;
      do {
        live->won = true;
        JobRow row = live->row;
        row.completed_token = token;
        row.job.set_result_model_id(*model_id);
        done = Apply(JobEvent::kSucceed, std::move(row), &deferred);
        live = live_.Find(id);
      } while (ChangedMeanwhile(done.status(), &tries) && live != nullptr && live->row.token == token &&
               IsLeased(StateOf(live->row)));
      if (absl::IsAborted(done.status())) done = EndedElsewhere(id, token);
    } else {
      done = model_id.status();
    }
    if (done.ok()) {
      if (metrics_ != nullptr) CountPhases(done->spec(), result.report(), metrics_);
    } else if (LiveJob* still = live_.Find(id); still != nullptr) {
      still->publishing = false;
      still->last_heard = clock_->Now();  // time to repeat the call
      NoteDue(LeaseDue(*still));
    }
  }
  RunAll(&deferred);
  return done;
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
