// SPDX-License-Identifier: Apache-2.0
// Postgres: a small pool of connections to one PostgreSQL database, with Status instead of result codes.
//
//   ASSIGN_OR_RETURN(auto db, Postgres::Open({.url = "postgres://quantd@db/quant"}));
//   ASSIGN_OR_RETURN(PgRows rows, db->Run("SELECT body FROM job WHERE id = $1", {id}));
//   RETURN_IF_ERROR(db->Transact([&](PgSession* session) -> absl::Status {
//     RETURN_IF_ERROR(session->Run("UPDATE …", {…}).status());
//     return session->Run("INSERT …", {…}).status();
//   }));                                  // committed and on the server's disk when this returns OK
//
// Statements are prepared once per connection; values travel in binary, never inside the SQL. A connection that was
// lost is made anew by the next call that needs one; after a failed attempt calls fail at once for a backoff of 50 ms,
// doubled up to 250 ms, so that nobody waits long for a server that is away.
//
// Errors of every function: UNAVAILABLE (no connection, it broke, the server is starting or stopping, a statement took
// too long, a deadlock: repeating may help; when a connection broke during a change, whether the change was made is not
// known), RESOURCE_EXHAUSTED (disk full: reason DISK_FULL; out of memory, too many connections), ALREADY_EXISTS (a
// unique key is taken), FAILED_PRECONDITION (another constraint), INVALID_ARGUMENT (a value that PostgreSQL cannot
// hold, such as text with a NUL), PERMISSION_DENIED (password, role, read-only server), DATA_LOSS (corrupt), INTERNAL
// (an error in our SQL).
#ifndef QUANT_SERVER_STORE_POSTGRES_H_
#define QUANT_SERVER_STORE_POSTGRES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"

struct pg_conn;
struct pg_result;

namespace quant {

// A parameter: bigint, text or bytea. Times are nanoseconds since 1970 as bigint; infinite times are kept.
class PgValue {
 public:
  PgValue(int64_t value);                                       // NOLINT(google-explicit-constructor)
  PgValue(int value) : PgValue(static_cast<int64_t>(value)) {}  // NOLINT(google-explicit-constructor)
  PgValue(bool value) = delete;
  PgValue(absl::Time time);                                              // NOLINT(google-explicit-constructor)
  PgValue(std::string_view text);                                        // NOLINT(google-explicit-constructor)
  PgValue(const std::string& text) : PgValue(std::string_view(text)) {}  // NOLINT(google-explicit-constructor)
  PgValue(const char* text) : PgValue(std::string_view(text)) {}         // NOLINT(google-explicit-constructor)
  explicit PgValue(double value);
  static PgValue Bytes(std::string_view bytes);
  static PgValue Null() { return {0, ""}; }

  unsigned type() const { return type_; }  // 0: null
  const std::string& data() const { return data_; }

 private:
  PgValue(unsigned type, std::string data) : type_(type), data_(std::move(data)) {}
  unsigned type_;  // PostgreSQL's oid of the type
  std::string data_;
};

// What a statement answered: rows of bigint, text and bytea columns. Thread-compatible.
class PgRows {
 public:
  explicit PgRows(pg_result* result) : result_(result) {}
  PgRows(PgRows&& other) noexcept : result_(std::exchange(other.result_, nullptr)) {}
  PgRows& operator=(PgRows&& other) noexcept {
    std::swap(result_, other.result_);
    return *this;
  }
  ~PgRows();

  int size() const;
  bool empty() const { return size() == 0; }
  // Rows inserted, updated or deleted.
  int64_t affected() const;
  bool IsNull(int row, int column) const;
  int64_t Int(int row, int column) const;
  double Double(int row, int column) const;
  std::string Bytes(int row, int column) const;  // text or bytea
  absl::Time Time(int row, int column) const;

