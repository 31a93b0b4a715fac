// SPDX-License-Identifier: Apache-2.0
#include "server/store/postgres_connection.h"

#include <cctype>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace quant {
namespace {

// "?" and "?2" as PostgreSQL writes them: "$1", "$2". Our SQL has no "?" in its texts.
std::string Translate(std::string_view sql) {
  std::string out;
  int next = 0;
  for (size_t i = 0; i < sql.size(); ++i) {
    if (sql[i] != '?') {
      out += sql[i];
    } else if (i + 1 < sql.size() && std::isdigit(static_cast<unsigned char>(sql[i + 1])) != 0) {
      out += '$';
    } else {
      absl::StrAppend(&out, "$", ++next);
    }
  }
  return out;
}

}  // namespace

// Reads all rows at the first Step.
class PostgresStatement : public StatementImpl {
 public:
  PostgresStatement(PostgresConnection* db, std::string sql) : db_(db), sql_(std::move(sql)) {}

  void BindInt(int index, int64_t value) override { Set(index, value); }
  void BindDouble(int index, double value) override { Set(index, PgValue(value)); }
  void BindText(int index, std::string_view text) override { Set(index, text); }
  void BindBlob(int index, std::string_view bytes) override { Set(index, PgValue::Bytes(bytes)); }
  void BindNull(int index) override { Set(index, PgValue::Null()); }

  absl::StatusOr<bool> Step() override {
    if (!rows_.has_value()) {
      ASSIGN_OR_RETURN(PgRows rows, db_->Run(sql_, values_));
      rows_.emplace(std::move(rows));
      row_ = -1;
    }
    return ++row_ < rows_->size();
  }
  void Reset() override { rows_.reset(); }

  int64_t Int(int column) const override { return rows_->Int(row_, column); }
  double Double(int column) const override { return rows_->Double(row_, column); }
  std::string Bytes(int column) const override { return rows_->Bytes(row_, column); }
  bool IsNull(int column) const override { return rows_->IsNull(row_, column); }

 private:
  void Set(int index, PgValue value) {
    while (values_.size() < static_cast<size_t>(index)) values_.push_back(PgValue::Null());
    values_[static_cast<size_t>(index) - 1] = std::move(value);
  }

  PostgresConnection* const db_;
  const std::string sql_;
  std::vector<PgValue> values_;
  std::optional<PgRows> rows_;
  int row_ = -1;
};

absl::StatusOr<Statement> PostgresConnection::Prepare(std::string_view sql) {
  return Statement(std::make_unique<PostgresStatement>(this, Translate(sql)));
}

absl::StatusOr<PgRows> PostgresConnection::Run(const std::string& sql, const std::vector<PgValue>& values) {
  // A transaction does not outlive its connection: its statements fail until it ends.
  if (!in_transaction_ && (session_ == nullptr || !session_->alive())) {
    ASSIGN_OR_RETURN(session_, db_->Connect());
  }
  ASSIGN_OR_RETURN(PgRows rows, session_->Run(sql, values));
  changes_ = rows.affected();
  return rows;
}

absl::Status PostgresConnection::Begin() {
  RETURN_IF_ERROR(Run("BEGIN", {}).status());
  in_transaction_ = true;
  const absl::Status locked = Run("SELECT pg_advisory_xact_lock($1)", {lock_}).status();
  if (!locked.ok()) Rollback();
  return locked;
}

absl::Status PostgresConnection::Commit() {
  const absl::Status status = Run("COMMIT", {}).status();
  if (status.ok()) in_transaction_ = false;
  return status;
}

void PostgresConnection::Rollback() {
  if (in_transaction_ && !Run("ROLLBACK", {}).ok()) session_.reset();
  in_transaction_ = false;
}

}  // namespace quant
