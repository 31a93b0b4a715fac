// SPDX-License-Identifier: Apache-2.0
// WatchHub: who wants to hear of which job.
#ifndef QUANT_SERVER_QUEUE_WATCH_HUB_H_
#define QUANT_SERVER_QUEUE_WATCH_HUB_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "quant/v1/jobs.pb.h"

namespace quant {

// One thing a watcher is told. Events of one watch may overtake each other between threads; the receiver drops a job
// whose sequence is below one it has, and everything after an end.
struct WatchEvent {
  std::shared_ptr<const v1::Job> job;  // the newest state, shared by all watchers of the job; null: none
  std::optional<absl::Status> end;     // set: the last event; OK when the job is final or DEAD
};
using WatchCallback = std::function<void(const WatchEvent&)>;

// Collects calls instead of making them: the caller holds a lock here and runs them after. Thread-compatible.
class WatchHub {
 public:
  using Calls = std::vector<std::function<void()>>;

  void Add(uint64_t handle, std::string_view job_id, absl::Time next_keepalive, WatchCallback callback);
  void Remove(uint64_t handle);
  bool IsWatched(std::string_view job_id) const;
  std::vector<std::string> Jobs() const;
  // The greatest sequence that was published of a watched job; 0 when there is none.
  int64_t Told(std::string_view job_id) const;
  // Tells all watchers of the job; an event with an end removes them.
  void Publish(std::string_view job_id, const WatchEvent& event, absl::Time next_keepalive, Calls* calls);
  // Ends all watches.
  void EndAll(const absl::Status& status, Calls* calls);
  // Watched jobs with a keepalive due.
  std::vector<std::string> Due(absl::Time now) const;
  // Moves all keepalives: the clock was set.
  void MoveKeepalives(absl::Duration by);
  // Infinite future when there is no watch.
  absl::Time NextDue() const;
  int64_t size() const { return static_cast<int64_t>(watches_.size()); }

 private:
  struct Watch {
    std::string job_id;
    absl::Time next_keepalive;
    WatchCallback callback;
  };
  void Schedule(uint64_t handle, Watch* watch, absl::Time next_keepalive);

  std::map<uint64_t, Watch> watches_;
  struct Watched {
    std::set<uint64_t> handles;
    int64_t told = 0;
  };
  std::map<std::string, Watched, std::less<>> by_job_;
  std::set<std::pair<absl::Time, uint64_t>> schedule_;
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_WATCH_HUB_H_
