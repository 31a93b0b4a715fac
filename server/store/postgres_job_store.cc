// SPDX-License-Identifier: Apache-2.0
#include "server/store/postgres_job_store.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

// As in SqliteJobStore: times are nanoseconds since 1970, job.body is a quant.v1.Job, job_result.body a
// quant.v1.JobResult, and columns beside a body repeat what is inside it.
//
// job.changed and job_gone.changed hold the transaction that wrote the row last. Whatever was not yet visible in a
// snapshot was written by a transaction numbered at least pg_snapshot_xmin of it: that makes them a feed without gaps,
// whatever order the transactions commit in.
const char* const kMigrations[] = {
    R"sql(
    CREATE TABLE job (
      ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      id text NOT NULL UNIQUE,
      tenant text NOT NULL,
      state bigint NOT NULL,
      kind text NOT NULL,
      priority bigint NOT NULL,
      create_time bigint NOT NULL,
      retry_time bigint NOT NULL,
      worker_id text NOT NULL,
      token bigint NOT NULL,
      completed_token bigint NOT NULL,
      result_token bigint NOT NULL DEFAULT 0,  -- whose result is stored
      deadline bigint NOT NULL,
      cancel_time bigint NOT NULL,
      changed bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
      body bytea NOT NULL
    );
    CREATE INDEX job_unfinished ON job (ordinal) WHERE state IN (1, 2, 3, 4);
    CREATE INDEX job_by_state ON job (state, ordinal);
    CREATE INDEX job_by_kind ON job (kind, ordinal);
    CREATE INDEX job_by_tenant ON job (tenant, ordinal);
    CREATE INDEX job_by_change ON job (changed);

    CREATE TABLE job_label (
      ordinal bigint NOT NULL REFERENCES job (ordinal) ON DELETE CASCADE,
      key text NOT NULL,
      value text NOT NULL,
      PRIMARY KEY (key, value, ordinal)
    );
    CREATE INDEX job_label_by_job ON job_label (ordinal);

    CREATE TABLE job_result (
      ordinal bigint PRIMARY KEY REFERENCES job (ordinal) ON DELETE CASCADE,
      token bigint NOT NULL,
      body bytea NOT NULL
    );

    -- Outlives its job: a repeated Submit is answered as the first one was.
    CREATE TABLE job_request (
      tenant text NOT NULL,
      request_id text NOT NULL,
      body_digest text NOT NULL,
      create_time bigint NOT NULL,
      first_answer bytea NOT NULL,
      PRIMARY KEY (tenant, request_id)
    );
    CREATE INDEX job_request_by_time ON job_request (create_time);

    -- Deleted jobs, for the feed.
    CREATE TABLE job_gone (
      id text PRIMARY KEY,
      changed bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
      time timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX job_gone_by_change ON job_gone (changed);

    -- Fencing tokens over all jobs.
    CREATE SEQUENCE job_token;

    -- Signs of life: worth no disk write, and empty after a crash of the server.
    CREATE UNLOGGED TABLE lease_heard (
      job_id text PRIMARY KEY,
      token bigint NOT NULL,
      heard timestamptz NOT NULL,
      confirmed bigint NOT NULL
    );
    CREATE UNLOGGED TABLE worker_seen (
      id text PRIMARY KEY,
      info bytea NOT NULL,
      registered timestamptz NOT NULL,
      heard timestamptz NOT NULL,
      draining bigint NOT NULL
    );
    )sql",
    // Answers from earlier results; expiry. Jobs that ended before are kept.
    R"sql(
    ALTER TABLE job ADD COLUMN cache_key text NOT NULL DEFAULT '';
    CREATE INDEX job_by_cache_key ON job (cache_key, ordinal) WHERE cache_key <> '';
    ALTER TABLE job ADD COLUMN expire_time bigint NOT NULL DEFAULT 9223372036854775807;
    CREATE INDEX job_by_expire_time ON job (expire_time, ordinal);
    ALTER TABLE job ADD COLUMN sequence bigint NOT NULL DEFAULT 0;  -- 0: only the body tells
    )sql",
};

