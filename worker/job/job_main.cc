// SPDX-License-Identifier: Apache-2.0
#include "worker/job/job_main.h"

#include <fcntl.h>

#include <csignal>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/trace_context.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/guarded.h"
#include "worker/job/job_error.h"
#include "worker/job/quantize_job.h"
#include "worker/job/reporter.h"
#include "worker/job/tune_job.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
constexpr int kProgressFd = 3;

absl::StatusOr<quant::v1::Report> Run(const quant::v1::Lease& lease, const fs::path& folder, const JobLimits& limits,
                                      Reporter& reporter) {
  const JobPaths paths{.inputs = folder, .own = folder};
  switch (lease.job().spec().kind_case()) {
    case quant::v1::JobSpec::kQuantize:
      return RunQuantizeJob(lease, paths, limits, reporter);
    case quant::v1::JobSpec::kBenchmark:
      return RunBenchmarkJob(lease, paths, limits, reporter);
    case quant::v1::JobSpec::kTune:
      return RunTuneJob(lease, folder, limits, reporter);
    default:
      return absl::UnimplementedError("this worker runs jobs of the kinds quantize, benchmark and tune");
  }
}

int CannotWrite(const fs::path& file) {
  std::cerr << "quant-worker: cannot write " << file.string() << "\n";
  return 1;
}

int WriteOutcome(const fs::path& folder, const quant::v1::CompleteJobRequest& outcome) {
  const fs::path temporary = folder / "work/outcome.pb.tmp";
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    if (!outcome.SerializeToOstream(&out)) out.setstate(std::ios::failbit);
    if (!out.flush()) return CannotWrite(temporary);
  }
  std::error_code error;
  fs::rename(temporary, folder / "work/outcome.pb", error);
  return error ? CannotWrite(folder / "work/outcome.pb") : 0;
}

}  // namespace

int RunJobMain(const fs::path& folder, const JobLimits& limits) {
  std::signal(SIGPIPE, SIG_IGN);
  quant::v1::Lease lease;
  {
    std::ifstream in(folder / "lease.pb", std::ios::binary);
    if (!in || !lease.ParseFromIstream(&in)) {
      std::cerr << "quant-worker: " << (folder / "lease.pb").string() << " is missing or malformed\n";
      return 1;
    }
  }
  LogScope::SetProcess({.job = lease.job().id(), .traceparent = ParseTraceparent(lease.job().traceparent())});
  JobLimits resolved = limits;
  if (resolved.threads <= 0) resolved.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  Reporter reporter(fcntl(kProgressFd, F_GETFD) >= 0 ? kProgressFd : -1);
  const absl::StatusOr<quant::v1::Report> report = Guarded([&] { return Run(lease, folder, resolved, reporter); });
  quant::v1::CompleteJobRequest outcome;
  if (report.ok()) {
    *outcome.mutable_success()->mutable_report() = *report;
  } else {
    *outcome.mutable_failure() = ToJobError(report.status(), reporter.phase());
  }
  return WriteOutcome(folder, outcome);
}

int FailJobMain(const fs::path& folder, const absl::Status& status) {
  quant::v1::CompleteJobRequest outcome;
  *outcome.mutable_failure() = ToJobError(status, "load");
  return WriteOutcome(folder, outcome);
}

}  // namespace quant
