// SPDX-License-Identifier: Apache-2.0
// What happens by time alone.
#include <algorithm>
#include <utility>

#include "absl/log/log.h"
#include "absl/time/clock.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"
#include "server/queue/queue_metrics.h"

namespace quant {
namespace {

constexpr absl::Duration kGaugeInterval = absl::Seconds(1);
constexpr absl::Duration kPurgeInterval = absl::Hours(1);
constexpr absl::Duration kExpiryInterval = absl::Minutes(1);
constexpr int kExpiredAtOnce = 100;  // each is a transaction, under the lock
// The ticker never sleeps less: what cannot be done (disk full) does not make it spin.
constexpr absl::Duration kShortestSleep = absl::Milliseconds(2);
// How long leases and backoffs rest after an error of the store.
constexpr absl::Duration kScanPause = absl::Milliseconds(500);

v1::JobError LossError(const char* reason, std::string message, const v1::Job& job) {
  v1::JobError error;
  error.set_error_class(v1::ERROR_CLASS_RETRYABLE);
  error.set_reason(reason);
  error.set_message(std::move(message));
  error.set_phase(job.progress().phase());
  return error;
}

// Not only this job: the store is in trouble. (ABORTED and NOT_FOUND tell of a change by somebody else.)
bool IsTrouble(const absl::Status& status) {
  return !status.ok() && !absl::IsAborted(status) && !absl::IsNotFound(status);
}

// Trying the same again later may help.
bool IsTransient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) || absl::IsAborted(status) ||
         absl::IsDeadlineExceeded(status);
}

}  // namespace

absl::Time JobQueue::LeaseDue(const LiveJob& live) const {
  if (live.publishing) return absl::InfiniteFuture();
  absl::Time due = live.last_heard + Silence();
  due = std::min(due, live.row.deadline);
  if (StateOf(live.row) == JobState::kCancelling) due = std::min(due, live.row.cancel_time + options_.cancel_grace);
  return due;
}

void JobQueue::TickLease(const std::string& id, absl::Time now, Deferred* deferred) {
  LiveJob* live = live_.Find(id);
  if (live == nullptr || !IsLeased(StateOf(live->row)) || now < LeaseDue(*live)) return;

  const LogScope scope(LogFieldsOf(live->row.job));
  const int64_t token = live->row.token;
  const absl::StatusOr<JobStore::Result> stored = store_->GetResult(id);
  if (!stored.ok() && !absl::IsNotFound(stored.status())) {
    LOG(ERROR) << "queue: job " << id << ": " << stored.status();
    Pause();
    return;  // the store is in trouble: nothing could be changed anyway
  }
  if (stored.ok() && stored->token == token) {  // the worker won, and died before it was told so
    live->publishing = true;
    deferred->push_back([this, id, token, bytes = stored->bytes] { PublishStored(id, token, bytes); });
    return;
  }

  absl::StatusOr<v1::Job> changed;
  const v1::Job& job = live->row.job;
  if (StateOf(job) == JobState::kCancelling && now >= live->row.cancel_time + options_.cancel_grace) {
    if (metrics_ != nullptr) metrics_->LeaseExpired("kill_ignored");
    changed = Apply(JobEvent::kCutOff, live->row, deferred);
  } else if (now >= live->row.deadline) {
    if (metrics_ != nullptr) metrics_->LeaseExpired("deadline");
    changed =
        ApplyLoss(live->row,
                  LossError("TIMEOUT",
                            absl::StrCat("attempt ", job.attempt(), " took longer than its attempt_timeout of ",
                                         absl::FormatDuration(absl::Seconds(job.spec().attempt_timeout().seconds())),
                                         ": give it more time, fewer samples or a faster worker"),
                            job),
                  deferred);
  } else {
    if (metrics_ != nullptr) metrics_->LeaseExpired("heartbeat");
    changed =
        ApplyLoss(live->row,
                  LossError("LEASE_LOST",
                            absl::StrCat("worker ", job.worker_id(), " was not heard of for ",
                                         absl::FormatDuration(now - live->last_heard), " (limit ",
                                         absl::FormatDuration(Silence()), "): it died, hangs or lost its network"),
                            job),
                  deferred);
  }
  if (IsTrouble(changed.status())) Pause();  // logged by Apply; tried again after the pause
}

