// SPDX-License-Identifier: Apache-2.0
// LiveJobs: the unfinished jobs in memory, with an index for each question the queue asks, and who is next.
//
// Between tenants, worker time is shared: each has a clock that runs with the workers it has, divided by its weight
// (weighted fair queueing; Demers, Keshav, Shenker 1989, with service measured in worker seconds), and the one that is
// furthest behind is served next. Who comes back after a pause starts where the others are: idleness saves nothing up.
// A lease counts for a second at once, so that several given at the same instant are spread as well.
//
// Within a tenant, priority is a head start in time: a job of priority p comes before one of priority q > p unless that
// one has waited longer by more than (q - p) * aging. So a job of priority 5 is overtaken by those of priority 1 that
// come within 4 * aging of it, and by none that come later.
#ifndef QUANT_SERVER_QUEUE_LIVE_JOBS_H_
#define QUANT_SERVER_QUEUE_LIVE_JOBS_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "server/auth/tenant_limits.h"
#include "server/queue/job_state.h"
#include "server/store/job_store.h"

namespace quant {

inline constexpr int kHighestPriority = 1;
inline constexpr int kLowestPriority = 5;

// An unfinished job. `row` is what the store has, except that row.job's progress and sequence may be newer.
struct LiveJob {
  JobRow row;
  absl::Time queued_since;     // QUEUED: when it became ready
  absl::Time aged_from;        // when it was submitted, or retried by hand: it keeps its place over lost attempts
  absl::Time last_heard;       // leased: when its worker last named it, or when it was leased
  absl::Time moved;            // leased: when its progress last changed, or when it was leased
  absl::Time progress_saved;   // leased: when the store last got the progress
  bool sequence_saved = true;  // leased: the store has a sequence at which no other server told of this job
  std::string holder;          // leased: the name of the token that it was leased to; "" where that is not known
  bool confirmed = false;      // leased: its worker has named it, so the lease arrived
  bool publishing = false;     // leased: a result is being published; nothing else may end it
  bool won = false;            // leased: its model exists, only the state is not yet stored; nothing else may end it
};

// Thread-compatible.
class LiveJobs {
 public:
  // `aging`: the head start of one level of priority.
  explicit LiveJobs(absl::Duration aging) : aging_(aging) {}

  // Null when the job is not unfinished or not known.
  LiveJob* Find(std::string_view id);
  const LiveJob* Find(std::string_view id) const;

  // Takes a stored row: adds, changes or (when it is not unfinished) removes the job.
  // `now` becomes queued_since or last_heard when the row has just come to be queued or leased.
  void Put(JobRow row, absl::Time now);
  // As Put of a job that is not there yet, which has waited since `since`.
  void Load(JobRow row, absl::Time since, absl::Time now);
  void Erase(std::string_view id, absl::Time now);

  // Jobs that are QUEUED but wait for another's result, or are just given one, are not leased (IsHeld).
  // The next job to lease, of those not in `except`; null when none is queued that its tenant's max_running_jobs
  // allows. `limits` may be null.
  LiveJob* NextReady(LimitsTable* limits, absl::Time now, const std::set<std::string>& except = {});

  struct TenantCount {
    int64_t unfinished = 0;
    int64_t leased = 0;
  };
  TenantCount CountOf(std::string_view tenant) const;
  // Tenants that have had unfinished jobs.
  std::vector<std::string> Tenants() const;
  // Jobs that need a slot now or soon: leased, ready, or waiting to be tried again; of a tenant no more than its
  // max_running_jobs, since more slots would not run more of them. `limits` may be null.
  int64_t Demand(LimitsTable* limits) const;
  std::vector<std::string> Ids() const;
  std::vector<std::string> Leased() const;
  int64_t LeasesOf(std::string_view worker_id) const;
  std::vector<std::string> JobsOf(std::string_view worker_id) const;
  // Jobs in RETRY_WAIT whose time has come, or lies further off than any backoff: the clock was set back meanwhile.
  std::vector<std::string> RetriesDue(absl::Time now, absl::Duration longest_backoff) const;
  // Infinite future when there is none.
  absl::Time NextRetry() const;
  // A job with this content that will run or runs, for a job of this priority to wait for: none that is being
  // cancelled, and none that is queued with less priority. Null when there is none.
  const LiveJob* RunningSame(std::string_view cache_key, int priority) const;
  // Jobs attached to `id`, oldest first; and the ids that some job is attached to.
  std::vector<std::string> AttachedTo(std::string_view id) const;
  std::vector<std::string> Leaders() const;
  // QUEUED jobs that are to be given a result.
  std::vector<std::string> BeingAnswered() const;
  // An unfinished job whose spec names the model or dataset.
  std::optional<std::string> Using(std::string_view artifact_id) const;

  int64_t size() const { return static_cast<int64_t>(jobs_.size()); }
  struct QueueDepth {
    int64_t queued = 0;
    absl::Time oldest = absl::InfiniteFuture();  // least queued_since
  };
  // Index 0 is priority 1.
  std::array<QueueDepth, kLowestPriority> Depths() const;

 private:
  using ReadyKey = std::tuple<absl::Time, int64_t, std::string>;  // aged_from + priority * aging, ordinal, id
  struct Tenant {
    std::set<ReadyKey> ready;
    TenantCount count;
    double weight = 1;
    double served = 0;        // worker seconds over weight
    absl::Time served_until;  // what `served` includes
  };
  ReadyKey KeyOf(const LiveJob& live) const;
  void Insert(JobRow row, absl::Time since, absl::Time now);
  void Index(const LiveJob& live, absl::Time now);
  void Unindex(const LiveJob& live, absl::Time now);
  static void Serve(Tenant* tenant, absl::Time now);

  std::map<std::string, LiveJob, std::less<>> jobs_;
  const absl::Duration aging_;
  std::map<std::string, Tenant, std::less<>> tenants_;
  std::set<std::string> leased_;
  std::map<std::string, std::set<std::string>, std::less<>> by_worker_;
  std::map<std::string, std::set<std::string>, std::less<>> by_cache_key_;                  // jobs that are not held
  std::map<std::string, std::set<std::pair<int64_t, std::string>>, std::less<>> attached_;  // ordinal, id
  std::set<std::string> answered_;
  std::set<std::pair<absl::Time, std::string>> retries_;
};

// A QUEUED job that is not to be leased: it waits for another's result, or is being given one.
inline bool IsHeld(const v1::Job& job) {
  return job.state() == v1::JOB_STATE_QUEUED && (!job.attached_to().empty() || !job.cached_from().empty());
}

// Every model and dataset id that a spec names.
std::vector<std::string> ArtifactsOf(const v1::JobSpec& spec);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_LIVE_JOBS_H_
