// SPDX-License-Identifier: Apache-2.0
#include "server/api/external_scaler.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "externalscaler/externalscaler.grpc.pb.h"
#include "server/auth/gate.h"
#include "server/queue/queue.h"

namespace quant {
namespace {

namespace pb = ::externalscaler;

constexpr char kMetric[] = "quantd-jobs";
constexpr size_t kMaxStreams = 1000;
// Of a trigger's metadata, those that are KEDA's own.
constexpr std::string_view kOfKeda[] = {"scalerAddress", "enableTLS",     "unsafeSsl",   "tlsCertFile",
                                        "caCert",        "tlsClientCert", "tlsClientKey"};

absl::StatusOr<double> Number(const std::string& key, const std::string& value, double min, double max, bool whole) {
  double number = 0;
  if (!absl::SimpleAtod(value, &number) || !(number >= min && number <= max) ||
      (whole && number != std::floor(number))) {
    return absl::InvalidArgumentError(absl::StrCat("metadata ", key, " is ", Quoted(value), ": a ",
                                                   whole ? "whole number" : "number", " from ", min, " to ",
                                                   static_cast<int64_t>(max), " is wanted"));
  }
  return number;
}

absl::StatusOr<ScalerMetadata> Read(const pb::ScaledObjectRef& ref) {
  if (ref.name().empty()) return absl::InvalidArgumentError("ScaledObjectRef.name is empty: name the ScaledObject");
  return ParseScalerMetadata({ref.scalermetadata().begin(), ref.scalermetadata().end()});
}

// What one StreamIsActive has been told. Its reactor, which gRPC owns until OnDone, and the thread that looks at the
// queue share it; Finish is called once, when no write is under way.
class Stream {
 public:
  explicit Stream(int64_t activation_jobs) : activation_jobs_(activation_jobs) {}

  void Attach(grpc::ServerWriteReactor<pb::IsActiveResponse>* reactor) {
    MutexLock lock(&mu_);
    reactor_ = reactor;
  }
  void Tell(int64_t jobs) {
    {
      MutexLock lock(&mu_);
      pending_ = jobs > activation_jobs_;
    }
    Advance();
  }
  // Nothing more is written.
  void End(const absl::Status& status) {
    {
      MutexLock lock(&mu_);
      if (!end_) end_ = status;
    }
    Advance();
  }
  void Written(bool ok) {
    {
      MutexLock lock(&mu_);
      writing_ = false;
      if (!ok && !end_) end_ = absl::CancelledError("the listener is gone");
    }
    Advance();
  }

 private:
  // Starts what is next: the end, a write, or nothing. Calls into gRPC without the lock; the reactor lives, since
  // OnDone comes only after Finish, and Finish only when nothing else is under way.
  void Advance() {
    grpc::ServerWriteReactor<pb::IsActiveResponse>* reactor = nullptr;
    std::optional<absl::Status> end;
    {
      MutexLock lock(&mu_);
      if (writing_ || finished_ || reactor_ == nullptr) return;
      reactor = reactor_;
      if (end_) {
        finished_ = true;
        end = end_;
      } else if (pending_.has_value() && pending_ != told_) {
        told_ = pending_;
        message_.set_result(*told_);
        writing_ = true;
      } else {
        return;
      }
    }
    if (end) {
      reactor->Finish(ToGrpc(*end));
    } else {
      reactor->StartWrite(&message_);
    }
  }

  const int64_t activation_jobs_;
  Mutex mu_;
  grpc::ServerWriteReactor<pb::IsActiveResponse>* reactor_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::optional<bool> told_ ABSL_GUARDED_BY(mu_);
  std::optional<bool> pending_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  pb::IsActiveResponse message_;  // owned by the write under way
};

// The open streams, and the thread that tells them.
class Listeners {
 public:
  Listeners(JobQueue* queue, absl::Duration interval) : queue_(queue), interval_(interval) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Listeners() {
    Shutdown();
    {
      MutexLock lock(&mu_);
      stopping_ = true;
      changed_.SignalAll();
    }
    thread_.join();
  }

  absl::Status Add(const std::shared_ptr<Stream>& stream) {
    {
      MutexLock lock(&mu_);
      if (ended_) return absl::UnavailableError("the server is stopping");
      if (streams_.size() >= kMaxStreams) {
        return absl::ResourceExhaustedError(absl::StrCat("there are ", kMaxStreams, " open streams already"));
      }
      streams_.insert(stream);
      changed_.SignalAll();
    }
    stream->Tell(queue_->Demand());
    return absl::OkStatus();
  }
  void Remove(const std::shared_ptr<Stream>& stream) {
    MutexLock lock(&mu_);
    streams_.erase(stream);
  }
  void Shutdown() {
    for (const auto& stream : Streams(true)) stream->End(absl::UnavailableError("the server is stopping"));
  }

 private:
  std::vector<std::shared_ptr<Stream>> Streams(bool end) {
    MutexLock lock(&mu_);
    ended_ = ended_ || end;
    return {streams_.begin(), streams_.end()};
  }
  void Run() {
    while (true) {
      {
        MutexLock lock(&mu_);
        while (!stopping_ && streams_.empty()) changed_.Wait(&mu_);
        const absl::Time next = absl::Now() + interval_;
        while (!stopping_ && absl::Now() < next) changed_.WaitFor(&mu_, next - absl::Now());
        if (stopping_) return;
      }
      const int64_t jobs = queue_->Demand();
      for (const auto& stream : Streams(false)) stream->Tell(jobs);
    }
  }