constexpr char kColumns[] = "ordinal, token, completed_token, deadline, cancel_time, body, tenant, cache_key";
constexpr char kThisChange[] = "changed = pg_current_xact_id()::text::bigint";
constexpr absl::Duration kPoll = absl::Seconds(1);  // should a notification be lost
constexpr absl::Duration kReconnect = absl::Milliseconds(100);
// A look reads everything since the one before, so looks that follow each other closely cost much and bring little:
// after each the listener rests for so many times what it took, and for no longer than kLongestRest.
constexpr int kRest = 3;
constexpr absl::Duration kLongestRest = absl::Milliseconds(50);
constexpr char kChannel[] = "quant_job";

// Columns `at`.. of a row are kColumns.
absl::StatusOr<JobRow> ReadRow(const PgRows& rows, int at, int column = 0) {
  JobRow row;
  row.ordinal = rows.Int(at, column);
  row.token = rows.Int(at, column + 1);
  row.completed_token = rows.Int(at, column + 2);
  row.deadline = rows.Time(at, column + 3);
  row.cancel_time = rows.Time(at, column + 4);
  if (!row.job.ParseFromString(rows.Bytes(at, column + 5))) {
    return absl::DataLossError(absl::StrCat("the stored job number ", row.ordinal, " cannot be read"));
  }
  row.tenant = rows.Bytes(at, column + 6);
  row.cache_key = rows.Bytes(at, column + 7);
  return row;
}

absl::StatusOr<std::vector<JobRow>> ReadRows(const PgRows& rows) {
  std::vector<JobRow> out;
  out.reserve(static_cast<size_t>(rows.size()));
  for (int i = 0; i < rows.size(); ++i) {
    ASSIGN_OR_RETURN(JobRow row, ReadRow(rows, i));
    out.push_back(std::move(row));
  }
  return out;
}

absl::Time RetryTime(const v1::Job& job) {
  return job.has_retry_time() ? FromProto(job.retry_time()) : absl::InfiniteFuture();
}

absl::Time ExpireTime(const v1::Job& job) {
  return job.has_expire_time() ? FromProto(job.expire_time()) : absl::InfiniteFuture();
}

// SQL: microseconds since `column`.
std::string Age(const std::string& column) {
  return absl::StrCat("(extract(epoch FROM clock_timestamp() - ", column, ") * 1000000)::bigint");
}

}  // namespace

absl::StatusOr<std::unique_ptr<PostgresJobStore>> PostgresJobStore::Create(Postgres* db) {
  RETURN_IF_ERROR(db->Migrate("jobs", {std::begin(kMigrations), std::end(kMigrations)}));
  std::unique_ptr<PostgresJobStore> store(new PostgresJobStore(db));
  store->notifier_ = std::thread([raw = store.get()] { raw->RunNotifier(); });
  return store;
}

PostgresJobStore::~PostgresJobStore() {
  StopListening();
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  notifier_.join();
}

// ---------------------------------------------------------------- JobStore

