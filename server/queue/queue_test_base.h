// SPDX-License-Identifier: Apache-2.0
// What the queue's tests share: a queue over fakes, and short ways to say what clients and workers do.
#ifndef QUANT_SERVER_QUEUE_QUEUE_TEST_BASE_H_
#define QUANT_SERVER_QUEUE_QUEUE_TEST_BASE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "absl/status/status_matchers.h"
#include "common/clock.h"
#include "common/error_detail.h"
#include "common/proto_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/metrics/server_metrics.h"
#include "server/queue/fake_artifact_catalog.h"
#include "server/queue/queue.h"
#include "server/store/memory_job_store.h"

namespace quant {

MATCHER_P2(FailsWith, code, reason, "") {
  absl::Status status;
  if constexpr (requires { arg.status(); }) {
    status = arg.status();
  } else {
    status = arg;
  }
  *result_listener << status.ToString() << ", reason " << ReasonOf(status);
  return status.code() == code && ReasonOf(status) == reason;
}

// A parked or answered LeaseJob call.
struct LeaseCall {
  int answers = 0;
  absl::StatusOr<v1::LeaseJobResponse> answer = absl::UnknownError("no answer yet");
  uint64_t handle = 0;
};

// A WatchJob stream without its transport.
struct Watcher {
  std::vector<WatchEvent> events;
  uint64_t handle = 0;
  // States in the order told, e.g. "QUEUED RUNNING"; then the end's code, if it came.
  std::string Story() const {
    std::string story;
    for (const WatchEvent& event : events) {
      if (event.job)
        story += (story.empty() ? "" : " ") + std::string(v1::JobState_Name(event.job->state()).substr(10));
      if (event.end) story += (story.empty() ? "" : " ") + absl::StatusCodeToString(event.end->code());
    }
    return story;
  }
};

class QueueTest : public testing::Test {
 protected:
  // With `shared` the store may have several servers: see At.
  explicit QueueTest(bool with_metrics = true, bool shared = false)
      : store_(shared ? &clock_ : nullptr), metrics_(with_metrics ? std::make_unique<ServerMetrics>() : nullptr) {
    absl::SetMinLogLevel(absl::LogSeverityAtLeast::kWarning);  // not a line for each change of millions of jobs
    catalog_.AddModel("m-1");
    catalog_.AddDataset("d-1");
    options_.jitter_seed = 7;
    Restart();
  }

  // A new process on the same store.
  void Restart() {
    queue_.reset();
    auto queue = JobQueue::Create(&store_, &catalog_, metrics_.get(), &clock_, options_);
    ASSERT_THAT(queue, absl_testing::IsOk());
    queue_ = *std::move(queue);
  }
  // The helpers below talk to server 0 or 1 from now on.
  void At(int server) {
    if (server == server_) return;
    std::swap(queue_, other_);
    server_ = server;
    if (queue_ == nullptr) Restart();
  }
  void Advance(absl::Duration by) {
    clock_.Advance(by);
    queue_->Tick();
  }

  // Not answered from earlier jobs: most tests want several alike.
  static v1::SubmitJobRequest Request() {
    v1::SubmitJobRequest request;
    request.set_no_cache(true);
    v1::QuantizeSpec* spec = request.mutable_spec()->mutable_quantize();
    spec->set_model_id("m-1");
    spec->set_calibration_dataset_id("d-1");
    spec->mutable_recipe()->mutable_static_int8();
    return request;
  }
  v1::Job Submit(const v1::SubmitJobRequest& request = Request()) {
    const auto job = queue_->Submit(OpenPrincipal(), request);
    EXPECT_THAT(job, absl_testing::IsOk());
    return job.value_or(v1::Job());
  }
  v1::Job Get(const std::string& id) {
    const auto job = queue_->Get(OpenPrincipal(), id);
    EXPECT_THAT(job, absl_testing::IsOk());
    return job.value_or(v1::Job());
  }
  v1::JobState State(const std::string& id) { return Get(id).state(); }

