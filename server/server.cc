// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <fcntl.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <sys/file.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/mutex.h"
#include "common/random_id.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/unique_fd.h"
#include "server/api/artifact_service.h"
#include "server/api/external_scaler.h"
#include "server/api/job_service.h"
#include "server/api/worker_service.h"
#include "server/auth/audit_log.h"
#include "server/auth/authenticator.h"
#include "server/auth/gate.h"
#include "server/auth/open_calls.h"
#include "server/auth/rate_limiter.h"
#include "server/auth/tenant_limits.h"
#include "server/blobs/file_blob_store.h"
#include "server/blobs/file_io.h"
#include "server/blobs/s3_blob_store.h"
#include "server/http/http_server.h"
#include "server/metrics/grpc_metrics.h"
#include "server/metrics/server_metrics.h"
#include "server/pages/pages.h"
#include "server/queue/queue.h"
#include "server/store/artifact_store.h"
#include "server/store/postgres.h"
#include "server/store/postgres_connection.h"
#include "server/store/postgres_job_store.h"
#include "server/store/sqlite.h"
#include "server/store/sqlite_job_store.h"

namespace quant {
namespace {

// The advisory lock of those who make and sweep artifacts, in all servers of a database.
constexpr int64_t kArtifactsLock = 7163824519078;

constexpr const char* kServices[] = {"quant.v1.ArtifactService", "quant.v1.JobService", "quant.v1.WorkerService",
                                     "externalscaler.ExternalScaler"};

// The lock goes with the process however it ends, and is not inherited by name or by pid. `how` is LOCK_EX or LOCK_SH.
absl::StatusOr<UniqueFd> LockFolder(const std::filesystem::path& folder, int how) {
  RETURN_IF_ERROR(MakeFolder(folder));
  const std::filesystem::path path = folder / "LOCK";
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDWR | O_CREAT));
  if (::flock(fd.get(), how | LOCK_NB) == 0) return fd;
  if (errno != EWOULDBLOCK) return FileError(errno, "lock", path);
  return absl::FailedPreconditionError(absl::StrCat("another quantd uses the folder ", Quoted(folder.native()),
                                                    "; stop it or choose another --data (and --blobs)"));
}

// The name of this data folder's models and datasets, made at the first call: text in the file STORE_ID.
absl::StatusOr<std::string> StoreId(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "STORE_ID";
  const auto there = OpenFile(path, O_RDONLY);
  if (there.ok()) {
    ASSIGN_OR_RETURN(std::string id, ReadAt(there->get(), 100, 0, path));
    if (!id.empty()) return id;
  } else if (!absl::IsNotFound(there.status())) {
    return there.status();
  }
  std::string id = RandomId("store-");
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_WRONLY | O_CREAT));
  RETURN_IF_ERROR(WriteAt(fd.get(), {id}, 0, path));
  RETURN_IF_ERROR(SyncFile(fd.get(), path));
  RETURN_IF_ERROR(SyncFolder(folder));
  return id;
}

// The same for the models and datasets of a database.
absl::StatusOr<std::string> StoreId(Postgres* db) {
  RETURN_IF_ERROR(
      db->Migrate("server", {"CREATE TABLE store_id (one bigint PRIMARY KEY CHECK (one = 1), id text NOT NULL)"}));
  RETURN_IF_ERROR(
      db->Run("INSERT INTO store_id (one, id) VALUES (1, $1) ON CONFLICT DO NOTHING", {RandomId("store-")}).status());
  ASSIGN_OR_RETURN(const PgRows rows, db->Run("SELECT id FROM store_id"));
  if (rows.empty()) return absl::DataLossError("the table store_id is empty");
  return rows.Bytes(0, 0);
}

int Millis(absl::Duration d) { return static_cast<int>(absl::ToInt64Milliseconds(d)); }