absl::Status PostgresJobStore::Insert(JobRow* row, const SubmitRequest& request) {
  const v1::Job& job = row->job;
  const std::string body = job.SerializeAsString();
  const absl::Time created = FromProto(job.create_time());
  constexpr char kInsert[] =
      "INSERT INTO job (id, state, kind, priority, create_time, retry_time, worker_id, token, completed_token, "
      "deadline, cancel_time, body, tenant, cache_key, expire_time, sequence) "
      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) "
      "RETURNING ordinal";
  const std::vector<PgValue> values = {job.id(),
                                       static_cast<int>(job.state()),
                                       JobKindName(job.spec()),
                                       job.spec().priority(),
                                       created,
                                       RetryTime(job),
                                       job.worker_id(),
                                       row->token,
                                       row->completed_token,
                                       row->deadline,
                                       row->cancel_time,
                                       PgValue::Bytes(body),
                                       row->tenant,
                                       row->cache_key,
                                       ExpireTime(job),
                                       job.sequence()};
  int64_t ordinal = 0;
  if (job.spec().labels().empty() && request.request_id.empty()) {
    ASSIGN_OR_RETURN(const PgRows rows, db_->Run(kInsert, values));
    ordinal = rows.Int(0, 0);
  } else {
    const absl::Status stored = db_->Transact([&](PgSession* session) -> absl::Status {
      ASSIGN_OR_RETURN(const PgRows rows, session->Run(kInsert, values));
      ordinal = rows.Int(0, 0);
      for (const auto& [key, value] : job.spec().labels()) {
        RETURN_IF_ERROR(
            session->Run("INSERT INTO job_label (ordinal, key, value) VALUES ($1, $2, $3)", {ordinal, key, value})
                .status());
      }
      if (request.request_id.empty()) return absl::OkStatus();
      return session
          ->Run(
              "INSERT INTO job_request (tenant, request_id, body_digest, create_time, first_answer) "
              "VALUES ($1, $2, $3, $4, $5)",
              {row->tenant, request.request_id, request.body_digest, created, PgValue::Bytes(body)})
          .status();
    });
    RETURN_IF_ERROR(stored);
  }
  row->ordinal = ordinal;
  Announce();
  return absl::OkStatus();
}

absl::StatusOr<std::optional<StoredRequest>> PostgresJobStore::FindRequest(std::string_view tenant,
                                                                           std::string_view request_id) {
  ASSIGN_OR_RETURN(const PgRows rows,
                   db_->Run("SELECT body_digest, first_answer FROM job_request WHERE tenant = $1 AND request_id = $2",
                            {tenant, request_id}));
  if (rows.empty()) return std::nullopt;
  StoredRequest stored{.body_digest = rows.Bytes(0, 0)};
  if (!stored.first_answer.ParseFromString(rows.Bytes(0, 1))) {
    return absl::DataLossError(absl::StrCat("the stored answer to request ", Quoted(request_id), " cannot be read"));
  }
  return stored;
}

absl::Status PostgresJobStore::PurgeRequests(absl::Time time) {
  RETURN_IF_ERROR(db_->Run("DELETE FROM job_request WHERE create_time < $1", {time}).status());
  // Nobody looks back that far: after a lost connection all is read again.
  RETURN_IF_ERROR(db_->Run("DELETE FROM job_gone WHERE time < now() - interval '1 hour'").status());
  // Of heartbeats that crossed the end of their lease.
  return db_->Run("DELETE FROM lease_heard WHERE heard < now() - interval '1 day'").status();
}

absl::StatusOr<JobRow> PostgresJobStore::Get(std::string_view id) {
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run(absl::StrCat("SELECT ", kColumns, " FROM job WHERE id = $1"), {id}));
  if (rows.empty()) return absl::NotFoundError(absl::StrCat("no job ", Quoted(id), " is stored"));
  return ReadRow(rows, 0);
}

absl::Status PostgresJobStore::WhyNot(std::string_view id, const JobVersion& expected) {
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run("SELECT state, token FROM job WHERE id = $1", {id}));
  if (rows.empty()) return absl::NotFoundError(absl::StrCat("no job ", Quoted(id), " is stored"));
  return absl::AbortedError(absl::StrCat("the stored job ", Quoted(id), " has state ", rows.Int(0, 0), " and token ",
                                         rows.Int(0, 1), ", expected were ", static_cast<int>(expected.state), " and ",
                                         expected.token, expected.undelivered ? " without a result" : ""));
}

