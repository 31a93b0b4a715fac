// SPDX-License-Identifier: Apache-2.0
// MemoryJobStore: a JobStore for tests. It keeps nothing beyond its life, and can be told to fail.
#ifndef QUANT_SERVER_STORE_MEMORY_JOB_STORE_H_
#define QUANT_SERVER_STORE_MEMORY_JOB_STORE_H_

#include <functional>

#include "common/clock.h"
#include "common/mutex.h"
#include "server/store/job_peers.h"
#include "server/store/job_store.h"

namespace quant {

// Thread-safe.
class MemoryJobStore : public JobStore, public JobPeers {
 public:
  // With a clock (of the ages in JobPeers) the store may have several servers. It never calls what is given to Listen:
  // the test calls JobQueue::Follow, when it likes.
  explicit MemoryJobStore(Clock* shared = nullptr) : clock_(shared) {}

  // Asked before each change with the state that the job is to have; an error is returned
  // instead of making the change: a disk that is full, a process that dies. Null: never fails.
  using Fault = std::function<absl::Status(v1::JobState next)>;
  void SetFaultForTest(Fault fault);

  absl::Status Insert(JobRow* row, const SubmitRequest& request) override;
  absl::StatusOr<std::optional<StoredRequest>> FindRequest(std::string_view tenant,
                                                           std::string_view request_id) override;
  absl::Status PurgeRequests(absl::Time time) override;
  absl::StatusOr<JobRow> Get(std::string_view id) override;
  absl::Status Update(const JobRow& row, const JobVersion& expected) override;
  absl::Status Claim(JobRow* row, const JobVersion& expected) override;
  absl::Status Delete(std::string_view id, const JobVersion& expected) override;
  absl::Status PutResult(std::string_view id, const JobVersion& expected, std::string_view result) override;
  absl::StatusOr<Result> GetResult(std::string_view id) override;
  absl::StatusOr<std::vector<JobRow>> List(const JobFilter& filter, int64_t before, int limit) override;
  absl::StatusOr<std::vector<JobRow>> LoadUnfinished() override;
  absl::StatusOr<std::vector<JobRow>> Expired(absl::Time time, int limit) override;
  absl::StatusOr<std::map<v1::JobState, int64_t>> CountByState() override;
  JobPeers* peers() override { return clock_ == nullptr ? nullptr : this; }

  absl::StatusOr<Changes> ChangesSince(int64_t cursor) override;
  void Listen(Callback /*callback*/) override {}
  void StopListening() override {}
  absl::StatusOr<bool> Hear(const v1::WorkerInfo& worker, bool draining, const std::vector<LeaseId>& leases) override;
  absl::StatusOr<std::map<std::string, Heard>> HeardOf() override;
  absl::Status Remember(const LeaseId& lease) override;
  absl::StatusOr<std::vector<Worker>> Workers(absl::Duration retention) override;
  absl::Status Drain(std::string_view worker_id) override;

 private:
  struct Lease {
    int64_t token = 0;
    absl::Time heard;
    bool confirmed = false;
  };
  struct Seen {
    v1::WorkerInfo info;
    absl::Time registered;
    absl::Time heard;
    bool draining = false;
  };
  void Changed(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { changes_[id] = ++last_change_; }

  struct Request {
    StoredRequest stored;
    absl::Time created;
  };
  // The stored row if it is as expected.
  absl::StatusOr<JobRow*> Expect(std::string_view id, const JobVersion& expected) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status MayFail(v1::JobState next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Clock* const clock_;
  Mutex mu_;
  std::map<std::string, int64_t> changes_ ABSL_GUARDED_BY(mu_);  // job to its newest change, deletion included
  int64_t last_change_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, Lease> leases_ ABSL_GUARDED_BY(mu_);  // by job
  std::map<std::string, Seen, std::less<>> workers_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, JobRow, std::less<>> jobs_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Result, std::less<>> results_ ABSL_GUARDED_BY(mu_);
  std::map<std::pair<std::string, std::string>, Request> requests_ ABSL_GUARDED_BY(mu_);
  int64_t last_ordinal_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t last_token_ ABSL_GUARDED_BY(mu_) = 0;
  Fault fault_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_MEMORY_JOB_STORE_H_
