// SPDX-License-Identifier: Apache-2.0
#include "server/store/artifact_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/proto_time.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "server/auth/tenant_limits.h"
#include "server/blobs/blob_store.h"
#include "server/metrics/server_metrics.h"
#include "server/store/manifest.h"
#include "server/store/sql.h"

namespace quant {
namespace {

constexpr int32_t kDefaultPage = 50;
constexpr int32_t kMaxPage = 500;
constexpr size_t kMaxPageBytes = size_t{3} << 20;  // manifests are large; the answer must fit gRPC's 4 MiB

// The same tables; what each column holds: below.
const std::vector<std::string>& PostgresMigrations() {
  static const auto* const migrations = new std::vector<std::string>{R"(
    CREATE TABLE artifact (
      ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      id text NOT NULL UNIQUE,
      kind bigint NOT NULL,
      name text NOT NULL,
      format bigint NOT NULL,
      digest text NOT NULL,
      size_bytes bigint NOT NULL,
      create_time bigint NOT NULL,
      source_job_id text NOT NULL,
      tenant text NOT NULL
    );
    CREATE TABLE artifact_file (
      artifact bigint NOT NULL REFERENCES artifact (ordinal) ON DELETE CASCADE,
      path text COLLATE "C" NOT NULL,
      sha256 text NOT NULL,
      size_bytes bigint NOT NULL,
      PRIMARY KEY (artifact, path)
    );
    CREATE INDEX artifact_by_digest ON artifact (kind, digest, name, tenant);
    CREATE INDEX artifact_by_kind ON artifact (kind, ordinal);
    CREATE INDEX artifact_by_tenant ON artifact (tenant, kind, ordinal);
    CREATE UNIQUE INDEX artifact_by_job ON artifact (source_job_id) WHERE source_job_id <> '';
    CREATE INDEX artifact_file_by_blob ON artifact_file (sha256);
    CREATE TABLE blob_holder (
      tenant text NOT NULL,
      sha256 text NOT NULL,
      size_bytes bigint NOT NULL,
      PRIMARY KEY (tenant, sha256)
    );
    CREATE INDEX blob_holder_by_blob ON blob_holder (sha256);
  )",
                                                                     R"(
    ALTER TABLE artifact ADD COLUMN expire_time bigint NOT NULL DEFAULT 9223372036854775807;
    ALTER TABLE artifact ADD COLUMN pinned bigint NOT NULL DEFAULT 0;
    CREATE INDEX artifact_by_expiry ON artifact (expire_time, ordinal);
    ALTER TABLE blob_holder ADD COLUMN use_time bigint NOT NULL DEFAULT 0;
    UPDATE blob_holder SET use_time = CAST(extract(epoch FROM now()) AS bigint) * 1000000000;
  )"};
  return *migrations;
}

const std::vector<std::string>& SqliteMigrations() {
  static const auto* const migrations = new std::vector<std::string>{R"(
    CREATE TABLE artifact (
      ordinal INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of creation, never reused
      id TEXT NOT NULL UNIQUE,
      kind INTEGER NOT NULL,                      -- 1 model, 2 dataset
      name TEXT NOT NULL,
      format INTEGER NOT NULL,                    -- ModelFormat
      digest TEXT NOT NULL,
      size_bytes INTEGER NOT NULL,
      create_time INTEGER NOT NULL,               -- ns since 1970
      source_job_id TEXT NOT NULL                 -- '' for an upload
    ) STRICT;
    CREATE TABLE artifact_file (
      artifact INTEGER NOT NULL REFERENCES artifact (ordinal) ON DELETE CASCADE,
      path TEXT NOT NULL,
      sha256 TEXT NOT NULL,
      size_bytes INTEGER NOT NULL,
      PRIMARY KEY (artifact, path)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX artifact_by_digest ON artifact (kind, digest, name);
    CREATE INDEX artifact_by_kind ON artifact (kind, ordinal);
    CREATE UNIQUE INDEX artifact_by_job ON artifact (source_job_id) WHERE source_job_id <> '';
    CREATE INDEX artifact_file_by_blob ON artifact_file (sha256);
  )",
                                                                     R"(
    ALTER TABLE artifact ADD COLUMN tenant TEXT NOT NULL DEFAULT 'default';
    DROP INDEX artifact_by_digest;
    CREATE INDEX artifact_by_digest ON artifact (kind, digest, name, tenant);
    CREATE INDEX artifact_by_tenant ON artifact (tenant, kind, ordinal);
    -- The tenant has uploaded the blob itself.
    CREATE TABLE blob_holder (
      tenant TEXT NOT NULL,
      sha256 TEXT NOT NULL,
      size_bytes INTEGER NOT NULL,
      PRIMARY KEY (tenant, sha256)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX blob_holder_by_blob ON blob_holder (sha256);
  )",
                                                                     R"(
    ALTER TABLE artifact ADD COLUMN expire_time INTEGER NOT NULL DEFAULT 9223372036854775807;  -- ns since 1970
    ALTER TABLE artifact ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;                         -- 1: does not expire
    CREATE INDEX artifact_by_expiry ON artifact (expire_time, ordinal);
    -- When the tenant last uploaded the blob or asked for it, to the hour.
    ALTER TABLE blob_holder ADD COLUMN use_time INTEGER NOT NULL DEFAULT 0;
    UPDATE blob_holder SET use_time = CAST(strftime('%s', 'now') AS INTEGER) * 1000000000;
  )"};
  return *migrations;
}

template <typename Request>
absl::StatusOr<absl::Duration> TtlOf(const Request& request, absl::Duration default_ttl) {
  if (!request.has_ttl()) return default_ttl;
  return CheckTtl(request.ttl());
}

const char* NameOf(int kind) { return kind == 1 ? "model" : "dataset"; }

// A page token is base64url of "<kind> <ordinal> <check>": opaque to clients, and one of another call is noticed.
std::string TokenCheck(std::string_view body) {
  return Sha256Hex(absl::StrCat("quant artifact page ", AbslView(body))).substr(0, 8);
}
std::string MakeToken(int kind, int64_t before) {
  const std::string body = absl::StrCat(kind, " ", before);
  return absl::WebSafeBase64Escape(absl::StrCat(body, " ", TokenCheck(body)));
}
absl::StatusOr<int64_t> ReadToken(int kind, std::string_view token) {
  if (token.empty()) return std::numeric_limits<int64_t>::max();
  std::string text;
  if (token.size() < 100 && absl::WebSafeBase64Unescape(AbslView(token), &text)) {
    const std::vector<std::string> parts = absl::StrSplit(text, ' ');
    int64_t before = 0;
    if (parts.size() == 3 && parts[0] == absl::StrCat(kind) && absl::SimpleAtoi(parts[1], &before) &&
        parts[2] == TokenCheck(absl::StrCat(parts[0], " ", parts[1]))) {
      return before;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("page_token ", Quoted(token), " is not from this call; leave it empty for the first page"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ArtifactStore>> ArtifactStore::Create(SqlConnection* db, BlobStore* blobs,
                                                                     ServerMetrics* metrics, Clock* clock) {
  std::unique_ptr<ArtifactStore> store(new ArtifactStore(db, blobs, metrics, clock));
  MutexLock lock(db->mutex());
  const bool sqlite = db->dialect() == SqlConnection::Dialect::kSqlite;
  RETURN_IF_ERROR(db->Migrate("artifacts", sqlite ? SqliteMigrations() : PostgresMigrations()));
  store->UpdateGauges();
  return store;
}

void ArtifactStore::SetInUse(InUse in_use) {
  MutexLock lock(&in_use_mu_);
  in_use_ = std::move(in_use);
}

v1::Model ArtifactStore::ToModel(Artifact artifact) {
  v1::Model model;
  model.set_id(artifact.id);
  model.set_name(artifact.name);
  model.set_format(artifact.format);
  for (v1::File& file : artifact.files) *model.add_files() = std::move(file);
  model.set_digest(artifact.digest);
  model.set_size_bytes(artifact.size_bytes);
  SetProto(artifact.create_time, model.mutable_create_time());
  model.set_source_job_id(artifact.source_job_id);
  if (artifact.expire_time != absl::InfiniteFuture()) SetProto(artifact.expire_time, model.mutable_expire_time());
  model.set_pinned(artifact.pinned);
  return model;
}

v1::Dataset ArtifactStore::ToDataset(Artifact artifact) {
  v1::Dataset dataset;
  dataset.set_id(artifact.id);
  dataset.set_name(artifact.name);
  for (v1::File& file : artifact.files) *dataset.add_files() = std::move(file);
  dataset.set_digest(artifact.digest);
  dataset.set_size_bytes(artifact.size_bytes);
  SetProto(artifact.create_time, dataset.mutable_create_time());
  if (artifact.expire_time != absl::InfiniteFuture()) SetProto(artifact.expire_time, dataset.mutable_expire_time());
  dataset.set_pinned(artifact.pinned);
  return dataset;
}

// ---------------------------------------------------------------- create

absl::StatusOr<ArtifactStore::Artifact> ArtifactStore::Make(Kind kind, const Principal& owner, std::string_view name,
                                                            std::string_view source_job_id, std::vector<v1::File> files,
                                                            absl::Duration ttl) {
  RETURN_IF_ERROR(CheckName(name));
  RETURN_IF_ERROR(CheckAndSortManifest(&files));
  Artifact made;
  made.id = RandomId(kind == Kind::kModel ? "m-" : "d-");
  made.tenant = owner.tenant;
  made.name = std::string(name);
  made.digest = ManifestDigest(files);
  made.source_job_id = std::string(source_job_id);
  for (const v1::File& file : files) {
    // Sizes are sizes of stored blobs in the end, but those are only checked below.
    if (file.digest().size_bytes() > std::numeric_limits<int64_t>::max() - made.size_bytes) {
      return absl::InvalidArgumentError("the files' sizes add up to more than 2^63 - 1 bytes");
    }
    made.size_bytes += file.digest().size_bytes();
  }
  if (limits_ != nullptr && owner.role == Role::kUser) {
    const int64_t limit = limits_->For(owner.tenant).max_model_bytes;
    if (limit > 0 && made.size_bytes > limit) return OverQuota(owner, "model_bytes", made.size_bytes, limit);
  }
  if (kind == Kind::kModel) {
    made.format = DetectModelFormat(files);
    const bool readable = made.format == v1::MODEL_FORMAT_ONNX || made.format == v1::MODEL_FORMAT_HUGGING_FACE;
    // What a job made may also be in a format that we only write.
    if (!readable && source_job_id.empty()) {
      return absl::InvalidArgumentError(
          "no file of the model is one that can be read: wanted is a *.onnx file, or config.json with *.safetensors");
    }
  }
  made.files = std::move(files);
  made.create_time = clock_->Now();
  made.expire_time = made.create_time + ttl;

  // Ahead of the lock: a use that was just recorded is answered from memory under it, also where blobs are far away.
  for (const v1::File& file : made.files) {
    RETURN_IF_ERROR(blobs_->Touch({file.digest().sha256(), file.digest().size_bytes()}).status());
  }
  MutexLock lock(db_->mutex());
  // From here on, so that the sweep, of whichever server, cannot take a blob between the check and the insert.
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  absl::StatusOr<std::vector<Artifact>> same =
      source_job_id.empty() ? Select("kind = ? AND digest = ? AND name = ? AND tenant = ? ORDER BY ordinal LIMIT 1",
                                     [&](Statement* stmt) {
                                       stmt->Bind(1, static_cast<int>(kind));
                                       stmt->Bind(2, made.digest);
                                       stmt->Bind(3, made.name);
                                       stmt->Bind(4, made.tenant);
                                     })
                            : Select("source_job_id = ?", [&](Statement* stmt) { stmt->Bind(1, source_job_id); });
  RETURN_IF_ERROR(same.status());
  if (!same->empty()) {
    Artifact found = std::move(same->front());
    if (found.digest != made.digest) {  // only possible for a job's result
      return absl::FailedPreconditionError(
          absl::StrCat("job ", AbslView(source_job_id), " already made model ", found.id, " of other files"));
    }
    RETURN_IF_ERROR(ReadFiles(&found));
    if (found.expire_time < made.expire_time) {  // nobody is to lose it earlier than it was told
      found.expire_time = made.expire_time;
      RETURN_IF_ERROR(SetRetention(found));
      RETURN_IF_ERROR(txn.Commit());
    }
    return found;
  }
  RETURN_IF_ERROR(CheckBlobsStored(owner, made.files));
  RETURN_IF_ERROR(Insert(kind, made));
  RETURN_IF_ERROR(txn.Commit());
  UpdateGauges();
  return made;
}

absl::Status ArtifactStore::CheckBlobsStored(const Principal& owner, const std::vector<v1::File>& files) {
  for (const v1::File& file : files) {
    // The same answer for what is not there and what another tenant uploaded.
    ASSIGN_OR_RETURN(bool usable, Holds(owner, file.digest().sha256()));
    if (usable) {
      ASSIGN_OR_RETURN(usable, blobs_->Touch({file.digest().sha256(), file.digest().size_bytes()}));
    }
    if (!usable) {
      return WithReason(absl::FailedPreconditionError(
                            absl::StrCat("the blob of file ", Quoted(file.path()), ", ", file.digest().sha256(), " of ",
                                         file.digest().size_bytes(), " bytes, is not stored; upload it")),
                        "BLOB_MISSING", {{"sha256", file.digest().sha256()}});
    }
  }
  return absl::OkStatus();
}

absl::Status ArtifactStore::Insert(Kind kind, const Artifact& artifact) {
  ASSIGN_OR_RETURN(Statement insert,
                   db_->Prepare("INSERT INTO artifact (id, kind, name, format, digest, size_bytes, create_time, "
                                "source_job_id, tenant, expire_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                                "RETURNING ordinal"));
  insert.Bind(1, artifact.id);
  insert.Bind(2, static_cast<int>(kind));
  insert.Bind(3, artifact.name);
  insert.Bind(4, static_cast<int>(artifact.format));
  insert.Bind(5, artifact.digest);
  insert.Bind(6, artifact.size_bytes);
  insert.Bind(7, artifact.create_time);
  insert.Bind(8, artifact.source_job_id);
  insert.Bind(9, artifact.tenant);
  insert.Bind(10, artifact.expire_time);
  ASSIGN_OR_RETURN(const bool inserted, insert.Step());
  if (!inserted) return absl::InternalError("an INSERT returned no row");
  const int64_t ordinal = insert.Int(0);
  RETURN_IF_ERROR(insert.Run());
  ASSIGN_OR_RETURN(Statement file_insert,
                   db_->Prepare("INSERT INTO artifact_file (artifact, path, sha256, size_bytes) VALUES (?, ?, ?, ?)"));
  for (const v1::File& file : artifact.files) {
    file_insert.Bind(1, ordinal);
    file_insert.Bind(2, file.path());
    file_insert.Bind(3, file.digest().sha256());
    file_insert.Bind(4, file.digest().size_bytes());
    RETURN_IF_ERROR(file_insert.Run());
    file_insert.Reset();
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Model> ArtifactStore::CreateModel(const Principal& caller, const v1::CreateModelRequest& request) {
  ASSIGN_OR_RETURN(const absl::Duration ttl, TtlOf(request, default_ttl_));
  ASSIGN_OR_RETURN(Artifact made, Make(Kind::kModel, caller, request.name(), "",
                                       {request.files().begin(), request.files().end()}, ttl));
  return ToModel(std::move(made));
}

absl::StatusOr<v1::Model> ArtifactStore::PublishResult(std::string_view tenant, std::string_view job_id,
                                                       std::string_view name, const std::vector<v1::File>& files) {
  if (job_id.empty()) return absl::InvalidArgumentError("a result needs the id of its job");
  // Workers hold every blob; what they make of a job is its tenant's.
  const Principal job{.tenant = std::string(tenant), .name = "", .role = Role::kWorker};
  ASSIGN_OR_RETURN(Artifact made, Make(Kind::kModel, job, name, job_id, files, default_ttl_));
  return ToModel(std::move(made));
}

absl::StatusOr<v1::Dataset> ArtifactStore::CreateDataset(const Principal& caller,
                                                         const v1::CreateDatasetRequest& request) {
  ASSIGN_OR_RETURN(const absl::Duration ttl, TtlOf(request, default_ttl_));
  ASSIGN_OR_RETURN(Artifact made, Make(Kind::kDataset, caller, request.name(), "",
                                       {request.files().begin(), request.files().end()}, ttl));
  return ToDataset(std::move(made));
}

// ---------------------------------------------------------------- read

absl::StatusOr<std::vector<ArtifactStore::Artifact>> ArtifactStore::Select(
    std::string_view where_sql, const std::function<void(Statement*)>& bind) {
  ASSIGN_OR_RETURN(Statement stmt,
                   db_->Prepare(absl::StrCat("SELECT ordinal, id, name, format, digest, size_bytes, create_time, "
                                             "source_job_id, tenant, expire_time, pinned FROM artifact WHERE ",
                                             AbslView(where_sql))));
  bind(&stmt);
  std::vector<Artifact> found;
  while (true) {
    ASSIGN_OR_RETURN(const bool row, stmt.Step());
    if (!row) return found;
    found.push_back({.ordinal = stmt.Int(0),
                     .tenant = stmt.Text(8),
                     .id = stmt.Text(1),
                     .name = stmt.Text(2),
                     .format = static_cast<v1::ModelFormat>(stmt.Int(3)),
                     .digest = stmt.Text(4),
                     .size_bytes = stmt.Int(5),
                     .create_time = stmt.Time(6),
                     .source_job_id = stmt.Text(7),
                     .expire_time = stmt.Time(9),
                     .pinned = stmt.Int(10) != 0});
  }
}

absl::Status ArtifactStore::ReadFiles(Artifact* artifact) {
  ASSIGN_OR_RETURN(Statement stmt,
                   db_->Prepare("SELECT path, sha256, size_bytes FROM artifact_file WHERE artifact = ? ORDER BY path"));
  stmt.Bind(1, artifact->ordinal);
  while (true) {
    ASSIGN_OR_RETURN(const bool row, stmt.Step());
    if (!row) return absl::OkStatus();
    v1::File& file = artifact->files.emplace_back();
    file.set_path(stmt.Text(0));
    file.mutable_digest()->set_sha256(stmt.Text(1));
    file.mutable_digest()->set_size_bytes(stmt.Int(2));
  }
}

absl::StatusOr<ArtifactStore::Artifact> ArtifactStore::Get(Kind kind, const Principal& caller, std::string_view id) {
  const absl::Time start = absl::Now();
  MutexLock lock(db_->mutex());
  auto found = Select("id = ? AND kind = ?", [&](Statement* stmt) {
    stmt->Bind(1, id);
    stmt->Bind(2, static_cast<int>(kind));
  });
  absl::Status status = found.status();
  if (status.ok() && !found->empty()) status = ReadFiles(&found->front());
  if (metrics_ != nullptr) metrics_->StoreOperation("read", absl::Now() - start, status.ok());
  RETURN_IF_ERROR(status);
  if (found->empty() || !caller.Sees(found->front().tenant)) {
    return NotVisible(caller, NameOf(static_cast<int>(kind)), id);
  }
  return std::move(found->front());
}

absl::StatusOr<ArtifactStore::Page> ArtifactStore::List(Kind kind, const Principal& caller, int32_t page_size,
                                                        std::string_view page_token) {
  if (page_size < 0) {
    return absl::InvalidArgumentError(absl::StrCat("page_size must not be negative, not ", page_size));
  }
  const int32_t limit = page_size == 0 ? kDefaultPage : std::min(page_size, kMaxPage);
  ASSIGN_OR_RETURN(const int64_t before, ReadToken(static_cast<int>(kind), page_token));
  MutexLock lock(db_->mutex());
  const bool all = caller.role == Role::kOperator;
  ASSIGN_OR_RETURN(std::vector<Artifact> rows,
                   Select(all ? "kind = ? AND ordinal < ? ORDER BY ordinal DESC LIMIT ?"
                              : "kind = ?1 AND ordinal < ?2 AND tenant = ?4 ORDER BY ordinal DESC LIMIT ?3",
                          [&](Statement* stmt) {
                            stmt->Bind(1, static_cast<int>(kind));
                            stmt->Bind(2, before);
                            stmt->Bind(3, limit + 1);
                            if (!all) stmt->Bind(4, caller.tenant);
                          }));
  Page page;
  size_t bytes = 0;
  for (Artifact& row : rows) {
    RETURN_IF_ERROR(ReadFiles(&row));
    size_t row_bytes = 512;
    for (const v1::File& file : row.files) row_bytes += file.ByteSizeLong() + 4;
    const bool full =
        std::ssize(page.artifacts) == limit || (!page.artifacts.empty() && bytes + row_bytes > kMaxPageBytes);
    if (full) {
      page.next_page_token = MakeToken(static_cast<int>(kind), page.artifacts.back().ordinal);
      break;
    }
    bytes += row_bytes;
    page.artifacts.push_back(std::move(row));
  }
  return page;
}

absl::StatusOr<v1::Model> ArtifactStore::GetModel(const Principal& caller, std::string_view id) {
  ASSIGN_OR_RETURN(Artifact found, Get(Kind::kModel, caller, id));
  return ToModel(std::move(found));
}

absl::StatusOr<v1::Dataset> ArtifactStore::GetDataset(const Principal& caller, std::string_view id) {
  ASSIGN_OR_RETURN(Artifact found, Get(Kind::kDataset, caller, id));
  return ToDataset(std::move(found));
}

absl::StatusOr<v1::ListModelsResponse> ArtifactStore::ListModels(const Principal& caller,
                                                                 const v1::ListModelsRequest& request) {
  ASSIGN_OR_RETURN(Page page, List(Kind::kModel, caller, request.page_size(), request.page_token()));
  v1::ListModelsResponse response;
  for (Artifact& artifact : page.artifacts) *response.add_models() = ToModel(std::move(artifact));
  response.set_next_page_token(page.next_page_token);
  return response;
}

absl::StatusOr<v1::ListDatasetsResponse> ArtifactStore::ListDatasets(const Principal& caller,
                                                                     const v1::ListDatasetsRequest& request) {
  ASSIGN_OR_RETURN(Page page, List(Kind::kDataset, caller, request.page_size(), request.page_token()));
  v1::ListDatasetsResponse response;
  for (Artifact& artifact : page.artifacts) *response.add_datasets() = ToDataset(std::move(artifact));
  response.set_next_page_token(page.next_page_token);
  return response;
}

// ---------------------------------------------------------------- delete

ArtifactStore::InUse ArtifactStore::in_use() {
  MutexLock lock(&in_use_mu_);
  return in_use_;
}

absl::Status ArtifactStore::Erase(const Artifact& artifact) {
  ASSIGN_OR_RETURN(Statement stmt, db_->Prepare("DELETE FROM artifact WHERE ordinal = ?"));
  stmt.Bind(1, artifact.ordinal);
  return stmt.Run();
}

absl::Status ArtifactStore::Delete(Kind kind, const Principal& caller, std::string_view id) {
  const InUse in_use = this->in_use();
  MutexLock lock(db_->mutex());
  ASSIGN_OR_RETURN(Transaction txn, Transaction::Begin(db_));
  ASSIGN_OR_RETURN(const std::vector<Artifact> found, Select("id = ? AND kind = ?", [&](Statement* stmt) {
                     stmt->Bind(1, id);
                     stmt->Bind(2, static_cast<int>(kind));
                   }));
  if (found.empty() || !caller.Sees(found.front().tenant)) {
    return NotVisible(caller, NameOf(static_cast<int>(kind)), id);
  }
  if (in_use) {
    ASSIGN_OR_RETURN(const std::string job, in_use(id, found.front().source_job_id));
    if (!job.empty()) {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(NameOf(static_cast<int>(kind)), " ", AbslView(id),
                                                     " is needed by job ", job, "; cancel it or wait for its end")),
          "IN_USE", {{"job", job}});
    }
  }
  RETURN_IF_ERROR(Erase(found.front()));
  RETURN_IF_ERROR(txn.Commit());
  UpdateGauges();
  return absl::OkStatus();
}

absl::Status ArtifactStore::DeleteModel(const Principal& caller, std::string_view id) {
  return Delete(Kind::kModel, caller, id);
}
absl::Status ArtifactStore::DeleteDataset(const Principal& caller, std::string_view id) {
  return Delete(Kind::kDataset, caller, id);
}

void ArtifactStore::UpdateGauges() {
  if (metrics_ == nullptr) return;
  for (const Kind kind : {Kind::kModel, Kind::kDataset}) {
    auto stmt = db_->Prepare("SELECT count(*) FROM artifact WHERE kind = ?");
    if (!stmt.ok()) return;
    stmt->Bind(1, static_cast<int>(kind));
    if (const auto row = stmt->Step(); row.ok() && *row)
      metrics_->SetArtifacts(NameOf(static_cast<int>(kind)), stmt->Int(0));
  }
}

}  // namespace quant
