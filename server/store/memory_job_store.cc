// SPDX-License-Identifier: Apache-2.0
#include "server/store/memory_job_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

bool Matches(const JobFilter& filter, const JobRow& row) {
  const v1::Job& job = row.job;
  if (!filter.cache_key.empty() && filter.cache_key != row.cache_key) return false;
  if (!filter.tenant.empty() && filter.tenant != row.tenant) return false;
  if (!filter.states.empty() &&
      std::find(filter.states.begin(), filter.states.end(), job.state()) == filter.states.end()) {
    return false;
  }
  if (!filter.kind.empty() && filter.kind != JobKindName(job.spec())) return false;
  return std::all_of(filter.labels.begin(), filter.labels.end(), [&](const auto& label) {
    const auto it = job.spec().labels().find(label.first);
    return it != job.spec().labels().end() && it->second == label.second;
  });
}

}  // namespace

void MemoryJobStore::SetFaultForTest(Fault fault) {
  MutexLock lock(&mu_);
  fault_ = std::move(fault);
}

absl::Status MemoryJobStore::MayFail(v1::JobState next) { return fault_ ? fault_(next) : absl::OkStatus(); }

absl::StatusOr<JobRow*> MemoryJobStore::Expect(std::string_view id, const JobVersion& expected) {
  const auto it = jobs_.find(id);
  if (it == jobs_.end()) return absl::NotFoundError(absl::StrCat("no job ", Quoted(id), " is stored"));
  if (it->second.job.state() != expected.state || it->second.token != expected.token) {
    return absl::AbortedError(absl::StrCat("the stored job ", Quoted(id), " is not as expected"));
  }
  if (expected.sequence != 0 && it->second.job.sequence() != expected.sequence) {
    return absl::AbortedError(absl::StrCat("the stored job ", Quoted(id), " has another sequence"));
  }
  const auto result = results_.find(id);
  if (expected.undelivered && result != results_.end() && result->second.token == expected.token) {
    return absl::AbortedError(absl::StrCat("the stored job ", Quoted(id), " has a result"));
  }
  return &it->second;
}

