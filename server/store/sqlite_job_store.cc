// SPDX-License-Identifier: Apache-2.0
#include "server/store/sqlite_job_store.h"

#include "absl/strings/str_cat.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

// Times are nanoseconds since 1970. job.body is a quant.v1.Job, job_result.body a quant.v1.JobResult. The columns
// beside a body repeat what is inside it, except tenant, token, completed_token, deadline and cancel_time, which are
// only here.
const char* const kMigrations[] = {
    R"sql(
    CREATE TABLE job (
      ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
      id TEXT NOT NULL UNIQUE,
      state INTEGER NOT NULL,
      kind TEXT NOT NULL,
      priority INTEGER NOT NULL,
      create_time INTEGER NOT NULL,
      retry_time INTEGER NOT NULL,
      worker_id TEXT NOT NULL,
      token INTEGER NOT NULL,
      completed_token INTEGER NOT NULL,
      deadline INTEGER NOT NULL,
      cancel_time INTEGER NOT NULL,
      body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX job_by_state ON job (state, ordinal);
    CREATE INDEX job_by_kind ON job (kind, ordinal);

    CREATE TABLE job_label (
      ordinal INTEGER NOT NULL REFERENCES job (ordinal) ON DELETE CASCADE,
      key TEXT NOT NULL,
      value TEXT NOT NULL,
      PRIMARY KEY (key, value, ordinal)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX job_label_by_job ON job_label (ordinal);

    CREATE TABLE job_result (
      ordinal INTEGER PRIMARY KEY REFERENCES job (ordinal) ON DELETE CASCADE,
      token INTEGER NOT NULL,
      body BLOB NOT NULL
    ) STRICT;

    -- Outlives its job: a repeated Submit is answered as the first one was.
    CREATE TABLE job_request (
      request_id TEXT PRIMARY KEY,
      body_digest TEXT NOT NULL,
      create_time INTEGER NOT NULL,
      first_answer BLOB NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX job_request_by_time ON job_request (create_time);

    -- The newest fencing token over all jobs.
    CREATE TABLE job_token (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL) STRICT;
    INSERT INTO job_token (one, value) VALUES (1, 0);
    )sql",
    // Tenants. Request ids are each tenant's own.
    R"sql(
    ALTER TABLE job ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
    CREATE INDEX job_by_tenant ON job (tenant, ordinal);

    CREATE TABLE job_request_of_tenant (
      tenant TEXT NOT NULL,
      request_id TEXT NOT NULL,
      body_digest TEXT NOT NULL,
      create_time INTEGER NOT NULL,
      first_answer BLOB NOT NULL,
      PRIMARY KEY (tenant, request_id)
    ) WITHOUT ROWID, STRICT;
    INSERT INTO job_request_of_tenant SELECT 'default', request_id, body_digest, create_time, first_answer
      FROM job_request;
    DROP TABLE job_request;
    ALTER TABLE job_request_of_tenant RENAME TO job_request;
    CREATE INDEX job_request_by_time ON job_request (create_time);
    )sql",
    // Answers from earlier results; expiry. Jobs that ended before are kept.
    R"sql(
    ALTER TABLE job ADD COLUMN cache_key TEXT NOT NULL DEFAULT '';
    CREATE INDEX job_by_cache_key ON job (cache_key, ordinal) WHERE cache_key <> '';
    ALTER TABLE job ADD COLUMN expire_time INTEGER NOT NULL DEFAULT 9223372036854775807;
    CREATE INDEX job_by_expire_time ON job (expire_time, ordinal);
    )sql",
};

constexpr char kColumns[] = "ordinal, token, completed_token, deadline, cancel_time, cache_key, tenant, body";

absl::StatusOr<JobRow> ReadRow(const Statement& select) {
  JobRow row;
  row.ordinal = select.Int(0);
  row.token = select.Int(1);
  row.completed_token = select.Int(2);
  row.deadline = select.Time(3);
  row.cancel_time = select.Time(4);
  row.cache_key = select.Text(5);
  row.tenant = select.Text(6);
  if (!row.job.ParseFromString(select.Blob(7))) {
    return absl::DataLossError(absl::StrCat("the stored job number ", row.ordinal, " cannot be read"));
  }
  return row;
}

absl::StatusOr<std::vector<JobRow>> ReadRows(Statement* select) {
  std::vector<JobRow> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, select->Step());
    if (!more) return rows;
    ASSIGN_OR_RETURN(JobRow row, ReadRow(*select));
    rows.push_back(std::move(row));
  }
}

