// SPDX-License-Identifier: Apache-2.0
#include "server/api/job_service.h"

#include <grpcpp/grpcpp.h>

#include <optional>
#include <string>
#include <utility>

#include "common/grpc_status.h"
#include "common/mutex.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "server/auth/gate.h"
#include "server/queue/queue.h"

namespace quant {
namespace {

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// Calls `work` on behalf of the caller, and puts the job that it returns into the response.
template <typename Response, typename Work>
grpc::ServerUnaryReactor* ReplyJob(grpc::CallbackServerContext* context, Response* response, Work work) {
  const LogScope scope(LogFieldsOf(context));
  const absl::StatusOr<Principal> caller = CallerOf(context);
  if (!caller.ok()) return Reply(context, caller.status());
  absl::StatusOr<v1::Job> job = work(*caller);
  if (job.ok()) {
    SetObject(context, job->id());
    *response->mutable_job() = std::move(*job);
  }
  return Reply(context, job.status());
}

// A WatchJob stream. Holds at most one state that is not yet written, the newest: a slow reader costs no memory.
//
// Life: gRPC owns it from construction until OnDone, which deletes it. Finish is called once, when the queue or the
// transport has ended the watch and no write is under way. The queue's callback may come late and from any thread, so
// it holds the shared State and not the reactor.
class WatchReactor : public grpc::ServerWriteReactor<v1::WatchJobResponse> {
 public:
  WatchReactor(JobQueue* queue, grpc::CallbackServerContext* context, const v1::WatchJobRequest& request)
      : queue_(queue), state_(std::make_shared<State>()) {
    state_->reactor = this;
    // `this` may be gone when Watch returns: the stream can end in it.
    const std::shared_ptr<State> state = state_;
    const absl::StatusOr<Principal> caller = CallerOf(context);
    still_good_ = WhileOpen(context, [state](const absl::Status& why) { state->Refuse(why); });
    absl::StatusOr<uint64_t> handle = uint64_t{0};
    if (caller.ok()) {
      handle = queue->Watch(*caller, request.id(), request.after_sequence(),
                            [state](const WatchEvent& event) { state->Take(event); });
    } else {
      handle = caller.status();
    }
    if (!handle.ok()) {
      state->Take(WatchEvent{.job = nullptr, .end = handle.status()});
      return;
    }
    bool ended = false;
    {
      MutexLock lock(&state->mu);
      state->handle = *handle;
      ended = state->end.has_value();
    }
    if (ended) queue->Unwatch(*handle);  // the caller was gone before the handle was known
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(&state_->mu);
      state_->writing = false;
      if (!ok) state_->Abandon();
    }
    if (!ok) Unwatch();
    state_->Advance();
  }

  void OnCancel() override {
    {
      MutexLock lock(&state_->mu);
      state_->Abandon();
    }
    Unwatch();
    state_->Advance();
  }

  void OnDone() override {
    {
      MutexLock lock(&state_->mu);
      state_->reactor = nullptr;
    }
    Unwatch();
    delete this;
  }

 private:
  struct State {
    Mutex mu;
    WatchReactor* reactor ABSL_GUARDED_BY(mu) = nullptr;         // null once gRPC is done with it
    std::shared_ptr<const v1::Job> pending ABSL_GUARDED_BY(mu);  // newest state not yet written
    int64_t newest ABSL_GUARDED_BY(mu) = 0;                      // sequence of the newest state taken
    std::optional<absl::Status> end ABSL_GUARDED_BY(mu);         // how the stream ends, after `pending`
    bool writing ABSL_GUARDED_BY(mu) = false;
    bool finished ABSL_GUARDED_BY(mu) = false;
    uint64_t handle ABSL_GUARDED_BY(mu) = 0;
    v1::WatchJobResponse message;  // owned by the write under way

    void Take(const WatchEvent& event) {
      {
        MutexLock lock(&mu);
        if (end || reactor == nullptr) return;
        if (event.job != nullptr && event.job->sequence() >= newest) {
          newest = event.job->sequence();
          pending = event.job;
        }
        if (event.end) end = *event.end;
      }
      Advance();
    }

    // The caller may see no more.
    void Refuse(const absl::Status& why) {
      {
        MutexLock lock(&mu);
        if (end) return;
        pending = nullptr;
        end = why;
      }
      Advance();
    }