void JobQueue::PublishStored(const std::string& id, int64_t token, const std::string& bytes) {
  v1::JobResult result;
  absl::Status status = absl::DataLossError("the stored result cannot be read");
  if (result.ParseFromString(bytes)) status = FinishPublication(id, token, result).status();
  if (status.ok() || IsTransient(status)) return;
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    LiveJob* live = live_.Find(id);
    if (live == nullptr || live->row.token != token || !IsLeased(StateOf(live->row))) return;
    live->publishing = false;
    ApplyLoss(
        live->row,
        LossError("INTERNAL", absl::StrCat("the result could not be published: ", status.ToString()), live->row.job),
        &deferred, Delivered::kMayLose)
        .IgnoreError();
    Dispatch(&deferred);
  }
  RunAll(&deferred);
}

void JobQueue::MovePlans(absl::Duration back, absl::Time now) {
  LOG(WARNING) << "queue: the clock was set back by " << back;
  for (auto& [handle, waiter] : waiters_) waiter.until -= back;
  watches_.MoveKeepalives(-back);
  next_gauges_ = next_purge_ = next_count_ = now;
  paused_until_ = std::min(paused_until_, now);
  scan_blocked_until_ = std::min(scan_blocked_until_, now);
}

void JobQueue::BlockScan(absl::Time now) { scan_blocked_until_ = now + kScanPause; }

void JobQueue::Scan(absl::Time now, Deferred* deferred) {
  const std::vector<std::string> leased = live_.Leased();
  bool due = false;
  for (const std::string& id : leased) due = due || now >= LeaseDue(*live_.Find(id));
  if (due && peers_ != nullptr) {
    if (const absl::Status heard = HearOfOthers(now); !heard.ok()) {
      LOG(WARNING) << "queue: no lease is ended while the store cannot be asked: " << heard;
      BlockScan(now);
      return;
    }
  }
  for (const std::string& id : leased) {
    if (now < paused_until_) return;
    TickLease(id, now, deferred);
  }
  for (const std::string& id : live_.RetriesDue(now, kRetryCap)) {
    if (now < paused_until_) return;
    if (IsTrouble(Apply(JobEvent::kRetryDue, live_.Find(id)->row, deferred).status())) Pause();
  }
}

void JobQueue::Tick() { TickPlannedFor(absl::InfiniteFuture()); }

void JobQueue::TickPlannedFor(absl::Time planned) {
  Deferred deferred;
  const absl::Time begun = absl::Now();
  Recount();
  models_.Refresh(clock_->Now());
  {
    MutexLock lock(&mu_);
    const absl::Time now = clock_->Now();
    // This server stood still (stopped, suspended, a disk that hung) or its clock jumped ahead: heartbeats that could
    // not be heard in that time are not missed. A clock that was set back must not make a lease live for long.
    const absl::Duration late = now - planned;
    const absl::Duration slept = late > options_.heartbeat_interval ? late : absl::ZeroDuration();
    if (slept > absl::ZeroDuration()) {
      LOG(WARNING) << "queue: the scanner is " << late << " late; all leases get as much more time";
    }
    if (last_tick_ - now > options_.heartbeat_interval) MovePlans(last_tick_ - now, now);
    last_tick_ = now;
    for (const std::string& id : live_.Leased()) {
      LiveJob& live = *live_.Find(id);
      live.last_heard = std::min(now, live.last_heard + slept);
    }
    if (now >= std::max(paused_until_, scan_blocked_until_)) Scan(now, &deferred);
    Dispatch(&deferred);
    for (auto it = waiters_.begin(); it != waiters_.end();) {
      if (it->second.until > now) {
        ++it;
        continue;
      }
      Answer(it++, EmptyLease(), &deferred);
    }
    for (const std::string& id : watches_.Due(now)) {
      const LiveJob* live = live_.Find(id);
      const WatchEvent event{.job = live == nullptr ? nullptr : std::make_shared<const v1::Job>(live->row.job)};
      watches_.Publish(id, event, now + options_.watch_keepalive, &deferred);
    }
    if (now >= next_gauges_) {
      next_gauges_ = now + kGaugeInterval;
      workers_.Forget(now);
      UpdateGauges(now);
      TickCache(&deferred);
    }
    if (now >= next_expiry_) DeleteExpired(now, &deferred);
    if (now >= next_purge_) {
      next_purge_ = now + kPurgeInterval;
      const absl::Status purged = store_->PurgeRequests(now - options_.request_retention);
      if (!purged.ok()) LOG(WARNING) << "queue: purging old request ids: " << purged;
    }
  }
  RunAll(&deferred);
  if (metrics_ != nullptr) metrics_->SchedulerLoop(absl::Now() - begun);
}

