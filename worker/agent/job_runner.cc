// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/job_runner.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/logging.h"
#include "common/proto_time.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/trace_context.h"
#include "quant/v1/workers.pb.h"
#include "worker/agent/outcome.h"
#include "worker/agent/supervisor.h"
#include "worker/agent/text.h"

namespace quant {
namespace {

// A manifest of the lease and the sub-folder that its files go to.
struct Input {
  const char* part;
  const google::protobuf::RepeatedPtrField<v1::File>* files;
  const char* reason;  // when the manifest is bad
};

std::vector<Input> Inputs(const v1::Lease& lease) {
  return {{"model", &lease.model().files(), "MODEL_INVALID"},
          {"baseline", &lease.baseline_model().files(), "MODEL_INVALID"},
          {"calibration", &lease.calibration_dataset().files(), "DATA_MISMATCH"},
          {"evaluation", &lease.evaluation_dataset().files(), "DATA_MISMATCH"}};
}

FileDigest DigestOf(const v1::File& file) { return {file.digest().sha256(), file.digest().size_bytes()}; }

// The attempt's length by the server's clock: its attempt_timeout.
absl::Duration AttemptTimeout(const v1::Lease& lease) {
  if (!lease.has_deadline()) return absl::InfiniteDuration();
  const absl::Time start = lease.job().has_start_time() ? FromProto(lease.job().start_time()) : absl::Now();
  return std::max(FromProto(lease.deadline()) - start, absl::ZeroDuration());
}

// How much of it this worker uses, counted on its own clock from now: a little less, so that a TIMEOUT still arrives
// under a valid lease.
absl::Duration UsableTime(absl::Duration timeout) { return timeout - std::min(timeout * 0.05, absl::Seconds(10)); }

void AddPhase(double seconds, const char* name, bool first, v1::Report& report) {
  v1::Phase& phase = *report.add_phases();
  phase.set_name(name);
  phase.set_seconds(seconds);
  if (!first) return;
  for (int i = report.phases_size() - 1; i > 0; --i) report.mutable_phases()->SwapElements(i, i - 1);
}

}  // namespace

struct JobRunner::Work {
  Work(const v1::Lease& l, ActiveLease& a)
      : lease(l), active(a), timeout(AttemptTimeout(l)), end(SteadyNow() + UsableTime(timeout)) {}

  const v1::Lease& lease;
  ActiveLease& active;
  const absl::Duration timeout;
  const SteadyTime end;
  v1::CompleteJobRequest done;
  double fetch_seconds = 0;

  bool Ordered(LeaseOrder order) const { return active.order() >= order; }
  bool TimedOut() const { return SteadyNow() >= end; }

