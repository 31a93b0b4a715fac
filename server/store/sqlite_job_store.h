// SPDX-License-Identifier: Apache-2.0
// SqliteJobStore: the embedded JobStore. One row per job: the serialized Job, and columns for what is compared, listed
// or loaded by. Tables: kMigrations in sqlite_job_store.cc.
#ifndef QUANT_SERVER_STORE_SQLITE_JOB_STORE_H_
#define QUANT_SERVER_STORE_SQLITE_JOB_STORE_H_

#include <memory>

#include "server/store/job_store.h"
#include "server/store/sqlite.h"

namespace quant {

// Thread-safe: every function takes the database's mutex. Each change is one transaction.
class SqliteJobStore : public JobStore {
 public:
  // Makes or upgrades the tables. `db` must outlive the store; it may be shared with other components.
  static absl::StatusOr<std::unique_ptr<SqliteJobStore>> Create(Database* db);

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

 private:
  explicit SqliteJobStore(Database* db) : db_(db) {}
  Mutex* mu() ABSL_LOCK_RETURNED(db_->mutex()) { return db_->mutex(); }
  // NOT_FOUND or ABORTED for a compare-and-set that changed nothing.
  absl::Status WhyNot(std::string_view id, const JobVersion& expected) ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_->mutex());
  absl::Status UpdateRow(const JobRow& row, const JobVersion& expected) ABSL_EXCLUSIVE_LOCKS_REQUIRED(db_->mutex());

  Database* const db_;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_SQLITE_JOB_STORE_H_
