// SPDX-License-Identifier: Apache-2.0
// Whose the blobs are: which tenants have proved to hold one, and how much of their quota that uses.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/error_detail.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/auth/tenant_limits.h"
#include "server/blobs/blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/store/artifact_store.h"
#include "server/store/sql.h"

namespace quant {
namespace {

// A use is written down when the last one is older than this: far less than the sweep's grace.
constexpr absl::Duration kHolderPrecision = absl::Hours(1);

}  // namespace

absl::StatusOr<bool> ArtifactStore::Holds(const Principal& caller, std::string_view sha256) {
  if (caller.role != Role::kUser) return true;
  ASSIGN_OR_RETURN(Statement stmt,
                   db_->Prepare("SELECT 1 FROM blob_holder WHERE sha256 = ?1 AND tenant = ?2 UNION ALL "
                                "SELECT 1 FROM artifact_file AS f JOIN artifact AS a ON a.ordinal = f.artifact "
                                "WHERE f.sha256 = ?1 AND a.tenant = ?2 LIMIT 1"));
  stmt.Bind(1, sha256);
  stmt.Bind(2, caller.tenant);
  return stmt.Step();
}

absl::StatusOr<bool> ArtifactStore::HoldsBlob(const Principal& caller, std::string_view sha256) {
  if (caller.role != Role::kUser) return true;
  MutexLock lock(db_->mutex());
  const absl::Time now = clock_->Now();
  bool aged = false;
  {
    ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("SELECT use_time FROM blob_holder WHERE sha256 = ? AND tenant = ?"));
    stmt.Bind(1, sha256);
    stmt.Bind(2, caller.tenant);
    ASSIGN_OR_RETURN(const bool held, stmt.Step());
    if (!held) return Holds(caller, sha256);
    aged = stmt.Time(0) + kHolderPrecision < now;
  }
  if (!aged) return true;
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  {
    ASSIGN_OR_RETURN(Statement stmt,
                     db_->Prepare("UPDATE blob_holder SET use_time = ? WHERE sha256 = ? AND tenant = ?"));
    stmt.Bind(1, now);
    stmt.Bind(2, sha256);
    stmt.Bind(3, caller.tenant);
    RETURN_IF_ERROR(stmt.Run());
  }
  if (db_->Changes() == 0) return Holds(caller, sha256);  // swept meanwhile
  RETURN_IF_ERROR(txn.Commit());
  return true;
}

void ArtifactStore::SetLeasedInputs(LeasedInputs inputs) {
  MutexLock lock(&in_use_mu_);
  leased_inputs_ = std::move(inputs);
}

absl::StatusOr<bool> ArtifactStore::MayRead(const Principal& caller, std::string_view sha256) {
  if (caller.role != Role::kWorker) return HoldsBlob(caller, sha256);
  LeasedInputs inputs;
  {
    MutexLock lock(&in_use_mu_);
    inputs = leased_inputs_;
  }
  if (!inputs) return true;
  ASSIGN_OR_RETURN(const std::vector<std::string> ids, inputs(caller));  // without the store's lock
  MutexLock lock(db_->mutex());
  for (const std::string& id : ids) {
    ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("SELECT 1 FROM artifact AS a JOIN artifact_file AS f "
                                                  "ON f.artifact = a.ordinal WHERE a.id = ? AND f.sha256 = ? LIMIT 1"));
    stmt.Bind(1, id);
    stmt.Bind(2, sha256);
    ASSIGN_OR_RETURN(const bool named, stmt.Step());
    if (named) return true;
  }
  return false;
}

absl::Status ArtifactStore::NoteHeld(const Principal& caller, const BlobId& blob) {
  if (caller.role != Role::kUser) return absl::OkStatus();
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  {
    ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("INSERT INTO blob_holder (tenant, sha256, size_bytes, use_time) "
                                                  "VALUES (?, ?, ?, ?) ON CONFLICT (tenant, sha256) DO UPDATE "
                                                  "SET use_time = excluded.use_time"));
    stmt.Bind(1, caller.tenant);
    stmt.Bind(2, blob.sha256);
    stmt.Bind(3, blob.size_bytes);
    stmt.Bind(4, clock_->Now());
    RETURN_IF_ERROR(stmt.Run());
  }
  return txn.Commit();
}

