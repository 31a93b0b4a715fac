// SPDX-License-Identifier: Apache-2.0
// LiveJobs: the unfinished jobs in memory, with an index for each question the queue asks.
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
#include "server/queue/job_state.h"
#include "server/store/job_store.h"

namespace quant {

inline constexpr int kHighestPriority = 1;
inline constexpr int kLowestPriority = 5;

// An unfinished job. `row` is what the store has, except that row.job's progress and sequence may be newer.
struct LiveJob {
  JobRow row;
  absl::Time queued_since;    // QUEUED: when it became ready
  absl::Time last_heard;      // leased: when its worker last named it, or when it was leased
  absl::Time progress_saved;  // leased: when the store last got the progress
  bool confirmed = false;     // leased: its worker has named it, so the lease arrived
  bool publishing = false;    // leased: a result is being published; nothing else may end it
  bool won = false;           // leased: its model exists, only the state is not yet stored; nothing else may end it
};

// Thread-compatible.
class LiveJobs {
 public:
  // Null when the job is not unfinished or not known.
  LiveJob* Find(std::string_view id);
  const LiveJob* Find(std::string_view id) const;

  // Takes a stored row: adds, changes or (when it is not unfinished) removes the job.
  // `now` becomes queued_since or last_heard when the row has just come to be queued or leased.
  void Put(JobRow row, absl::Time now);
  void Erase(std::string_view id);

  // The next job to lease, of those not in `except`: least priority number, then oldest. Null when there is none.
  LiveJob* FirstReady(const std::set<std::string>& except);
  std::vector<std::string> Ids() const;
  std::vector<std::string> Leased() const;
  int64_t LeasesOf(std::string_view worker_id) const;
  std::vector<std::string> JobsOf(std::string_view worker_id) const;
  // Jobs in RETRY_WAIT whose time has come.
  std::vector<std::string> RetriesDue(absl::Time now) const;
  // Infinite future when there is none.
  absl::Time NextRetry() const;
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
  using ReadyKey = std::tuple<int, int64_t, std::string>;  // priority, ordinal, id
  static ReadyKey KeyOf(const JobRow& row);
  void Index(const LiveJob& live);
  void Unindex(const LiveJob& live);

  std::map<std::string, LiveJob, std::less<>> jobs_;
  std::set<ReadyKey> ready_;
  std::set<std::string> leased_;
  std::map<std::string, std::set<std::string>, std::less<>> by_worker_;
  std::set<std::pair<absl::Time, std::string>> retries_;
};

// Every model and dataset id that a spec names.
std::vector<std::string> ArtifactsOf(const v1::JobSpec& spec);

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_LIVE_JOBS_H_
