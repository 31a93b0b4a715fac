// SPDX-License-Identifier: Apache-2.0
// PostgresConnection: one connection to PostgreSQL behind SqlConnection (sql.h). Made anew when it broke. Errors: those
// of Postgres.
//
// Its transactions exclude each other over all servers (an advisory lock), as SQLite's do over all threads.
#ifndef QUANT_SERVER_STORE_POSTGRES_CONNECTION_H_
#define QUANT_SERVER_STORE_POSTGRES_CONNECTION_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/store/postgres.h"
#include "server/store/sql.h"

namespace quant {

// Thread-safety: sql.h.
class PostgresConnection : public SqlConnection {
 public:
  // `lock` names the advisory lock: one number per set of tables. `db` must outlive the connection.
  PostgresConnection(Postgres* db, int64_t lock) : db_(db), lock_(lock) {}

  Dialect dialect() const override { return Dialect::kPostgres; }
  absl::StatusOr<Statement> Prepare(std::string_view sql) override;
  int64_t Changes() const override { return changes_; }
  absl::Status Migrate(std::string_view component, const std::vector<std::string>& migrations) override {
    return db_->Migrate(component, migrations);
  }

 private:
  friend class PostgresStatement;
  absl::Status Begin() override;
  absl::Status Commit() override;
  void Rollback() override;
  absl::StatusOr<PgRows> Run(const std::string& sql, const std::vector<PgValue>& values);

  Postgres* const db_;
  const int64_t lock_;
  std::unique_ptr<PgSession> session_;
  bool in_transaction_ = false;
  int64_t changes_ = 0;
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_POSTGRES_CONNECTION_H_
