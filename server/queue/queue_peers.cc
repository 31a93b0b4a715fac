// SPDX-License-Identifier: Apache-2.0
// Several servers on one store. The store stays the truth: an edge of a job is a compare-and-set whoever tries it, so
// nothing here can make a job go two ways. What is here makes the memory of this server follow the others, quickly, and
// keeps it from judging a lease by what it alone has heard.
#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"

namespace quant {
namespace {

constexpr absl::Duration kRecount = absl::Seconds(5);
// Progress raises the sequence by one, in the memory of whichever server hears it; others do not know by how much. A
// change of state is in the store, where there is one order: it goes on to the next multiple.
constexpr int kProgressBits = 20;

}  // namespace

int64_t JobQueue::NextSequence(const v1::Job& job) const {
  if (peers_ == nullptr) return job.sequence() + 1;
  return ((job.sequence() >> kProgressBits) + 1) << kProgressBits;
}

JobRow JobQueue::Take(const JobRow& row) {
  const LiveJob* const live = live_.Find(row.job.id());
  const bool known = live != nullptr && live->row.job.state() == row.job.state() && live->row.token == row.token;
  if (known && live->row.job.sequence() >= row.job.sequence()) return live->row;
  live_.Put(row, clock_->Now());
  if (const LiveJob* const now = live_.Find(row.job.id()); now != nullptr && IsLeased(StateOf(now->row))) {
    NoteDue(LeaseDue(*now));
  }
  NoteDue(live_.NextRetry());
  return row;
}

void JobQueue::TakeAndTell(const JobRow& stored, Deferred* deferred) {
  const JobRow row = Take(stored);
  const std::string& id = row.job.id();
  if (!watches_.IsWatched(id) || watches_.Told(id) >= row.job.sequence()) return;
  WatchEvent event{.job = std::make_shared<const v1::Job>(row.job), .end = std::nullopt};
  if (EndsWatch(StateOf(row))) event.end = absl::OkStatus();
  watches_.Publish(id, event, clock_->Now() + options_.watch_keepalive, deferred);
}

void JobQueue::TellDeleted(const std::string& id, Deferred* deferred) {
  live_.Erase(id, clock_->Now());
  const absl::Status gone = absl::NotFoundError(absl::StrCat("job ", id, " was deleted"));
  watches_.Publish(id, WatchEvent{.job = nullptr, .end = gone}, absl::InfiniteFuture(), deferred);
}

absl::Status JobQueue::CatchUp(Deferred* deferred) {
  ASSIGN_OR_RETURN(JobPeers::Changes changes, peers_->ChangesSince(cursor_));
  cursor_ = changes.cursor;
  for (const JobRow& row : changes.rows) TakeAndTell(row, deferred);
  for (const std::string& id : changes.deleted) TellDeleted(id, deferred);
  return absl::OkStatus();
}

absl::Status JobQueue::Reload(Deferred* deferred) {
  ASSIGN_OR_RETURN(const JobPeers::Changes changes, peers_->ChangesSince(std::numeric_limits<int64_t>::max()));
  ASSIGN_OR_RETURN(std::vector<JobRow> rows, store_->LoadUnfinished());
  std::set<std::string, std::less<>> unfinished;
  for (const JobRow& row : rows) unfinished.insert(row.job.id());
  // What has ended, and what is watched though it had ended, is asked for one by one.
  std::vector<std::string> others = watches_.Jobs();
  for (const std::string& id : live_.Ids()) others.push_back(id);
  for (const std::string& id : others) {
    if (unfinished.contains(id)) continue;
    absl::StatusOr<JobRow> row = store_->Get(id);
    if (absl::IsNotFound(row.status())) {
      TellDeleted(id, deferred);
    } else {
      RETURN_IF_ERROR(row.status());
      TakeAndTell(*row, deferred);
    }
  }
  for (const JobRow& row : rows) TakeAndTell(row, deferred);
  cursor_ = changes.cursor;
  // Heartbeats could not be shared for a while: nobody is blamed for that.
  for (const std::string& id : live_.Leased()) live_.Find(id)->last_heard = clock_->Now();
  return absl::OkStatus();
}

void JobQueue::Follow(bool reload) {
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    reload_ |= reload;
    const absl::Status status = reload_ ? Reload(&deferred) : CatchUp(&deferred);
    if (status.ok()) {
      reload_ = false;
    } else {
      LOG(WARNING) << "queue: the changes of other servers cannot be read: " << status;
    }
    Dispatch(&deferred);
  }
  RunAll(&deferred);
}

absl::Status JobQueue::HearOfOthers(absl::Time now) {
  ASSIGN_OR_RETURN(const auto heard, peers_->HeardOf());
  for (const std::string& id : live_.Leased()) {
    LiveJob& live = *live_.Find(id);
    const auto it = heard.find(id);
    if (it != heard.end() && it->second.token == live.row.token) {
      live.last_heard = std::max(live.last_heard, now - it->second.ago);
      live.confirmed |= it->second.confirmed;
    } else if (it == heard.end()) {
      RETURN_IF_ERROR(peers_->Remember({id, live.row.token}));
      live.last_heard = now;
      live.confirmed = true;
    }
  }
  return absl::OkStatus();
}

bool JobQueue::ShareHeartbeat(const v1::WorkerInfo& worker, bool draining,
                              const std::vector<JobPeers::LeaseId>& leases) {
  if (peers_ == nullptr) return false;
  const absl::StatusOr<bool> drain = peers_->Hear(worker, draining, leases);
  LOG_IF(WARNING, !drain.ok()) << "queue: a heartbeat of worker " << worker.id()
                               << " is not shared: " << drain.status();
  return drain.value_or(false);
}

std::string JobQueue::MemoryForTest(std::string_view id) {
  MutexLock lock(&mu_);
  const LiveJob* const live = live_.Find(id);
  if (live == nullptr) return "gone";
  const bool leased = IsLeased(StateOf(live->row));
  const int64_t age = leased ? absl::ToInt64Seconds(absl::Ceil(clock_->Now() - live->last_heard, absl::Seconds(1))) : 0;
  return absl::StrCat(live->row.job.state(), ".", live->row.token, ".", live->row.job.attempt(), ".",
                      std::min<int64_t>(age, 4), ".", live->confirmed, live->publishing, live->won);
}

absl::StatusOr<v1::Job> JobQueue::EndedElsewhere(const std::string& id, int64_t token) {
  const absl::StatusOr<JobRow> row = Find(id);
  if (row.ok() && row->completed_token == token) return row->job;
  return absl::UnavailableError(absl::StrCat("job ", id, " was changed by another server: repeat the call"));
}

void JobQueue::Recount() {
  if (peers_ == nullptr || metrics_ == nullptr) return;
  {
    MutexLock lock(&mu_);
    if (clock_->Now() < next_count_) return;
    next_count_ = clock_->Now() + kRecount;
  }
  absl::StatusOr<std::map<v1::JobState, int64_t>> counts = store_->CountByState();
  if (!counts.ok()) return;
  MutexLock lock(&mu_);
  counts_ = *std::move(counts);
}

}  // namespace quant
