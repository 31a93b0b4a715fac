// SPDX-License-Identifier: Apache-2.0
// The calls of JobService.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/digest.h"
#include "common/proto_time.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "server/queue/cache_key.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"
#include "server/queue/queue_metrics.h"
#include "server/queue/spec_check.h"

namespace quant {
namespace {

constexpr size_t kMaxRequestIdBytes = 64;
constexpr int kDefaultPageSize = 50;
constexpr int kMaxPageSize = 500;
constexpr absl::Duration kQueueFullRetry = absl::Seconds(10);

absl::Status CheckRequestId(const std::string& id) {
  const bool good = id.size() <= kMaxRequestIdBytes && std::all_of(id.begin(), id.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
                    });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("request_id is ", Quoted(id), " (", id.size(), " bytes): at most ",
                                                 kMaxRequestIdBytes, " of [A-Za-z0-9-] are wanted, e.g. a UUID"));
}

absl::StatusOr<v1::Job> AnswerRepeat(const SubmitRequest& request, const StoredRequest& stored) {
  if (stored.body_digest == request.body_digest) return stored.first_answer;
  return WithReason(absl::InvalidArgumentError(
                        absl::StrCat("request_id ", request.request_id, " was used for job ", stored.first_answer.id(),
                                     " with another body: use a new request_id for another job")),
                    "REQUEST_ID_REUSED", {{"job", stored.first_answer.id()}});
}

// Page tokens are "<digest of the filter>/<ordinal of the page's last job>", base64url. Opaque to clients; they grant
// nothing.
std::string FilterDigest(v1::ListJobsRequest request) {
  request.clear_page_size();
  request.clear_page_token();
  return Sha256Hex(CanonicalBytes(request)).substr(0, 16);
}

std::string MakePageToken(const std::string& filter, int64_t ordinal) {
  std::string token;
  absl::WebSafeBase64Escape(absl::StrCat(filter, "/", ordinal), &token);
  return token;
}

absl::StatusOr<int64_t> ParsePageToken(const std::string& token, const std::string& filter) {
  if (token.empty()) return std::numeric_limits<int64_t>::max();
  std::string plain;
  int64_t ordinal = 0;
  if (absl::WebSafeBase64Unescape(token, &plain)) {
    const std::vector<std::string> parts = absl::StrSplit(plain, '/');
    if (parts.size() == 2 && parts[0] == filter && absl::SimpleAtoi(parts[1], &ordinal) && ordinal > 0) return ordinal;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("page_token ", Quoted(token),
                   " is not from a ListJobs call with the same states, kind and labels: start again without a token"));
}

absl::StatusOr<JobFilter> FilterOf(const v1::ListJobsRequest& request) {
  JobFilter filter;
  for (const int state : request.states()) {
    if (!v1::JobState_IsValid(state) || state == v1::JOB_STATE_UNSPECIFIED) {
      return absl::InvalidArgumentError(absl::StrCat("states has ", state, ", which is no job state"));
    }
    const auto wanted = static_cast<v1::JobState>(state);
    if (std::find(filter.states.begin(), filter.states.end(), wanted) == filter.states.end()) {
      filter.states.push_back(wanted);
    }
  }
  static constexpr std::string_view kKinds[] = {"", "quantize", "calibrate", "benchmark", "analyze", "tune"};
  if (std::find(std::begin(kKinds), std::end(kKinds), request.kind()) == std::end(kKinds)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "kind is ", Quoted(request.kind()), "; it must be quantize, calibrate, benchmark, analyze or tune, or empty"));
  }
  filter.kind = request.kind();
  if (request.labels().size() > 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("labels has ", request.labels().size(), " entries; a job has at most 16"));
  }
  for (const auto& [key, value] : request.labels()) filter.labels.emplace_back(key, value);
  std::sort(filter.labels.begin(), filter.labels.end());
  return filter;
}

// How many of `rows` make a page: at most `page_size`, and no more than gRPC's default receive limit of 4 MiB takes.
size_t FittingRows(const std::vector<JobRow>& rows, size_t page_size) {
  constexpr size_t kMaxPageBytes = 3 << 20;
  size_t bytes = 0;
  size_t count = 0;
  while (count < std::min(rows.size(), page_size)) {
    bytes += rows[count].job.ByteSizeLong();
    if (bytes > kMaxPageBytes && count > 0) break;
    ++count;
  }
  return count;
}

}  // namespace