absl::Status PostgresJobStore::Update(const JobRow& row, const JobVersion& expected) {
  const v1::Job& job = row.job;
  static const std::string* const sql = new std::string(absl::StrCat(
      "WITH done AS (UPDATE job SET state = $1, retry_time = $2, worker_id = $3, token = $4, completed_token = $5, "
      "deadline = $6, cancel_time = $7, body = $8, expire_time = $13, sequence = $14, ",
      kThisChange,
      " WHERE id = $9 AND state = $10 AND token = $11 AND ($12 = 0::bigint OR result_token <> token) "
      "AND ($15 = 0::bigint OR sequence IN (0, $15)) "
      "RETURNING id, state), "
      "ended AS (DELETE FROM lease_heard USING done WHERE job_id = done.id AND done.state NOT IN (2, 4)) "
      "SELECT 1::bigint FROM done"));
  ASSIGN_OR_RETURN(
      const PgRows rows,
      db_->Run(*sql, {static_cast<int>(job.state()), RetryTime(job), job.worker_id(), row.token, row.completed_token,
                      row.deadline, row.cancel_time, PgValue::Bytes(job.SerializeAsString()), job.id(),
                      static_cast<int>(expected.state), expected.token, expected.undelivered ? 1 : 0, ExpireTime(job),
                      job.sequence(), expected.sequence}));
  if (rows.empty()) return WhyNot(job.id(), expected);
  Announce();
  return absl::OkStatus();
}

absl::Status PostgresJobStore::Claim(JobRow* row, const JobVersion& expected) {
  const v1::Job& job = row->job;
  static const std::string* const sql = new std::string(absl::StrCat(
      "WITH free AS (SELECT ordinal AS o FROM job WHERE id = $8 AND state = $9 AND token = $10 "
      "AND ($13 = 0::bigint OR sequence IN (0, $13)) FOR UPDATE "
      "SKIP LOCKED), "
      "done AS (UPDATE job SET state = $1, retry_time = $2, worker_id = $3, token = nextval('job_token'), "
      "completed_token = $4, deadline = $5, cancel_time = $6, body = $7, expire_time = $11, sequence = $12, ",
      kThisChange,
      " FROM free WHERE ordinal = free.o RETURNING id, token), "
      "heard AS (INSERT INTO lease_heard (job_id, token, heard, confirmed) "
      "SELECT id, token, clock_timestamp(), 0 FROM done "
      "ON CONFLICT (job_id) DO UPDATE SET token = excluded.token, heard = excluded.heard, confirmed = 0) "
      "SELECT token FROM done"));
  ASSIGN_OR_RETURN(const PgRows rows,
                   db_->Run(*sql, {static_cast<int>(job.state()), RetryTime(job), job.worker_id(), row->completed_token,
                                   row->deadline, row->cancel_time, PgValue::Bytes(job.SerializeAsString()), job.id(),
                                   static_cast<int>(expected.state), expected.token, ExpireTime(job), job.sequence(),
                                   expected.sequence}));
  if (rows.empty()) return WhyNot(job.id(), expected);
  row->token = rows.Int(0, 0);
  Announce();
  return absl::OkStatus();
}

absl::Status PostgresJobStore::Delete(std::string_view id, const JobVersion& expected) {
  ASSIGN_OR_RETURN(const PgRows rows,
                   db_->Run("WITH done AS (DELETE FROM job WHERE id = $1 AND state = $2 AND token = $3 RETURNING id) "
                            "INSERT INTO job_gone (id) SELECT id FROM done ON CONFLICT (id) DO NOTHING RETURNING id",
                            {id, static_cast<int>(expected.state), expected.token}));
  if (rows.empty()) return WhyNot(id, expected);
  Announce();
  return absl::OkStatus();
}

absl::Status PostgresJobStore::PutResult(std::string_view id, const JobVersion& expected, std::string_view result) {
  // The job's row is written too, so that an Update which expects the job undelivered sees it however the two race.
  static const std::string* const sql = new std::string(absl::StrCat(
      "WITH done AS (UPDATE job SET result_token = token, ", kThisChange,
      " WHERE id = $1 AND state = $2 AND token = $3 RETURNING ordinal, token) "
      "INSERT INTO job_result (ordinal, token, body) SELECT ordinal, token, $4 FROM done "
      "ON CONFLICT (ordinal) DO UPDATE SET token = excluded.token, body = excluded.body RETURNING ordinal"));
  ASSIGN_OR_RETURN(const PgRows rows,
                   db_->Run(*sql, {id, static_cast<int>(expected.state), expected.token, PgValue::Bytes(result)}));
  if (rows.empty()) return WhyNot(id, expected);
  Announce();
  return absl::OkStatus();
}