void JobQueue::DeleteExpired(absl::Time now, Deferred* deferred) {
  next_expiry_ = now + kExpiryInterval;
  const absl::StatusOr<std::vector<JobRow>> rows = store_->Expired(now, kExpiredAtOnce);
  if (!rows.ok()) {
    LOG(WARNING) << "queue: finding expired jobs: " << rows.status();
    return;
  }
  for (const JobRow& row : *rows) {
    const LogScope scope(LogFieldsOf(row.job));
    const absl::Status gone = absl::NotFoundError(absl::StrCat("job ", row.job.id(), " expired"));
    const absl::Status removed = Remove(row, gone, deferred);
    if (removed.ok() || (peers_ != nullptr && (absl::IsAborted(removed) || absl::IsNotFound(removed)))) continue;
    LOG(WARNING) << "queue: deleting expired job " << row.job.id() << ": " << removed;
    return;
  }
  if (!rows->empty()) LOG(INFO) << "queue: " << rows->size() << " expired jobs deleted";
  if (rows->size() == kExpiredAtOnce) next_expiry_ = now;  // go on at the next tick
}

absl::Time JobQueue::NextDue() {
  MutexLock lock(&mu_);
  return NextDueLocked(clock_->Now());
}

absl::Time JobQueue::NextDueLocked(absl::Time now) {
  absl::Time change = live_.NextRetry();  // what changes the store
  for (const std::string& id : live_.Leased()) change = std::min(change, LeaseDue(*live_.Find(id)));
  if (scan_blocked_until_ > now) change = std::max(change, scan_blocked_until_);
  if (paused_until_ > now) change = paused_until_;
  absl::Time due = std::min({next_gauges_, now + kGaugeInterval, change, watches_.NextDue()});
  for (const auto& [handle, waiter] : waiters_) due = std::min(due, waiter.until);
  return std::max(due, now);
}

void JobQueue::NoteDue(absl::Time time) {
  if (time < planned_wake_) {
    planned_wake_ = time;
    due_changed_.SignalAll();
  }
}

void JobQueue::Run() {
  absl::Time planned = absl::InfiniteFuture();
  while (true) {
    TickPlannedFor(planned);
    MutexLock lock(&mu_);
    if (stopping_) return;
    const absl::Time now = clock_->Now();
    planned = planned_wake_ = std::max(NextDueLocked(now), now + kShortestSleep);
    // A signal may come for an earlier time; Tick is harmless when nothing is due.
    due_changed_.WaitFor(&mu_, planned - now);
    if (stopping_) return;
  }
}

void JobQueue::UpdateGauges(absl::Time now) {
  if (metrics_ == nullptr) return;
  SetQueueGauges(live_, now, metrics_);
  SetPhaseGauges(live_, metrics_);
  if (options_.limits != nullptr) SetQuotaGauges(live_, options_.limits, metrics_);
  SetWorkerGauges(workers_, live_, Silence(), now, metrics_);
  metrics_->SetWatchStreams(watches_.size());
  for (const JobState state : kAllJobStates) {
    metrics_->SetJobs(JobStateLabel(state), counts_[static_cast<v1::JobState>(state)]);
  }
}

}  // namespace quant
