// SPDX-License-Identifier: Apache-2.0
// PostgresJobStore: jobs in PostgreSQL, for several servers at once. One row per job, as in SqliteJobStore. Tables:
// kMigrations in postgres_job_store.cc; why it is as it is: docs/adr/2026-11-26-several-servers.md.
#ifndef QUANT_SERVER_STORE_POSTGRES_JOB_STORE_H_
#define QUANT_SERVER_STORE_POSTGRES_JOB_STORE_H_

#include <atomic>
#include <memory>
#include <thread>

#include "common/mutex.h"
#include "common/unique_fd.h"
#include "server/store/job_peers.h"
#include "server/store/job_store.h"
#include "server/store/postgres.h"

namespace quant {

// Thread-safe. Each change is one transaction; concurrent calls use connections of their own.
class PostgresJobStore : public JobStore, public JobPeers {
 public:
  // Makes or upgrades the tables. `db` must outlive the store.
  static absl::StatusOr<std::unique_ptr<PostgresJobStore>> Create(Postgres* db);
  ~PostgresJobStore() override;

  absl::Status Insert(JobRow* row, const SubmitRequest& request) override;
  absl::StatusOr<std::optional<StoredRequest>> FindRequest(std::string_view tenant,
                                                           std::string_view request_id) override;
  absl::Status PurgeRequests(absl::Time time) override;
  absl::StatusOr<JobRow> Get(std::string_view id) override;
  absl::Status Update(const JobRow& row, const JobVersion& expected) override;
  // Does not wait for a row that another server is changing at the moment: ABORTED (FOR UPDATE SKIP LOCKED).
  absl::Status Claim(JobRow* row, const JobVersion& expected) override;
  absl::Status Delete(std::string_view id, const JobVersion& expected) override;
  absl::Status PutResult(std::string_view id, const JobVersion& expected, std::string_view result) override;
  absl::StatusOr<Result> GetResult(std::string_view id) override;
  absl::StatusOr<std::vector<JobRow>> List(const JobFilter& filter, int64_t before, int limit) override;
  absl::StatusOr<std::vector<JobRow>> LoadUnfinished() override;
  absl::StatusOr<std::vector<JobRow>> Expired(absl::Time time, int limit) override;
  absl::StatusOr<std::map<v1::JobState, int64_t>> CountByState() override;
  JobPeers* peers() override { return this; }

  absl::StatusOr<Changes> ChangesSince(int64_t cursor) override;
  void Listen(Callback callback) override;
  void StopListening() override;
  absl::StatusOr<bool> Hear(const v1::WorkerInfo& worker, bool draining, const std::vector<LeaseId>& leases) override;
  absl::StatusOr<std::map<std::string, Heard>> HeardOf() override;
  absl::Status Remember(const LeaseId& lease) override;
  absl::StatusOr<std::vector<Worker>> Workers(absl::Duration retention) override;
  absl::Status Drain(std::string_view worker_id) override;

 private:
  explicit PostgresJobStore(Postgres* db) : db_(db) {}
  // NOT_FOUND or ABORTED for a compare-and-set that changed nothing.
  absl::Status WhyNot(std::string_view id, const JobVersion& expected);
  // Something was changed: tell the others, soon and together with other changes.
  void Announce();
  void RunNotifier();
  void RunListener(const Callback& callback);

  Postgres* const db_;
  std::atomic<int64_t> notifier_pid_ = 0;  // the server process whose notifications are our own
  UniqueFd wake_listener_;
  std::thread listener_;
  std::thread notifier_;
  Mutex mu_;
  CondVar changed_;
  bool announce_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_listening_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_POSTGRES_JOB_STORE_H_