absl::StatusOr<JobStore::Result> PostgresJobStore::GetResult(std::string_view id) {
  ASSIGN_OR_RETURN(
      const PgRows rows,
      db_->Run("SELECT r.token, r.body FROM job_result AS r JOIN job USING (ordinal) WHERE job.id = $1", {id}));
  if (rows.empty()) return absl::NotFoundError(absl::StrCat("no result of job ", Quoted(id), " is stored"));
  return Result{.token = rows.Int(0, 0), .bytes = rows.Bytes(0, 1)};
}

absl::StatusOr<std::vector<JobRow>> PostgresJobStore::List(const JobFilter& filter, int64_t before, int limit) {
  std::vector<PgValue> values = {before};
  std::string sql = absl::StrCat("SELECT ", kColumns, " FROM job WHERE ordinal < $1");
  const auto next = [&](PgValue value) {
    values.push_back(std::move(value));
    return absl::StrCat("$", values.size());
  };
  if (!filter.tenant.empty()) absl::StrAppend(&sql, " AND tenant = ", next(filter.tenant));
  for (size_t i = 0; i < filter.states.size(); ++i) {
    absl::StrAppend(&sql, i == 0 ? " AND state IN (" : ", ", next(static_cast<int>(filter.states[i])));
  }
  if (!filter.states.empty()) sql += ")";
  if (!filter.kind.empty()) absl::StrAppend(&sql, " AND kind = ", next(filter.kind));
  if (!filter.cache_key.empty()) absl::StrAppend(&sql, " AND cache_key <> '' AND cache_key = ", next(filter.cache_key));
  for (const auto& [key, value] : filter.labels) {
    absl::StrAppend(&sql, " AND EXISTS (SELECT 1 FROM job_label AS l WHERE l.key = ", next(key));
    absl::StrAppend(&sql, " AND l.value = ", next(value), " AND l.ordinal = job.ordinal)");
  }
  absl::StrAppend(&sql, " ORDER BY ordinal DESC LIMIT ", next(limit));
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run(sql, values));
  return ReadRows(rows);
}

absl::StatusOr<std::vector<JobRow>> PostgresJobStore::LoadUnfinished() {
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run(absl::StrCat("SELECT ", kColumns,
                                                            " FROM job WHERE state IN (1, 2, 3, 4) ORDER BY ordinal")));
  return ReadRows(rows);
}

absl::StatusOr<std::vector<JobRow>> PostgresJobStore::Expired(absl::Time time, int limit) {
  ASSIGN_OR_RETURN(const PgRows rows,
                   db_->Run(absl::StrCat("SELECT ", kColumns,
                                         " FROM job WHERE expire_time < $1 ORDER BY expire_time, ordinal LIMIT $2"),
                            {time, limit}));
  return ReadRows(rows);
}

absl::StatusOr<std::map<v1::JobState, int64_t>> PostgresJobStore::CountByState() {
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run("SELECT state, count(*) FROM job GROUP BY state"));
  std::map<v1::JobState, int64_t> counts;
  for (int i = 0; i < rows.size(); ++i) counts[static_cast<v1::JobState>(rows.Int(i, 0))] = rows.Int(i, 1);
  return counts;
}

// ---------------------------------------------------------------- JobPeers: the feed

