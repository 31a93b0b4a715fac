// SPDX-License-Identifier: Apache-2.0
// quantd: parses flags and wires; server.h does the rest.
#include <sys/stat.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/flags.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/probe.h"
#include "common/shutdown.h"
#include "common/status_macros.h"
#include "common/transfer/transfer.h"
#include "server/server.h"
#include "server/token_command.h"

namespace quant {
namespace {

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

struct Flags {
  std::string listen = "127.0.0.1:9000";
  std::string data;
  std::string metrics;
  std::string store = "sqlite";
  std::string blobs;
  std::string tokens;
  std::string limits;
  std::string audit;
  std::string log_format = "text";
  absl::Duration artifact_retention;
  bool version = false;
  ServerOptions options;
  FlagSet set{"quantd",
              "quantd --listen ADDR:PORT --data DIR [flags]\n  quantd token add|list|revoke --tokens FILE [flags]\n"
              "  quantd probe [--metrics ADDR:PORT]\n\n"
              "Serves models, datasets and quantization jobs over gRPC: takes uploads, keeps the queue, hands jobs to\n"
              "quant-worker processes, and keeps what comes of them. quantctl is its client."};

  Flags() {
    set.Add("listen", &listen, "ADDR:PORT",
            "Where to serve gRPC. Port 0 takes any free port; the ready line on stdout names it.");
    set.Add("data", &data, "DIR",
            "Folder of the databases and blobs; made when missing. One quantd at a time uses it. Required.");
    set.Add("metrics", &metrics, "ADDR:PORT",
            "Serve /metrics (Prometheus), /healthz, /readyz and the status pages for a browser over HTTP here; the "
            "pages want a "
            "token where there are --tokens. Off by default.");
    set.Add("store", &store, "sqlite|postgres://…",
            "Where jobs and the lists of models and datasets are kept: in the data folder, or in PostgreSQL. Several "
            "quantd may use one database, with a --data each and the same --blobs.");
    set.Add(
        "blobs", &blobs, "DIR|s3://…",
        "Where the bytes of models and datasets are kept: a folder, or s3://BUCKET/PREFIX?endpoint=URL&region=NAME. "
        "Default: the data folder.");
    set.AddBytes("reserve", &options.reserve_bytes, "BYTES", "Disk space that uploads leave free, e.g. 2GiB.");
    set.AddBytes("max-blob", &options.max_blob_bytes, "BYTES", "Largest file that may be uploaded.");
    set.Add("max-jobs", &options.max_unfinished_jobs, "N", "Unfinished jobs at most; more are refused with QUEUE_FULL.",
            1, 1'000'000);
    set.Add("job-retention", &options.job_retention, "TIME",
            "How long a job that ended, and its report, are kept. Models that it made stay.");
    set.Add("artifact-retention", &artifact_retention, "TIME",
            "How long models and datasets are kept that were not uploaded with --expires, results of jobs among them: "
            "e.g. 720h. Pinned ones, and what an unfinished job needs, stay. 0: until they are deleted.");
    set.Add("cache-salt", &options.cache_salt, "TEXT",
            "Another value than before: results from before are no answer to new jobs any more.");
    set.Add("heartbeat", &options.heartbeat_interval, "TIME",
            "How often workers are to report. One silent for three times as long loses its jobs.");
    set.Add("drain-timeout", &options.drain_timeout, "TIME", "What open calls get to end after SIGTERM.");
    set.Add("reflection", &options.reflection, "", "Serve gRPC reflection, for grpcurl and the like.");
    set.Add("a66-metrics", &options.a66_metrics, "",
            "Also serve the rpc metrics under the names of gRPC's proposal A66 (grpc_server_call_…).");
    set.Add("tls-cert", &options.tls.cert, "FILE",
            "Serve TLS with this certificate and the chain above it (PEM). A renewed file counts within seconds.");
    set.Add("tls-key", &options.tls.key, "FILE", "Its private key (PEM).");
    set.Add("tls-ca", &options.tls.ca, "FILE",
            "Authority that client certificates must come from (PEM). Without --tokens every client must show one, and "
            "may then do everything.");
    set.Add("tokens", &tokens, "FILE",
            "Who may call and what they may do: made and changed by quantd token, followed while running. Without it "
            "everybody who reaches the port may do everything.");
    set.Add("insecure-tokens", &options.insecure_tokens, "",
            "Take tokens without TLS beyond this machine, where others on the network can read them.");
    set.Add("limits", &limits, "FILE",
            "What each tenant may use (JSON; see docs/security.md), followed while running.");
    set.Add("audit-log", &audit, "FILE",
            "Append who did what to this file, one JSON object a line. SIGHUP opens it anew after a rotation.");
    set.Add("log-format", &log_format, "text|json", "How lines on stderr are written; see docs/logs.md.");
    set.Add("version", &version, "", "Print the version and exit.");
    set.SetEpilog(R"(Examples:
  quantd --listen 127.0.0.1:9000 --data ~/quantd
      A server for this machine. Start a worker beside it:
      quant-worker --server 127.0.0.1:9000 --cache ~/quant-cache
  quantd --listen :9000 --data /var/lib/quantd --metrics 127.0.0.1:9001
      For other machines as well. Without the next lines, only inside a network you trust.
  quantd token add --tokens /etc/quantd/tokens --name ann --tenant acme
      Prints a token for quantctl (QUANT_TOKEN). --role worker makes one for quant-worker, --role operator one for all.
  quantd --listen :9000 --data /var/lib/quantd --tokens /etc/quantd/tokens \
      --tls-cert server.pem --tls-key server.key --audit-log /var/log/quantd/audit.jsonl
      With TLS and tokens: docs/security.md.
  curl -s 127.0.0.1:9001/metrics
      What Prometheus will see.
  quantd probe --metrics 127.0.0.1:9001
      Exit status 0 when the quantd that serves there takes calls: for a container's health check.
  quantd --listen :9000 --data /var/lib/quantd --blobs 's3://models/quantd?endpoint=https://s3.example.com&region=eu-1'
      Blobs in S3, with the credentials of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or of &credentials=FILE.
  quantd --listen :9000 --data /var/lib/quantd --store postgres://quantd@db/quant --blobs /srv/shared/quantd
      One of several quantd on a database. The password: in ~/.pgpass or PGPASSWORD, not here, where ps shows it.
  quantd --listen 127.0.0.1:0 --data /tmp/q
      Any free port: read it from the line on stdout, "quantd listening on 127.0.0.1:PORT".

SIGTERM or Ctrl-C stops gracefully; running jobs go on at their workers and are found again at the next start.
Exit status: 0 stopped as asked, 1 could not start, 2 wrong usage.)");
  }
};

absl::Status Check(Flags* flags) {
  if (flags->data.empty()) {
    return absl::InvalidArgumentError("--data is missing: name the folder that holds everything, e.g. --data ~/quantd");
  }
  if (flags->store != "sqlite") {
    if (absl::StartsWith(flags->store, "postgres://") || absl::StartsWith(flags->store, "postgresql://")) {
      flags->options.postgres = flags->store;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--store must be sqlite or postgres://…, not \"", flags->store, "\""));
    }
  }
  if (absl::StartsWith(flags->blobs, "s3://")) {
    ASSIGN_OR_RETURN(flags->options.s3_blobs, ParseS3Url(flags->blobs));
  } else if (absl::StrContains(flags->blobs, "://")) {
    return absl::InvalidArgumentError(absl::StrCat("--blobs must be a folder or s3://…, not \"", flags->blobs, "\""));
  } else {
    flags->options.blobs = flags->blobs;
  }
  if (flags->options.heartbeat_interval < absl::Milliseconds(50) ||
      flags->options.heartbeat_interval > absl::Minutes(5)) {
    return absl::InvalidArgumentError(absl::StrCat("--heartbeat must be from 50ms to 5m, not ",
                                                   absl::FormatDuration(flags->options.heartbeat_interval)));
  }
  if (flags->options.job_retention < absl::Minutes(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--job-retention must be 1m or more, not ", absl::FormatDuration(flags->options.job_retention)));
  }
  ASSIGN_OR_RETURN(const LogFormat format, ParseLogFormat(flags->log_format));
  SetLogFormat(format);
  if (flags->artifact_retention != absl::ZeroDuration()) {
    if (flags->artifact_retention < absl::Seconds(1) || flags->artifact_retention > absl::Hours(24 * 36'500)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--artifact-retention must be from 1s to 100 years (876000h), not ",
                       absl::FormatDuration(flags->artifact_retention)));
    }
    flags->options.artifact_retention = flags->artifact_retention;
  }
  flags->options.data = flags->data;
  flags->options.tokens = flags->tokens;
  flags->options.limits = flags->limits;
  flags->options.audit = flags->audit;
  ASSIGN_OR_RETURN(flags->options.listen, ParseHostPort(flags->listen));
  if (!flags->metrics.empty()) {
    ASSIGN_OR_RETURN(flags->options.metrics, ParseHostPort(flags->metrics));
  }
  return absl::OkStatus();
}

int Probe(const std::vector<std::string>& args) {
  return RunProbe({.name = "quantd",
                   .default_address = "127.0.0.1:9700",
                   .path = "/readyz",
                   .ready_means = "it takes calls",
                   .judge =
                       [](const HttpAnswer& answer) {
                         return answer.code == 200 ? absl::OkStatus() : absl::UnavailableError(answer.body);
                       }},
                  args);
}

int Main(const std::vector<std::string>& args) {
  if (!args.empty() && args.front() == "probe") return Probe({args.begin() + 1, args.end()});
  if (!args.empty() && args.front() == "token") return RunTokenCommand({args.begin() + 1, args.end()});
  KeepMemoryForMessages();
  ShutdownSignal shutdown(ShutdownSignal::Hangup::kCallback);  // before any thread
  std::signal(SIGPIPE, SIG_IGN);
  ::umask(077);  // the data folder holds other people's models
  InitLogging("quantd");

  Flags flags;
  absl::Status status = flags.set.Parse(args, nullptr);
  if (status.ok() && flags.set.help_requested()) {
    std::cout << flags.set.Help();
    return 0;
  }
  if (status.ok() && flags.version) {
    std::cout << "quantd " << BuildVersion() << "\n";
    return 0;
  }
  if (status.ok()) status = Check(&flags);
  if (!status.ok()) {
    std::cerr << "quantd: " << status.message() << "\n";
    return kWrongUsage;
  }

  auto server = Server::Start(flags.options);
  if (!server.ok()) {
    std::cerr << "quantd: " << server.status().message() << "\n";
    return kFailed;
  }
  LOG(INFO) << "quantd " << BuildVersion() << ", data in " << flags.data;
  shutdown.OnHangup([&server] { (*server)->ReopenAudit(); });
  const bool open = flags.options.tokens.empty() && flags.options.tls.ca.empty();
  LOG_IF(WARNING, open && !IsLoopback(flags.options.listen.host))
      << "serving without authentication beyond this machine: whoever reaches the port may do everything";
  // One write for both lines: who waits for the first one then has the second as well.
  std::string ready = absl::StrCat("quantd listening on ", (*server)->address().ToString(), "\n");
  if (const auto metrics = (*server)->metrics_address(); metrics.has_value()) {
    absl::StrAppend(&ready, "quantd metrics on ", metrics->ToString(), "\n");
  }
  std::cout << ready << std::flush;

  shutdown.Wait();
  (*server)->Shutdown();
  LOG(INFO) << "stopped";
  return 0;
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) { return quant::Main({argv + 1, argv + argc}); }
