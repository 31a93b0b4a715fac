// SPDX-License-Identifier: Apache-2.0
// Server: a whole quantd inside one object, so that main.cc only parses flags, and tests can start one.
//
//   ShutdownSignal shutdown;
//   ASSIGN_OR_RETURN(auto server, Server::Start(options));
//   shutdown.Wait();
//   server->Shutdown();
//
// The data folder holds LOCK (held while a server runs), artifacts.db and jobs.db unless `postgres` says otherwise, and
// unless `blobs` or `s3_blobs` say otherwise blobs/ and uploads/. With S3 and without `postgres` it also holds
// STORE_ID, by which a bucket's prefix knows whose blobs it keeps.
//
// Several servers may share one PostgreSQL database, which then has that name. Each has a data folder of its own, and
// all use the same blobs, since one must read what another stored: S3, or a folder on a file system that all of them
// see (each locks it shared).
#ifndef QUANT_SERVER_SERVER_H_
#define QUANT_SERVER_SERVER_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/net.h"
#include "common/tls.h"
#include "server/blobs/s3_client.h"

namespace quant {

struct ServerOptions {
  HostPort listen{"127.0.0.1", 9000};          // gRPC; port 0: any free one
  std::optional<HostPort> metrics;             // HTTP: /metrics, /healthz, /readyz, the status pages
  std::filesystem::path data;                  // made when missing
  std::filesystem::path blobs;                 // empty: in `data`
  std::optional<S3Options> s3_blobs;           // instead of a folder
  std::string postgres;                        // "postgres://…", as libpq takes it; empty: SQLite in `data`
  int64_t reserve_bytes = int64_t{512} << 20;  // disk space that uploads leave free
  int64_t max_blob_bytes = int64_t{256} << 30;
  bool reflection = true;
  bool a66_metrics = false;                              // also gRPC's newer names of rpc metrics
  absl::Duration drain_timeout = absl::Seconds(10);      // what open calls get to end at Shutdown
  absl::Duration handshake_timeout = absl::Seconds(10);  // what a new connection gets to say HTTP/2 (and TLS)
  absl::Duration heartbeat_interval = absl::Seconds(1);
  int64_t max_unfinished_jobs = 10'000;
  absl::Duration job_retention = absl::Hours(24 * 90);  // how long ended jobs and their reports are kept
  std::string cache_salt;                               // another value: earlier results answer no more
  // ---- who may do what; all empty: everybody who reaches the port is an operator of tenant "default"
  TlsFiles tls;                  // with `ca`, clients show certificates: all must, unless there are tokens
  std::filesystem::path tokens;  // see auth/credential_file.h
  std::filesystem::path limits;  // see auth/tenant_limits.h
  std::filesystem::path audit;   // see auth/audit_log.h
  bool insecure_tokens = false;  // allow tokens in the clear beyond this machine
  absl::Duration artifact_retention = absl::InfiniteDuration();  // how long models and datasets without a ttl are kept
  absl::Duration expiry_interval = absl::Seconds(5);             // of looking for those whose time is over
  absl::Duration sweep_interval = absl::Hours(1);
  absl::Duration sweep_grace = absl::Hours(24);  // how long unreferenced blobs and untouched uploads are kept
};

// Thread-compatible.
class Server {
 public:
  // Locks the folder, opens the stores, rebuilds the queue, and serves.
  //   FAILED_PRECONDITION: another quantd uses the folder; the data is from a newer version; tokens would be sent in
  //     the clear.
  //   INVALID_ARGUMENT, NOT_FOUND: a file of TLS, tokens or limits.
  //   UNAVAILABLE: an address is in use.  Errors of the stores.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  // As Shutdown.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The addresses really used.
  HostPort address() const;
  std::optional<HostPort> metrics_address() const;

  // Goes on in a new audit file: after a rotation.
  void ReopenAudit();

  // Stops gracefully: health says NOT_SERVING and /readyz 503, parked leases and watches end with UNAVAILABLE, uploads
  // commit what they have; other calls may end within the drain timeout and are cancelled after it. Blocks until all
  // of that is done. Idempotent.
  void Shutdown();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace quant

#endif  // QUANT_SERVER_SERVER_H_
