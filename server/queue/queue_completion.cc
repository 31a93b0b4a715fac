// SPDX-License-Identifier: Apache-2.0
// CompleteJob: how an attempt ended, and the publication of its result.
#include <algorithm>
#include <utility>

#include "absl/log/log.h"
#include "common/status_macros.h"
#include "common/view/job_inputs.h"
#include "common/view/method_name.h"
#include "server/queue/queue.h"
#include "server/queue/queue_internal.h"
#include "server/queue/queue_metrics.h"
#include "server/queue/spec_check.h"
#include "server/queue/worker_report.h"

namespace quant {
namespace {

constexpr size_t kMaxModelNameBytes = 128;

absl::Status Stale(const v1::CompleteJobRequest& request, int64_t newest) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("lease ", request.token(), " of job ", Quoted(request.job_id()),
                                                 " is gone (the job's newest is ", newest, "): discard the work")),
      "LEASE_STALE");
}

// Kinds that make a model need its files, the others must not have any.
absl::Status CheckResult(const v1::Job& job, const v1::JobResult& result) {
  if (MakesModel(job.spec()) && result.files().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("success.files of ", AbslView(JobKindName(job.spec())), " job ", job.id(), " is empty"));
  }
  if (!MakesModel(job.spec()) && !result.files().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("success.files of job ", job.id(), " has ", result.files_size(),
                                                   " entries; a ", AbslView(JobKindName(job.spec())),
                                                   " job makes no model"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JobRow> JobQueue::FindHeld(const v1::CompleteJobRequest& request, bool* repeated) {
  *repeated = false;
  absl::StatusOr<JobRow> row = Find(request.job_id());
  if (absl::IsNotFound(row.status())) return Stale(request, 0);  // deleted, so it was not leased
  RETURN_IF_ERROR(row.status());
  if (IsHeldBy(*row, request.token(), request.worker_id())) return row;
  if (request.token() > 0 && row->completed_token == request.token()) {
    *repeated = true;
    return row;
  }
  if (metrics_ != nullptr) metrics_->StaleReportRejected("complete");
  return Stale(request, row->token);
}

absl::StatusOr<v1::Job> JobQueue::Complete(const v1::CompleteJobRequest& request) {
  if (request.outcome_case() == v1::CompleteJobRequest::OUTCOME_NOT_SET) {
    return absl::InvalidArgumentError("no outcome: set success, failure, cancelled or released");
  }
  if (request.has_success()) return CompleteSuccess(request);
  Deferred deferred;
  absl::StatusOr<v1::Job> job;
  int tries = 0;
  {
    MutexLock lock(&mu_);
    do {
      bool repeated = false;
      ASSIGN_OR_RETURN(JobRow row, FindHeld(request, &repeated));
      if (repeated) return std::move(row.job);
      const LiveJob* live = live_.Find(request.job_id());
      if (live->publishing || live->won) return BeingPublished(request.job_id());
      job = ApplyOutcome(request, std::move(row), &deferred);
    } while (ChangedMeanwhile(job.status(), &tries));
    if (absl::IsAborted(job.status())) job = BeingPublished(request.job_id());  // its result came to another server
    Dispatch(&deferred);
  }
  RunAll(&deferred);
  return job;
}

absl::StatusOr<v1::Job> JobQueue::ApplyOutcome(const v1::CompleteJobRequest& request, JobRow row, Deferred* deferred) {
  row.completed_token = request.token();
  if (request.has_failure()) {
    v1::JobError error = CleanError(request.failure(), row.job.progress());
    if (error.error_class() != v1::ERROR_CLASS_FINAL) return ApplyLoss(std::move(row), std::move(error), deferred);
    *row.job.mutable_error() = std::move(error);
    return Apply(JobEvent::kFail, std::move(row), deferred);
  }
  if (request.has_cancelled()) return Apply(JobEvent::kWorkerCancelled, std::move(row), deferred);
  row.job.set_attempt(std::max(0, row.job.attempt() - 1));
  return Apply(JobEvent::kRelease, std::move(row), deferred);
}

absl::Status JobQueue::BeingPublished(const std::string& id) {
  return absl::UnavailableError(
      absl::StrCat("a result of job ", id, " is being published at this moment: repeat the call"));
}

absl::StatusOr<v1::Job> JobQueue::CompleteSuccess(const v1::CompleteJobRequest& request) {
  {
    MutexLock lock(&mu_);
    bool repeated = false;
    ASSIGN_OR_RETURN(JobRow row, FindHeld(request, &repeated));
    if (repeated) return std::move(row.job);
    LiveJob* live = live_.Find(request.job_id());
    if (live->publishing) return BeingPublished(request.job_id());
    RETURN_IF_ERROR(CheckResult(row.job, request.success()));
    const std::string bytes = request.success().SerializeAsString();
    absl::Status put = store_->PutResult(request.job_id(), VersionOf(row), bytes);
    if (absl::IsAborted(put)) {  // cancelled meanwhile at another server, or lost
      ASSIGN_OR_RETURN(row, FindHeld(request, &repeated));
      if (repeated) return std::move(row.job);
      put = store_->PutResult(request.job_id(), VersionOf(row), bytes);
      live = live_.Find(request.job_id());
    }
    RETURN_IF_ERROR(put);
    live->publishing = true;
  }
  return FinishPublication(request.job_id(), request.token(), request.success());
}

absl::StatusOr<std::string> JobQueue::PublishModel(const std::string& tenant, const v1::Job& job,
                                                   const v1::JobResult& result) {
  const v1::JobSpec& spec = job.spec();
  std::string name = spec.has_tune() ? spec.tune().output_name() : spec.quantize().output_name();
  if (name.empty()) {
    const std::string model = InputsOf(spec).model;
    const absl::StatusOr<v1::Model> input = catalog_->GetModel(OpenPrincipal(), model);
    const std::string base = input.ok() && !input->name().empty() ? input->name() : model;
    const std::string suffix =
        spec.has_tune() ? "-tuned" : absl::StrCat("-", AbslView(MethodName(spec.quantize().recipe())));
    name = Cut(base, kMaxModelNameBytes - suffix.size()) + suffix;
  }
  ASSIGN_OR_RETURN(const v1::Model model,
                   catalog_->PublishResult(tenant, job.id(), name, {result.files().begin(), result.files().end()}));
  return model.id();
}

absl::StatusOr<v1::Job> JobQueue::FinishPublication(const std::string& id, int64_t token, const v1::JobResult& result) {
  v1::Job job;
  std::string tenant;
  {
    MutexLock lock(&mu_);
    const LiveJob* live = live_.Find(id);
    if (live == nullptr) return EndedElsewhere(id, token);
    job = live->row.job;
    tenant = live->row.tenant;
  }
  absl::StatusOr<std::string> model_id = std::string();
  if (!result.files().empty()) model_id = PublishModel(tenant, job, result);

  Deferred deferred;
  absl::StatusOr<v1::Job> done;
  {
    MutexLock lock(&mu_);
    LiveJob* live = live_.Find(id);
    if (live == nullptr || live->row.token != token || !IsLeased(StateOf(live->row))) {
      return EndedElsewhere(id, token);
    }
    if (model_id.ok()) {
      int tries = 0;
      do {
        live->won = true;
        JobRow row = live->row;
        row.completed_token = token;
        row.job.set_result_model_id(*model_id);
        done = Apply(JobEvent::kSucceed, std::move(row), &deferred);
        live = live_.Find(id);
      } while (ChangedMeanwhile(done.status(), &tries) && live != nullptr && live->row.token == token &&
               IsLeased(StateOf(live->row)));
      if (absl::IsAborted(done.status())) done = EndedElsewhere(id, token);
    } else {
      done = model_id.status();
    }
    if (done.ok()) {
      if (metrics_ != nullptr) CountPhases(done->spec(), result.report(), metrics_);
    } else if (LiveJob* still = live_.Find(id); still != nullptr) {
      still->publishing = false;
      still->last_heard = clock_->Now();  // time to repeat the call
      NoteDue(LeaseDue(*still));
    }
  }
  RunAll(&deferred);
  return done;
}

}  // namespace quant