absl::Status JobQueue::CheckQuota(const Principal& caller) {
  if (options_.limits == nullptr || caller.role == Role::kOperator) return absl::OkStatus();
  const int64_t limit = options_.limits->For(caller.tenant).max_queued_jobs;
  const LiveJobs::TenantCount count = live_.CountOf(caller.tenant);
  const int64_t queued = count.unfinished - count.leased +
                         std::count_if(inserting_.begin(), inserting_.end(),
                                       [&](const auto& entry) { return entry.second == caller.tenant; });
  if (limit <= 0 || queued < limit) return absl::OkStatus();
  if (metrics_ != nullptr) metrics_->QuotaRejected(caller.tenant, "queued_jobs");
  return WithReason(
      absl::ResourceExhaustedError(absl::StrCat("tenant ", Quoted(caller.tenant), " has ", queued,
                                                " jobs queued, its limit is ", limit, ": try again later")),
      "QUOTA_EXCEEDED", {{"resource", "queued_jobs"}, {"limit", absl::StrCat(limit)}}, kQueueFullRetry);
}

absl::StatusOr<v1::Job> JobQueue::Submit(const Principal& caller, const v1::SubmitJobRequest& request,
                                         std::string_view traceparent) {
  RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  SubmitRequest key;
  if (!request.request_id().empty()) {
    key = {.request_id = request.request_id(), .body_digest = Sha256Hex(CanonicalBytes(request.spec()))};
    // Before the checks: a repeat is answered though the model is gone by now, or the queue full.
    ASSIGN_OR_RETURN(const std::optional<StoredRequest> stored, store_->FindRequest(caller.tenant, key.request_id));
    if (stored) return AnswerRepeat(key, *stored);
  }
  v1::JobSpec spec = request.spec();
  RETURN_IF_ERROR(CheckSpec(&spec));
  RETURN_IF_ERROR(CheckInputs(caller, spec, catalog_));
  JobRow row;
  ASSIGN_OR_RETURN(row.cache_key, CacheKey(caller.tenant, options_.cache_salt, spec, catalog_));
  row.tenant = caller.tenant;
  row.job.set_id(RandomId("j-"));
  *row.job.mutable_spec() = std::move(spec);
  row.job.set_state(v1::JOB_STATE_QUEUED);
  row.job.set_sequence(1);
  row.job.set_traceparent(std::string(traceparent));
  const LogScope scope(LogFieldsOf(row.job));
  SetProto(clock_->Now(), row.job.mutable_create_time());
  const char* cache_outcome = "bypass";
  {
    MutexLock lock(&mu_);
    const int64_t unfinished = live_.size() + std::ssize(inserting_);
    if (unfinished >= options_.max_unfinished) {
      if (metrics_ != nullptr) metrics_->QuotaRejected(caller.tenant, "queued_jobs");
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(unfinished, " jobs are unfinished, the limit is ",
                                                                  options_.max_unfinished, ": try again later")),
                        "QUEUE_FULL", {}, kQueueFullRetry);
    }
    RETURN_IF_ERROR(CheckQuota(caller));
    if (!row.cache_key.empty() && !request.no_cache()) {
      row.job.set_cached_from(FindAnswer(row.cache_key));
      cache_outcome = "hit";
      if (row.job.cached_from().empty()) {
        const LiveJob* same = live_.RunningSame(row.cache_key, row.job.spec().priority());
        cache_outcome = same == nullptr ? "miss" : "merged";
        if (same != nullptr) row.job.set_attached_to(same->row.job.id());
      }
    }
    inserting_.emplace(row.job.id(), row.tenant);
  }
  const absl::Status inserted = store_->Insert(&row, key);
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    inserting_.erase(row.job.id());
    if (inserted.ok()) {
      LOG(INFO) << "queue: submitted, " << JobKindName(row.job.spec()) << " for tenant " << row.tenant << ", cache "
                << cache_outcome;
      // With peers another server may already have told us more of it.
      if (live_.Find(row.job.id()) == nullptr) live_.Put(row, clock_->Now());
      ++counts_[row.job.state()];
      if (metrics_ != nullptr) {
        CountSubmitted(row.job.spec(), metrics_);
        metrics_->DedupRequest(cache_outcome);
      }
      if (const std::string& leader = row.job.attached_to(); !leader.empty()) {
        const LiveJob* live = live_.Find(leader);  // it may have ended meanwhile
        if (live == nullptr || StateOf(live->row) == JobState::kCancelling) {
          deferred.push_back([this, leader] { SettleAttached(leader); });
        }
      }
      Dispatch(&deferred);
    }
  }
  RunAll(&deferred);
  if (absl::IsAlreadyExists(inserted) && !key.request_id.empty()) {  // another call was quicker
    ASSIGN_OR_RETURN(const std::optional<StoredRequest> stored, store_->FindRequest(caller.tenant, key.request_id));
    if (stored) return AnswerRepeat(key, *stored);
  }
  RETURN_IF_ERROR(inserted);
  if (row.job.cached_from().empty()) return std::move(row.job);
  AnswerFromCache(row.job.id());
  return Get(caller, row.job.id());
}

