// SPDX-License-Identifier: Apache-2.0
#include "server/queue/live_jobs.h"

#include <algorithm>
#include <utility>

#include "common/proto_time.h"
#include "common/view/job_inputs.h"

namespace quant {
namespace {

JobState StateOf(const JobRow& row) { return static_cast<JobState>(row.job.state()); }

// Removes `value` from the set at `key`, where it is, and an empty set from the map.
template <typename Map, typename Value>
void EraseFrom(Map* map, const std::string& key, const Value& value) {
  const auto it = map->find(key);
  if (it == map->end()) return;
  it->second.erase(value);
  if (it->second.empty()) map->erase(it);
}

}  // namespace

std::vector<std::string> ArtifactsOf(const v1::JobSpec& spec) {
  JobInputs inputs = InputsOf(spec);
  std::vector<std::string> ids = {std::move(inputs.model), std::move(inputs.calibration), std::move(inputs.evaluation),
                                  std::move(inputs.baseline)};
  std::erase(ids, "");
  return ids;
}

LiveJob* LiveJobs::Find(std::string_view id) {
  const auto it = jobs_.find(id);
  return it == jobs_.end() ? nullptr : &it->second;
}

const LiveJob* LiveJobs::Find(std::string_view id) const {
  const auto it = jobs_.find(id);
  return it == jobs_.end() ? nullptr : &it->second;
}

LiveJobs::ReadyKey LiveJobs::KeyOf(const LiveJob& live) const {
  return {live.aged_from + live.row.job.spec().priority() * aging_, live.row.ordinal, live.row.job.id()};
}

void LiveJobs::Serve(Tenant* tenant, absl::Time now) {
  if (now > tenant->served_until) {
    tenant->served +=
        static_cast<double>(tenant->count.leased) * absl::ToDoubleSeconds(now - tenant->served_until) / tenant->weight;
  }
  tenant->served_until = now;
}

void LiveJobs::Index(const LiveJob& live, absl::Time now) {
  const std::string& id = live.row.job.id();
  const JobState state = StateOf(live.row);
  const v1::Job& job = live.row.job;
  Tenant& tenant = tenants_[live.row.tenant];
  Serve(&tenant, now);
  ++tenant.count.unfinished;
  if (IsHeld(job)) {
    if (!job.cached_from().empty()) {
      answered_.insert(id);
    } else {
      attached_[job.attached_to()].emplace(live.row.ordinal, id);
    }
  } else if (!live.row.cache_key.empty()) {
    by_cache_key_[live.row.cache_key].insert(id);
  }
  if (state == JobState::kQueued && !IsHeld(job)) {
    if (tenant.ready.empty() && tenant.count.leased == 0) {  // it comes back from a pause
      double least = -1;
      for (auto& [name, other] : tenants_) {
        if (&other == &tenant || (other.ready.empty() && other.count.leased == 0)) continue;
        Serve(&other, now);
        if (least < 0 || other.served < least) least = other.served;
      }
      tenant.served = std::max(tenant.served, least);
    }
    tenant.ready.insert(KeyOf(live));
  }
  if (state == JobState::kRetryWait) retries_.emplace(FromProto(live.row.job.retry_time()), id);
  if (IsLeased(state)) {
    ++tenant.count.leased;
    leased_.insert(id);
    by_worker_[live.row.job.worker_id()].insert(id);
  }
}

void LiveJobs::Unindex(const LiveJob& live, absl::Time now) {
  const std::string& id = live.row.job.id();
  const JobState state = StateOf(live.row);
  const v1::Job& job = live.row.job;
  answered_.erase(id);
  EraseFrom(&attached_, job.attached_to(), std::pair(live.row.ordinal, id));
  EraseFrom(&by_cache_key_, live.row.cache_key, id);
  Tenant& tenant = tenants_[live.row.tenant];
  Serve(&tenant, now);
  --tenant.count.unfinished;
  tenant.ready.erase(KeyOf(live));
  if (state == JobState::kRetryWait) retries_.erase({FromProto(live.row.job.retry_time()), id});
  if (IsLeased(state)) {
    --tenant.count.leased;
    leased_.erase(id);
    EraseFrom(&by_worker_, job.worker_id(), id);
  }
}

void LiveJobs::Put(JobRow row, absl::Time now) { Insert(std::move(row), now, now); }

void LiveJobs::Load(JobRow row, absl::Time since, absl::Time now) { Insert(std::move(row), since, now); }

void LiveJobs::Insert(JobRow row, absl::Time since, absl::Time now) {
  const std::string id = row.job.id();
  const JobState state = StateOf(row);
  if (!IsUnfinished(state)) {
    Erase(id, now);
    return;
  }
  const auto [it, added] = jobs_.try_emplace(id);
  LiveJob& live = it->second;
  const bool was_queued = !added && StateOf(live.row) == JobState::kQueued;
  const bool was_leased = !added && IsLeased(StateOf(live.row)) && live.row.token == row.token;
  // What another server heard, or nothing new.
  const bool moved =
      was_leased && row.job.progress().update_time().seconds() > live.row.job.progress().update_time().seconds();
  if (!added) Unindex(live, now);
  live.row = std::move(row);
  if (added) live.aged_from = since;
  if (state == JobState::kQueued && !was_queued) live.queued_since = since;
  if (IsLeased(state) && !was_leased) {
    live.last_heard = now;
    live.moved = now;
    live.progress_saved = now;
    live.confirmed = false;
    live.holder.clear();
    if (!added) {
      Tenant& tenant = tenants_[live.row.tenant];
      tenant.served += 1 / tenant.weight;
    }
  }
  if (moved) live.moved = now;
  if (!IsLeased(state)) live.publishing = live.won = false;
  Index(live, now);
}

void LiveJobs::Erase(std::string_view id, absl::Time now) {
  const auto it = jobs_.find(id);
  if (it == jobs_.end()) return;
  Unindex(it->second, now);
  jobs_.erase(it);
}

LiveJob* LiveJobs::NextReady(LimitsTable* limits, absl::Time now, const std::set<std::string>& except) {
  Tenant* next = nullptr;
  const std::string* first = nullptr;  // of `next`
  for (auto& [name, tenant] : tenants_) {
    if (tenant.ready.empty()) continue;
    Serve(&tenant, now);
    if (limits != nullptr) {
      const TenantLimits of_tenant = limits->For(name);
      if (of_tenant.max_running_jobs > 0 && tenant.count.leased >= of_tenant.max_running_jobs) continue;
      tenant.weight = of_tenant.weight;
    }
    if (next != nullptr && tenant.served >= next->served) continue;
    const auto ready = std::find_if(tenant.ready.begin(), tenant.ready.end(),
                                    [&](const ReadyKey& key) { return !except.contains(std::get<2>(key)); });
    if (ready == tenant.ready.end()) continue;
    next = &tenant;
    first = &std::get<2>(*ready);
  }
  return first == nullptr ? nullptr : Find(*first);
}

LiveJobs::TenantCount LiveJobs::CountOf(std::string_view tenant) const {
  const auto it = tenants_.find(tenant);
  return it == tenants_.end() ? TenantCount() : it->second.count;
}

std::vector<std::string> LiveJobs::Tenants() const {
  std::vector<std::string> names;
  names.reserve(tenants_.size());
  for (const auto& [name, tenant] : tenants_) names.push_back(name);
  return names;
}

int64_t LiveJobs::Demand(LimitsTable* limits) const {
  std::map<std::string_view, int64_t> retrying;  // by tenant
  for (const auto& [time, id] : retries_) ++retrying[jobs_.find(id)->second.row.tenant];
  int64_t demand = 0;
  for (const auto& [name, tenant] : tenants_) {
    const auto waiting = retrying.find(name);
    const int64_t leased = tenant.count.leased;
    const int64_t wanted =
        leased + static_cast<int64_t>(tenant.ready.size()) + (waiting == retrying.end() ? 0 : waiting->second);
    const int64_t allowed = limits == nullptr ? 0 : limits->For(name).max_running_jobs;
    demand += allowed > 0 ? std::max(leased, std::min(wanted, allowed)) : wanted;
  }
  return demand;
}

std::vector<std::string> LiveJobs::Ids() const {
  std::vector<std::string> ids;
  ids.reserve(jobs_.size());
  for (const auto& [id, live] : jobs_) ids.push_back(id);
  return ids;
}

std::vector<std::string> LiveJobs::Leased() const { return {leased_.begin(), leased_.end()}; }

std::vector<std::string> LiveJobs::JobsOf(std::string_view worker_id) const {
  const auto it = by_worker_.find(worker_id);
  if (it == by_worker_.end()) return {};
  return {it->second.begin(), it->second.end()};
}

int64_t LiveJobs::LeasesOf(std::string_view worker_id) const {
  const auto it = by_worker_.find(worker_id);
  return it == by_worker_.end() ? 0 : static_cast<int64_t>(it->second.size());
}

std::vector<std::string> LiveJobs::RetriesDue(absl::Time now, absl::Duration longest_backoff) const {
  std::vector<std::string> due;
  for (const auto& [time, id] : retries_) {
    if (time <= now || time > now + longest_backoff) due.push_back(id);
  }
  return due;
}

absl::Time LiveJobs::NextRetry() const { return retries_.empty() ? absl::InfiniteFuture() : retries_.begin()->first; }

const LiveJob* LiveJobs::RunningSame(std::string_view cache_key, int priority) const {
  const auto it = by_cache_key_.find(cache_key);
  if (it == by_cache_key_.end()) return nullptr;
  for (const std::string& id : it->second) {
    const LiveJob* live = Find(id);
    const JobState state = StateOf(live->row);
    if (state == JobState::kRunning) return live;
    if (state != JobState::kCancelling && live->row.job.spec().priority() <= priority) return live;
  }
  return nullptr;
}

std::vector<std::string> LiveJobs::AttachedTo(std::string_view id) const {
  std::vector<std::string> ids;
  if (const auto it = attached_.find(id); it != attached_.end()) {
    for (const auto& [ordinal, attached] : it->second) ids.push_back(attached);
  }
  return ids;
}

std::vector<std::string> LiveJobs::Leaders() const {
  std::vector<std::string> ids;
  ids.reserve(attached_.size());
  for (const auto& [id, attached] : attached_) ids.push_back(id);
  return ids;
}

std::vector<std::string> LiveJobs::BeingAnswered() const { return {answered_.begin(), answered_.end()}; }

std::optional<std::string> LiveJobs::Using(std::string_view artifact_id) const {
  for (const auto& [id, live] : jobs_) {
    const std::vector<std::string> used = ArtifactsOf(live.row.job.spec());
    if (std::find(used.begin(), used.end(), artifact_id) != used.end()) return id;
  }
  return std::nullopt;
}

std::array<LiveJobs::QueueDepth, kLowestPriority> LiveJobs::Depths() const {
  std::array<QueueDepth, kLowestPriority> depths;
  for (const auto& [name, tenant] : tenants_) {
    for (const auto& [key, ordinal, id] : tenant.ready) {
      const LiveJob& live = jobs_.find(id)->second;
      QueueDepth& depth = depths[static_cast<size_t>(live.row.job.spec().priority() - kHighestPriority)];
      ++depth.queued;
      depth.oldest = std::min(depth.oldest, live.queued_since);
    }
  }
  return depths;
}

}  // namespace quant
