// SPDX-License-Identifier: Apache-2.0
#include "server/store/postgres.h"

#include <libpq-fe.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

// Oids of pg_type.dat.
constexpr unsigned kBytea = 17;
constexpr unsigned kInt8 = 20;
constexpr unsigned kText = 25;
constexpr unsigned kFloat8 = 701;

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(50);
constexpr absl::Duration kLongestBackoff = absl::Milliseconds(250);
// What the server gets to say that it ended a statement which took too long.
constexpr absl::Duration kTimeoutGrace = absl::Seconds(1);

constexpr absl::Duration kDiskFullRetry = absl::Seconds(5);  // what a caller is told to wait

// Classes and codes of https://www.postgresql.org/docs/17/errcodes-appendix.html
absl::StatusCode CodeOf(std::string_view state) {
  if (state == "23505") return absl::StatusCode::kAlreadyExists;                 // unique_violation
  if (state == "57014") return absl::StatusCode::kUnavailable;                   // query_canceled: the timeout
  if (state == "25006") return absl::StatusCode::kPermissionDenied;              // read-only: a standby
  if (state == "42501") return absl::StatusCode::kPermissionDenied;              // insufficient_privilege
  if (state == "XX001" || state == "XX002") return absl::StatusCode::kDataLoss;  // corrupted
  const std::string_view group = state.substr(0, 2);
  if (group == "08" || group == "40" || group == "55" || group == "57" || group == "58") {
    return absl::StatusCode::kUnavailable;  // connection, rollback, lock not available, operator, system error
  }
  if (group == "53") return absl::StatusCode::kResourceExhausted;
  if (group == "22") return absl::StatusCode::kInvalidArgument;
  if (group == "23") return absl::StatusCode::kFailedPrecondition;
  if (group == "28") return absl::StatusCode::kPermissionDenied;
  return absl::StatusCode::kInternal;
}

std::string Message(const char* text) { return std::string(absl::StripAsciiWhitespace(text == nullptr ? "" : text)); }

// Waits for `events` on the socket. False when the deadline has passed.
bool WaitFor(int fd, short events, absl::Time deadline) {
  while (true) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
  }
}

int64_t FromBigEndian(const char* bytes) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return static_cast<int64_t>(value);
}

}  // namespace

// ---------------------------------------------------------------- values and rows

PgValue::PgValue(int64_t value) : type_(kInt8), data_(8, '\0') {
  for (int i = 0; i < 8; ++i) data_[static_cast<size_t>(i)] = static_cast<char>(value >> (56 - 8 * i));
}
PgValue::PgValue(absl::Time time)
    : PgValue(time == absl::InfiniteFuture() ? std::numeric_limits<int64_t>::max()
              : time == absl::InfinitePast() ? std::numeric_limits<int64_t>::min()
                                             : absl::ToUnixNanos(time)) {}
PgValue::PgValue(double value) : PgValue(std::bit_cast<int64_t>(value)) { type_ = kFloat8; }
PgValue::PgValue(std::string_view text) : type_(kText), data_(text) {}
PgValue PgValue::Bytes(std::string_view bytes) { return {kBytea, std::string(bytes)}; }

