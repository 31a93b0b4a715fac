// SPDX-License-Identifier: Apache-2.0
// The core of the queue: loading, the one way by which a job changes state, dispatch. Calls of clients are in
// queue_clients.cc, of workers in queue_workers.cc, what time alone does in queue_tick.cc.
#include "server/queue/queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/log/log.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/queue_internal.h"
#include "server/queue/queue_metrics.h"

namespace quant {
namespace {

static_assert(static_cast<int>(JobState::kQueued) == v1::JOB_STATE_QUEUED &&
              static_cast<int>(JobState::kRunning) == v1::JOB_STATE_RUNNING &&
              static_cast<int>(JobState::kRetryWait) == v1::JOB_STATE_RETRY_WAIT &&
              static_cast<int>(JobState::kCancelling) == v1::JOB_STATE_CANCELLING &&
              static_cast<int>(JobState::kSucceeded) == v1::JOB_STATE_SUCCEEDED &&
              static_cast<int>(JobState::kFailed) == v1::JOB_STATE_FAILED &&
              static_cast<int>(JobState::kCancelled) == v1::JOB_STATE_CANCELLED &&
              static_cast<int>(JobState::kDead) == v1::JOB_STATE_DEAD);

constexpr absl::Duration kRetryBase = absl::Seconds(1);
// A lost worker says nothing about the job: the first time it goes on nearly at once.
constexpr absl::Duration kRetryAfterLostWorker = absl::Milliseconds(200);
// Progress raises the sequence in memory faster than it is stored. A restarted server goes on from this far beyond the
// stored value, so that a watcher never sees the sequence fall: more changes than any attempt makes between two saves.
constexpr int64_t kSequenceGap = 1 << 20;
// How long the queue rests after an error of the store or the catalog.
constexpr absl::Duration kPause = absl::Seconds(1);
// How long after jobs were found taken by other servers they are looked at again.
constexpr absl::Duration kClaimRetry = absl::Milliseconds(100);

// Sets what follows from the state that `event` led to. What only the caller knows (error, retry_time, result, worker)
// is already there.
void Settle(JobEvent event, absl::Time now, absl::Duration retention, JobRow* row) {
  v1::Job& job = row->job;
  const JobState state = StateOf(job);
  if (!IsLeased(state)) row->deadline = absl::InfiniteFuture();
  row->cancel_time = state == JobState::kCancelling ? now : absl::InfinitePast();
  const bool has_error = state == JobState::kFailed || state == JobState::kDead || state == JobState::kRetryWait;
  if (!has_error) job.clear_error();
  if (state != JobState::kRetryWait) job.clear_retry_time();
  job.clear_attached_to();
  if (state != JobState::kSucceeded) job.clear_cached_from();
  if (IsFinal(state)) {
    SetProto(now, job.mutable_end_time());
  } else {
    job.clear_end_time();
  }
  if (IsFinal(state) || state == JobState::kDead) {
    SetProto(now + retention, job.mutable_expire_time());
  } else {
    job.clear_expire_time();
  }
  if (event == JobEvent::kLease || state == JobState::kQueued) job.clear_progress();
  if (event == JobEvent::kRetry) {
    job.set_attempt(0);
    job.clear_worker_id();
    job.clear_start_time();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobQueue>> JobQueue::Create(JobStore* store, ArtifactCatalog* catalog,
                                                           ServerMetrics* metrics, Clock* clock, QueueOptions options) {
  auto queue = std::unique_ptr<JobQueue>(new JobQueue(store, catalog, metrics, clock, options));
  RETURN_IF_ERROR(queue->Load());
  return queue;
}

JobQueue::JobQueue(JobStore* store, ArtifactCatalog* catalog, ServerMetrics* metrics, Clock* clock,
                   QueueOptions options)
    : store_(store),
      peers_(store->peers()),
      catalog_(catalog),
      metrics_(metrics),
      clock_(clock),
      options_(options),
      models_(store, catalog, metrics),
      live_(options_.aging),
      workers_(options_.max_workers, options_.worker_retention),
      jitter_(options_.jitter_seed) {}

JobQueue::~JobQueue() { Shutdown(); }

absl::Status JobQueue::Load() {
  std::vector<std::pair<std::string, JobStore::Result>> unpublished;
  {
    MutexLock lock(&mu_);
    const absl::Time now = clock_->Now();
    if (peers_ != nullptr) {  // before the rows are read: what changes meanwhile is read again
      ASSIGN_OR_RETURN(const JobPeers::Changes changes, peers_->ChangesSince(std::numeric_limits<int64_t>::max()));
      cursor_ = changes.cursor;
    }
    ASSIGN_OR_RETURN(std::vector<JobRow> rows, store_->LoadUnfinished());
    ASSIGN_OR_RETURN(counts_, store_->CountByState());
    for (JobRow& row : rows) {
      const std::string id = row.job.id();
      const int64_t token = row.token;
      const absl::Time created = FromProto(row.job.create_time());
      if (peers_ == nullptr && IsLeased(StateOf(row))) row.job.set_sequence(row.job.sequence() + kSequenceGap);
      live_.Load(std::move(row), std::min(created, now), now);  // leases are heard of "now": a fresh grace
      LiveJob& live = *live_.Find(id);
      if (!IsLeased(StateOf(live.row))) continue;
      live.confirmed = true;            // a server that is gone may have heard of it
      if (peers_ != nullptr) continue;  // another server may be publishing; Tick sees to it when the lease runs out
      live.sequence_saved = false;
      SaveSequence(&live);
      absl::StatusOr<JobStore::Result> result = store_->GetResult(id);
      if (absl::IsNotFound(result.status())) continue;
      RETURN_IF_ERROR(result.status());
      if (result->token != token) continue;
      live.publishing = true;
      unpublished.emplace_back(id, *std::move(result));
    }
    LOG(INFO) << "queue: " << live_.size() << " unfinished jobs, " << live_.Leased().size() << " of them leased";
    next_purge_ = now;
  }
  for (const auto& [id, stored] : unpublished) {
    v1::JobResult result;
    if (!result.ParseFromString(stored.bytes)) {
      return absl::DataLossError("the stored result of job " + id + " cannot be read");
    }
    const LogScope scope({.job = id});
    const absl::Status status = FinishPublication(id, stored.token, result).status();
    // Not fatal: the worker may repeat its call, or Tick tries again when the lease runs out.
    LOG(INFO) << "queue: publishing the result that job " << id << " had delivered before the restart: " << status;
  }
  if (peers_ != nullptr) peers_->Listen([this](bool reload) { Follow(reload); });
  return absl::OkStatus();
}

bool JobQueue::SaveSequence(LiveJob* live) {
  if (clock_->Now() < paused_until_) return false;
  const absl::Status saved = store_->Update(live->row, VersionOf(live->row));
  live->sequence_saved = saved.ok();
  if (!saved.ok()) {
    const LogScope scope(LogFieldsOf(live->row.job));
    LOG(WARNING) << "queue: saving the sequence of job " << live->row.job.id() << ": " << saved;
    Pause();
  }
  return saved.ok();
}

void JobQueue::Start() {
  ticker_ = std::thread([this] { Run(); });
}

void JobQueue::Shutdown() {
  if (peers_ != nullptr) peers_->StopListening();
  EndWatches();
  EndLeases();
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    due_changed_.SignalAll();
  }
  if (ticker_.joinable()) ticker_.join();
}

void JobQueue::RunAll(Deferred* deferred) {
  for (const std::function<void()>& call : *deferred) call();
  deferred->clear();
}

absl::StatusOr<JobRow> JobQueue::Find(std::string_view id) {
  const LiveJob* const live = live_.Find(id);
  if (live != nullptr && peers_ == nullptr) return live->row;
  absl::StatusOr<JobRow> row = absl::NotFoundError("");
  if (!inserting_.contains(id)) row = store_->Get(id);
  if (absl::IsNotFound(row.status())) {
    live_.Erase(id, clock_->Now());
    return absl::NotFoundError(absl::StrCat("there is no job ", Quoted(id)));
  }
  if (peers_ != nullptr && row.ok()) return Take(*row);
  return row;
}

absl::StatusOr<JobRow> JobQueue::FindFor(const Principal& caller, std::string_view id) {
  absl::StatusOr<JobRow> row = Find(id);
  if (absl::IsNotFound(row.status()) || (row.ok() && !caller.Sees(row->tenant))) return NotVisible(caller, "job", id);
  return row;
}

absl::StatusOr<v1::Job> JobQueue::Apply(JobEvent event, JobRow row, Deferred* deferred, Delivered delivered) {
  const JobState before = StateOf(row);
  const std::optional<JobState> after = NextState(before, event);
  if (!after) return StateForbids(row.job, absl::StrCat(std::string(JobEventName(event)), " is not possible"));
  if (*after == before) return std::move(row.job);

  const absl::Time now = clock_->Now();
  const JobRow old = row;
  row.job.set_state(static_cast<v1::JobState>(*after));
  row.job.set_sequence(NextSequence(row.job));
  Settle(event, now, options_.job_retention, &row);
  const LogScope scope(LogFieldsOf(row.job));
  JobVersion expected = VersionOf(old);
  expected.undelivered = peers_ != nullptr && IsLeased(before) && !IsLeased(*after) && event != JobEvent::kSucceed &&
                         delivered == Delivered::kWins;
  // Retried elsewhere meanwhile, it would look the same.
  if (peers_ != nullptr && !IsLeased(before)) expected.sequence = old.job.sequence();
  absl::Status stored = event == JobEvent::kLease ? store_->Claim(&row, expected) : store_->Update(row, expected);
  if (!stored.ok()) {
    const bool changed = absl::IsAborted(stored) || absl::IsNotFound(stored);
    // Among several servers somebody is always second.
    LOG_IF(ERROR, peers_ == nullptr || !changed)
        << "queue: job " << row.job.id() << ", " << JobEventName(event) << ": " << stored;
    if (changed) Resync(row.job.id());
    return stored;
  }

  LOG(INFO) << "queue: " << JobEventName(event) << ": " << JobStateName(before) << " to " << JobStateName(*after)
            << (row.job.attempt() > 0 ? absl::StrCat(", attempt ", row.job.attempt(), " by ", row.job.worker_id()) : "")
            << (row.job.has_error() ? absl::StrCat(", ", row.job.error().reason()) : "");
  if (metrics_ != nullptr) CountTransition(event, old, row, now, metrics_);
  if (before == JobState::kSucceeded || *after == JobState::kSucceeded) models_.Changed();
  --counts_[old.job.state()];
  ++counts_[row.job.state()];
  auto job = std::make_shared<const v1::Job>(row.job);
  live_.Put(std::move(row), now);
  if (const LiveJob* live = live_.Find(job->id()); live != nullptr && IsLeased(*after)) NoteDue(LeaseDue(*live));
  if (*after == JobState::kRetryWait) NoteDue(FromProto(job->retry_time()));
  WatchEvent event_out{.job = job, .end = std::nullopt};
  if (EndsWatch(*after)) event_out.end = absl::OkStatus();
  watches_.Publish(job->id(), event_out, now + options_.watch_keepalive, deferred);
  if (!live_.AttachedTo(job->id()).empty()) deferred->push_back([this, id = job->id()] { SettleAttached(id); });
  return *job;
}

void JobQueue::Resync(const std::string& id) {
  absl::StatusOr<JobRow> row = store_->Get(id);
  if (row.ok()) {
    Take(*row);
  } else if (absl::IsNotFound(row.status())) {
    live_.Erase(id, clock_->Now());
  }
}

absl::StatusOr<v1::Job> JobQueue::ApplyLoss(JobRow row, v1::JobError error, Deferred* deferred, Delivered delivered) {
  const JobEvent event = AttemptLostEvent(row.job.attempt(), row.job.spec().max_attempts());
  SetProto(clock_->Now() + Backoff(row, error), row.job.mutable_retry_time());
  *row.job.mutable_error() = std::move(error);
  return Apply(event, std::move(row), deferred, delivered);
}

absl::Duration JobQueue::Backoff(const JobRow& row, const v1::JobError& error) {
  const int attempt = std::max(1, row.job.attempt());
  absl::Duration delay = kRetryCap;
  if (attempt <= 16) delay = std::min(kRetryCap, kRetryBase * (int64_t{1} << (attempt - 1)));
  if (error.reason() == "LEASE_LOST" && attempt == 1) delay = kRetryAfterLostWorker;
  return delay * std::uniform_real_distribution<double>(0.5, 1.0)(jitter_);
}

std::map<uint64_t, JobQueue::Waiter>::iterator JobQueue::PickWaiter(absl::Time now) {
  for (auto it = waiters_.begin(); it != waiters_.end(); ++it) {
    const KnownWorker* worker = workers_.Find(it->second.worker_id);
    if (worker != nullptr && now - worker->heard < Silence()) return it;
  }
  return waiters_.begin();
}

void JobQueue::Dispatch(Deferred* deferred) {
  const absl::Time now = clock_->Now();
  if (now < paused_until_) return;
  std::set<std::string> taken;  // other servers are at them
  while (!waiters_.empty()) {
    const LiveJob* ready = live_.NextReady(options_.limits, now, taken);
    if (ready == nullptr) break;
    const std::string id = ready->row.job.id();
    const auto waiter = PickWaiter(now);
    JobRow row = ready->row;
    row.job.set_worker_id(waiter->second.worker_id);
    row.job.set_attempt(row.job.attempt() + 1);
    SetProto(now, row.job.mutable_start_time());
    row.deadline = now + FromProto(row.job.spec().attempt_timeout());
    absl::StatusOr<v1::Job> job = Apply(JobEvent::kLease, std::move(row), deferred);
    if (peers_ != nullptr && (absl::IsAborted(job.status()) || absl::IsNotFound(job.status()))) {
      taken.insert(id);
      continue;
    }
    if (!job.ok()) {
      Pause();
      return;
    }
    const JobRow& leased = live_.Find(job->id())->row;
    Grant grant{*job, leased.token, leased.deadline, std::move(waiter->second.callback)};
    waiters_.erase(waiter);
    deferred->push_back([this, grant = std::move(grant)] { Deliver(grant); });
  }
  // A claim that another server did not bring to an end would not be told of.
  if (!taken.empty()) NoteDue(now + kClaimRetry);
}

void JobQueue::Pause() {
  paused_until_ = clock_->Now() + kPause;
  NoteDue(paused_until_);
}

}  // namespace quant
