// SPDX-License-Identifier: Apache-2.0
// SqlConnection, Statement, Transaction: one SQL for stores that are the same on SQLite (sqlite.h) and PostgreSQL
// (postgres_connection.h). Parameters are written ? or ?NUMBER; what else differs between the two (the schema, above
// all) the store has twice, by dialect().
//
//   MutexLock lock(db->mutex());
//   ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db));
//   ASSIGN_OR_RETURN(Statement insert, db->Prepare("INSERT INTO model (id, name) VALUES (?, ?)"));
//   insert.Bind(1, id);
//   insert.Bind(2, name);
//   RETURN_IF_ERROR(insert.Run());
//   RETURN_IF_ERROR(txn.Commit());      // durable when this returns OK
//
// Thread-safety: mutex() must be held for every use of a connection and of its statements, and is taken by no function
// here.
#ifndef QUANT_SERVER_STORE_SQL_H_
#define QUANT_SERVER_STORE_SQL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace quant {

// What an engine does for a Statement.
class StatementImpl {
 public:
  virtual ~StatementImpl() = default;
  virtual void BindInt(int index, int64_t value) = 0;
  virtual void BindDouble(int index, double value) = 0;
  virtual void BindText(int index, std::string_view text) = 0;
  virtual void BindBlob(int index, std::string_view bytes) = 0;
  virtual void BindNull(int index) = 0;
  virtual absl::StatusOr<bool> Step() = 0;
  virtual void Reset() = 0;
  virtual int64_t Int(int column) const = 0;
  virtual double Double(int column) const = 0;
  virtual std::string Bytes(int column) const = 0;
  virtual bool IsNull(int column) const = 0;
};

// A prepared statement on loan from its connection. Must not outlive it.
class Statement {
 public:
  explicit Statement(std::unique_ptr<StatementImpl> impl) : impl_(std::move(impl)) {}

  // Parameters count from 1. Bytes are copied. An error of a Bind is reported by the next Step or Run.
  void Bind(int index, int64_t value) { impl_->BindInt(index, value); }
  void Bind(int index, double value) { impl_->BindDouble(index, value); }
  void Bind(int index, std::string_view text) { impl_->BindText(index, text); }
  void Bind(int index, const char* text) { Bind(index, std::string_view(text)); }
  void Bind(int index, const std::string& text) { Bind(index, std::string_view(text)); }
  void Bind(int index, int value) { Bind(index, static_cast<int64_t>(value)); }
  void Bind(int index, bool value) = delete;
  void BindBlob(int index, std::string_view bytes) { impl_->BindBlob(index, bytes); }
  void BindNull(int index) { impl_->BindNull(index); }
  // Nanoseconds since 1970 as an integer; infinite times are kept.
  void Bind(int index, absl::Time time);

  // True when there is a row, false after the last.
  absl::StatusOr<bool> Step() { return impl_->Step(); }
  // Steps to the end; any rows are skipped.
  absl::Status Run();
  // Makes the statement ready to run again; bindings stay.
  void Reset() { impl_->Reset(); }

  // Columns count from 0 and are read between Step calls.
  int64_t Int(int column) const { return impl_->Int(column); }
  double Double(int column) const { return impl_->Double(column); }
  std::string Text(int column) const { return impl_->Bytes(column); }
  std::string Blob(int column) const { return impl_->Bytes(column); }
  bool IsNull(int column) const { return impl_->IsNull(column); }
  absl::Time Time(int column) const;

 private:
  std::unique_ptr<StatementImpl> impl_;
};

class SqlConnection {
 public:
  enum class Dialect { kSqlite, kPostgres };
  // Told of each Transaction::Commit: how long it took and whether it went well.
  using CommitObserver = std::function<void(absl::Duration, bool ok)>;

  virtual ~SqlConnection() = default;

  Mutex* mutex() ABSL_LOCK_RETURNED(mu_) { return &mu_; }
  virtual Dialect dialect() const = 0;

  // Compiles `sql` (one statement), or takes it from the cache of statements compiled before.
  virtual absl::StatusOr<Statement> Prepare(std::string_view sql) = 0;
  // Rows changed by the newest INSERT, UPDATE or DELETE.
  virtual int64_t Changes() const = 0;

  // Brings the schema of `component` to the newest version: runs migrations[version..]. A component is a set of tables
  // with one owner ("artifacts", "jobs").
  //   FAILED_PRECONDITION: the database was written by a newer program.
  virtual absl::Status Migrate(std::string_view component, const std::vector<std::string>& migrations) = 0;

  void SetCommitObserver(CommitObserver observer) { observer_ = std::move(observer); }

 protected:
  friend class Transaction;
  virtual absl::Status Begin() = 0;
  virtual absl::Status Commit() = 0;
  virtual void Rollback() = 0;  // also after an error that has rolled back already

 private:
  Mutex mu_;
  CommitObserver observer_;
  bool in_transaction_ = false;
};

// Writers one after the other, of all servers on the database: what a transaction has read stays true until it ends.
// Rolls back when destroyed without Commit. Not nested.
class Transaction {
 public:
  static absl::StatusOr<Transaction> Begin(SqlConnection* db);
  Transaction(Transaction&& other) noexcept;
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();

  // Durable when OK. After an error everything is rolled back.
  absl::Status Commit();

 private:
  explicit Transaction(SqlConnection* db) : db_(db) {}
  SqlConnection* db_;  // null once ended
  absl::Time start_;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_SQL_H_