  static v1::WorkerInfo Info(const std::string& worker, int slots = 1) {
    v1::WorkerInfo info;
    info.set_id(worker);
    info.set_slots(slots);
    return info;
  }
  std::shared_ptr<LeaseCall> Ask(const std::string& worker, absl::Duration wait = absl::ZeroDuration(), int slots = 1) {
    auto call = std::make_shared<LeaseCall>();
    v1::LeaseJobRequest request;
    *request.mutable_worker() = Info(worker, slots);
    SetProto(wait, request.mutable_wait());
    call->handle = queue_->Lease(request, [call](absl::StatusOr<v1::LeaseJobResponse> answer) {
      ++call->answers;
      call->answer = std::move(answer);
    });
    return call;
  }
  // A lease that must be there at once.
  v1::Lease Lease(const std::string& worker, int slots = 1) {
    const auto call = Ask(worker, absl::ZeroDuration(), slots);
    EXPECT_EQ(call->answers, 1);
    EXPECT_THAT(call->answer, absl_testing::IsOk());
    EXPECT_TRUE(call->answer.ok() && call->answer->has_lease()) << "no job for " << worker;
    return call->answer.ok() ? call->answer->lease() : v1::Lease();
  }
  bool HasNoJob(const std::string& worker) {
    const auto call = Ask(worker);
    return call->answers == 1 && call->answer.ok() && !call->answer->has_lease();
  }
  v1::LeaseCommand Beat(const std::string& worker, const v1::Lease& lease, const v1::Progress& progress = {}) {
    v1::HeartbeatRequest request;
    *request.mutable_worker() = Info(worker);
    v1::LeaseProgress* entry = request.add_leases();
    entry->set_job_id(lease.job().id());
    entry->set_token(lease.token());
    *entry->mutable_progress() = progress;
    const auto response = queue_->Heartbeat(request);
    EXPECT_THAT(response, absl_testing::IsOk());
    if (!response.ok() || response->instructions_size() != 1) return v1::LEASE_COMMAND_UNSPECIFIED;
    return response->instructions(0).command();
  }
  static v1::CompleteJobRequest End(const std::string& worker, const v1::Lease& lease) {
    v1::CompleteJobRequest request;
    request.set_worker_id(worker);
    request.set_job_id(lease.job().id());
    request.set_token(lease.token());
    return request;
  }
  static v1::CompleteJobRequest Success(const std::string& worker, const v1::Lease& lease,
                                        const std::string& blob = "b1") {
    v1::CompleteJobRequest request = End(worker, lease);
    request.mutable_success()->mutable_report()->mutable_size()->set_original_bytes(1000);
    v1::File* file = request.mutable_success()->add_files();
    file->set_path("model.onnx");
    file->mutable_digest()->set_sha256(blob);
    return request;
  }
  static v1::CompleteJobRequest Failure(const std::string& worker, const v1::Lease& lease, v1::ErrorClass error_class,
                                        const std::string& reason = "OUT_OF_MEMORY") {
    v1::CompleteJobRequest request = End(worker, lease);
    request.mutable_failure()->set_error_class(error_class);
    request.mutable_failure()->set_reason(reason);
    request.mutable_failure()->set_message("something was too big");
    return request;
  }
  std::shared_ptr<Watcher> Watch(const std::string& id, int64_t after = 0) {
    auto watcher = std::make_shared<Watcher>();
    const auto handle = queue_->Watch(OpenPrincipal(), id, after,
                                      [watcher](const WatchEvent& event) { watcher->events.push_back(event); });
    EXPECT_THAT(handle, absl_testing::IsOk());
    watcher->handle = handle.value_or(0);
    return watcher;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'800'000'000)};
  MemoryJobStore store_;
  FakeArtifactCatalog catalog_;
  std::unique_ptr<ServerMetrics> metrics_;
  QueueOptions options_;
  std::unique_ptr<JobQueue> queue_;
  std::unique_ptr<JobQueue> other_;  // the server that the helpers do not talk to
  int server_ = 0;
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_QUEUE_TEST_BASE_H_
