// SPDX-License-Identifier: Apache-2.0
#include "server/queue/live_jobs.h"

#include <algorithm>

#include "common/proto_time.h"

namespace quant {
namespace {

JobState StateOf(const JobRow& row) { return static_cast<JobState>(row.job.state()); }

}  // namespace

std::vector<std::string> ArtifactsOf(const v1::JobSpec& spec) {
  std::vector<std::string> ids;
  switch (spec.kind_case()) {
    case v1::JobSpec::kQuantize:
      ids = {spec.quantize().model_id(), spec.quantize().calibration_dataset_id(),
             spec.quantize().evaluation_dataset_id()};
      break;
    case v1::JobSpec::kCalibrate:
      ids = {spec.calibrate().model_id(), spec.calibrate().dataset_id()};
      break;
    case v1::JobSpec::kBenchmark:
      ids = {spec.benchmark().model_id(), spec.benchmark().dataset_id(), spec.benchmark().baseline_model_id()};
      break;
    case v1::JobSpec::kAnalyze:
      ids = {spec.analyze().model_id(), spec.analyze().dataset_id()};
      break;
    case v1::JobSpec::kTune:
      ids = {spec.tune().model_id(), spec.tune().calibration_dataset_id(), spec.tune().evaluation_dataset_id()};
      break;
    case v1::JobSpec::KIND_NOT_SET:
      break;
  }
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

LiveJobs::ReadyKey LiveJobs::KeyOf(const JobRow& row) { return {row.job.spec().priority(), row.ordinal, row.job.id()}; }

void LiveJobs::Index(const LiveJob& live) {
  const std::string& id = live.row.job.id();
  const JobState state = StateOf(live.row);
  if (state == JobState::kQueued) ready_.insert(KeyOf(live.row));
  if (state == JobState::kRetryWait) retries_.emplace(FromProto(live.row.job.retry_time()), id);
  if (IsLeased(state)) {
    leased_.insert(id);
    by_worker_[live.row.job.worker_id()].insert(id);
  }
}

void LiveJobs::Unindex(const LiveJob& live) {
  const std::string& id = live.row.job.id();
  const JobState state = StateOf(live.row);
  if (state == JobState::kQueued) ready_.erase(KeyOf(live.row));
  if (state == JobState::kRetryWait) retries_.erase({FromProto(live.row.job.retry_time()), id});
  if (IsLeased(state)) {
    leased_.erase(id);
    const auto it = by_worker_.find(live.row.job.worker_id());
    it->second.erase(id);
    if (it->second.empty()) by_worker_.erase(it);
  }
}

void LiveJobs::Put(JobRow row, absl::Time now) {
  const std::string id = row.job.id();
  const JobState state = StateOf(row);
  if (!IsUnfinished(state)) {
    Erase(id);
    return;
  }
  const auto [it, added] = jobs_.try_emplace(id);
  LiveJob& live = it->second;
  const bool was_queued = !added && StateOf(live.row) == JobState::kQueued;
  const bool was_leased = !added && IsLeased(StateOf(live.row)) && live.row.token == row.token;
  if (!added) Unindex(live);
  live.row = std::move(row);
  if (state == JobState::kQueued && !was_queued) live.queued_since = now;
  if (IsLeased(state) && !was_leased) {
    live.last_heard = now;
    live.progress_saved = now;
    live.confirmed = false;
  }
  if (!IsLeased(state)) live.publishing = live.won = false;
  Index(live);
}

void LiveJobs::Erase(std::string_view id) {
  const auto it = jobs_.find(id);
  if (it == jobs_.end()) return;
  Unindex(it->second);
  jobs_.erase(it);
}

LiveJob* LiveJobs::FirstReady(const std::set<std::string>& except) {
  for (const auto& [priority, ordinal, id] : ready_) {
    if (!except.contains(id)) return Find(id);
  }
  return nullptr;
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

std::vector<std::string> LiveJobs::RetriesDue(absl::Time now) const {
  std::vector<std::string> due;
  for (const auto& [time, id] : retries_) {
    if (time > now) break;
    due.push_back(id);
  }
  return due;
}

absl::Time LiveJobs::NextRetry() const { return retries_.empty() ? absl::InfiniteFuture() : retries_.begin()->first; }

std::optional<std::string> LiveJobs::Using(std::string_view artifact_id) const {
  for (const auto& [id, live] : jobs_) {
    const std::vector<std::string> used = ArtifactsOf(live.row.job.spec());
    if (std::find(used.begin(), used.end(), artifact_id) != used.end()) return id;
  }
  return std::nullopt;
}

std::array<LiveJobs::QueueDepth, kLowestPriority> LiveJobs::Depths() const {
  std::array<QueueDepth, kLowestPriority> depths;
  for (const auto& [priority, ordinal, id] : ready_) {
    QueueDepth& depth = depths[static_cast<size_t>(priority - kHighestPriority)];
    ++depth.queued;
    depth.oldest = std::min(depth.oldest, jobs_.find(id)->second.queued_since);
  }
  return depths;
}

}  // namespace quant
