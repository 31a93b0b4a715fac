// SPDX-License-Identifier: Apache-2.0
#include "server/api/worker_service.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/thread_pool.h"
#include "quant/v1/workers.grpc.pb.h"
#include "server/auth/gate.h"
#include "server/queue/queue.h"

namespace quant {
namespace {

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// A LeaseJob call, parked in the queue until there is an answer. The queue calls back exactly once, which is when
// Finish is called; so the reactor lives until then, and OnDone deletes it.
class LeaseReactor : public grpc::ServerUnaryReactor {
 public:
  LeaseReactor(JobQueue* queue, grpc::CallbackServerContext* context, const v1::LeaseJobRequest& request,
               v1::LeaseJobResponse* response)
      : queue_(queue),
        context_(context),
        response_(response),
        worker_id_(request.worker().id()),
        state_(std::make_shared<State>()) {
    const absl::StatusOr<Principal> caller = CallerOf(context);
    if (!caller.ok()) {
      Finish(ToGrpc(caller.status()));
      return;
    }
    const LogScope scope(LogFieldsOf(context));
    holder_ = caller->name;
    // `this` may be gone when Lease returns: the call can be answered in it.
    const std::shared_ptr<State> state = state_;
    still_good_ = WhileOpen(context, [queue, state](const absl::Status& why) {
      uint64_t handle = 0;
      {
        MutexLock lock(&state->mu);
        state->refused = why;
        handle = state->handle;
      }
      if (handle != 0) queue->AbandonLease(handle);
    });
    const uint64_t handle =
        queue->Lease(request, [this](absl::StatusOr<v1::LeaseJobResponse> answer) { Take(std::move(answer)); });
    bool cancelled = false;
    {
      MutexLock lock(&state->mu);
      state->handle = handle;
      cancelled = state->cancelled || !state->refused.ok();
    }
    if (cancelled) queue->AbandonLease(handle);
  }

  void OnCancel() override {
    uint64_t handle = 0;
    {
      MutexLock lock(&state_->mu);
      state_->cancelled = true;
      handle = state_->handle;
    }
    if (handle != 0) queue_->AbandonLease(handle);
  }

  void OnDone() override { delete this; }

 private:
  struct State {
    Mutex mu;
    bool cancelled ABSL_GUARDED_BY(mu) = false;
    absl::Status refused ABSL_GUARDED_BY(mu);  // why the caller may not have a lease any more
    uint64_t handle ABSL_GUARDED_BY(mu) = 0;   // 0: not yet known
  };

  void Take(absl::StatusOr<v1::LeaseJobResponse> answer) {
    bool cancelled = false;
    absl::Status refused;
    {
      MutexLock lock(&state_->mu);
      cancelled = state_->cancelled;
      refused = state_->refused;
    }
    if ((cancelled || !refused.ok()) && answer.ok() && answer->has_lease()) {  // nobody is there to run it
      v1::CompleteJobRequest release;
      release.set_worker_id(worker_id_);
      release.set_job_id(answer->lease().job().id());
      release.set_token(answer->lease().token());
      release.mutable_released();
      queue_->Complete(release).IgnoreError();  // else the lease runs out
      answer = absl::CancelledError("the caller is gone");
    }
    if (!refused.ok()) answer = refused;
    if (answer.ok() && answer->has_lease()) {
      queue_->NoteHolder(answer->lease().job().id(), answer->lease().token(), holder_);
    }
    if (answer.ok()) {
      SetObject(context_, answer->lease().job().id());
      *response_ = std::move(*answer);
    }
    Finish(ToGrpc(answer.status()));
  }

  JobQueue* const queue_;
  grpc::CallbackServerContext* const context_;
  v1::LeaseJobResponse* const response_;
  const std::string worker_id_;
  const std::shared_ptr<State> state_;  // shared with the constructor, which `this` may not outlive
  std::string holder_;                  // the name of the caller's token
  StillGood still_good_;
};

}  // namespace

class WorkerService::Impl final : public v1::WorkerService::CallbackService {
 public:
  explicit Impl(JobQueue* queue) : queue_(queue) {}
  JobQueue* queue() { return queue_; }

  grpc::ServerUnaryReactor* LeaseJob(grpc::CallbackServerContext* context, const v1::LeaseJobRequest* request,
                                     v1::LeaseJobResponse* response) override {
    return new LeaseReactor(queue_, context, *request, response);  // deletes itself in OnDone
  }
  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context, const v1::HeartbeatRequest* request,
                                      v1::HeartbeatResponse* response) override {
    if (const auto caller = CallerOf(context); !caller.ok()) return Reply(context, caller.status());
    const LogScope scope(LogFieldsOf(context));
    absl::StatusOr<v1::HeartbeatResponse> answer = queue_->Heartbeat(*request);
    if (answer.ok()) *response = std::move(*answer);
    return Reply(context, answer.status());
  }
  grpc::ServerUnaryReactor* CompleteJob(grpc::CallbackServerContext* context, const v1::CompleteJobRequest* request,
                                        v1::CompleteJobResponse* response) override {
    if (const auto caller = CallerOf(context); !caller.ok()) return Reply(context, caller.status());
    SetObject(context, request->job_id());
    const LogFields fields = LogFieldsOf(context);
    if (!request->has_success()) return Reply(context, Complete(fields, *request, response));
    // A result is published: that looks for its blobs, which may be far away.
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    const bool posted = pool_.TryPost(
        [this, fields, reactor, request, response] { reactor->Finish(ToGrpc(Complete(fields, *request, response))); });
    if (!posted) reactor->Finish(ToGrpc(absl::UnavailableError("too many results are being published; try again")));
    return reactor;
  }
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context, const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse* response) override {
    if (const auto caller = CallerOf(context); !caller.ok()) return Reply(context, caller.status());
    *response = queue_->ListWorkers();
    return Reply(context, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* DrainWorker(grpc::CallbackServerContext* context, const v1::DrainWorkerRequest* request,
                                        v1::DrainWorkerResponse* response) override {
    if (const auto caller = CallerOf(context); !caller.ok()) return Reply(context, caller.status());
    SetObject(context, request->id());
    absl::StatusOr<v1::Worker> worker = queue_->DrainWorker(request->id());
    if (worker.ok()) *response->mutable_worker() = std::move(*worker);
    return Reply(context, worker.status());
  }

 private:
  absl::Status Complete(const LogFields& fields, const v1::CompleteJobRequest& request,
                        v1::CompleteJobResponse* response) {
    const LogScope scope(fields);
    absl::StatusOr<v1::Job> job = queue_->Complete(request);
    if (job.ok()) *response->mutable_job() = std::move(*job);
    return job.status();
  }

  JobQueue* const queue_;
  ThreadPool pool_{/*threads=*/2, /*max_waiting=*/1000};  // the last: its threads are joined while the rest is there
};

WorkerService::WorkerService(JobQueue* queue) : impl_(std::make_unique<Impl>(queue)) {}
WorkerService::~WorkerService() = default;
grpc::Service* WorkerService::service() { return impl_.get(); }
void WorkerService::Shutdown() { impl_->queue()->EndLeases(); }

}  // namespace quant
