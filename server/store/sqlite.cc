// SPDX-License-Identifier: Apache-2.0
#include "server/store/sqlite.h"

#include <sqlite3.h>

#include <cerrno>
#include <limits>
#include <utility>

#include "absl/log/check.h"
#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace quant {
namespace {

constexpr int kBusyTimeoutMs = 5000;
constexpr absl::Duration kDiskFullRetry = absl::Seconds(5);  // what a caller is told to wait

absl::StatusCode CodeOf(int extended) {
  switch (extended) {
    case SQLITE_CONSTRAINT_UNIQUE:
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_ROWID:
      return absl::StatusCode::kAlreadyExists;
    default:
      break;
  }
  switch (extended & 0xff) {
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_IOERR:
    case SQLITE_PROTOCOL:
      return absl::StatusCode::kUnavailable;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    case SQLITE_CONSTRAINT:
      return absl::StatusCode::kFailedPrecondition;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
      return absl::StatusCode::kPermissionDenied;
    default:
      return absl::StatusCode::kInternal;
  }
}

std::string_view Remedy(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return "; make room on the disk that holds the data folder";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return "; another program holds the database";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return "; restore the file from a backup";
    default:
      return "";
  }
}

}  // namespace

// ---------------------------------------------------------------- statements

class SqliteStatement : public StatementImpl {
 public:
  SqliteStatement(Database* db, sqlite3_stmt* stmt) : db_(db), stmt_(stmt) {}
  ~SqliteStatement() override { db_->Release(stmt_); }