void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder) {
  // Messages: uploads send 1 to 2 MiB, manifests are capped at 3 MiB: gRPC's own 4 MiB is enough both ways.
  builder->SetMaxReceiveMessageSize(4 << 20);
  builder->SetMaxSendMessageSize(4 << 20);
  // Bytes of a stream that may arrive before we ask for them, and frames that hold a message: the defaults (64 KiB, 16
  // KiB) make each message of an upload wait for the one before.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 2 << 20);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  // Bytes that a download keeps in line to be sent.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, 2 << 20);
  // Memory of all connections together: when it runs short, gRPC reads more slowly.
  grpc::ResourceQuota quota("quantd");
  quota.Resize(size_t{1} << 30);
  builder->SetResourceQuota(quota);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1000);
  // Two servers must not share a port without noticing.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Watches and parked leases are silent for long: both sides may ping, also without calls. gRPC's own limit of one
  // ping in 5 minutes would end such connections with too_many_pings.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Millis(absl::Seconds(30)));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Millis(absl::Seconds(20)));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, Millis(absl::Seconds(10)));
  // A connection that says nothing is closed: before HTTP/2 began, and later when it has had no call for long.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Millis(options.handshake_timeout));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, Millis(absl::Minutes(15)));
  // Headers of a call: gRPC's default is 8 KiB; ours have a token and little more.
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8 << 10);
  // Connections are renewed, so that load spreads over servers that were added.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, Millis(absl::Hours(2)));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, Millis(absl::Minutes(10)));
}

}  // namespace

// Members stand in the order in which they depend on each other; they are destroyed from the last to the first.
class Server::Impl {
 public:
  explicit Impl(const ServerOptions& options) : options_(options) {}
  ~Impl() { Shutdown(); }

  absl::Status Start() {
    if (options_.data.empty()) return absl::InvalidArgumentError("the data folder is not named");
    const std::filesystem::path blobs = options_.blobs.empty() ? options_.data : options_.blobs;
    ASSIGN_OR_RETURN(data_lock_, LockFolder(options_.data, LOCK_EX));
    std::error_code ignored;
    if (!options_.s3_blobs.has_value() && !std::filesystem::equivalent(blobs, options_.data, ignored)) {
      ASSIGN_OR_RETURN(blobs_lock_, LockFolder(blobs, options_.postgres.empty() ? LOCK_EX : LOCK_SH));
    }
    metrics_.SetBuildInfo(BuildVersion(), DetectIsa());
    if (options_.a66_metrics) metrics_.EnableA66();
    RETURN_IF_ERROR(OpenAuth());
    RETURN_IF_ERROR(OpenStores(blobs));
    RETURN_IF_ERROR(Serve());
    sweeper_ = std::thread([this] { Sweep(); });
    return absl::OkStatus();
  }