absl::Time ExpireTime(const v1::Job& job) {
  return job.has_expire_time() ? FromProto(job.expire_time()) : absl::InfiniteFuture();
}

absl::Time RetryTime(const v1::Job& job) {
  return job.has_retry_time() ? FromProto(job.retry_time()) : absl::InfiniteFuture();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteJobStore>> SqliteJobStore::Create(Database* db) {
  MutexLock lock(db->mutex());
  RETURN_IF_ERROR(db->Migrate("jobs", {std::begin(kMigrations), std::end(kMigrations)}));
  return std::unique_ptr<SqliteJobStore>(new SqliteJobStore(db));
}

absl::Status SqliteJobStore::Insert(JobRow* row, const SubmitRequest& request) {
  MutexLock lock(mu());
  const v1::Job& job = row->job;
  const absl::Time created = FromProto(job.create_time());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  int64_t ordinal = 0;
  {
    ASSIGN_OR_RETURN(
        Statement insert,
        db_->Prepare("INSERT INTO job (id, state, kind, priority, create_time, retry_time, worker_id, "
                     "token, completed_token, deadline, cancel_time, cache_key, expire_time, tenant, body) "
                     "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    insert.Bind(1, job.id());
    insert.Bind(2, static_cast<int64_t>(job.state()));
    insert.Bind(3, JobKindName(job.spec()));
    insert.Bind(4, job.spec().priority());
    insert.Bind(5, created);
    insert.Bind(6, RetryTime(job));
    insert.Bind(7, job.worker_id());
    insert.Bind(8, row->token);
    insert.Bind(9, row->completed_token);
    insert.Bind(10, row->deadline);
    insert.Bind(11, row->cancel_time);
    insert.Bind(12, row->cache_key);
    insert.Bind(13, ExpireTime(job));
    insert.Bind(14, row->tenant);
    insert.BindBlob(15, job.SerializeAsString());
    RETURN_IF_ERROR(insert.Run());
    ordinal = db_->LastInsertRowId();
  }
  for (const auto& [key, value] : job.spec().labels()) {
    ASSIGN_OR_RETURN(Statement insert, db_->Prepare("INSERT INTO job_label (ordinal, key, value) VALUES (?, ?, ?)"));
    insert.Bind(1, ordinal);
    insert.Bind(2, key);
    insert.Bind(3, value);
    RETURN_IF_ERROR(insert.Run());
  }
  if (!request.request_id.empty()) {
    ASSIGN_OR_RETURN(Statement insert,
                     db_->Prepare("INSERT INTO job_request (tenant, request_id, body_digest, create_time, "
                                  "first_answer) VALUES (?, ?, ?, ?, ?)"));
    insert.Bind(1, row->tenant);
    insert.Bind(2, request.request_id);
    insert.Bind(3, request.body_digest);
    insert.Bind(4, created);
    insert.BindBlob(5, job.SerializeAsString());
    RETURN_IF_ERROR(insert.Run());
  }
  RETURN_IF_ERROR(txn.Commit());
  row->ordinal = ordinal;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<StoredRequest>> SqliteJobStore::FindRequest(std::string_view tenant,
                                                                         std::string_view request_id) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(
      Statement select,
      db_->Prepare("SELECT body_digest, first_answer FROM job_request WHERE tenant = ? AND request_id = ?"));
  select.Bind(1, tenant);
  select.Bind(2, request_id);
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return std::nullopt;
  StoredRequest stored{.body_digest = select.Text(0)};
  if (!stored.first_answer.ParseFromString(select.Blob(1))) {
    return absl::DataLossError(absl::StrCat("the stored answer to request ", Quoted(request_id), " cannot be read"));
  }
  return stored;
}

absl::Status SqliteJobStore::PurgeRequests(absl::Time time) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  {
    ASSIGN_OR_RETURN(Statement purge, db_->Prepare("DELETE FROM job_request WHERE create_time < ?"));
    purge.Bind(1, time);
    RETURN_IF_ERROR(purge.Run());
  }
  return txn.Commit();
}

absl::StatusOr<JobRow> SqliteJobStore::Get(std::string_view id) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Statement select, db_->Prepare(absl::StrCat("SELECT ", kColumns, " FROM job WHERE id = ?")));
  select.Bind(1, id);
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("no job ", Quoted(id), " is stored"));
  return ReadRow(select);
}