absl::StatusOr<v1::Job> JobQueue::Get(const Principal& caller, std::string_view id) {
  MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(JobRow row, FindFor(caller, id));
  return std::move(row.job);
}

absl::StatusOr<v1::ListJobsResponse> JobQueue::List(const Principal& caller, const v1::ListJobsRequest& request) {
  if (request.page_size() < 0) {
    return absl::InvalidArgumentError(absl::StrCat("page_size is ", request.page_size(), "; it must not be negative"));
  }
  const int page_size = request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize);
  ASSIGN_OR_RETURN(JobFilter filter, FilterOf(request));
  if (caller.role != Role::kOperator) filter.tenant = caller.tenant;
  const std::string digest = FilterDigest(request);
  ASSIGN_OR_RETURN(const int64_t before, ParsePageToken(request.page_token(), digest));
  // One more than asked tells whether there is a next page.
  ASSIGN_OR_RETURN(std::vector<JobRow> rows, store_->List(filter, before, page_size + 1));
  const size_t fitting = FittingRows(rows, static_cast<size_t>(page_size));
  v1::ListJobsResponse response;
  if (rows.size() > fitting) {
    rows.resize(fitting);
    response.set_next_page_token(MakePageToken(digest, rows.back().ordinal));
  }
  MutexLock lock(&mu_);
  for (JobRow& row : rows) {
    // Memory has newer progress; a state that changed since the store was read is left to the next call.
    const LiveJob* live = live_.Find(row.job.id());
    const bool newer = live != nullptr && live->row.job.state() == row.job.state();
    if (newer) {
      *response.add_jobs() = live->row.job;
    } else {
      *response.add_jobs() = std::move(row.job);
    }
  }
  return response;
}

absl::StatusOr<v1::Job> JobQueue::Cancel(const Principal& caller, std::string_view id) {
  Deferred deferred;
  absl::StatusOr<v1::Job> job;
  int tries = 0;
  {
    MutexLock lock(&mu_);
    do {
      ASSIGN_OR_RETURN(JobRow row, FindFor(caller, id));
      // Its model may exist already.
      if (IsHeld(row.job) && !row.job.cached_from().empty()) return BeingPublished(row.job.id());
      job = Apply(JobEvent::kCancel, std::move(row), &deferred);
    } while (ChangedMeanwhile(job.status(), &tries));
  }
  RunAll(&deferred);
  return job;
}

absl::StatusOr<v1::Job> JobQueue::Retry(const Principal& caller, std::string_view id) {
  Deferred deferred;
  absl::StatusOr<v1::Job> job;
  int tries = 0;
  {
    MutexLock lock(&mu_);
    do {
      ASSIGN_OR_RETURN(JobRow row, FindFor(caller, id));
      job = Apply(JobEvent::kRetry, std::move(row), &deferred);
    } while (ChangedMeanwhile(job.status(), &tries));
    Dispatch(&deferred);
  }
  RunAll(&deferred);
  return job;
}