  // The outcome of a step of ours that failed with `status`.
  void Fail(const absl::Status& status, Blame blame, std::string_view reason, std::string_view phase) {
    if (Ordered(LeaseOrder::kCancel)) {
      done.mutable_cancelled();
    } else if (Ordered(LeaseOrder::kRelease)) {
      done.mutable_released();
    } else if (TimedOut()) {
      SetFailure(Blame::kEnvironment, "TIMEOUT",
                 absl::StrCat("the attempt did not end within its ", absl::FormatDuration(timeout), "; phase ",
                              AbslView(phase), ". Submit the job with a longer attempt_timeout"),
                 phase, done);
    } else {
      SetFailure(blame, reason, StdView(status.message()), phase, done);
    }
  }
};

JobRunner::JobRunner(JobRunnerOptions options, ServerLink& link, BlobCache& cache, AgentMetrics& metrics)
    : options_(std::move(options)), link_(link), cache_(cache), metrics_(metrics) {}

void JobRunner::Run(const v1::Lease& lease, ActiveLease& active) {
  // What the server says is checked like anything from outside.
  const LogScope scope({.job = active.job_id(), .traceparent = ParseTraceparent(lease.job().traceparent())});
  LOG(INFO) << "job " << active.job_id() << " (lease " << active.token() << ") begins";
  Work work(lease, active);
  work.done.set_worker_id(options_.worker_id);
  work.done.set_job_id(active.job_id());
  work.done.set_token(active.token());
  Attempt(work);
  const bool lost = active.order() == LeaseOrder::kLost;
  const std::string outcome = lost ? "lost" : OutcomeLabel(work.done);
  metrics_.JobEnded(outcome, lost ? "" : ReasonLabel(work.done));
  metrics_.SetCache(cache_.stats());
  LOG(INFO) << "job " << active.job_id() << " (lease " << active.token() << ") ended: " << outcome
            << (work.done.has_failure()
                    ? absl::StrCat(" ", work.done.failure().reason(), ": ", work.done.failure().message())
                    : std::string());
}

void JobRunner::Attempt(Work& work) {
  absl::StatusOr<JobFolder> folder =
      JobFolder::Create(cache_.jobs_folder(), cache_.resume_folder(), work.active.job_id(), work.active.token());
  if (!folder.ok()) {
    work.Fail(folder.status(), Blame::kEnvironment, "INTERNAL", "fetch");
    return Complete(work, nullptr);
  }
  // Pinned until the child is done with its links; the room of the folder's own files is not counted.
  std::vector<FileDigest> blobs;
  for (const Input& input : Inputs(work.lease)) {
    for (const v1::File& file : *input.files) blobs.push_back(DigestOf(file));
  }
  work.active.SetProgress("fetch", 0, "");
  const SteadyTime start = SteadyNow();
  absl::StatusOr<BlobCache::Pins> pins =
      cache_.Pin(blobs, [&] { return work.Ordered(LeaseOrder::kRelease) || work.TimedOut(); });
  if (!pins.ok()) {
    work.Fail(pins.status(), Blame::kEnvironment, "INTERNAL", "fetch");
    return Complete(work, nullptr);
  }
  const absl::Status fetched = Fetch(work, *folder);
  metrics_.SetCache(cache_.stats());
  work.fetch_seconds = absl::ToDoubleSeconds(SteadyNow() - start);
  if (fetched.ok()) {
    RunProcess(work, *folder);
  } else if (work.done.outcome_case() == v1::CompleteJobRequest::OUTCOME_NOT_SET) {
    work.Fail(fetched, Blame::kEnvironment, "INTERNAL", "fetch");
  }
  Complete(work, &*folder);
  const v1::CompleteJobRequest& done = work.done;
  const bool final = done.has_success() || done.has_cancelled() ||
                     (done.has_failure() && done.failure().error_class() == v1::ERROR_CLASS_FINAL);
  if (final && work.active.order() != LeaseOrder::kLost) folder->DiscardResume();
}

absl::Status JobRunner::Fetch(Work& work, JobFolder& folder) {
  const BlobCache::Stop stop = [&] { return work.Ordered(LeaseOrder::kRelease) || work.TimedOut(); };
  int64_t total = 0;
  for (const Input& input : Inputs(work.lease)) {
    for (const v1::File& file : *input.files) total += file.digest().size_bytes();  // Pin has bounded the sum
  }
  int64_t done = 0;
  for (const Input& input : Inputs(work.lease)) {
    for (const v1::File& file : *input.files) {
      if (stop()) return absl::CancelledError("stopped while fetching the job's files");
      // Before the download: no byte is fetched for a path that cannot be used.
      absl::Status linked = CheckManifestPath(file.path());
      const auto tell = [&](int64_t bytes) {
        const double of = total > 0 ? static_cast<double>(done + bytes) / static_cast<double>(total) : 1;
        work.active.SetProgress("fetch", of, file.path(), {done + bytes, total, "bytes"});
      };
      if (linked.ok()) {
        ASSIGN_OR_RETURN(const std::filesystem::path cached,
                         cache_.Fetch(
                             DigestOf(file),
                             [&](const FileDigest& blob, const std::filesystem::path& dst) {
                               return link_.Download(blob, dst, stop, [&](int64_t bytes, int64_t) { tell(bytes); });
                             },
                             stop));
        linked = folder.Link(input.part, file.path(), cached);
      }
      if (absl::IsInvalidArgument(linked)) {
        SetFailure(Blame::kInput, input.reason, StdView(linked.message()), "fetch", work.done);
      }
      RETURN_IF_ERROR(linked);
      done += file.digest().size_bytes();
      tell(0);
    }
  }
  return folder.WriteLease(work.lease);
}

void JobRunner::RunProcess(Work& work, JobFolder& folder) {
  ChildProcess::Command command{
      .argv = options_.child_command, .environment = ChildEnvironment(), .folder = folder.path()};
  for (const std::string& arg :
       {std::string("--run-job"), folder.path().string(), std::string("--threads"), absl::StrCat(options_.threads),
        std::string("--memory"), absl::StrCat(options_.memory_bytes), std::string("--sandbox"),
        std::string(SandboxModeName(options_.sandbox))}) {
    command.argv.push_back(arg);
  }
  const ChildLimits limits{.memory_bytes = options_.memory_bytes,
                           .threads = SandboxThreads(options_.threads),
                           .hang_timeout = options_.hang_timeout,
                           .phase_timeouts = options_.phase_timeouts,
                           .end = work.end,
                           .cancel_grace = options_.cancel_grace,
                           .release_grace = options_.release_grace};
  work.active.SetProgress("load", 0, "");
  int64_t rss_told = 0;
  const ChildEvents events{.progress =
                               [&](std::string_view payload) {
                                 v1::Progress progress;
                                 if (!progress.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
                                   return absl::InvalidArgumentError("a frame that is no quant.v1.Progress");
                                 }
                                 work.active.SetProgress(progress.phase(), progress.fraction(), progress.message(),
                                                         {progress.done(), progress.total(), progress.unit()});
                                 return absl::OkStatus();
                               },
                           .memory =
                               [&](int64_t rss) {
                                 metrics_.ChildRss(rss - rss_told);
                                 rss_told = rss;
                               }};
  absl::StatusOr<ChildResult> child = RunChild(command, limits, work.active, events);
  if (!child.ok()) return work.Fail(child.status(), Blame::kEnvironment, "INTERNAL", "load");
  metrics_.ChildEnded(*child);
  v1::CompleteJobRequest outcome;
  const absl::Status told = folder.ReadOutcome(outcome);
  JudgeChild({.child = *child,
              .outcome_status = told,
              .outcome = outcome,
              .order = work.active.order(),
              .phase = work.active.state().phase,
              .attempt_timeout = work.timeout},
             work.done);
  if (work.done.has_success()) {
    v1::Report& report = *work.done.mutable_success()->mutable_report();
    if (report.peak_memory_bytes() == 0) report.set_peak_memory_bytes(child->exit.peak_rss_bytes);
    AddPhase(work.fetch_seconds, "fetch", /*first=*/true, report);
  } else {
    LOG(WARNING) << "job " << work.active.job_id() << ": process ended with " << DescribeExit(child->exit.wait_status)
                 << ", stopped for: " << StopCauseName(child->stopped) << "; end of its output:\n"
                 << CleanText(child->output_tail, child->output_tail.size(), Keep::kTail);
  }
}

absl::Status JobRunner::Upload(Work& work, const JobFolder& folder) {
  const ServerLink::Stop stop = [&] {
    const LeaseOrder order = work.active.order();  // a cancel comes too late here: the result is there
    return order == LeaseOrder::kRelease || order == LeaseOrder::kLost || work.TimedOut();
  };
  work.active.SetProgress("upload", 0, "hashing");
  ASSIGN_OR_RETURN(const std::vector<OutputFile> outputs, folder.ListOutput());
  v1::JobResult& result = *work.done.mutable_success();
  result.clear_files();
  std::vector<ServerLink::File> files;
  Sha256 manifest;  // Model.digest of the model that the server will make of these files
  for (const OutputFile& output : outputs) {
    if (stop()) return absl::CancelledError("stopped before the upload");
    ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(output.file));
    files.push_back({.path = output.file, .digest = digest});
    v1::File& file = *result.add_files();
    file.set_path(output.path);
    file.mutable_digest()->set_sha256(digest.sha256);
    file.mutable_digest()->set_size_bytes(digest.size_bytes);
    manifest.Update(absl::StrCat(digest.sha256, " ", digest.size_bytes, " ", output.path, "\n"));
  }
  if (files.empty()) return absl::OkStatus();
  result.mutable_report()->mutable_provenance()->set_result_digest(manifest.Finish());
  int64_t sent = 0;
  const absl::Status status = link_.Upload(files, stop, [&](int64_t done, int64_t total) {
    work.active.SetProgress("upload", total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1,
                            "files of the result", {done, total, "bytes"});
    if (done > sent) metrics_.Uploaded(done - sent);
    sent = std::max(sent, done);
  });
  return status;
}