absl::Status MemoryJobStore::Insert(JobRow* row, const SubmitRequest& request) {
  MutexLock lock(&mu_);
  RETURN_IF_ERROR(MayFail(row->job.state()));
  if (jobs_.contains(row->job.id()) || requests_.contains({row->tenant, request.request_id})) {
    return absl::AlreadyExistsError(absl::StrCat("job ", row->job.id(), " or its request_id is taken"));
  }
  row->ordinal = ++last_ordinal_;
  jobs_[row->job.id()] = *row;
  Changed(row->job.id());
  if (!request.request_id.empty()) {
    requests_[{row->tenant, request.request_id}] = {
        .stored = {.body_digest = request.body_digest, .first_answer = row->job},
        .created = FromProto(row->job.create_time())};
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<StoredRequest>> MemoryJobStore::FindRequest(std::string_view tenant,
                                                                         std::string_view request_id) {
  MutexLock lock(&mu_);
  const auto it = requests_.find({std::string(tenant), std::string(request_id)});
  if (it == requests_.end()) return std::nullopt;
  return it->second.stored;
}

absl::Status MemoryJobStore::PurgeRequests(absl::Time time) {
  MutexLock lock(&mu_);
  std::erase_if(requests_, [&](const auto& entry) { return entry.second.created < time; });
  return absl::OkStatus();
}

absl::StatusOr<JobRow> MemoryJobStore::Get(std::string_view id) {
  MutexLock lock(&mu_);
  const auto it = jobs_.find(id);
  if (it == jobs_.end()) return absl::NotFoundError(absl::StrCat("no job ", Quoted(id), " is stored"));
  return it->second;
}

absl::Status MemoryJobStore::Update(const JobRow& row, const JobVersion& expected) {
  MutexLock lock(&mu_);
  RETURN_IF_ERROR(MayFail(row.job.state()));
  ASSIGN_OR_RETURN(JobRow * stored, Expect(row.job.id(), expected));
  *stored = row;
  Changed(row.job.id());
  const v1::JobState state = row.job.state();
  if (state != v1::JOB_STATE_RUNNING && state != v1::JOB_STATE_CANCELLING) leases_.erase(row.job.id());
  return absl::OkStatus();
}

absl::Status MemoryJobStore::Claim(JobRow* row, const JobVersion& expected) {
  MutexLock lock(&mu_);
  RETURN_IF_ERROR(MayFail(row->job.state()));
  ASSIGN_OR_RETURN(JobRow * stored, Expect(row->job.id(), expected));
  row->token = ++last_token_;
  *stored = *row;
  Changed(row->job.id());
  if (clock_ != nullptr) leases_[row->job.id()] = {.token = row->token, .heard = clock_->Now()};
  return absl::OkStatus();
}

absl::Status MemoryJobStore::Delete(std::string_view id, const JobVersion& expected) {
  MutexLock lock(&mu_);
  RETURN_IF_ERROR(MayFail(expected.state));
  RETURN_IF_ERROR(Expect(id, expected).status());
  jobs_.erase(jobs_.find(id));
  results_.erase(std::string(id));
  Changed(std::string(id));
  return absl::OkStatus();
}

absl::Status MemoryJobStore::PutResult(std::string_view id, const JobVersion& expected, std::string_view result) {
  MutexLock lock(&mu_);
  RETURN_IF_ERROR(MayFail(expected.state));
  RETURN_IF_ERROR(Expect(id, expected).status());
  results_[std::string(id)] = {.token = expected.token, .bytes = std::string(result)};
  return absl::OkStatus();
}

absl::StatusOr<JobStore::Result> MemoryJobStore::GetResult(std::string_view id) {
  MutexLock lock(&mu_);
  const auto it = results_.find(id);
  if (it == results_.end()) return absl::NotFoundError(absl::StrCat("no result of job ", Quoted(id), " is stored"));
  return it->second;
}

absl::StatusOr<std::vector<JobRow>> MemoryJobStore::List(const JobFilter& filter, int64_t before, int limit) {
  MutexLock lock(&mu_);
  std::vector<JobRow> rows;
  for (const auto& [id, row] : jobs_) {
    if (row.ordinal < before && Matches(filter, row)) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end(), [](const JobRow& a, const JobRow& b) { return a.ordinal > b.ordinal; });
  if (rows.size() > static_cast<size_t>(limit)) rows.resize(static_cast<size_t>(limit));
  return rows;
}

absl::StatusOr<std::vector<JobRow>> MemoryJobStore::LoadUnfinished() {
  const JobFilter unfinished{
      .states = {v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING, v1::JOB_STATE_RETRY_WAIT, v1::JOB_STATE_CANCELLING}};
  MutexLock lock(&mu_);
  std::vector<JobRow> rows;
  for (const auto& [id, row] : jobs_) {
    if (Matches(unfinished, row)) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end(), [](const JobRow& a, const JobRow& b) { return a.ordinal < b.ordinal; });
  return rows;
}

absl::StatusOr<std::vector<JobRow>> MemoryJobStore::Expired(absl::Time time, int limit) {
  MutexLock lock(&mu_);
  std::vector<JobRow> rows;
  for (const auto& [id, row] : jobs_) {
    if (row.job.has_expire_time() && FromProto(row.job.expire_time()) < time) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end(), [](const JobRow& a, const JobRow& b) {
    return std::pair(FromProto(a.job.expire_time()), a.ordinal) < std::pair(FromProto(b.job.expire_time()), b.ordinal);
  });
  rows.resize(std::min(rows.size(), static_cast<size_t>(limit)));
  return rows;
}

absl::StatusOr<std::map<v1::JobState, int64_t>> MemoryJobStore::CountByState() {
  MutexLock lock(&mu_);
  std::map<v1::JobState, int64_t> counts;
  for (const auto& [id, row] : jobs_) ++counts[row.job.state()];
  return counts;
}

// ---------------------------------------------------------------- JobPeers

absl::StatusOr<JobPeers::Changes> MemoryJobStore::ChangesSince(int64_t cursor) {
  MutexLock lock(&mu_);
  Changes changes{.cursor = last_change_};
  for (const auto& [id, change] : changes_) {
    if (change <= cursor) continue;
    if (const auto it = jobs_.find(id); it != jobs_.end()) {
      changes.rows.push_back(it->second);
    } else {
      changes.deleted.push_back(id);
    }
  }
  return changes;
}

absl::StatusOr<bool> MemoryJobStore::Hear(const v1::WorkerInfo& worker, bool draining,
                                          const std::vector<LeaseId>& leases) {
  MutexLock lock(&mu_);
  const absl::Time now = clock_->Now();
  Seen& seen = workers_.try_emplace(worker.id(), Seen{.registered = now}).first->second;
  seen.info = worker;
  seen.heard = now;
  seen.draining |= draining;
  for (const LeaseId& lease : leases) {
    Lease& known = leases_[lease.job_id];
    if (known.token <= lease.token) known = {.token = lease.token, .heard = now, .confirmed = true};
  }
  return seen.draining;
}

absl::StatusOr<std::map<std::string, JobPeers::Heard>> MemoryJobStore::HeardOf() {
  MutexLock lock(&mu_);
  std::map<std::string, Heard> heard;
  for (const auto& [id, lease] : leases_) {
    heard[id] = {.token = lease.token, .ago = clock_->Now() - lease.heard, .confirmed = lease.confirmed};
  }
  return heard;
}

absl::Status MemoryJobStore::Remember(const LeaseId& lease) {
  MutexLock lock(&mu_);
  Lease& known = leases_[lease.job_id];
  if (known.token < lease.token) known = {.token = lease.token, .heard = clock_->Now(), .confirmed = true};
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JobPeers::Worker>> MemoryJobStore::Workers(absl::Duration retention) {
  MutexLock lock(&mu_);
  const absl::Time now = clock_->Now();
  std::erase_if(workers_, [&](const auto& entry) { return now - entry.second.heard > retention; });
  std::vector<Worker> out;
  out.reserve(workers_.size());
  for (const auto& [id, seen] : workers_) {
    out.push_back({.info = seen.info,
                   .registered_ago = now - seen.registered,
                   .heard_ago = now - seen.heard,
                   .draining = seen.draining});
  }
  return out;
}

absl::Status MemoryJobStore::Drain(std::string_view worker_id) {
  MutexLock lock(&mu_);
  const auto it = workers_.find(worker_id);
  if (it == workers_.end()) return absl::NotFoundError(absl::StrCat("there is no worker ", Quoted(worker_id)));
  it->second.draining = true;
  return absl::OkStatus();
}

}  // namespace quant
