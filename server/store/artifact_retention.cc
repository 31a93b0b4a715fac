// SPDX-License-Identifier: Apache-2.0
// What is removed, and when: expire times and pins of models and datasets, and the sweep of blobs that nothing names.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/auth/tenant_limits.h"
#include "server/blobs/blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/store/artifact_store.h"
#include "server/store/manifest.h"
#include "server/store/sql.h"

namespace quant {
namespace {

// What a job is about to name, and what was just unpinned, is kept at least so long: time for a submit to be stored,
// and for somebody to think again.
constexpr absl::Duration kKept = absl::Hours(1);
constexpr int kPage = 100;

}  // namespace

absl::Status ArtifactStore::SetRetention(const Artifact& artifact) {
  ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("UPDATE artifact SET expire_time = ?, pinned = ? WHERE ordinal = ?"));
  stmt.Bind(1, artifact.expire_time);
  stmt.Bind(2, artifact.pinned ? 1 : 0);
  stmt.Bind(3, artifact.ordinal);
  return stmt.Run();
}

absl::StatusOr<ArtifactStore::Artifact> ArtifactStore::Use(Kind kind, const Principal& caller, std::string_view id) {
  ASSIGN_OR_RETURN(Artifact found, Get(kind, caller, id));
  if (found.expire_time >= clock_->Now() + kKept) return found;  // of a pinned one as well: it may be unpinned
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  ASSIGN_OR_RETURN(const std::vector<Artifact> now,
                   Select("ordinal = ?", [&](Statement* stmt) { stmt->Bind(1, found.ordinal); }));
  if (now.empty()) return NotVisible(caller, kind == Kind::kModel ? "model" : "dataset", id);
  found.pinned = now.front().pinned;
  found.expire_time = std::max(now.front().expire_time, clock_->Now() + kKept);
  RETURN_IF_ERROR(SetRetention(found));
  RETURN_IF_ERROR(txn.Commit());
  return found;
}

absl::StatusOr<v1::Model> ArtifactStore::UseModel(const Principal& caller, std::string_view id) {
  ASSIGN_OR_RETURN(Artifact found, Use(Kind::kModel, caller, id));
  return ToModel(std::move(found));
}
absl::StatusOr<v1::Dataset> ArtifactStore::UseDataset(const Principal& caller, std::string_view id) {
  ASSIGN_OR_RETURN(Artifact found, Use(Kind::kDataset, caller, id));
  return ToDataset(std::move(found));
}

absl::StatusOr<v1::SetRetentionResponse> ArtifactStore::SetRetention(const Principal& caller,
                                                                     const v1::SetRetentionRequest& request) {
  absl::Duration ttl;
  if (request.has_ttl()) {
    ASSIGN_OR_RETURN(ttl, CheckTtl(request.ttl()));
  } else if (!request.has_pinned()) {
    return absl::InvalidArgumentError("the request changes nothing: set pinned, ttl or both");
  }
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  ASSIGN_OR_RETURN(std::vector<Artifact> rows, Select("id = ?", [&](Statement* stmt) { stmt->Bind(1, request.id()); }));
  if (rows.empty() || !caller.Sees(rows.front().tenant)) {
    return NotVisible(caller, request.id().starts_with("d-") ? "dataset" : "model", request.id());
  }
  Artifact& artifact = rows.front();
  const absl::Time now = clock_->Now();
  if (request.has_ttl()) artifact.expire_time = now + ttl;
  if (request.has_pinned()) {
    const bool unpinned = artifact.pinned && !request.pinned();
    artifact.pinned = request.pinned();
    if (unpinned && !request.has_ttl()) artifact.expire_time = std::max(artifact.expire_time, now + kKept);
  }
  RETURN_IF_ERROR(SetRetention(artifact));
  RETURN_IF_ERROR(txn.Commit());
  v1::SetRetentionResponse response;
  if (artifact.expire_time != absl::InfiniteFuture()) SetProto(artifact.expire_time, response.mutable_expire_time());
  response.set_pinned(artifact.pinned);
  return response;
}

// ---------------------------------------------------------------- expiry

absl::StatusOr<int64_t> ArtifactStore::OwnBytes(const Artifact& artifact) {
  ASSIGN_OR_RETURN(Statement stmt,
                   db_->Prepare("SELECT CAST(coalesce(sum(size_bytes), 0) AS bigint) FROM ("
                                "SELECT DISTINCT sha256, size_bytes FROM artifact_file AS f WHERE artifact = ?1 "
                                "AND NOT EXISTS (SELECT 1 FROM artifact_file AS o "
                                "WHERE o.sha256 = f.sha256 AND o.artifact <> ?1)) AS own"));
  stmt.Bind(1, artifact.ordinal);
  RETURN_IF_ERROR(stmt.Step().status());
  return stmt.Int(0);
}