void JobRunner::Complete(Work& work, const JobFolder* folder) {
  bool reuploaded = false;
  double upload_seconds = 0;
  bool upload = work.done.has_success();
  while (work.active.order() != LeaseOrder::kLost) {
    if (upload) {
      const SteadyTime start = SteadyNow();
      const absl::Status status = Upload(work, *folder);
      upload_seconds += absl::ToDoubleSeconds(SteadyNow() - start);
      if (work.active.order() == LeaseOrder::kLost) return;
      if (!status.ok()) {
        work.done.clear_outcome();
        const bool bad_output = absl::IsInvalidArgument(status);  // what ListOutput refuses
        work.Fail(status, bad_output ? Blame::kInput : Blame::kEnvironment, "INTERNAL", "upload");
      } else {
        v1::Report& report = *work.done.mutable_success()->mutable_report();
        if (reuploaded) report.mutable_phases()->RemoveLast();
        AddPhase(upload_seconds, "upload", /*first=*/false, report);
      }
      upload = false;
    }
    const absl::Status status = CallComplete(work);
    if (status.ok() || work.active.order() == LeaseOrder::kLost) return;
    const std::string reason = ReasonOf(status);
    LOG(WARNING) << "job " << work.active.job_id() << ": the server refuses its outcome: " << status;
    if (reason == "LEASE_STALE" || absl::IsNotFound(status)) {
      work.active.Give(LeaseOrder::kLost);
    } else if (reason == "BLOB_MISSING" && work.done.has_success() && !std::exchange(reuploaded, true)) {
      upload = true;
    } else if (work.done.has_success()) {
      // A result that the server cannot take ends the attempt all the same, with the server's words.
      const Blame blame = absl::IsInvalidArgument(status) ? Blame::kInput : Blame::kEnvironment;
      work.done.clear_outcome();
      SetFailure(blame, "INTERNAL", absl::StrCat("the server did not take the result: ", status.message()), "upload",
                 work.done);
    } else {
      return;  // nothing more can be said; the server will give the lease up for lack of an end
    }
  }
}

absl::Status JobRunner::CallComplete(Work& work) {
  // Goes on until the server answers or the lease is lost, which the heartbeat loop finds out.
  absl::Duration wait = absl::Milliseconds(50);
  while (true) {
    v1::CompleteJobResponse response;
    const absl::Status status = link_.CompleteJob(work.done, response);
    const bool again = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsCancelled(status) ||
                       absl::IsAborted(status) || RetryAfterOf(status) > absl::ZeroDuration();
    if (!again) return status;
    if (work.active.SleepUnless(LeaseOrder::kLost, std::max(wait, std::min(RetryAfterOf(status), absl::Seconds(30))))) {
      return status;
    }
    wait = std::min(wait * 2, absl::Seconds(1));
  }
}

}  // namespace quant
