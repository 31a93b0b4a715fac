// SPDX-License-Identifier: Apache-2.0
// What is removed, and when.
#include "absl/log/log.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "server/blobs/blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/store/artifact_store.h"
#include "server/store/sql.h"

namespace quant {

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
  LOG_IF(INFO, reclaimed > 0) << "sweep: removed " << removed << " unreferenced blobs; " << reclaimed
                              << " bytes reclaimed, dropped uploads included";
  if (metrics_ != nullptr) {
    metrics_->CasSwept(reclaimed, absl::Now() - start);
    const BlobStore::Stats stats = blobs_->stats();
    metrics_->SetCas(stats.blobs, stats.bytes);
  }
  return reclaimed;
}

}  // namespace quant
