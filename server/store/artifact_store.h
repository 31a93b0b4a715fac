// SPDX-License-Identifier: Apache-2.0
// ArtifactStore: models and datasets, as manifests of stored blobs, in SQLite or PostgreSQL. Also keeps the promise
// that a blob which a manifest names stays: blobs are swept here, under the same lock that manifests are made under.
#ifndef QUANT_SERVER_STORE_ARTIFACT_STORE_H_
#define QUANT_SERVER_STORE_ARTIFACT_STORE_H_

#include <cstdint>
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
#include "common/clock.h"
#include "common/mutex.h"
#include "quant/v1/artifacts.pb.h"
#include "server/queue/artifact_catalog.h"

namespace quant {

class BlobStore;
class LimitsTable;
struct BlobId;
class ServerMetrics;
class SqlConnection;
class Statement;

// Errors are those that artifacts.proto names for the rpc of the same name, and those of the database. A change is
// durable when its function returns OK. Thread-safe.
class ArtifactStore : public ArtifactCatalog {
 public:
  // The id of an unfinished job that needs the artifact or that is `source_job_id`, which made it; or "".
  using InUse =
      std::function<absl::StatusOr<std::string>(std::string_view artifact_id, std::string_view source_job_id)>;

  // Makes the tables where they are missing. `metrics` may be null. All must outlive the store; nobody else may use the
  // connection `db`.
  static absl::StatusOr<std::unique_ptr<ArtifactStore>> Create(SqlConnection* db, BlobStore* blobs,
                                                               ServerMetrics* metrics, Clock* clock);

  // Asked before an artifact is deleted or expires, under the store's lock. Set it before the first of these, once.
  void SetInUse(InUse in_use);
  // How long what is made without a ttl is kept; infinite (the default): until it is deleted. Set it before the first
  // Create, once.
  void SetDefaultTtl(absl::Duration ttl) { default_ttl_ = ttl; }