absl::Status SqliteJobStore::WhyNot(std::string_view id, const JobVersion& expected) {
  ASSIGN_OR_RETURN(Statement select, db_->Prepare("SELECT state, token FROM job WHERE id = ?"));
  select.Bind(1, id);
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("no job ", Quoted(id), " is stored"));
  return absl::AbortedError(absl::StrCat("the stored job ", Quoted(id), " has state ", select.Int(0), " and token ",
                                         select.Int(1), ", expected were ", static_cast<int>(expected.state), " and ",
                                         expected.token, expected.undelivered ? " without a result" : ""));
}

absl::Status SqliteJobStore::UpdateRow(const JobRow& row, const JobVersion& expected) {
  const v1::Job& job = row.job;
  if (expected.sequence != 0) {
    ASSIGN_OR_RETURN(Statement select, db_->Prepare(absl::StrCat("SELECT ", kColumns, " FROM job WHERE id = ?")));
    select.Bind(1, job.id());
    ASSIGN_OR_RETURN(const bool found, select.Step());
    if (found) {
      ASSIGN_OR_RETURN(const JobRow stored, ReadRow(select));
      if (stored.job.sequence() != expected.sequence) {
        return absl::AbortedError(absl::StrCat("the stored job ", Quoted(job.id()), " has another sequence"));
      }
    }
  }
  {
    ASSIGN_OR_RETURN(Statement update,
                     db_->Prepare("UPDATE job SET state = ?, retry_time = ?, worker_id = ?, token = ?, "
                                  "completed_token = ?, deadline = ?, cancel_time = ?, expire_time = ?, body = ? "
                                  "WHERE id = ? AND state = ? AND token = ? AND (? = 0 OR NOT EXISTS (SELECT 1 FROM "
                                  "job_result AS r WHERE r.ordinal = job.ordinal AND r.token = job.token))"));
    update.Bind(1, static_cast<int64_t>(job.state()));
    update.Bind(2, RetryTime(job));
    update.Bind(3, job.worker_id());
    update.Bind(4, row.token);
    update.Bind(5, row.completed_token);
    update.Bind(6, row.deadline);
    update.Bind(7, row.cancel_time);
    update.Bind(8, ExpireTime(job));
    update.BindBlob(9, job.SerializeAsString());
    update.Bind(10, job.id());
    update.Bind(11, static_cast<int64_t>(expected.state));
    update.Bind(12, expected.token);
    update.Bind(13, expected.undelivered ? 1 : 0);
    RETURN_IF_ERROR(update.Run());
  }
  return db_->Changes() == 1 ? absl::OkStatus() : WhyNot(job.id(), expected);
}

absl::Status SqliteJobStore::Update(const JobRow& row, const JobVersion& expected) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  RETURN_IF_ERROR(UpdateRow(row, expected));
  return txn.Commit();
}

absl::Status SqliteJobStore::Claim(JobRow* row, const JobVersion& expected) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  JobRow claimed = *row;
  {
    ASSIGN_OR_RETURN(Statement raise, db_->Prepare("UPDATE job_token SET value = value + 1 RETURNING value"));
    ASSIGN_OR_RETURN(const bool found, raise.Step());
    if (!found) return absl::DataLossError("the table job_token is empty");
    claimed.token = raise.Int(0);
    RETURN_IF_ERROR(raise.Run());
  }
  RETURN_IF_ERROR(UpdateRow(claimed, expected));
  RETURN_IF_ERROR(txn.Commit());
  row->token = claimed.token;
  return absl::OkStatus();
}

absl::Status SqliteJobStore::Delete(std::string_view id, const JobVersion& expected) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  {
    ASSIGN_OR_RETURN(Statement remove, db_->Prepare("DELETE FROM job WHERE id = ? AND state = ? AND token = ?"));
    remove.Bind(1, id);
    remove.Bind(2, static_cast<int64_t>(expected.state));
    remove.Bind(3, expected.token);
    RETURN_IF_ERROR(remove.Run());
  }
  if (db_->Changes() != 1) return WhyNot(id, expected);
  return txn.Commit();
}

