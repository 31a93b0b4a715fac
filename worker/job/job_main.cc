// SPDX-License-Identifier: Apache-2.0
#include "worker/job/job_main.h"

#include <fcntl.h>

#include <csignal>
#include <exception>
#include <fstream>
#include <iostream>
#include <new>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/trace_context.h"
#include "quant/v1/workers.pb.h"
#include "worker/job/job_error.h"
#include "worker/job/quantize_job.h"
#include "worker/job/reporter.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
constexpr int kProgressFd = 3;

absl::StatusOr<quant::v1::Report> Run(const quant::v1::Lease& lease, const fs::path& folder, const JobLimits& limits,
                                      Reporter& reporter) {
  switch (lease.job().spec().kind_case()) {
    case quant::v1::JobSpec::kQuantize:
      return RunQuantizeJob(lease, folder, limits, reporter);
    case quant::v1::JobSpec::kBenchmark:
      return RunBenchmarkJob(lease, folder, limits, reporter);
    default:
      return absl::UnimplementedError("this worker runs jobs of the kinds quantize and benchmark");
  }
}

// Libraries and the standard library may throw (bad_alloc above all): here at the latest it becomes a Status.
absl::StatusOr<quant::v1::Report> RunGuarded(const quant::v1::Lease& lease, const fs::path& folder,
                                             const JobLimits& limits, Reporter& reporter) {
  try {
    return Run(lease, folder, limits, reporter);
  } catch (const std::bad_alloc&) {
    return WithJobReason(absl::ResourceExhaustedError("the job ran out of memory; start the worker with more --memory"),
                         "OUT_OF_MEMORY");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("unexpected exception: ", e.what()));
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
  const absl::StatusOr<quant::v1::Report> report = RunGuarded(lease, folder, resolved, reporter);
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