absl::Status JobQueue::Delete(const Principal& caller, std::string_view id) {
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    ASSIGN_OR_RETURN(const JobRow row, FindFor(caller, id));
    if (!IsDeletable(StateOf(row))) return StateForbids(row.job, "cancel it before deleting it");
    if (IsHeld(row.job) && !row.job.cached_from().empty()) return BeingPublished(row.job.id());
    const absl::Status gone = absl::NotFoundError(absl::StrCat("job ", row.job.id(), " was deleted"));
    const absl::Status removed = Remove(row, gone, &deferred);
    if (absl::IsAborted(removed)) return StateForbids(row.job, "it is changing at this moment: repeat the call");
    RETURN_IF_ERROR(removed);
  }
  RunAll(&deferred);
  return absl::OkStatus();
}

absl::Status JobQueue::Remove(const JobRow& row, const absl::Status& why, Deferred* deferred) {
  const std::string& id = row.job.id();
  const absl::Status deleted = store_->Delete(id, VersionOf(row));
  if (absl::IsAborted(deleted) || absl::IsNotFound(deleted)) Resync(id);
  RETURN_IF_ERROR(deleted);
  models_.Changed();
  live_.Erase(id, clock_->Now());
  if (!live_.AttachedTo(id).empty()) deferred->push_back([this, id] { SettleAttached(id); });
  --counts_[row.job.state()];
  watches_.Publish(id, WatchEvent{.job = nullptr, .end = why}, absl::InfiniteFuture(), deferred);
  return absl::OkStatus();
}

absl::StatusOr<v1::Report> JobQueue::GetReport(const Principal& caller, std::string_view id) {
  MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const JobRow row, FindFor(caller, id));
  if (StateOf(row) != JobState::kSucceeded) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat("job ", row.job.id(), " is ", AbslView(JobStateName(StateOf(row))),
                                                   ": only a job that SUCCEEDED has a report")),
        "NO_REPORT");
  }
  ASSIGN_OR_RETURN(const JobStore::Result stored, store_->GetResult(id));
  v1::JobResult result;
  if (!result.ParseFromString(stored.bytes)) {
    return absl::DataLossError(absl::StrCat("the stored report of job ", row.job.id(), " cannot be read"));
  }
  return std::move(*result.mutable_report());
}

absl::StatusOr<uint64_t> JobQueue::Watch(const Principal& caller, std::string_view id, int64_t after_sequence,
                                         WatchCallback callback) {
  Deferred deferred;
  uint64_t handle = 0;
  {
    MutexLock lock(&mu_);
    if (watches_ended_) return Stopping();
    ASSIGN_OR_RETURN(JobRow row, FindFor(caller, id));
    if (watches_.size() >= options_.max_watches) {
      if (metrics_ != nullptr) metrics_->QuotaRejected(caller.tenant, "watches");
      return WithReason(absl::ResourceExhaustedError(absl::StrCat(watches_.size(), " watches are open, the limit is ",
                                                                  options_.max_watches, ": try again later")),
                        "TOO_MANY_WATCHES", {}, kQueueFullRetry);
    }
    handle = next_handle_++;
    WatchEvent event;
    if (EndsWatch(StateOf(row))) event.end = absl::OkStatus();
    if (row.job.sequence() > after_sequence) event.job = std::make_shared<const v1::Job>(std::move(row.job));
    if (!event.end) {
      const absl::Time keepalive = clock_->Now() + options_.watch_keepalive;
      watches_.Add(handle, id, keepalive, callback);
      NoteDue(keepalive);
    }
    if (event.job != nullptr || event.end) deferred.push_back([callback, event] { callback(event); });
  }
  RunAll(&deferred);
  return handle;
}

void JobQueue::Unwatch(uint64_t handle) {
  MutexLock lock(&mu_);
  watches_.Remove(handle);
}

void JobQueue::EndWatches() {
  Deferred deferred;
  {
    MutexLock lock(&mu_);
    watches_ended_ = true;
    watches_.EndAll(Stopping(), &deferred);
  }
  RunAll(&deferred);
}

std::optional<std::string> JobQueue::UnfinishedJobUsing(std::string_view artifact_id, std::string_view source_job_id) {
  MutexLock lock(&mu_);
  if (!source_job_id.empty() && live_.Find(std::string(source_job_id)) != nullptr) return std::string(source_job_id);
  return live_.Using(artifact_id);
}

}  // namespace quant
