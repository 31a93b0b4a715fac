// SPDX-License-Identifier: Apache-2.0
// The same work is done once. A job whose content an earlier one of the tenant had (cache_key.h) is held back in QUEUED
// and given that one's result:
//
// - cached_from: the earlier job SUCCEEDED. First cached_from is in the store, then the result under this job's name,
//   then its model, then SUCCEEDED: a crash anywhere leaves a job that goes on from there.
// - attached_to: the earlier job is unfinished. When it succeeds, as above. When it ends otherwise, is asked to stop or
//   is deleted, the oldest of those attached to it runs and the others are attached to that one.
//
// A result answers only while the model it made is there: one that was deleted or expired is not brought back. And only
// where the engine would be the same: a worker of the build and instruction set that made it is connected.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "common/status_macros.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"

namespace quant {
namespace {

// Earlier jobs looked at: the newest is nearly always the one.
constexpr int kCandidates = 4;

}  // namespace

std::string JobQueue::FindAnswer(const std::string& cache_key) {
  const absl::StatusOr<std::vector<JobRow>> rows =
      store_->List({.states = {v1::JOB_STATE_SUCCEEDED}, .kind = "", .labels = {}, .cache_key = cache_key},
                   std::numeric_limits<int64_t>::max(), kCandidates);
  if (!rows.ok()) return "";  // the insert that follows will say so
  if (rows->empty()) return "";
  std::vector<v1::WorkerInfo> connected;
  if (peers_ != nullptr) {  // to whichever server
    absl::StatusOr<std::vector<JobPeers::Worker>> workers = peers_->Workers(options_.worker_retention);
    if (!workers.ok()) return "";
    for (JobPeers::Worker& worker : *workers) {
      if (worker.heard_ago < Silence()) connected.push_back(std::move(worker.info));
    }
  } else {
    const absl::Time now = clock_->Now();
    for (const KnownWorker* worker : workers_.All()) {
      if (now - worker->heard < Silence()) connected.push_back(worker->info);
    }
  }
  for (const JobRow& row : *rows) {
    const absl::StatusOr<JobStore::Result> stored = store_->GetResult(row.job.id());
    v1::JobResult result;
    if (!stored.ok() || !result.ParseFromString(stored->bytes)) continue;
    const v1::Provenance& made = result.report().provenance();
    const bool same_engine = std::any_of(connected.begin(), connected.end(), [&](const v1::WorkerInfo& worker) {
      return worker.build() == made.build() && worker.isa() == made.isa();
    });
    if (same_engine) return row.job.id();
  }
  return "";
}

absl::Status JobQueue::SetHold(JobRow row, const std::string& cached_from, const std::string& attached_to,
                               Deferred* deferred) {
  JobVersion expected = VersionOf(row);
  if (peers_ != nullptr) expected.sequence = row.job.sequence();
  row.job.set_cached_from(cached_from);
  row.job.set_attached_to(attached_to);
  row.job.set_sequence(NextSequence(row.job));
  absl::Status stored = store_->Update(row, expected);
  if (!stored.ok()) {
    const LogScope scope(LogFieldsOf(row.job));
    const bool changed = absl::IsAborted(stored) || absl::IsNotFound(stored);
    LOG_IF(ERROR, peers_ == nullptr || !changed) << "queue: job " << row.job.id() << ", holding it back: " << stored;
    if (changed) Resync(row.job.id());
    return stored;  // TickCache tries again
  }
  const absl::Time now = clock_->Now();
  const WatchEvent event{.job = std::make_shared<const v1::Job>(row.job), .end = std::nullopt};
  live_.Put(std::move(row), now);
  watches_.Publish(event.job->id(), event, now + options_.watch_keepalive, deferred);
  return absl::OkStatus();
}

absl::Status JobQueue::CheckAnswerStands(const std::string& cached_from) {
  ASSIGN_OR_RETURN(const JobRow source, store_->Get(cached_from));
  if (source.job.result_model_id().empty()) return absl::OkStatus();
  return catalog_->GetModel(OpenPrincipal(), source.job.result_model_id()).status();
}

void JobQueue::AnswerFromCache(const std::string& id) {
  JobRow held;
  v1::JobResult result;
  absl::Status status;
  {
    MutexLock lock(&mu_);
    const LiveJob* live = live_.Find(id);
    if (live == nullptr || !IsHeld(live->row.job) || live->row.job.cached_from().empty()) return;
    held = live->row;
  }
  const absl::Status stands = CheckAnswerStands(held.job.cached_from());
  {
    MutexLock lock(&mu_);
    const LiveJob* live = live_.Find(id);
    if (live == nullptr || !IsHeld(live->row.job) || live->row.job.cached_from() != held.job.cached_from()) return;
    held = live->row;
    // A result of its own is there after a crash, or when the last try failed.
    absl::StatusOr<JobStore::Result> stored = store_->GetResult(id);
    const bool own = stored.ok() && stored->token == live->row.token;
    if (!own && !stands.ok()) {
      stored = stands;
    } else if (absl::IsNotFound(stored.status()) || (stored.ok() && !own)) {
      stored = store_->GetResult(held.job.cached_from());
      if (stored.ok()) status = store_->PutResult(id, VersionOf(live->row), stored->bytes);
    }
    if (!stored.ok()) status = stored.status();
    if (status.ok() && !result.ParseFromString(stored->bytes)) {
      status = absl::DataLossError("the stored result cannot be read");
    }
  }
  absl::StatusOr<std::string> model_id = status.ok() ? PublishModel(held.tenant, held.job, result) : status;

  Deferred deferred;
  {
    MutexLock lock(&mu_);
    const LiveJob* live = live_.Find(id);
    if (live == nullptr || !IsHeld(live->row.job)) return;
    JobRow row = live->row;
    const LogScope scope(LogFieldsOf(row.job));
    if (model_id.ok()) {
      row.job.set_result_model_id(*model_id);
      Apply(JobEvent::kCached, std::move(row), &deferred).IgnoreError();  // logged there; TickCache tries again
    } else if (absl::IsUnavailable(model_id.status())) {
      LOG(WARNING) << "queue: job " << id << " is not answered yet: " << model_id.status();
    } else {
      LOG(INFO) << "queue: job " << id << " runs itself, the result of " << held.job.cached_from()
                << " is no answer: " << model_id.status();
      SetHold(std::move(row), "", "", &deferred).IgnoreError();
      Dispatch(&deferred);
    }
  }
  RunAll(&deferred);
}

void JobQueue::SettleAttached(const std::string& leader) {
  std::vector<std::string> answered;
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    const absl::StatusOr<JobRow> row = Find(leader);
    if (!row.ok() && !absl::IsNotFound(row.status())) return;  // TickCache tries again
    const bool gone = !row.ok();
    const JobState state = gone ? JobState::kDead : StateOf(*row);
    if (!gone && IsUnfinished(state) && state != JobState::kCancelling) return;
    std::string next;  // who runs instead
    for (const std::string& id : live_.AttachedTo(leader)) {
      JobRow attached = live_.Find(id)->row;
      if (state == JobState::kSucceeded) {
        if (SetHold(std::move(attached), leader, "", &deferred).ok()) answered.push_back(id);
      } else if (SetHold(std::move(attached), "", next, &deferred).ok() && next.empty()) {
        next = id;
      }
    }
    Dispatch(&deferred);
  }
  RunAll(&deferred);
  for (const std::string& id : answered) AnswerFromCache(id);
}

void JobQueue::TickCache(Deferred* deferred) {
  for (const std::string& id : live_.BeingAnswered()) deferred->push_back([this, id] { AnswerFromCache(id); });
  for (const std::string& id : live_.Leaders()) {
    const LiveJob* live = live_.Find(id);
    if (live != nullptr && StateOf(live->row) != JobState::kCancelling) continue;
    deferred->push_back([this, id] { SettleAttached(id); });
  }
}

}  // namespace quant
