// SPDX-License-Identifier: Apache-2.0
#include "server/queue/watch_hub.h"

#include <algorithm>

namespace quant {

void WatchHub::Add(uint64_t handle, std::string_view job_id, absl::Time next_keepalive, WatchCallback callback) {
  watches_[handle] = {std::string(job_id), next_keepalive, std::move(callback)};
  by_job_[std::string(job_id)].handles.insert(handle);
  schedule_.emplace(next_keepalive, handle);
}

void WatchHub::Remove(uint64_t handle) {
  const auto it = watches_.find(handle);
  if (it == watches_.end()) return;
  const auto job = by_job_.find(it->second.job_id);
  job->second.handles.erase(handle);
  if (job->second.handles.empty()) by_job_.erase(job);
  schedule_.erase({it->second.next_keepalive, handle});
  watches_.erase(it);
}

bool WatchHub::IsWatched(std::string_view job_id) const { return by_job_.contains(job_id); }

std::vector<std::string> WatchHub::Jobs() const {
  std::vector<std::string> jobs;
  jobs.reserve(by_job_.size());
  for (const auto& [id, watched] : by_job_) jobs.push_back(id);
  return jobs;
}

int64_t WatchHub::Told(std::string_view job_id) const {
  const auto job = by_job_.find(job_id);
  return job == by_job_.end() ? 0 : job->second.told;
}

void WatchHub::Schedule(uint64_t handle, Watch* watch, absl::Time next_keepalive) {
  schedule_.erase({watch->next_keepalive, handle});
  watch->next_keepalive = next_keepalive;
  schedule_.emplace(next_keepalive, handle);
}

void WatchHub::Publish(std::string_view job_id, const WatchEvent& event, absl::Time next_keepalive, Calls* calls) {
  const auto job = by_job_.find(job_id);
  if (job == by_job_.end()) return;
  if (event.job != nullptr) job->second.told = std::max(job->second.told, event.job->sequence());
  const std::set<uint64_t> handles = job->second.handles;  // Remove changes the set
  for (const uint64_t handle : handles) {
    Watch& watch = watches_.at(handle);
    calls->push_back([callback = watch.callback, event] { callback(event); });
    if (event.end) {
      Remove(handle);
    } else {
      Schedule(handle, &watch, next_keepalive);
    }
  }
}

void WatchHub::EndAll(const absl::Status& status, Calls* calls) {
  for (auto& [handle, watch] : watches_) {
    calls->push_back(
        [callback = std::move(watch.callback), status] { callback(WatchEvent{.job = nullptr, .end = status}); });
  }
  watches_.clear();
  by_job_.clear();
  schedule_.clear();
}

std::vector<std::string> WatchHub::Due(absl::Time now) const {
  std::set<std::string> jobs;
  for (const auto& [time, handle] : schedule_) {
    if (time > now) break;
    jobs.insert(watches_.at(handle).job_id);
  }
  return {jobs.begin(), jobs.end()};
}

void WatchHub::MoveKeepalives(absl::Duration by) {
  for (auto& [handle, watch] : watches_) Schedule(handle, &watch, watch.next_keepalive + by);
}

absl::Time WatchHub::NextDue() const { return schedule_.empty() ? absl::InfiniteFuture() : schedule_.begin()->first; }

}  // namespace quant