  void BindInt(int index, int64_t value) override { Note(sqlite3_bind_int64(stmt_, index, value)); }
  void BindDouble(int index, double value) override { Note(sqlite3_bind_double(stmt_, index, value)); }
  void BindNull(int index) override { Note(sqlite3_bind_null(stmt_, index)); }
  void BindText(int index, std::string_view text) override {
    // A null pointer would bind NULL, and an empty view may have one.
    const char* const data = text.data() == nullptr ? "" : text.data();
    Note(sqlite3_bind_text64(stmt_, index, data, text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  }
  void BindBlob(int index, std::string_view bytes) override {
    const char* const data = bytes.data() == nullptr ? "" : bytes.data();
    Note(sqlite3_bind_blob64(stmt_, index, data, bytes.size(), SQLITE_TRANSIENT));
  }

  absl::StatusOr<bool> Step() override {
    if (bind_error_ != SQLITE_OK) return db_->Error(bind_error_, "binding a parameter");
    const int code = sqlite3_step(stmt_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    absl::Status status = db_->Error(code, sqlite3_sql(stmt_));
    sqlite3_reset(stmt_);
    return status;
  }
  void Reset() override { sqlite3_reset(stmt_); }

  int64_t Int(int column) const override { return sqlite3_column_int64(stmt_, column); }
  double Double(int column) const override { return sqlite3_column_double(stmt_, column); }
  bool IsNull(int column) const override { return sqlite3_column_type(stmt_, column) == SQLITE_NULL; }
  std::string Bytes(int column) const override {
    const auto* const bytes = static_cast<const char*>(sqlite3_column_blob(stmt_, column));
    return bytes == nullptr ? "" : std::string(bytes, static_cast<size_t>(sqlite3_column_bytes(stmt_, column)));
  }

 private:
  void Note(int code) {
    if (code != SQLITE_OK && bind_error_ == SQLITE_OK) bind_error_ = code;
  }

  Database* const db_;
  sqlite3_stmt* const stmt_;
  int bind_error_ = 0;
};

// ---------------------------------------------------------------- Database

absl::Status Database::Error(int code, std::string_view doing) const {
  const int extended = db_ == nullptr ? code : sqlite3_extended_errcode(db_);
  const int best = (extended & 0xff) == (code & 0xff) ? extended : code;
  const char* const detail = db_ == nullptr ? sqlite3_errstr(best) : sqlite3_errmsg(db_);
  // Some system calls that find the disk full come back as I/O errors.
  const bool full = (best & 0xff) == SQLITE_FULL ||
                    ((best & 0xff) == SQLITE_IOERR && db_ != nullptr && sqlite3_system_errno(db_) == ENOSPC);
  const int code_for_people = full ? SQLITE_FULL : best;
  absl::Status status(CodeOf(code_for_people), absl::StrCat("database: ", detail, " (SQLite ", best, ") at ",
                                                            Quoted(doing), AbslView(Remedy(code_for_people))));
  return full ? WithReason(std::move(status), "DISK_FULL", {}, kDiskFullRetry) : status;
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::filesystem::path& path) {
  std::unique_ptr<Database> db(new Database);
  const std::string doing = absl::StrCat("opening ", path.string());
  const int code = sqlite3_open_v2(path.c_str(), &db->db_,
                                   SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (code != SQLITE_OK) return db->Error(code, doing);
  sqlite3_extended_result_codes(db->db_, 1);
  sqlite3_busy_timeout(db->db_, kBusyTimeoutMs);
  // A database file that somebody else made must not run code of its own choosing.
  sqlite3_db_config(db->db_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(db->db_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  if (path != ":memory:") {
    ASSIGN_OR_RETURN(Statement wal, db->Prepare("PRAGMA journal_mode=WAL"));
    ASSIGN_OR_RETURN(const bool row, wal.Step());
    if (!row || wal.Text(0) != "wal") {
      return absl::FailedPreconditionError(
          absl::StrCat(path.string(), " cannot use write-ahead logging; put the data folder on a local file system"));
    }
  }
  RETURN_IF_ERROR(db->Execute("PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY"));
  return db;
}

Database::~Database() {
  for (const auto& [sql, stmt] : idle_) sqlite3_finalize(stmt);
  const int code = sqlite3_close(db_);
  LOG_IF(ERROR, code != SQLITE_OK) << "a statement outlived its database";
}

absl::StatusOr<Statement> Database::Prepare(std::string_view sql) {
  if (const auto it = idle_.find(sql); it != idle_.end()) {
    sqlite3_stmt* const stmt = it->second;
    idle_.erase(it);
    return Statement(std::make_unique<SqliteStatement>(this, stmt));
  }
  sqlite3_stmt* stmt = nullptr;
  const int code =
      sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, &stmt, nullptr);
  if (code != SQLITE_OK) return Error(code, sql);
  CHECK(stmt != nullptr) << "empty SQL";
  return Statement(std::make_unique<SqliteStatement>(this, stmt));
}

void Database::Release(sqlite3_stmt* stmt) {
  constexpr size_t kCacheSize = 128;
  sqlite3_reset(stmt);
  sqlite3_clear_bindings(stmt);
  if (idle_.size() >= kCacheSize) {
    sqlite3_finalize(stmt);
    return;
  }
  idle_.emplace(sqlite3_sql(stmt), stmt);
}

absl::Status Database::Execute(std::string_view sql) {
  const int code = sqlite3_exec(db_, std::string(sql).c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code, sql);
}

int64_t Database::Changes() const { return sqlite3_changes64(db_); }
int64_t Database::LastInsertRowId() const { return sqlite3_last_insert_rowid(db_); }

absl::Status Database::Migrate(std::string_view component, const std::vector<std::string>& migrations) {
  RETURN_IF_ERROR(
      Execute("CREATE TABLE IF NOT EXISTS schema_version (component TEXT PRIMARY KEY, version INTEGER NOT NULL) "
              "WITHOUT ROWID, STRICT"));
  size_t version = 0;
  {
    ASSIGN_OR_RETURN(Statement get, Prepare("SELECT version FROM schema_version WHERE component = ?"));
    get.Bind(1, component);
    ASSIGN_OR_RETURN(const bool row, get.Step());
    if (row) version = static_cast<size_t>(get.Int(0));
  }
  if (version > migrations.size()) {
    return absl::FailedPreconditionError(absl::StrCat("the database's schema of ", AbslView(component), " has version ",
                                                      version, ", this program knows ", migrations.size(),
                                                      "; run the newer quantd that wrote it"));
  }
  for (; version < migrations.size(); ++version) {
    ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(this));
    RETURN_IF_ERROR(Execute(migrations[version]));
    ASSIGN_OR_RETURN(Statement set,
                     Prepare("INSERT OR REPLACE INTO schema_version (component, version) VALUES (?, ?)"));
    set.Bind(1, component);
    set.Bind(2, static_cast<int64_t>(version + 1));
    RETURN_IF_ERROR(set.Run());
    RETURN_IF_ERROR(txn.Commit());
  }
  return absl::OkStatus();
}

absl::Status Database::Begin() {
  // IMMEDIATE: the write lock is taken now, within the busy timeout, instead of failing half-way.
  ASSIGN_OR_RETURN(Statement begin, Prepare("BEGIN IMMEDIATE"));
  return begin.Run();
}

absl::Status Database::Commit() {
  ASSIGN_OR_RETURN(Statement commit, Prepare("COMMIT"));
  return commit.Run();
}

void Database::Rollback() {
  // SQLite rolls back by itself after some errors: then there is nothing left to do.
  if (sqlite3_get_autocommit(db_) != 0) return;
  const absl::Status status = Execute("ROLLBACK");
  LOG_IF(ERROR, !status.ok()) << "rollback: " << status;
}

}  // namespace quant
