// SPDX-License-Identifier: Apache-2.0
#include "server/store/sql.h"

#include <limits>

#include "absl/log/check.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"

namespace quant {

void Statement::Bind(int index, absl::Time time) {
  int64_t nanos = absl::ToUnixNanos(time);  // saturates
  if (time == absl::InfiniteFuture()) nanos = std::numeric_limits<int64_t>::max();
  if (time == absl::InfinitePast()) nanos = std::numeric_limits<int64_t>::min();
  Bind(index, nanos);
}

absl::Status Statement::Run() {
  while (true) {
    ASSIGN_OR_RETURN(const bool row, Step());
    if (!row) return absl::OkStatus();
  }
}

absl::Time Statement::Time(int column) const {
  const int64_t nanos = Int(column);
  if (nanos == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (nanos == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixNanos(nanos);
}

absl::StatusOr<Transaction> Transaction::Begin(SqlConnection* db) {
  CHECK(!db->in_transaction_) << "transactions do not nest";
  const absl::Time start = absl::Now();
  RETURN_IF_ERROR(db->Begin());
  db->in_transaction_ = true;
  Transaction txn(db);
  txn.start_ = start;
  return txn;
}

Transaction::Transaction(Transaction&& other) noexcept : db_(std::exchange(other.db_, nullptr)), start_(other.start_) {}

Transaction::~Transaction() {
  if (db_ == nullptr) return;
  db_->in_transaction_ = false;
  db_->Rollback();
}

absl::Status Transaction::Commit() {
  CHECK(db_ != nullptr) << "the transaction has ended";
  SqlConnection* const db = std::exchange(db_, nullptr);
  const absl::Status status = db->Commit();
  db->in_transaction_ = false;
  if (!status.ok()) db->Rollback();
  if (db->observer_) db->observer_(absl::Now() - start_, status.ok());
  return status;
}

}  // namespace quant