absl::StatusOr<bool> ArtifactStore::Expire(int64_t ordinal, absl::Time now) {
  const InUse in_use = this->in_use();
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  ASSIGN_OR_RETURN(const std::vector<Artifact> rows,
                   Select("ordinal = ? AND pinned = 0 AND expire_time <= ?", [&](Statement* stmt) {
                     stmt->Bind(1, ordinal);
                     stmt->Bind(2, now);
                   }));
  if (rows.empty()) return false;
  const Artifact& artifact = rows.front();
  if (in_use) {
    ASSIGN_OR_RETURN(const std::string job, in_use(artifact.id, artifact.source_job_id));
    if (!job.empty()) return false;
  }
  ASSIGN_OR_RETURN(const int64_t bytes, OwnBytes(artifact));
  RETURN_IF_ERROR(Erase(artifact));
  RETURN_IF_ERROR(txn.Commit());
  const char* const kind = artifact.id.starts_with("d-") ? "dataset" : "model";
  LOG(INFO) << "sweep: " << kind << " " << artifact.id << " of tenant " << Quoted(artifact.tenant) << " expired at "
            << artifact.expire_time << "; " << bytes << " bytes that nothing else names";
  if (metrics_ != nullptr) metrics_->ArtifactExpired(kind, bytes);
  UpdateGauges();
  return true;
}

absl::StatusOr<int64_t> ArtifactStore::DeleteExpired() {
  const absl::Time now = clock_->Now();
  int64_t deleted = 0;
  // Those that something keeps stay in the way: go past them.
  absl::Time after = absl::InfinitePast();
  int64_t after_ordinal = std::numeric_limits<int64_t>::min();
  while (true) {
    std::vector<Artifact> rows;
    {
      MutexLock lock(db_->mutex());
      ASSIGN_OR_RETURN(rows, Select("pinned = 0 AND expire_time <= ? AND (expire_time, ordinal) > (?, ?) "
                                    "ORDER BY expire_time, ordinal LIMIT ?",
                                    [&](Statement* stmt) {
                                      stmt->Bind(1, now);
                                      stmt->Bind(2, after);
                                      stmt->Bind(3, after_ordinal);
                                      stmt->Bind(4, kPage);
                                    }));
    }
    for (const Artifact& row : rows) {
      ASSIGN_OR_RETURN(const bool gone, Expire(row.ordinal, now));
      if (!gone) continue;
      ++deleted;
      MutexLock lock(&swept_mu_);
      ++swept_.expired;
    }
    if (std::ssize(rows) < kPage) return deleted;
    after = rows.back().expire_time;
    after_ordinal = rows.back().ordinal;
  }
}

// ---------------------------------------------------------------- blobs

absl::StatusOr<bool> ArtifactStore::IsReferenced(std::string_view sha256) {
  ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("SELECT 1 FROM artifact_file WHERE sha256 = ? LIMIT 1"));
  stmt.Bind(1, sha256);
  return stmt.Step();
}

absl::StatusOr<int64_t> ArtifactStore::SweepUnreferenced(absl::Duration grace) {
  const absl::Time start = absl::Now();
  const absl::Time before = clock_->Now() - grace;
  ASSIGN_OR_RETURN(int64_t reclaimed, blobs_->DropUploads(before));
  ASSIGN_OR_RETURN(const std::vector<BlobId> stale, blobs_->Stale(before));
  int64_t removed = 0;
  for (const BlobId& blob : stale) {
    MutexLock lock(db_->mutex());
    ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
    ASSIGN_OR_RETURN(const bool referenced, IsReferenced(blob.sha256));
    if (referenced) continue;
    ASSIGN_OR_RETURN(const bool gone, blobs_->Remove(blob, before));
    if (!gone) continue;
    RETURN_IF_ERROR(ForgetHolders(blob.sha256));
    RETURN_IF_ERROR(txn.Commit());
    ++removed;
    reclaimed += blob.size_bytes;
  }
  {
    MutexLock lock(db_->mutex());
    RETURN_IF_ERROR(ForgetOldHolders(before));
  }
  LOG_IF(INFO, reclaimed > 0) << "sweep: removed " << removed << " unreferenced blobs; " << reclaimed
                              << " bytes reclaimed, dropped uploads included";
  if (metrics_ != nullptr) {
    metrics_->CasSwept(reclaimed, absl::Now() - start);
    const BlobStore::Stats stats = blobs_->stats();
    metrics_->SetCas(stats.blobs, stats.bytes);
  }
  MutexLock lock(&swept_mu_);
  swept_.time = clock_->Now();
  swept_.bytes = reclaimed;
  swept_.all_bytes += reclaimed;
  return reclaimed;
}

absl::StatusOr<v1::GetStorageResponse> ArtifactStore::GetStorage(const Principal& caller) {
  v1::GetStorageResponse response;
  if (limits_ != nullptr) response.set_tenant_limit_bytes(limits_->For(caller.tenant).max_stored_bytes);
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(const int64_t bytes, StoredBytes(caller.tenant));
  response.set_tenant_bytes(bytes);
  if (caller.role != Role::kOperator) return response;
  ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("SELECT CAST(coalesce(sum(size_bytes), 0) AS bigint) FROM ("
                                                "SELECT DISTINCT sha256, size_bytes FROM artifact_file) AS named"));
  RETURN_IF_ERROR(stmt.Step().status());
  v1::ServerStorage& server = *response.mutable_server();
  server.set_named_bytes(stmt.Int(0));
  const BlobStore::Stats stats = blobs_->stats();
  server.set_blobs(stats.blobs);
  server.set_blob_bytes(stats.bytes);
  MutexLock swept_lock(&swept_mu_);
  if (swept_.time != absl::InfinitePast()) SetProto(swept_.time, server.mutable_sweep_time());
  server.set_sweep_bytes(swept_.bytes);
  server.set_reclaimed_bytes(swept_.all_bytes);
  server.set_expired(swept_.expired);
  return response;
}

}  // namespace quant