PgRows::~PgRows() { PQclear(result_); }
int PgRows::size() const { return PQntuples(result_); }
int64_t PgRows::affected() const {
  int64_t count = 0;
  return absl::SimpleAtoi(PQcmdTuples(result_), &count) ? count : 0;
}
bool PgRows::IsNull(int row, int column) const { return PQgetisnull(result_, row, column) != 0; }
int64_t PgRows::Int(int row, int column) const {
  return PQgetlength(result_, row, column) == 8 ? FromBigEndian(PQgetvalue(result_, row, column)) : 0;
}
double PgRows::Double(int row, int column) const { return std::bit_cast<double>(Int(row, column)); }
std::string PgRows::Bytes(int row, int column) const {
  return {PQgetvalue(result_, row, column), static_cast<size_t>(PQgetlength(result_, row, column))};
}
absl::Time PgRows::Time(int row, int column) const {
  const int64_t nanos = Int(row, column);
  if (nanos == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (nanos == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixNanos(nanos);
}

// ---------------------------------------------------------------- PgSession

absl::StatusOr<std::unique_ptr<PgSession>> PgSession::Connect(const std::string& url, absl::Duration connect_timeout,
                                                              absl::Duration statement_timeout) {
  const absl::Time deadline = absl::Now() + connect_timeout;
  pg_conn* const conn = PQconnectStart(url.c_str());
  if (conn == nullptr) return absl::ResourceExhaustedError("PostgreSQL: no memory for a connection");
  std::unique_ptr<PgSession> session(new PgSession(conn, statement_timeout));
  PostgresPollingStatusType step = PQstatus(conn) == CONNECTION_BAD ? PGRES_POLLING_FAILED : PGRES_POLLING_WRITING;
  while (step == PGRES_POLLING_READING || step == PGRES_POLLING_WRITING) {
    if (!WaitFor(PQsocket(conn), step == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline)) {
      return absl::UnavailableError(absl::StrCat("PostgreSQL: no connection within ",
                                                 absl::FormatDuration(connect_timeout), ": is the server up?"));
    }
    step = PQconnectPoll(conn);
  }
  if (step == PGRES_POLLING_FAILED) {
    // libpq tells no code here. What a wrong password or role says will not pass by itself.
    const std::string why = Message(PQerrorMessage(conn));
    const bool refused = absl::StrContains(why, "authentication failed") || absl::StrContains(why, "does not exist");
    return absl::Status(refused ? absl::StatusCode::kPermissionDenied : absl::StatusCode::kUnavailable,
                        absl::StrCat("PostgreSQL: cannot connect: ", why));
  }
  PQsetnonblocking(conn, 1);
  PQsetNoticeProcessor(conn, [](void*, const char*) {}, nullptr);
  // Acknowledged means on disk, whatever the database's default.
  RETURN_IF_ERROR(session->Execute(absl::StrCat(
      "SET synchronous_commit = on; SET client_min_messages = warning; SET idle_in_transaction_session_timeout = ",
      absl::ToInt64Milliseconds(2 * statement_timeout),
      "; SET statement_timeout = ", absl::ToInt64Milliseconds(statement_timeout))));
  return session;
}

PgSession::~PgSession() { PQfinish(conn_); }

absl::Status PgSession::Broken(std::string_view doing) {
  broken_ = true;
  const std::string why = Message(PQerrorMessage(conn_));
  return absl::UnavailableError(
      absl::StrCat("PostgreSQL: the connection broke at ", Quoted(doing), why.empty() ? "" : ": ", why));
}

absl::StatusOr<PgRows> PgSession::Finish(std::string_view doing) {
  const absl::Time deadline = absl::Now() + statement_timeout_ + kTimeoutGrace;
  const int fd = PQsocket(conn_);
  while (true) {  // everything sent
    const int flushed = PQflush(conn_);
    if (flushed == 0) break;
    if (flushed < 0 || !WaitFor(fd, POLLIN | POLLOUT, deadline) || PQconsumeInput(conn_) == 0) return Broken(doing);
  }
  std::unique_ptr<PgRows> last;
  while (true) {
    while (PQisBusy(conn_) != 0) {
      if (!WaitFor(fd, POLLIN, deadline)) {
        broken_ = true;
        return absl::UnavailableError(absl::StrCat("PostgreSQL: no answer within ",
                                                   absl::FormatDuration(statement_timeout_ + kTimeoutGrace), " to ",
                                                   Quoted(doing)));
      }
      if (PQconsumeInput(conn_) == 0) return Broken(doing);
    }
    pg_result* const result = PQgetResult(conn_);
    if (result == nullptr) break;
    // The first error is the one that counts.
    const bool keep = last != nullptr && PQresultStatus(last->result_) == PGRES_FATAL_ERROR;
    auto next = std::make_unique<PgRows>(result);
    if (!keep) last = std::move(next);
  }
  if (last == nullptr) return Broken(doing);
  const ExecStatusType status = PQresultStatus(last->result_);
  if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK || status == PGRES_EMPTY_QUERY) return std::move(*last);
  if (PQstatus(conn_) == CONNECTION_BAD) return Broken(doing);
  const char* const state = PQresultErrorField(last->result_, PG_DIAG_SQLSTATE);
  const absl::StatusCode code = CodeOf(state == nullptr ? "" : state);
  absl::Status failed(code, absl::StrCat("PostgreSQL: ", Message(PQresultErrorMessage(last->result_)), " (",
                                         state == nullptr ? "no code" : state, ") at ", Quoted(doing)));
  const bool full = state != nullptr && std::string_view(state) == "53100";
  return full ? WithReason(std::move(failed), "DISK_FULL", {}, kDiskFullRetry) : failed;
}

absl::StatusOr<PgRows> PgSession::Run(std::string_view sql, const std::vector<PgValue>& values) {
  if (broken_) return Broken(sql);
  auto it = prepared_.find(sql);
  if (it == prepared_.end()) {
    std::vector<Oid> types;
    types.reserve(values.size());
    for (const PgValue& value : values) types.push_back(value.type());
    const std::string name = absl::StrCat("s", prepared_.size());
    const std::string text(sql);
    if (PQsendPrepare(conn_, name.c_str(), text.c_str(), static_cast<int>(types.size()), types.data()) == 0) {
      return Broken(sql);
    }
    RETURN_IF_ERROR(Finish(sql).status());
    it = prepared_.emplace(text, name).first;
  }
  std::vector<const char*> data;
  std::vector<int> lengths;
  for (const PgValue& value : values) {
    data.push_back(value.type() == 0 ? nullptr : value.data().data());
    lengths.push_back(static_cast<int>(value.data().size()));
  }
  const std::vector<int> binary(values.size(), 1);
  if (PQsendQueryPrepared(conn_, it->second.c_str(), static_cast<int>(values.size()), data.data(), lengths.data(),
                          binary.data(), /*resultFormat=*/1) == 0) {
    return Broken(sql);
  }
  return Finish(sql);
}

absl::Status PgSession::Execute(std::string_view sql) {
  if (broken_ || PQsendQuery(conn_, std::string(sql).c_str()) == 0) return Broken(sql);
  return Finish(sql).status();
}

absl::StatusOr<bool> PgSession::AwaitNotification(int wake_fd, int64_t own_pid, absl::Duration timeout) {
  if (broken_) return Broken("LISTEN");
  const auto came = [&] {
    bool any = false;
    while (PGnotify* const notify = PQnotifies(conn_)) {
      any |= notify->be_pid != own_pid;
      PQfreemem(notify);
    }
    return any;
  };
  // Whoever read from the connection before, alive() for one, took what had arrived out of the socket.
  if (came()) return true;
  pollfd entries[2] = {{.fd = PQsocket(conn_), .events = POLLIN, .revents = 0},
                       {.fd = wake_fd, .events = POLLIN, .revents = 0}};
  ::poll(entries, 2, static_cast<int>(absl::ToInt64Milliseconds(timeout)));
  if (PQconsumeInput(conn_) == 0) return Broken("LISTEN");
  return came();
}

bool PgSession::alive() {
  if (broken_) return false;
  pollfd entry{.fd = PQsocket(conn_), .events = POLLIN, .revents = 0};
  if (::poll(&entry, 1, 0) > 0 && PQconsumeInput(conn_) == 0) broken_ = true;
  if (PQstatus(conn_) != CONNECTION_OK) broken_ = true;
  return !broken_;
}

int64_t PgSession::server_pid() const { return PQbackendPID(conn_); }

// ---------------------------------------------------------------- Postgres

absl::StatusOr<std::unique_ptr<Postgres>> Postgres::Open(PostgresOptions options) {
  std::unique_ptr<Postgres> db(new Postgres(std::move(options)));
  ASSIGN_OR_RETURN(auto session, db->Borrow());
  db->Return(std::move(session));
  return db;
}

Postgres::~Postgres() = default;

absl::StatusOr<std::unique_ptr<PgSession>> Postgres::Connect() {
  return PgSession::Connect(options_.url, options_.connect_timeout, options_.statement_timeout);
}

absl::StatusOr<std::unique_ptr<PgSession>> Postgres::Borrow() {
  {
    MutexLock lock(&mu_);
    while (lent_ >= options_.connections) returned_.Wait(&mu_);
    while (!idle_.empty()) {
      std::unique_ptr<PgSession> session = std::move(idle_.back());
      idle_.pop_back();
      if (!session->alive()) {
        connected_since_ = absl::Now();
        continue;
      }
      ++lent_;
      return session;
    }
    if (absl::Now() < retry_at_) return last_error_;
    ++lent_;
  }
  auto session = Connect();
  if (session.ok()) {
    MutexLock lock(&mu_);
    if (backoff_ > absl::ZeroDuration()) connected_since_ = absl::Now();
    backoff_ = absl::ZeroDuration();
    return session;
  }
  MutexLock lock(&mu_);
  --lent_;
  returned_.Signal();
  backoff_ = std::clamp(2 * backoff_, kFirstBackoff, kLongestBackoff);
  retry_at_ = absl::Now() + backoff_;
  last_error_ = session.status();
  return session;
}

void Postgres::Return(std::unique_ptr<PgSession> session) {
  MutexLock lock(&mu_);
  --lent_;
  if (session->alive()) {
    idle_.push_back(std::move(session));
  } else {
    connected_since_ = absl::Now();
  }
  returned_.Signal();
}

absl::Time Postgres::connected_since() {
  MutexLock lock(&mu_);
  return connected_since_;
}

absl::StatusOr<PgRows> Postgres::Run(std::string_view sql, const std::vector<PgValue>& values) {
  const absl::Time start = absl::Now();
  auto session = Borrow();
  absl::StatusOr<PgRows> rows = absl::UnavailableError("");
  if (!session.ok()) {
    rows = session.status();
  } else {
    rows = (*session)->Run(sql, values);
    Return(*std::move(session));
  }
  if (observer_ && !absl::StartsWith(AbslView(sql), "SELECT")) observer_(absl::Now() - start, rows.ok());
  return rows;
}

absl::Status Postgres::Transact(const std::function<absl::Status(PgSession*)>& body) {
  const absl::Time start = absl::Now();
  auto session = Borrow();
  absl::Status status = session.status();
  if (status.ok()) {
    status = (*session)->Run("BEGIN").status();
    if (status.ok()) status = body(session->get());
    if (status.ok()) {
      status = (*session)->Run("COMMIT").status();
    } else {
      (*session)->Run("ROLLBACK").status().IgnoreError();  // a broken connection rolls back by itself
    }
    Return(*std::move(session));
  }
  if (observer_) observer_(absl::Now() - start, status.ok());
  return status;
}

absl::Status Postgres::Migrate(std::string_view component, const std::vector<std::string>& migrations) {
  return Transact([&](PgSession* session) -> absl::Status {
    // Any constant of our own: held until the transaction ends.
    RETURN_IF_ERROR(session->Execute("SELECT pg_advisory_xact_lock(7163824519077)"));
    RETURN_IF_ERROR(session->Execute(
        "CREATE TABLE IF NOT EXISTS schema_version (component text PRIMARY KEY, version bigint NOT NULL)"));
    ASSIGN_OR_RETURN(const PgRows rows,
                     session->Run("SELECT version FROM schema_version WHERE component = $1", {component}));
    size_t version = rows.empty() ? 0 : static_cast<size_t>(rows.Int(0, 0));
    if (version > migrations.size()) {
      return absl::FailedPreconditionError(absl::StrCat("the database's schema of ", AbslView(component),
                                                        " has version ", version, ", this program knows ",
                                                        migrations.size(), "; run the newer quantd that wrote it"));
    }
    if (version == migrations.size()) return absl::OkStatus();
    for (; version < migrations.size(); ++version) RETURN_IF_ERROR(session->Execute(migrations[version]));
    return session
        ->Run(
            "INSERT INTO schema_version (component, version) VALUES ($1, $2) "
            "ON CONFLICT (component) DO UPDATE SET version = excluded.version",
            {component, static_cast<int64_t>(version)})
        .status();
  });
}

}  // namespace quant