 private:
  friend class PgSession;
  pg_result* result_;
};

// One connection. Thread-compatible. After an error of the connection every call answers UNAVAILABLE.
class PgSession {
 public:
  // `deadline` for connecting; statements then take at most `statement_timeout`: the server ends them, and should it
  // not answer within a second more, the connection is given up.
  static absl::StatusOr<std::unique_ptr<PgSession>> Connect(const std::string& url, absl::Duration connect_timeout,
                                                            absl::Duration statement_timeout);
  ~PgSession();
  PgSession(const PgSession&) = delete;
  PgSession& operator=(const PgSession&) = delete;

  absl::StatusOr<PgRows> Run(std::string_view sql, const std::vector<PgValue>& values = {});
  // Statements without parameters, separated by ";".
  absl::Status Execute(std::string_view sql);

  // Waits for a notification of a channel that was LISTENed to, for `wake` to become readable, or for `timeout`.
  // Returns whether a notification came; `own_pid` is the server process whose notifications do not count.
  absl::StatusOr<bool> AwaitNotification(int wake_fd, int64_t own_pid, absl::Duration timeout);

  // Also notices a connection that the other side has closed meanwhile.
  bool alive();
  // The process of the server that serves this connection.
  int64_t server_pid() const;

 private:
  PgSession(pg_conn* conn, absl::Duration statement_timeout) : conn_(conn), statement_timeout_(statement_timeout) {}
  // The last result of what was sent.
  absl::StatusOr<PgRows> Finish(std::string_view doing);
  absl::Status Broken(std::string_view doing);

  pg_conn* conn_;
  const absl::Duration statement_timeout_;
  bool broken_ = false;
  std::map<std::string, std::string, std::less<>> prepared_;  // SQL to name
};

struct PostgresOptions {
  std::string url;      // "postgres://user@host:port/database?…" as libpq takes it
  int connections = 8;  // at most; further calls wait for one
  absl::Duration connect_timeout = absl::Seconds(3);
  absl::Duration statement_timeout = absl::Seconds(5);
};

// Thread-safe.
class Postgres {
 public:
  // Told of each call that may change something: how long it took and whether it went well.
  using Observer = std::function<void(absl::Duration, bool ok)>;

  // Connects once, so that a wrong address is told at once.
  static absl::StatusOr<std::unique_ptr<Postgres>> Open(PostgresOptions options);
  ~Postgres();
  Postgres(const Postgres&) = delete;
  Postgres& operator=(const Postgres&) = delete;

  // One statement, a transaction of its own.
  absl::StatusOr<PgRows> Run(std::string_view sql, const std::vector<PgValue>& values = {});
  // `body` inside one transaction (READ COMMITTED), committed when it returns OK, else rolled back.
  absl::Status Transact(const std::function<absl::Status(PgSession*)>& body);

  // Brings the schema of `component` to the newest version: runs migrations[version..] in one transaction. Of several
  // programs that do so at once, one does it and the others wait.
  //   FAILED_PRECONDITION: the database was written by a newer program.
  absl::Status Migrate(std::string_view component, const std::vector<std::string>& migrations);

  // Since when nothing was seen amiss with the connections: at Open, or after the newest one that broke or failed.
  absl::Time connected_since();

  // A connection apart from the pool.
  absl::StatusOr<std::unique_ptr<PgSession>> Connect();

  // Set it before the first use.
  void SetObserver(Observer observer) { observer_ = std::move(observer); }

 private:
  explicit Postgres(PostgresOptions options) : options_(std::move(options)) {}
  absl::StatusOr<std::unique_ptr<PgSession>> Borrow();
  void Return(std::unique_ptr<PgSession> session);

  const PostgresOptions options_;
  Observer observer_;
  Mutex mu_;
  CondVar returned_;
  std::vector<std::unique_ptr<PgSession>> idle_ ABSL_GUARDED_BY(mu_);
  int lent_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time retry_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Duration backoff_ ABSL_GUARDED_BY(mu_) = absl::ZeroDuration();
  absl::Status last_error_ ABSL_GUARDED_BY(mu_);
  absl::Time connected_since_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_POSTGRES_H_