absl::StatusOr<JobPeers::Changes> PostgresJobStore::ChangesSince(int64_t cursor) {
  static const std::string* const sql =
      new std::string(absl::StrCat("WITH now AS (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin) "
                                   "SELECT xmin, NULL::text, ",
                                   kColumns,
                                   " FROM now LEFT JOIN job ON job.changed >= $1 "
                                   "UNION ALL SELECT xmin, id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM now "
                                   "JOIN job_gone ON changed >= $1"));
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run(*sql, {cursor}));
  Changes changes;
  for (int i = 0; i < rows.size(); ++i) {
    changes.cursor = rows.Int(i, 0);
    if (!rows.IsNull(i, 1)) {
      changes.deleted.push_back(rows.Bytes(i, 1));
    } else if (!rows.IsNull(i, 2)) {
      ASSIGN_OR_RETURN(JobRow row, ReadRow(rows, i, 2));
      changes.rows.push_back(std::move(row));
    }
  }
  return changes;
}

// NOTIFY inside a job's own transaction would make all commits wait for each other (PostgreSQL holds one lock over the
// commit). So it is sent after, by one thread, for any number of changes; should it be lost, others look every second.
void PostgresJobStore::Announce() {
  MutexLock lock(&mu_);
  announce_ = true;
  changed_.Signal();
}

void PostgresJobStore::RunNotifier() {
  std::unique_ptr<PgSession> session;
  while (true) {
    {
      MutexLock lock(&mu_);
      while (!announce_ && !stopping_) changed_.Wait(&mu_);
      if (!announce_) return;
      announce_ = false;
    }
    if (session == nullptr || !session->alive()) {
      auto made = db_->Connect();
      if (made.ok()) {
        session = *std::move(made);
        notifier_pid_ = session->server_pid();
        // A notification needs no disk.
        session->Execute("SET synchronous_commit = off").IgnoreError();
      } else {
        session = nullptr;
        MutexLock lock(&mu_);
        if (!stopping_) changed_.WaitFor(&mu_, kReconnect);
      }
    }
    if (session != nullptr) session->Execute(absl::StrCat("NOTIFY ", kChannel)).IgnoreError();
  }
}

void PostgresJobStore::Listen(Callback callback) {
  {
    MutexLock lock(&mu_);
    stop_listening_ = false;
  }
  wake_listener_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  listener_ = std::thread([this, callback = std::move(callback)] { RunListener(callback); });
}

void PostgresJobStore::StopListening() {
  if (!listener_.joinable()) return;
  constexpr uint64_t kOne = 1;
  {
    MutexLock lock(&mu_);
    stop_listening_ = true;
  }
  if (::write(wake_listener_.get(), &kOne, sizeof kOne) < 0) LOG(ERROR) << "eventfd: write failed";
  listener_.join();
}

void PostgresJobStore::RunListener(const Callback& callback) {
  const auto stopping = [this] {
    MutexLock lock(&mu_);
    return stop_listening_;
  };
  std::unique_ptr<PgSession> session;
  absl::Time next_look;
  bool reload = false;  // the first connection has missed nothing: the queue loads after Listen
  while (!stopping()) {
    if (session == nullptr || !session->alive()) {
      auto made = db_->Connect();
      if (!made.ok() || !(*made)->Execute(absl::StrCat("LISTEN ", kChannel)).ok()) {
        LOG_IF(WARNING, session != nullptr) << "jobs: changes of other servers are not heard: " << made.status();
        session = nullptr;
        reload = true;
        absl::SleepFor(kReconnect);
        continue;
      }
      session = *std::move(made);
      callback(std::exchange(reload, true));
      next_look = absl::Now() + kPoll;
      continue;
    }
    const absl::Duration wait = std::max(absl::ZeroDuration(), next_look - absl::Now());
    const absl::StatusOr<bool> came = session->AwaitNotification(wake_listener_.get(), notifier_pid_, wait);
    if (!came.ok() || (!*came && absl::Now() < next_look) || stopping()) continue;
    const absl::Time begun = absl::Now();
    callback(/*reload=*/false);
    const absl::Time ended = absl::Now();
    next_look = ended + kPoll;
    absl::SleepFor(std::clamp(kRest * (ended - begun), absl::ZeroDuration(), kLongestRest));
  }
}

// ---------------------------------------------------------------- JobPeers: signs of life