  void Shutdown() {
    {
      MutexLock lock(&mu_);
      if (stopping_) return;  // a second caller need not wait for the first
      stopping_ = true;
      stop_.SignalAll();
    }
    draining_ = true;
    metrics_.SetDraining(true);
    if (grpc_ != nullptr) {
      // Nothing new is sent here, then what waits is sent away, then what runs may end.
      grpc_->GetHealthCheckService()->SetServingStatus(false);
      worker_service_->Shutdown();
      job_service_->Shutdown();
      scaler_->Shutdown();
      artifact_service_->Shutdown();
      grpc_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options_.drain_timeout));
      grpc_->Wait();
    }
    if (queue_ != nullptr) queue_->Shutdown();
    if (sweeper_.joinable()) sweeper_.join();
    http_.reset();
  }

  void ReopenAudit() {
    if (audit_ != nullptr) audit_->Reopen();
  }

  HostPort address() const { return address_; }
  std::optional<HostPort> metrics_address() const {
    if (http_ == nullptr) return std::nullopt;
    return Shown(*options_.metrics, http_->port());
  }

 private:
  static HostPort Shown(const HostPort& asked, int port) { return {asked.host.empty() ? "0.0.0.0" : asked.host, port}; }

  absl::Status OpenAuth() {
    const bool tokens = !options_.tokens.empty();
    if (options_.tls.empty()) {
      if (tokens && !IsLoopback(options_.listen.host) && !options_.insecure_tokens) {
        return absl::FailedPreconditionError(
            "tokens would be sent in the clear beyond this machine, where others can read them: serve with --tls-cert "
            "and --tls-key, listen on 127.0.0.1, or say --insecure-tokens");
      }
      credentials_ = grpc::InsecureServerCredentials();
    } else {
      ASSIGN_OR_RETURN(credentials_,
                       ServerTls(options_.tls, tokens ? ClientCertificates::kOptional : ClientCertificates::kRequired));
    }
    if (tokens) {
      ASSIGN_OR_RETURN(authenticator_, Authenticator::Open(options_.tokens, &SystemClock()));
    }
    limits_ = std::make_unique<LimitsTable>();
    if (!options_.limits.empty()) {
      ASSIGN_OR_RETURN(limits_, LimitsTable::Open(options_.limits, &SystemClock()));
    }
    limiter_ = std::make_unique<RateLimiter>(limits_.get(), &metrics_, &SystemClock());
    if (!options_.audit.empty()) {
      ASSIGN_OR_RETURN(audit_, AuditLog::Open(options_.audit, &SystemClock()));
    }
    return absl::OkStatus();
  }

  absl::Status OpenStores(const std::filesystem::path& blobs) {
    RETURN_IF_ERROR(options_.postgres.empty() ? OpenSqlite() : OpenPostgres());
    if (options_.s3_blobs.has_value()) {
      ASSIGN_OR_RETURN(std::string owner,
                       options_.postgres.empty() ? StoreId(options_.data) : StoreId(artifacts_postgres_.get()));
      ASSIGN_OR_RETURN(blobs_, S3BlobStore::Open({.s3 = *options_.s3_blobs,
                                                  .owner = std::move(owner),
                                                  .max_blob_bytes = options_.max_blob_bytes}));
    } else {
      ASSIGN_OR_RETURN(blobs_, FileBlobStore::Open(blobs, {.reserve_bytes = options_.reserve_bytes,
                                                           .max_blob_bytes = options_.max_blob_bytes,
                                                           .shared = !options_.postgres.empty()}));
    }
    metrics_.SetCas(blobs_->stats().blobs, blobs_->stats().bytes);
    artifacts_db_->SetCommitObserver(CommitObserver());
    ASSIGN_OR_RETURN(artifacts_, ArtifactStore::Create(artifacts_db_.get(), blobs_.get(), &metrics_, &SystemClock()));
    artifacts_->SetLimits(limits_.get());
    artifacts_->SetDefaultTtl(options_.artifact_retention);
    QueueOptions queue_options;
    queue_options.heartbeat_interval = options_.heartbeat_interval;
    queue_options.max_unfinished = options_.max_unfinished_jobs;
    queue_options.job_retention = options_.job_retention;
    queue_options.cache_salt = options_.cache_salt;
    queue_options.limits = limits_.get();
    ASSIGN_OR_RETURN(queue_, JobQueue::Create(jobs_.get(), artifacts_.get(), &metrics_, &SystemClock(), queue_options));
    artifacts_->SetInUse([this](std::string_view id, std::string_view source) -> absl::StatusOr<std::string> {
      return queue_->UnfinishedJobUsing(id, source).value_or("");
    });
    artifacts_->SetLeasedInputs([this](const Principal& worker) { return queue_->LeasedInputs(worker.name); });
    queue_->Start();
    return absl::OkStatus();
  }

  std::function<void(absl::Duration, bool)> CommitObserver() {
    return [this](absl::Duration time, bool ok) { metrics_.StoreOperation("write", time, ok); };
  }

  // Two files, so that a commit of the one kind does not wait for the other.
  absl::Status OpenSqlite() {
    ASSIGN_OR_RETURN(artifacts_db_, Database::Open(options_.data / "artifacts.db"));
    ASSIGN_OR_RETURN(jobs_db_, Database::Open(options_.data / "jobs.db"));
    jobs_db_->SetCommitObserver(CommitObserver());
    ASSIGN_OR_RETURN(jobs_, SqliteJobStore::Create(jobs_db_.get()));
    return absl::OkStatus();
  }

  // Connections of its own for each kind, for the same reason. Manifests are made while their blobs are looked for,
  // which may take longer than a statement of the queue.
  absl::Status OpenPostgres() {
    ASSIGN_OR_RETURN(artifacts_postgres_,
                     Postgres::Open({.url = options_.postgres, .statement_timeout = absl::Seconds(30)}));
    artifacts_db_ = std::make_unique<PostgresConnection>(artifacts_postgres_.get(), kArtifactsLock);
    ASSIGN_OR_RETURN(jobs_postgres_, Postgres::Open({.url = options_.postgres}));
    jobs_postgres_->SetObserver(CommitObserver());
    // One that no call of a client keeps busy.
    ASSIGN_OR_RETURN(ready_postgres_, Postgres::Open({.url = options_.postgres,
                                                      .connections = 1,
                                                      .connect_timeout = absl::Seconds(2),
                                                      .statement_timeout = absl::Seconds(1)}));
    ASSIGN_OR_RETURN(jobs_, PostgresJobStore::Create(jobs_postgres_.get()));
    return absl::OkStatus();
  }

  absl::Status Serve() {
    // A thread waits for the whole of a request to S3, for a disk only shortly.
    artifact_service_ = std::make_unique<ArtifactService>(
        blobs_.get(), artifacts_.get(), &metrics_,
        ArtifactServiceOptions{.threads = options_.s3_blobs.has_value() ? 32 : 4, .limiter = limiter_.get()});
    job_service_ = std::make_unique<JobService>(queue_.get());
    worker_service_ = std::make_unique<WorkerService>(queue_.get());
    scaler_ = std::make_unique<ExternalScaler>(queue_.get());
    grpc::EnableDefaultHealthCheckService(true);
    if (options_.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    SetLimits(options_, &builder);
    int port = 0;
    const std::string address =
        options_.listen.host.empty() ? absl::StrCat("[::]:", options_.listen.port) : options_.listen.ToString();
    builder.AddListeningPort(address, credentials_, &port);
    builder.RegisterService(artifact_service_->service());
    builder.RegisterService(job_service_->service());
    builder.RegisterService(worker_service_->service());
    builder.RegisterService(scaler_->service());
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(MakeMetricsInterceptor(&metrics_));
    interceptors.push_back(InstallGate(&builder, {.authenticator = authenticator_.get(),
                                                  .limiter = limiter_.get(),
                                                  .audit = audit_.get(),
                                                  .open_calls = &open_calls_}));
    builder.experimental().SetInterceptorCreators(std::move(interceptors));
    grpc_ = builder.BuildAndStart();
    if (grpc_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.listen.ToString(),
                                                 ": the address is in use, or not of this machine"));
    }
    address_ = Shown(options_.listen, port);
    for (const char* service : kServices) grpc_->GetHealthCheckService()->SetServingStatus(service, true);
    return options_.metrics.has_value() ? ServeHttp() : absl::OkStatus();
  }

  absl::Status ServeHttp() {
    HttpHandlers handlers{.metrics = [this] { return MetricsText(); }, .ready = [this] { return Ready(); }};
    // Where certificates alone let in, a page cannot tell who asks.
    if (options_.tls.ca.empty() || authenticator_ != nullptr) {
      pages_ = std::make_unique<Pages>(PagesOptions{.queue = queue_.get(),
                                                    .artifacts = artifacts_.get(),
                                                    .clock = &SystemClock(),
                                                    .access = {.authenticator = authenticator_.get(),
                                                               .limiter = limiter_.get(),
                                                               .audit = audit_.get(),
                                                               .insecure_tokens = options_.insecure_tokens,
                                                               .open_to_network = !IsLoopback(options_.listen.host)}});
      handlers.page = [this](const HttpRequest& request) { return pages_->Answer(request); };
    }
    ASSIGN_OR_RETURN(http_, HttpServer::Start(*options_.metrics, std::move(handlers)));
    return absl::OkStatus();
  }

  // With what changes by itself read now.
  std::string MetricsText() {
    if (!options_.s3_blobs.has_value()) {
      const std::filesystem::path& folder = options_.blobs.empty() ? options_.data : options_.blobs;
      if (const absl::StatusOr<int64_t> free = FreeBytes(folder); free.ok()) {
        metrics_.SetCasCapacity(blobs_->stats().bytes + std::max<int64_t>(0, *free - options_.reserve_bytes));
      }
    }
    const auto certificate = [this](const char* name, const std::string& file) {
      if (file.empty()) return;
      const absl::StatusOr<absl::Time> expiry = CertificateExpiry(file);
      if (expiry.ok()) metrics_.SetCertificateExpiry(name, *expiry);  // else the last one stays: it is in use
    };
    certificate("certificate", options_.tls.cert);
    certificate("authority", options_.tls.ca);
    return metrics_.Serialize();
  }

  absl::Status Ready() {
    if (draining_) return absl::UnavailableError("the server is stopping");
    if (ready_postgres_ == nullptr) return absl::OkStatus();
    const absl::Status answers = ready_postgres_->Run("SELECT 1").status();
    if (answers.ok()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("PostgreSQL does not answer: ", answers.message()));
  }

  // At start and then every expiry_interval and sweep_interval, until Shutdown.
  void Sweep() {
    absl::Time next_sweep = absl::InfinitePast();
    while (true) {
      const auto expired = artifacts_->DeleteExpired();
      LOG_IF(ERROR, !expired.ok()) << "sweep of expired models and datasets: " << expired.status();
      absl::Time now = SystemClock().Now();
      // A clock that was set back must not put the sweep off.
      if (now >= next_sweep || next_sweep - now > options_.sweep_interval) {
        const auto swept = artifacts_->SweepUnreferenced(options_.sweep_grace);
        LOG_IF(ERROR, !swept.ok()) << "sweep of unreferenced blobs: " << swept.status();
        now = SystemClock().Now();
        next_sweep = now + options_.sweep_interval;
      }
      MutexLock lock(&mu_);
      if (!stopping_) stop_.WaitFor(&mu_, std::min(options_.expiry_interval, next_sweep - now));
      if (stopping_) return;
    }
  }

  const ServerOptions options_;
  UniqueFd data_lock_;
  UniqueFd blobs_lock_;
  ServerMetrics metrics_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;  // gRPC wants it shared
  std::unique_ptr<Authenticator> authenticator_;          // null: everybody is an operator
  std::unique_ptr<LimitsTable> limits_;
  std::unique_ptr<RateLimiter> limiter_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<Postgres> artifacts_postgres_;
  std::unique_ptr<Postgres> jobs_postgres_;
  std::unique_ptr<Postgres> ready_postgres_;  // asked by /readyz
  std::unique_ptr<SqlConnection> artifacts_db_;
  std::unique_ptr<Database> jobs_db_;
  std::unique_ptr<ArtifactStore> artifacts_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<JobQueue> queue_;
  OpenCalls open_calls_;
  std::unique_ptr<ArtifactService> artifact_service_;
  std::unique_ptr<JobService> job_service_;
  std::unique_ptr<WorkerService> worker_service_;
  std::unique_ptr<ExternalScaler> scaler_;
  std::unique_ptr<grpc::Server> grpc_;
  HostPort address_;
  std::atomic<bool> draining_{false};
  std::unique_ptr<Pages> pages_;
  std::unique_ptr<HttpServer> http_;
  Mutex mu_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread sweeper_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;
HostPort Server::address() const { return impl_->address(); }
std::optional<HostPort> Server::metrics_address() const { return impl_->metrics_address(); }
void Server::ReopenAudit() { impl_->ReopenAudit(); }
void Server::Shutdown() { impl_->Shutdown(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

}  // namespace quant
