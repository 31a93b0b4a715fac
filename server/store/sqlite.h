// SPDX-License-Identifier: Apache-2.0
// Database, Statement, Transaction: SQLite with Status instead of codes, and with the settings of a server that does
// not lose what it acknowledged: WAL, synchronous=FULL, foreign keys on, busy timeout 5 s.
//
//   ASSIGN_OR_RETURN(auto db, Database::Open(path));
//   MutexLock lock(db->mutex());
//   ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db.get()));
//   ASSIGN_OR_RETURN(Statement insert, db->Prepare("INSERT INTO model (id, name) VALUES (?, ?)"));
//   insert.Bind(1, id);
//   insert.Bind(2, name);
//   RETURN_IF_ERROR(insert.Run());
//   RETURN_IF_ERROR(txn.Commit());      // durable when this returns OK
//
// Thread-safety: a Database is one connection; its mutex() must be held for every use of it and of its statements, and
// is taken by no function here. Several Databases on one file do not disturb each other (WAL), within the busy timeout.
//
// Errors of every function: RESOURCE_EXHAUSTED (disk or database full; the message says how to make room), UNAVAILABLE
// (locked or busy beyond the timeout, I/O error), DATA_LOSS (corrupt, not a database), ALREADY_EXISTS (a unique or
// primary key is taken), FAILED_PRECONDITION (another constraint), PERMISSION_DENIED (read-only, no access), INTERNAL
// (an error in our SQL).
#ifndef QUANT_SERVER_STORE_SQLITE_H_
#define QUANT_SERVER_STORE_SQLITE_H_

#include <cstdint>
#include <filesystem>
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

struct sqlite3;
struct sqlite3_stmt;

namespace quant {

class Database;

// A prepared statement on loan from its Database, reset and unbound when it is destroyed. Must not outlive it.
class Statement {
 public:
  Statement(Statement&& other) noexcept;
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  // Parameters count from 1. Bytes are copied. An error of a Bind is reported by the next Step or Run.
  void Bind(int index, int64_t value);
  void Bind(int index, double value);
  void Bind(int index, std::string_view text);
  void Bind(int index, const char* text) { Bind(index, std::string_view(text)); }
  void Bind(int index, const std::string& text) { Bind(index, std::string_view(text)); }
  void Bind(int index, int value) { Bind(index, static_cast<int64_t>(value)); }
  void Bind(int index, bool value) = delete;
  void BindBlob(int index, std::string_view bytes);
  void BindNull(int index);
  // Nanoseconds since 1970 as an integer; infinite times are kept.
  void Bind(int index, absl::Time time);

  // True when there is a row, false after the last.
  absl::StatusOr<bool> Step();
  // Steps to the end; any rows are skipped.
  absl::Status Run();
  // Makes the statement ready to run again; bindings stay.
  void Reset();

  // Columns count from 0 and are read between Step calls.
  int64_t Int(int column) const;
  double Double(int column) const;
  std::string Text(int column) const;
  std::string Blob(int column) const;
  bool IsNull(int column) const;
  absl::Time Time(int column) const;

 private:
  friend class Database;
  Statement(Database* db, sqlite3_stmt* stmt) : db_(db), stmt_(stmt) {}
  void Note(int code);

  Database* db_;
  sqlite3_stmt* stmt_;
  int bind_error_ = 0;
};

class Database {
 public:
  // Told of each Transaction::Commit: how long it took and whether it went well.
  using CommitObserver = std::function<void(absl::Duration, bool ok)>;

  // Opens or creates the file. ":memory:" makes a private database in memory, for tests.
  //   Besides the errors above, FAILED_PRECONDITION when WAL cannot be had (a network file system).
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::filesystem::path& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  Mutex* mutex() ABSL_LOCK_RETURNED(mu_) { return &mu_; }

  // Compiles `sql` (one statement), or takes it from the cache of statements compiled before. A statement that is
  // already on loan is compiled a second time.
  absl::StatusOr<Statement> Prepare(std::string_view sql);
  // Runs statements without parameters, separated by ";".
  absl::Status Execute(std::string_view sql);
  // Rows changed by the newest INSERT, UPDATE or DELETE.
  int64_t Changes() const;
  int64_t LastInsertRowId() const;

  // Brings the schema of `component` to the newest version: runs migrations[version..] in one transaction each. A
  // component is a set of tables with one owner ("artifacts", "jobs").
  //   FAILED_PRECONDITION: the file was written by a newer program.
  absl::Status Migrate(std::string_view component, const std::vector<std::string>& migrations);

  void SetCommitObserver(CommitObserver observer) { observer_ = std::move(observer); }

 private:
  friend class Statement;
  friend class Transaction;
  Database() = default;
  absl::Status Error(int code, std::string_view doing) const;
  void Release(sqlite3_stmt* stmt);

  Mutex mu_;
  sqlite3* db_ = nullptr;
  std::multimap<std::string, sqlite3_stmt*, std::less<>> idle_;  // compiled and not on loan, by SQL
  CommitObserver observer_;
  bool in_transaction_ = false;
};

// BEGIN IMMEDIATE … COMMIT: rolls back when destroyed without Commit. Not nested.
class Transaction {
 public:
  static absl::StatusOr<Transaction> Begin(Database* db);
  Transaction(Transaction&& other) noexcept;
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();

  // Durable when OK. After an error everything is rolled back.
  absl::Status Commit();

 private:
  explicit Transaction(Database* db) : db_(db) {}
  Database* db_;  // null once ended
  absl::Time start_;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_SQLITE_H_