  JobQueue* const queue_;
  const absl::Duration interval_;
  Mutex mu_;
  CondVar changed_;
  std::set<std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mu_);
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// gRPC owns it from construction until OnDone, which deletes it.
class ActiveReactor : public grpc::ServerWriteReactor<pb::IsActiveResponse> {
 public:
  ActiveReactor(Listeners* listeners, grpc::CallbackServerContext* context, const pb::ScaledObjectRef& ref)
      : listeners_(listeners) {
    absl::StatusOr<ScalerMetadata> metadata = Read(ref);
    if (const auto caller = CallerOf(context); !caller.ok()) metadata = caller.status();
    stream_ = std::make_shared<Stream>(metadata.ok() ? metadata->activation_jobs : 0);
    // `this` may be gone once the stream can end.
    const std::shared_ptr<Stream> stream = stream_;
    stream->Attach(this);
    const absl::Status status = metadata.ok() ? listeners->Add(stream) : metadata.status();
    if (!status.ok()) stream->End(status);
  }
  void OnWriteDone(bool ok) override { stream_->Written(ok); }
  void OnCancel() override { stream_->End(absl::CancelledError("the listener is gone")); }
  void OnDone() override {
    stream_->Attach(nullptr);
    listeners_->Remove(stream_);
    delete this;
  }

 private:
  Listeners* const listeners_;
  std::shared_ptr<Stream> stream_;  // shared with the thread that tells it, which may outlive this
};

}  // namespace

absl::StatusOr<ScalerMetadata> ParseScalerMetadata(const std::map<std::string, std::string>& metadata) {
  ScalerMetadata out;
  for (const auto& [key, value] : metadata) {
    if (key == "slotsPerWorker") {
      ASSIGN_OR_RETURN(const double slots, Number(key, value, 1, 1024, true));
      out.slots_per_worker = static_cast<int>(slots);
    } else if (key == "jobsPerSlot") {
      ASSIGN_OR_RETURN(out.jobs_per_slot, Number(key, value, 0.01, 1000, false));
    } else if (key == "activationJobs") {
      ASSIGN_OR_RETURN(const double jobs, Number(key, value, 0, 1'000'000, true));
      out.activation_jobs = static_cast<int64_t>(jobs);
    } else if (std::find(std::begin(kOfKeda), std::end(kOfKeda), key) == std::end(kOfKeda) &&
               !absl::EndsWith(key, "FromEnv")) {
      return absl::InvalidArgumentError(absl::StrCat("metadata ", Quoted(key),
                                                     " is not known: slotsPerWorker, jobsPerSlot and activationJobs "
                                                     "are, besides KEDA's own"));
    }
  }
  return out;
}

class ExternalScaler::Impl final : public pb::ExternalScaler::CallbackService {
 public:
  Impl(JobQueue* queue, absl::Duration interval) : queue_(queue), listeners_(queue, interval) {}
  Listeners& listeners() { return listeners_; }

  grpc::ServerUnaryReactor* IsActive(grpc::CallbackServerContext* context, const pb::ScaledObjectRef* ref,
                                     pb::IsActiveResponse* response) override {
    return Reply(context, *ref, [&](const ScalerMetadata& metadata) {
      response->set_result(queue_->Demand() > metadata.activation_jobs);
      return absl::OkStatus();
    });
  }
  grpc::ServerWriteReactor<pb::IsActiveResponse>* StreamIsActive(grpc::CallbackServerContext* context,
                                                                 const pb::ScaledObjectRef* ref) override {
    return new ActiveReactor(&listeners_, context, *ref);  // deletes itself in OnDone
  }
  grpc::ServerUnaryReactor* GetMetricSpec(grpc::CallbackServerContext* context, const pb::ScaledObjectRef* ref,
                                          pb::GetMetricSpecResponse* response) override {
    return Reply(context, *ref, [&](const ScalerMetadata& metadata) {
      pb::MetricSpec* const spec = response->add_metricspecs();
      const double target = metadata.slots_per_worker * metadata.jobs_per_slot;
      spec->set_metricname(kMetric);
      spec->set_targetsizefloat(target);
      spec->set_targetsize(std::max<int64_t>(1, std::llround(target)));
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* GetMetrics(grpc::CallbackServerContext* context, const pb::GetMetricsRequest* request,
                                       pb::GetMetricsResponse* response) override {
    return Reply(context, request->scaledobjectref(), [&](const ScalerMetadata&) -> absl::Status {
      if (request->metricname() != kMetric) {
        return absl::InvalidArgumentError(
            absl::StrCat("there is no metric ", Quoted(request->metricname()), ", only ", kMetric));
      }
      const int64_t jobs = queue_->Demand();
      pb::MetricValue* const value = response->add_metricvalues();
      value->set_metricname(kMetric);
      value->set_metricvalue(jobs);
      value->set_metricvaluefloat(static_cast<double>(jobs));
      return absl::OkStatus();
    });
  }

 private:
  template <typename Work>
  static grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const pb::ScaledObjectRef& ref,
                                         Work work) {
    absl::Status status = CallerOf(context).status();
    if (status.ok()) {
      const absl::StatusOr<ScalerMetadata> metadata = Read(ref);
      status = metadata.ok() ? work(*metadata) : metadata.status();
    }
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  JobQueue* const queue_;
  Listeners listeners_;
};

ExternalScaler::ExternalScaler(JobQueue* queue, absl::Duration interval)
    : impl_(std::make_unique<Impl>(queue, interval)) {}
ExternalScaler::~ExternalScaler() = default;
grpc::Service* ExternalScaler::service() { return impl_.get(); }
void ExternalScaler::Shutdown() { impl_->listeners().Shutdown(); }

}  // namespace quant
