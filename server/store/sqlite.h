// SPDX-License-Identifier: Apache-2.0
// Database: SQLite behind SqlConnection (sql.h), with Status instead of codes, and with the settings of a server that
// does not lose what it acknowledged: WAL, synchronous=FULL, foreign keys on, busy timeout 5 s.
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
#include "server/store/sql.h"

struct sqlite3;
struct sqlite3_stmt;

namespace quant {

class Database : public SqlConnection {
 public:
  // Opens or creates the file. ":memory:" makes a private database in memory, for tests.
  //   Besides the errors above, FAILED_PRECONDITION when WAL cannot be had (a network file system).
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::filesystem::path& path);
  ~Database() override;
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  Dialect dialect() const override { return Dialect::kSqlite; }

  // A statement that is already on loan is compiled a second time.
  absl::StatusOr<Statement> Prepare(std::string_view sql) override;
  // Runs statements without parameters, separated by ";".
  absl::Status Execute(std::string_view sql);
  int64_t Changes() const override;
  int64_t LastInsertRowId() const;

  // Each migration in a transaction of its own.
  absl::Status Migrate(std::string_view component, const std::vector<std::string>& migrations) override;

 private:
  friend class SqliteStatement;
  Database() = default;
  absl::Status Begin() override;
  absl::Status Commit() override;
  void Rollback() override;
  absl::Status Error(int code, std::string_view doing) const;
  void Release(sqlite3_stmt* stmt);

  sqlite3* db_ = nullptr;
  std::multimap<std::string, sqlite3_stmt*, std::less<>> idle_;  // compiled and not on loan, by SQL
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_SQLITE_H_