absl::Status SqliteJobStore::PutResult(std::string_view id, const JobVersion& expected, std::string_view result) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  {
    ASSIGN_OR_RETURN(Statement put, db_->Prepare("INSERT OR REPLACE INTO job_result (ordinal, token, body) "
                                                 "SELECT ordinal, token, ? FROM job "
                                                 "WHERE id = ? AND state = ? AND token = ?"));
    put.BindBlob(1, result);
    put.Bind(2, id);
    put.Bind(3, static_cast<int64_t>(expected.state));
    put.Bind(4, expected.token);
    RETURN_IF_ERROR(put.Run());
  }
  if (db_->Changes() != 1) return WhyNot(id, expected);
  return txn.Commit();
}

absl::StatusOr<JobStore::Result> SqliteJobStore::GetResult(std::string_view id) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Statement select,
                   db_->Prepare("SELECT r.token, r.body FROM job_result AS r JOIN job USING (ordinal) "
                                "WHERE job.id = ?"));
  select.Bind(1, id);
  ASSIGN_OR_RETURN(const bool found, select.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("no result of job ", Quoted(id), " is stored"));
  return Result{.token = select.Int(0), .bytes = select.Blob(1)};
}

absl::StatusOr<std::vector<JobRow>> SqliteJobStore::List(const JobFilter& filter, int64_t before, int limit) {
  std::string sql = absl::StrCat("SELECT ", kColumns, " FROM job WHERE ordinal < ?");
  if (!filter.tenant.empty()) sql += " AND tenant = ?";
  for (size_t i = 0; i < filter.states.size(); ++i) absl::StrAppend(&sql, i == 0 ? " AND state IN (?" : ", ?");
  if (!filter.states.empty()) sql += ")";
  if (!filter.kind.empty()) sql += " AND kind = ?";
  if (!filter.cache_key.empty()) sql += " AND cache_key <> '' AND cache_key = ?";
  for (size_t i = 0; i < filter.labels.size(); ++i) {
    sql += " AND EXISTS (SELECT 1 FROM job_label AS l WHERE l.key = ? AND l.value = ? AND l.ordinal = job.ordinal)";
  }
  sql += " ORDER BY ordinal DESC LIMIT ?";

  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Statement select, db_->Prepare(sql));
  int at = 0;
  select.Bind(++at, before);
  if (!filter.tenant.empty()) select.Bind(++at, filter.tenant);
  for (const v1::JobState state : filter.states) select.Bind(++at, static_cast<int64_t>(state));
  if (!filter.kind.empty()) select.Bind(++at, filter.kind);
  if (!filter.cache_key.empty()) select.Bind(++at, filter.cache_key);
  for (const auto& [key, value] : filter.labels) {
    select.Bind(++at, key);
    select.Bind(++at, value);
  }
  select.Bind(++at, limit);
  return ReadRows(&select);
}

absl::StatusOr<std::vector<JobRow>> SqliteJobStore::LoadUnfinished() {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(
      Statement select,
      db_->Prepare(absl::StrCat("SELECT ", kColumns, " FROM job WHERE state IN (?, ?, ?, ?) ORDER BY ordinal")));
  select.Bind(1, static_cast<int64_t>(v1::JOB_STATE_QUEUED));
  select.Bind(2, static_cast<int64_t>(v1::JOB_STATE_RUNNING));
  select.Bind(3, static_cast<int64_t>(v1::JOB_STATE_RETRY_WAIT));
  select.Bind(4, static_cast<int64_t>(v1::JOB_STATE_CANCELLING));
  return ReadRows(&select);
}

absl::StatusOr<std::vector<JobRow>> SqliteJobStore::Expired(absl::Time time, int limit) {
  MutexLock lock(mu());
  ASSIGN_OR_RETURN(Statement select,
                   db_->Prepare(absl::StrCat("SELECT ", kColumns,
                                             " FROM job WHERE expire_time < ? ORDER BY expire_time, ordinal LIMIT ?")));
  select.Bind(1, time);
  select.Bind(2, limit);
  return ReadRows(&select);
}

absl::StatusOr<std::map<v1::JobState, int64_t>> SqliteJobStore::CountByState() {
  MutexLock lock(mu());
  std::map<v1::JobState, int64_t> counts;
  ASSIGN_OR_RETURN(Statement select, db_->Prepare("SELECT state, count(*) FROM job GROUP BY state"));
  while (true) {
    ASSIGN_OR_RETURN(const bool more, select.Step());
    if (!more) return counts;
    counts[static_cast<v1::JobState>(select.Int(0))] = select.Int(1);
  }
}

}  // namespace quant