  // What is made belongs to the tenant of `caller`; what `caller` does not see is NotVisible.
  absl::StatusOr<v1::Model> CreateModel(const Principal& caller, const v1::CreateModelRequest& request);
  absl::StatusOr<v1::Model> GetModel(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::Model> UseModel(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::ListModelsResponse> ListModels(const Principal& caller, const v1::ListModelsRequest& request);
  absl::Status DeleteModel(const Principal& caller, std::string_view id);
  absl::StatusOr<v1::Model> PublishResult(std::string_view tenant, std::string_view job_id, std::string_view name,
                                          const std::vector<v1::File>& files) override;

  absl::StatusOr<v1::Dataset> CreateDataset(const Principal& caller, const v1::CreateDatasetRequest& request);
  absl::StatusOr<v1::Dataset> GetDataset(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::Dataset> UseDataset(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::ListDatasetsResponse> ListDatasets(const Principal& caller,
                                                        const v1::ListDatasetsRequest& request);
  absl::Status DeleteDataset(const Principal& caller, std::string_view id);

  // A digest alone opens nothing: a user may read, name in a manifest or be told of a blob only when its tenant has
  // proved to hold the bytes, by an upload of its own or a manifest that names them. Operators and workers hold every
  // blob. Says nothing on whether the blob is stored.
  absl::StatusOr<bool> HoldsBlob(const Principal& caller, std::string_view sha256);
  // The same for reading: a worker may read only what a model or dataset names that it has a lease on (LeasedInputs).
  absl::StatusOr<bool> MayRead(const Principal& caller, std::string_view sha256);
  // The models and datasets that a worker has leases on. Set it before the first call, once; without it workers may
  // read everything.
  using LeasedInputs = std::function<absl::StatusOr<std::vector<std::string>>(const Principal& worker)>;
  void SetLeasedInputs(LeasedInputs inputs);
  // Call it when an upload of `caller` was verified. Durable when it returns.
  absl::Status NoteHeld(const Principal& caller, const BlobId& blob);

  // Quotas of users from now on; null: none. Set it before the first call, once.
  void SetLimits(LimitsTable* limits) { limits_ = limits; }
  // Bytes of a tenant's quota that an upload under way will need; given back when destroyed.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(ArtifactStore* store, std::string tenant, int64_t bytes)
        : store_(store), tenant_(std::move(tenant)), bytes_(bytes) {}
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation();

   private:
    ArtifactStore* store_ = nullptr;
    std::string tenant_;
    int64_t bytes_ = 0;
  };
  // Asks whether `caller` may store the blob, which it does not hold yet.
  //   RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED (metadata "resource": stored_bytes or model_bytes, "limit").
  absl::StatusOr<Reservation> Reserve(const Principal& caller, const BlobId& blob);

  // ---- retention: artifact_retention.cc
  absl::StatusOr<v1::SetRetentionResponse> SetRetention(const Principal& caller,
                                                        const v1::SetRetentionRequest& request);
  absl::StatusOr<v1::GetStorageResponse> GetStorage(const Principal& caller);
  // Deletes the models and datasets whose time is over and that neither a pin nor a job keeps; returns how many. The
  // lock is held for one at a time.
  absl::StatusOr<int64_t> DeleteExpired();
  // Removes blobs that no manifest names and that nobody stored, asked for or read for `grace`; drops uploads untouched
  // for as long, and with them what tenants hold by an upload that old alone. Returns the bytes reclaimed. The lock is
  // held for one blob at a time.
  absl::StatusOr<int64_t> SweepUnreferenced(absl::Duration grace);

 private:
  enum class Kind : int { kModel = 1, kDataset = 2 };
  // What models and datasets have in common.
  struct Artifact {
    int64_t ordinal = 0;  // order of creation
    std::string tenant;
    std::string id;
    std::string name;
    v1::ModelFormat format = v1::MODEL_FORMAT_UNSPECIFIED;
    std::string digest;
    int64_t size_bytes = 0;
    absl::Time create_time;
    std::string source_job_id;
    absl::Time expire_time = absl::InfiniteFuture();
    bool pinned = false;
    std::vector<v1::File> files;
  };
  struct Page {
    std::vector<Artifact> artifacts;
    std::string next_page_token;
  };

  ArtifactStore(SqlConnection* db, BlobStore* blobs, ServerMetrics* metrics, Clock* clock)
      : db_(db), blobs_(blobs), metrics_(metrics), clock_(clock) {}
  static v1::Model ToModel(Artifact artifact);
  static v1::Dataset ToDataset(Artifact artifact);

  absl::StatusOr<Artifact> Make(Kind kind, const Principal& owner, std::string_view name,
                                std::string_view source_job_id, std::vector<v1::File> files, absl::Duration ttl);
  absl::StatusOr<Artifact> Get(Kind kind, const Principal& caller, std::string_view id);
  absl::StatusOr<Page> List(Kind kind, const Principal& caller, int32_t page_size, std::string_view page_token);
  absl::Status Delete(Kind kind, const Principal& caller, std::string_view id);
  // Get, and where it would expire soon, that is put off.
  absl::StatusOr<Artifact> Use(Kind kind, const Principal& caller, std::string_view id);
  // Deletes one that expired by `now`, or returns false when something keeps it.
  absl::StatusOr<bool> Expire(int64_t ordinal, absl::Time now);
  InUse in_use();

  // These need db_->mutex().
  absl::StatusOr<std::vector<Artifact>> Select(std::string_view where_sql, const std::function<void(Statement*)>& bind);
  absl::Status ReadFiles(Artifact* artifact);
  absl::Status Insert(Kind kind, const Artifact& artifact);
  absl::Status SetRetention(const Artifact& artifact);
  absl::Status Erase(const Artifact& artifact);
  absl::StatusOr<bool> Holds(const Principal& caller, std::string_view sha256);
  absl::Status CheckBlobsStored(const Principal& owner, const std::vector<v1::File>& files);
  void UpdateGauges();
  absl::StatusOr<bool> IsReferenced(std::string_view sha256);
  absl::Status ForgetHolders(std::string_view sha256);
  absl::Status ForgetOldHolders(absl::Time before);
  // Bytes of the blobs that this artifact alone names.
  absl::StatusOr<int64_t> OwnBytes(const Artifact& artifact);
  // Bytes of the distinct blobs that the tenant's manifests and uploads name.
  absl::StatusOr<int64_t> StoredBytes(std::string_view tenant);
  absl::Status OverQuota(const Principal& caller, std::string_view resource, int64_t wanted, int64_t limit);

  SqlConnection* const db_;  // its transactions guard manifests against the sweep
  BlobStore* const blobs_;
  ServerMetrics* const metrics_;
  Clock* const clock_;
  LimitsTable* limits_ = nullptr;
  absl::Duration default_ttl_ = absl::InfiniteDuration();
  Mutex reserved_mu_;                                                                   // a leaf
  std::map<std::string, int64_t, std::less<>> reserved_ ABSL_GUARDED_BY(reserved_mu_);  // by tenant
  Mutex in_use_mu_;
  InUse in_use_ ABSL_GUARDED_BY(in_use_mu_);
  LeasedInputs leased_inputs_ ABSL_GUARDED_BY(in_use_mu_);
  // Since this object was made; for GetStorage.
  struct Swept {
    absl::Time time = absl::InfinitePast();  // of the newest sweep
    int64_t bytes = 0;                       // that it reclaimed
    int64_t all_bytes = 0;
    int64_t expired = 0;
  };
  Mutex swept_mu_;  // a leaf
  Swept swept_ ABSL_GUARDED_BY(swept_mu_);
};

}  // namespace quant

#endif  // QUANT_SERVER_STORE_ARTIFACT_STORE_H_