    // The transport is gone: nothing more can be written.
    void Abandon() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
      pending = nullptr;
      end = absl::CancelledError("the watcher is gone");
    }

    // Starts what is next: a write, the end, or nothing. Calls into gRPC without the lock; the reactor lives, since
    // OnDone comes only after Finish, and Finish only when nothing else is under way.
    void Advance() {
      WatchReactor* writer = nullptr;
      WatchReactor* finisher = nullptr;
      absl::Status status;
      {
        MutexLock lock(&mu);
        if (writing || finished || reactor == nullptr) return;
        if (pending != nullptr) {
          *message.mutable_job() = *pending;
          pending = nullptr;
          writing = true;
          writer = reactor;
        } else if (end) {
          finished = true;
          status = *end;
          finisher = reactor;
        }
      }
      if (writer != nullptr) writer->StartWrite(&message);
      if (finisher != nullptr) finisher->Finish(ToGrpc(status));
    }
  };

  void Unwatch() {
    uint64_t handle = 0;
    {
      MutexLock lock(&state_->mu);
      handle = state_->handle;
    }
    if (handle != 0) queue_->Unwatch(handle);
  }

  JobQueue* const queue_;
  const std::shared_ptr<State> state_;  // shared with the queue's callback, which may outlive this
  StillGood still_good_;
};

}  // namespace

class JobService::Impl final : public v1::JobService::CallbackService {
 public:
  explicit Impl(JobQueue* queue) : queue_(queue) {}
  JobQueue* queue() { return queue_; }

  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context, const v1::SubmitJobRequest* request,
                                      v1::SubmitJobResponse* response) override {
    return ReplyJob(context, response, [&](const Principal& caller) {
      return queue_->Submit(caller, *request, LogFieldsOf(context).traceparent);
    });
  }
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context, const v1::GetJobRequest* request,
                                   v1::GetJobResponse* response) override {
    SetObject(context, request->id());
    return ReplyJob(context, response, [&](const Principal& caller) { return queue_->Get(caller, request->id()); });
  }
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context, const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override {
    const absl::StatusOr<Principal> caller = CallerOf(context);
    if (!caller.ok()) return Reply(context, caller.status());
    absl::StatusOr<v1::ListJobsResponse> page = queue_->List(*caller, *request);
    if (page.ok()) *response = std::move(*page);
    return Reply(context, page.status());
  }
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(grpc::CallbackServerContext* context,
                                                           const v1::WatchJobRequest* request) override {
    SetObject(context, request->id());
    return new WatchReactor(queue_, context, *request);  // deletes itself in OnDone
  }
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context, const v1::CancelJobRequest* request,
                                      v1::CancelJobResponse* response) override {
    SetObject(context, request->id());
    return ReplyJob(context, response, [&](const Principal& caller) { return queue_->Cancel(caller, request->id()); });
  }
  grpc::ServerUnaryReactor* RetryJob(grpc::CallbackServerContext* context, const v1::RetryJobRequest* request,
                                     v1::RetryJobResponse* response) override {
    SetObject(context, request->id());
    return ReplyJob(context, response, [&](const Principal& caller) { return queue_->Retry(caller, request->id()); });
  }
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context, const v1::DeleteJobRequest* request,
                                      v1::DeleteJobResponse*) override {
    const absl::StatusOr<Principal> caller = CallerOf(context);
    SetObject(context, request->id());
    return Reply(context, caller.ok() ? queue_->Delete(*caller, request->id()) : caller.status());
  }
  grpc::ServerUnaryReactor* GetJobReport(grpc::CallbackServerContext* context, const v1::GetJobReportRequest* request,
                                         v1::GetJobReportResponse* response) override {
    const absl::StatusOr<Principal> caller = CallerOf(context);
    SetObject(context, request->id());
    if (!caller.ok()) return Reply(context, caller.status());
    absl::StatusOr<v1::Report> report = queue_->GetReport(*caller, request->id());
    if (report.ok()) *response->mutable_report() = std::move(*report);
    return Reply(context, report.status());
  }

 private:
  JobQueue* const queue_;
};

JobService::JobService(JobQueue* queue) : impl_(std::make_unique<Impl>(queue)) {}
JobService::~JobService() = default;
grpc::Service* JobService::service() { return impl_.get(); }
void JobService::Shutdown() { impl_->queue()->EndWatches(); }

}  // namespace quant