ArtifactStore::Reservation& ArtifactStore::Reservation::operator=(Reservation&& other) noexcept {
  std::swap(store_, other.store_);
  std::swap(tenant_, other.tenant_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

ArtifactStore::Reservation::~Reservation() {
  if (store_ == nullptr) return;
  MutexLock lock(&store_->reserved_mu_);
  const auto it = store_->reserved_.find(tenant_);
  it->second -= bytes_;
  if (it->second == 0) store_->reserved_.erase(it);
}

absl::StatusOr<int64_t> ArtifactStore::StoredBytes(std::string_view tenant) {
  ASSIGN_OR_RETURN(Statement stmt,
                   db_->Prepare("SELECT CAST(coalesce(sum(size_bytes), 0) AS bigint) FROM ("
                                "SELECT sha256, size_bytes FROM blob_holder WHERE tenant = ?1 UNION "
                                "SELECT f.sha256, f.size_bytes FROM artifact AS a JOIN artifact_file AS f "
                                "ON f.artifact = a.ordinal WHERE a.tenant = ?1) AS held"));
  stmt.Bind(1, tenant);
  RETURN_IF_ERROR(stmt.Step().status());
  return stmt.Int(0);
}

absl::Status ArtifactStore::OverQuota(const Principal& caller, std::string_view resource, int64_t wanted,
                                      int64_t limit) {
  if (metrics_ != nullptr) metrics_->QuotaRejected(caller.tenant, resource);
  return WithReason(absl::ResourceExhaustedError(absl::StrCat("tenant ", Quoted(caller.tenant), " would have ", wanted,
                                                              " ", AbslView(resource), ", its limit is ", limit,
                                                              ": delete models or datasets, or ask for more")),
                    "QUOTA_EXCEEDED", {{"resource", std::string(resource)}, {"limit", absl::StrCat(limit)}});
}

absl::StatusOr<ArtifactStore::Reservation> ArtifactStore::Reserve(const Principal& caller, const BlobId& blob) {
  if (limits_ == nullptr || caller.role != Role::kUser) return Reservation();
  const TenantLimits limits = limits_->For(caller.tenant);
  if (limits.max_model_bytes > 0 && blob.size_bytes > limits.max_model_bytes) {
    return OverQuota(caller, "model_bytes", blob.size_bytes, limits.max_model_bytes);
  }
  if (limits.max_stored_bytes <= 0) return Reservation();
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(const int64_t stored, StoredBytes(caller.tenant));
  MutexLock reserved_lock(&reserved_mu_);
  const auto it = reserved_.find(caller.tenant);
  const int64_t used = stored + (it == reserved_.end() ? 0 : it->second);
  if (metrics_ != nullptr) {
    metrics_->SetQuotaUsed(caller.tenant, "stored_bytes",
                           static_cast<double>(used) / static_cast<double>(limits.max_stored_bytes));
  }
  if (blob.size_bytes > limits.max_stored_bytes - used) {
    return OverQuota(caller, "stored_bytes", used + blob.size_bytes, limits.max_stored_bytes);
  }
  reserved_[caller.tenant] += blob.size_bytes;
  return Reservation(this, caller.tenant, blob.size_bytes);
}

absl::Status ArtifactStore::ForgetHolders(std::string_view sha256) {
  ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("DELETE FROM blob_holder WHERE sha256 = ?"));
  stmt.Bind(1, sha256);
  return stmt.Run();
}

absl::Status ArtifactStore::ForgetOldHolders(absl::Time before) {
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  {
    ASSIGN_OR_RETURN(Statement stmt,
                     db_->Prepare("DELETE FROM blob_holder WHERE use_time < ? AND NOT EXISTS (SELECT 1 FROM "
                                  "artifact_file AS f JOIN artifact AS a ON a.ordinal = f.artifact "
                                  "WHERE f.sha256 = blob_holder.sha256 AND a.tenant = blob_holder.tenant)"));
    stmt.Bind(1, before);
    RETURN_IF_ERROR(stmt.Run());
  }
  return txn.Commit();
}

}  // namespace quant
