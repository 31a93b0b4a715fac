// SPDX-License-Identifier: Apache-2.0
// quant-worker: leases jobs from quantd and runs each in a process of its own (this program again, with --run-job).
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/log/log.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/flags.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/probe.h"
#include "common/shutdown.h"
#include "common/strings.h"
#include "worker/agent/agent.h"
#include "worker/agent/metrics.h"
#include "worker/agent/orphans.h"
#include "worker/agent/resources.h"
#include "worker/agent/sandbox/sandbox.h"
#include "worker/job/job_main.h"

namespace quant {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

constexpr char kEpilog[] =
    "Examples:\n"
    "  quant-worker --server 127.0.0.1:9000 --cache /var/cache/quant-worker\n"
    "  quant-worker --server quantd:9000 --cache /cache --slots 2 --threads 4 --memory 8GiB --metrics :9101\n"
    "  quant-worker probe --metrics :9101    (exit status 0 when that worker is connected; for health checks)\n"
    "\n"
    "Prints \"quant-worker ID ready\" on stdout once the server has answered. SIGTERM drains: no new jobs, running\n"
    "ones get --drain-grace to finish and are then handed back without costing an attempt; the exit status is 0.\n"
    "A second signal ends it at once.\n"
    "\n"
    "Exit status: 0 stopped as asked, 1 cannot start, 2 wrong usage.\n";

int WrongUsage(const absl::Status& status) {
  std::cerr << "quant-worker: " << status.message() << "\nsee quant-worker --help\n";
  return kWrongUsage;
}

int RunJob(const std::filesystem::path& folder, const AgentOptions& options) {
  std::error_code error;  // the agent has made them; a person who calls this may not have
  for (const char* part : {"output", "work"}) std::filesystem::create_directories(folder / part, error);
  const absl::StatusOr<SandboxFeatures> sandbox = EnterSandbox(
      options.sandbox, {.folder = folder, .threads = options.threads, .memory_bytes = options.memory_bytes});
  if (!sandbox.ok()) {  // another worker may run the job
    return FailJobMain(folder,
                       absl::UnavailableError(absl::StrCat("cannot enter the sandbox: ", sandbox.status().message())));
  }
  return RunJobMain(folder, {.threads = options.threads, .memory_bytes = options.memory_bytes});
}

// The defaults of flags that depend on the machine and on --slots.
void FillDefaults(const FlagSet& flags, AgentOptions& options) {
  if (!flags.IsSet("threads")) options.threads = std::max(1, UsableCpus() / std::max(1, options.slots));
  // A fifth is left to the agent, the page cache and the system.
  if (!flags.IsSet("memory")) options.memory_bytes = UsableMemory() / 5 * 4 / std::max(1, options.slots);
}

// What the sandbox of this machine is good for, in the log and in the metrics; false: not good enough.
bool CheckSandbox(SandboxMode mode, AgentMetrics& metrics) {
  if (mode == SandboxMode::kOff) {
    LOG(WARNING) << "sandbox: off. Jobs run with all rights of this worker's user";
    metrics.SetSandbox("off");
    return true;
  }
  const absl::StatusOr<SandboxFeatures> found = DetectSandbox();
  if (!found.ok()) {
    std::cerr << "quant-worker: " << found.status().message() << "; --sandbox=off runs jobs without\n";
    return false;
  }
  metrics.SetSandbox(found->Complete() ? "on" : "partial");
  if (found->Complete()) {
    LOG(INFO) << "sandbox: " << found->ToString();
    return true;
  }
  if (mode == SandboxMode::kOn) {
    std::cerr << "quant-worker: --sandbox=on, but " << found->Missing() << "\n";
    return false;
  }
  LOG(WARNING) << "sandbox: " << found->ToString() << ". Missing: " << found->Missing();
  return true;
}

// Ready: the server answers its heartbeats. The metric is one line, "quant_worker_connected 1".
int Probe(const std::vector<std::string>& args) {
  return RunProbe(
      {.name = "quant-worker",
       .default_address = "127.0.0.1:9701",
       .path = "/metrics",
       .ready_means = "quantd answers its heartbeats",
       .judge =
           [](const HttpAnswer& answer) {
             return answer.body.find("\nquant_worker_connected 1\n") != std::string::npos
                        ? absl::OkStatus()
                        : absl::UnavailableError("quantd does not answer its heartbeats (quant_worker_connected)");
           }},
      args);
}

int Main(const std::vector<std::string>& args) {
  if (!args.empty() && args.front() == "probe") return Probe({args.begin() + 1, args.end()});
  AgentOptions options;
  std::string cache;
  std::string metrics_address;
  std::string run_job;
  std::string sandbox = SandboxModeName(options.sandbox);
  std::vector<std::string> phase_timeouts;
  std::string log_format = "text";
  bool version = false;
  FlagSet flags(
      "quant-worker",
      "quant-worker --server ADDR:PORT --cache DIR [flags]\n  quant-worker probe [--metrics ADDR:PORT]\n\n"
      "Runs the jobs of a quantd, each in a process and sandbox of its own. Start as many as there are machines;\n"
      "they find work by themselves and may come and go at any time.");
  flags.Add("server", &options.server, "ADDR:PORT", "Where quantd listens. Required.");
  options.auth.AddFlags(&flags);
  flags.Add("cache", &cache, "DIR", "Folder for downloaded blobs and running jobs; one worker's own. Required.");
  flags.AddBytes("cache-bytes", &options.cache_bytes, "BYTES", "How much of it blobs may fill.");
  flags.Add("slots", &options.slots, "N", "Jobs to run at once.", 1, 256);
  options.threads = UsableCpus();  // what --help shows: for one slot, on this machine
  options.memory_bytes = UsableMemory() / 5 * 4;
  flags.Add("threads", &options.threads, "N", "Threads per job; by default the CPUs over --slots.", 1, 4096);
  flags.AddBytes(
      "memory", &options.memory_bytes, "BYTES",
      "Memory per job; a job above it ends with OUT_OF_MEMORY. By default 80 % of the machine's or container's, "
      "over --slots; 0: no limit.");
  flags.Add("metrics", &metrics_address, "ADDR:PORT", "Serve Prometheus metrics at http://ADDR:PORT/metrics.");
  flags.Add("drain-grace", &options.drain_grace, "DURATION", "How long running jobs may go on after SIGTERM.");
  flags.Add("hang-timeout", &options.hang_timeout, "DURATION",
            "End a job whose progress stands still for this long. Neither waiting in the queue nor fetching counts.");
  flags.Add(
      "phase-timeout", &phase_timeouts, "PHASE=DURATION",
      "Another --hang-timeout for one phase (load, calibrate, quantize, export, verify, evaluate, benchmark); may "
      "be given several times.");
  flags.Add("name", &options.name, "NAME",
            "First part of this worker's id, before its process id and a random part. "
            "Default: the host name.");
  flags.Add(
      "sandbox", &sandbox, "MODE",
      "on: run no job without the whole sandbox (network namespace, Landlock, seccomp); best-effort: use what this "
      "system has and say what is missing; off.");
  flags.Add("run-job", &run_job, "FOLDER", "Run the job of FOLDER and exit: how this program calls itself.");
  flags.Add("log-format", &log_format, "text|json", "How lines on stderr are written; see docs/logs.md.");
  flags.Add("version", &version, "", "Print the version and exit.");
  flags.SetEpilog(kEpilog);
  if (absl::Status status = flags.Parse(args, nullptr); !status.ok()) return WrongUsage(status);
  if (flags.help_requested()) {
    std::cout << flags.Help();
    return kDone;
  }
  if (version) {
    std::cout << "quant-worker " << BuildVersion() << "\n";
    return kDone;
  }
  const absl::StatusOr<LogFormat> format = ParseLogFormat(log_format);
  if (!format.ok()) return WrongUsage(format.status());
  SetLogFormat(*format);
  FillDefaults(flags, options);
  const absl::StatusOr<SandboxMode> mode = ParseSandboxMode(sandbox);
  if (!mode.ok()) return WrongUsage(mode.status());
  options.sandbox = *mode;
  options.auth.FillFromEnvironment([](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  });
  ::unsetenv("QUANT_TOKEN");  // jobs' processes inherit the environment
  for (const std::string& text : phase_timeouts) {
    const size_t equals = std::min(text.find('='), text.size());
    absl::Duration timeout;
    if (equals == text.size() || !absl::ParseDuration(text.substr(equals + 1), &timeout)) {
      return WrongUsage(absl::InvalidArgumentError(
          absl::StrCat("--phase-timeout ", Quoted(text), ": PHASE=DURATION, e.g. export=30m")));
    }
    options.phase_timeouts[text.substr(0, equals)] = timeout;
  }
  if (flags.IsSet("run-job")) return RunJob(run_job, options);

  AgentMetrics metrics;
  if (!CheckSandbox(options.sandbox, metrics)) return kFailed;  // before the first thread
  std::unique_ptr<Agent> agent;                                 // outlives `shutdown`, whose callback uses it
  ShutdownSignal shutdown;                                      // before the first thread
  ::signal(SIGPIPE, SIG_IGN);
  AdoptOrphans();
  options.cache = cache;
  options.build = BuildVersion();
  options.isa = DetectIsa();
  if (!metrics_address.empty()) {
    metrics.SetCertificate(options.auth.tls.cert);
    const absl::StatusOr<int> port = metrics.Serve(metrics_address);
    if (!port.ok()) {
      std::cerr << "quant-worker: " << port.status().message() << "\n";
      return absl::IsInvalidArgument(port.status()) ? kWrongUsage : kFailed;
    }
    const HostPort at{ParseHostPort(metrics_address)->host, *port};
    std::cout << "quant-worker metrics on " << at.ToString() << std::endl;
  }
  absl::StatusOr<std::unique_ptr<Agent>> created = Agent::Create(options, metrics);
  if (absl::IsInvalidArgument(created.status())) return WrongUsage(created.status());
  if (!created.ok()) {
    std::cerr << "quant-worker: " << created.status().message() << "\n";
    return kFailed;
  }
  agent = *std::move(created);
  shutdown.OnSignal([&] { agent->Drain(); });
  LOG(INFO) << "worker " << agent->worker_id() << ", version " << options.build << ", " << options.isa << ": "
            << options.slots << " slots of " << options.threads << " threads and " << (options.memory_bytes >> 20)
            << " MiB, server " << options.server;
  agent->Run([&] { std::cout << "quant-worker " << agent->worker_id() << " ready" << std::endl; });
  return kDone;
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) {
  quant::InitLogging("quant-worker");
  return quant::Main(std::vector<std::string>(argv + 1, argv + argc));
}