absl::StatusOr<bool> PostgresJobStore::Hear(const v1::WorkerInfo& worker, bool draining,
                                            const std::vector<LeaseId>& leases) {
  ASSIGN_OR_RETURN(const PgRows rows,
                   db_->Run("INSERT INTO worker_seen (id, info, registered, heard, draining) "
                            "VALUES ($1, $2, clock_timestamp(), clock_timestamp(), $3) "
                            "ON CONFLICT (id) DO UPDATE SET info = excluded.info, heard = excluded.heard, "
                            "draining = greatest(worker_seen.draining, excluded.draining) RETURNING draining",
                            {worker.id(), PgValue::Bytes(worker.SerializeAsString()), draining ? 1 : 0}));
  for (const LeaseId& lease : leases) {
    RETURN_IF_ERROR(db_->Run("INSERT INTO lease_heard (job_id, token, heard, confirmed) "
                             "VALUES ($1, $2, clock_timestamp(), 1) "
                             "ON CONFLICT (job_id) DO UPDATE SET token = excluded.token, heard = excluded.heard, "
                             "confirmed = 1 WHERE lease_heard.token <= excluded.token",
                             {lease.job_id, lease.token})
                        .status());
  }
  return rows.Int(0, 0) != 0;
}

absl::StatusOr<std::map<std::string, JobPeers::Heard>> PostgresJobStore::HeardOf() {
  static const std::string* const sql =
      new std::string(absl::StrCat("SELECT job_id, token, ", Age("heard"), ", confirmed FROM lease_heard"));
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run(*sql));
  // While the database was away nobody could say anything: that time is given to the leases.
  const absl::Duration longest = absl::Now() - db_->connected_since();
  std::map<std::string, Heard> heard;
  for (int i = 0; i < rows.size(); ++i) {
    heard[rows.Bytes(i, 0)] = {.token = rows.Int(i, 1),
                               .ago = std::min(longest, absl::Microseconds(std::max<int64_t>(0, rows.Int(i, 2)))),
                               .confirmed = rows.Int(i, 3) != 0};
  }
  return heard;
}

absl::Status PostgresJobStore::Remember(const LeaseId& lease) {
  return db_
      ->Run(
          "INSERT INTO lease_heard (job_id, token, heard, confirmed) VALUES ($1, $2, clock_timestamp(), 1) "
          "ON CONFLICT (job_id) DO UPDATE SET token = excluded.token, heard = excluded.heard, confirmed = 1 "
          "WHERE lease_heard.token < excluded.token",
          {lease.job_id, lease.token})
      .status();
}

absl::StatusOr<std::vector<JobPeers::Worker>> PostgresJobStore::Workers(absl::Duration retention) {
  static const std::string* const sql = new std::string(
      absl::StrCat("SELECT info, ", Age("registered"), ", ", Age("heard"), ", draining FROM worker_seen ORDER BY id"));
  RETURN_IF_ERROR(db_->Run("DELETE FROM worker_seen WHERE heard < clock_timestamp() - $1 * interval '1 microsecond'",
                           {absl::ToInt64Microseconds(retention)})
                      .status());
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run(*sql));
  std::vector<Worker> workers;
  for (int i = 0; i < rows.size(); ++i) {
    Worker worker{.registered_ago = absl::Microseconds(rows.Int(i, 1)),
                  .heard_ago = absl::Microseconds(rows.Int(i, 2)),
                  .draining = rows.Int(i, 3) != 0};
    if (!worker.info.ParseFromString(rows.Bytes(i, 0))) return absl::DataLossError("a stored worker cannot be read");
    workers.push_back(std::move(worker));
  }
  return workers;
}

absl::Status PostgresJobStore::Drain(std::string_view worker_id) {
  ASSIGN_OR_RETURN(const PgRows rows, db_->Run("UPDATE worker_seen SET draining = 1 WHERE id = $1", {worker_id}));
  if (rows.affected() == 1) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("there is no worker ", Quoted(worker_id)));
}

}  // namespace quant
