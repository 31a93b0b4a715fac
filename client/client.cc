// SPDX-License-Identifier: Apache-2.0
#include "client/client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"
#include "common/logging.h"
#include "common/net.h"
#include "common/status_macros.h"
#include "quant/v1/artifacts.grpc.pb.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "quant/v1/workers.grpc.pb.h"

namespace quant {
namespace {

constexpr int kPage = 500;                                 // the server's largest
constexpr int kLargestMessage = 64 << 20;                  // a report of a model with very many layers
constexpr absl::Duration kPoll = absl::Milliseconds(100);  // how soon Ctrl-C is noticed
constexpr absl::Duration kSilence = absl::Seconds(45);     // the server promises a message every 15 s

// Takes what was heard for `*job`, unless that is newer: of several servers on one database another one may not know
// yet what progress this one told. What is settled is so for all.
bool TakeNewer(v1::Job heard, v1::Job* job) {
  if (heard.sequence() < job->sequence() && !IsSettled(heard)) return false;
  *job = std::move(heard);
  return true;
}

}  // namespace

struct Client::Rep {
  ClientOptions options;
  std::shared_ptr<ClientAuth> auth;        // shared with what transfers prepare
  std::shared_ptr<grpc::Channel> channel;  // shared with uploaders and downloaders
  std::unique_ptr<v1::ArtifactService::Stub> artifacts;
  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::WorkerService::Stub> workers;

  void Prepare(grpc::ClientContext& context) const { auth->Prepare(context); }

  // A unary call, repeated while UNAVAILABLE for options.patience. *failures: attempts that did not come through.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                const Request& request, int* failures = nullptr) {
    Backoff backoff({.longest_wait = absl::Seconds(1), .give_up_after = options.patience});
    while (true) {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + options.call_deadline));
      Prepare(context);
      Response response;
      absl::Status status = FromGrpc((stub.*method)(&context, request, &response));
      if (failures != nullptr) *failures = backoff.failures();
      if (status.ok()) return response;
      if (!IsWorthRepeating(status)) return status;
      RETURN_IF_ERROR(backoff.Wait(status));
    }
  }

  // A call that deletes: when an attempt was cut short and the next finds nothing, it was the first that did it.
  template <typename Stub, typename Request, typename Response>
  absl::Status Delete(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const std::string& id) {
    Request request;
    request.set_id(id);
    int failures = 0;
    const absl::Status status = Call(stub, method, request, &failures).status();
    const bool gone = absl::IsNotFound(status) || ReasonOf(status) == "NOT_VISIBLE";
    return gone && failures > 0 ? absl::OkStatus() : status;
  }

  // All pages of a listing, up to `limit` items. `items` picks them from a response.
  template <typename Item, typename Stub, typename Request, typename Response, typename Items>
  absl::StatusOr<std::vector<Item>> List(Stub& stub,
                                         grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                         Request request, int64_t limit, bool* more, Items items) {
    std::vector<Item> all;
    request.set_page_size(limit > 0 && limit < kPage ? static_cast<int>(limit) : kPage);
    *more = false;
    while (true) {
      ASSIGN_OR_RETURN(Response page, Call(stub, method, std::as_const(request)));
      for (Item& item : *items(page)) {
        if (limit > 0 && static_cast<int64_t>(all.size()) == limit) {
          *more = true;
          return all;
        }
        all.push_back(std::move(item));
      }
      if (page.next_page_token().empty()) return all;
      if (limit > 0 && static_cast<int64_t>(all.size()) == limit) {
        *more = true;
        return all;
      }
      request.set_page_token(page.next_page_token());
    }
  }

  TransferOptions Transfers(std::function<bool()> cancelled) const {
    TransferOptions transfer;
    transfer.call_deadline = options.call_deadline;
    transfer.retry.give_up_after = options.long_patience;
    transfer.retry.cancelled = std::move(cancelled);
    transfer.prepare = [auth = auth, fields = LogScope::Current()](grpc::ClientContext& context) {
      const LogScope scope(fields);  // transfers have threads of their own
      auth->Prepare(context);
    };
    return transfer;
  }

  absl::Status WatchOnce(const v1::WatchJobRequest& request, const WatchCallbacks& callbacks, v1::Job& job);
};

Client::Client(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
const ClientOptions& Client::options() const { return rep_->options; }
const std::string& Client::server() const { return rep_->options.server; }

absl::StatusOr<Client> Client::Create(ClientOptions options) {
  if (options.server.empty()) {
    return absl::InvalidArgumentError("no server: give --server ADDR:PORT or set QUANT_SERVER");
  }
  absl::StatusOr<HostPort> address = ParseHostPort(options.server);
  if (!address.ok() || address->port == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--server: ", address.ok() ? "port 0 cannot be connected to" : std::string(address.status().message())));
  }
  if (address->host.empty()) address->host = "127.0.0.1";
  auto rep = std::make_unique<Rep>();
  rep->options = std::move(options);
  rep->options.server = address->ToString();
  ASSIGN_OR_RETURN(rep->auth, ClientAuth::Create(rep->options.auth, address->host));
  grpc::ChannelArguments args;
  TuneChannelForBlobs(args);
  args.SetMaxReceiveMessageSize(kLargestMessage);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // also the time one attempt to connect may take
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // After a refused connection gRPC asks for the address again first, by default not within 30 s; and where it may not
  // ask at once, only after the time above. Both must be well below our patience.
  args.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 100);
  if (IsLoopback(address->host)) args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  rep->channel = grpc::CreateCustomChannel(rep->options.server, rep->auth->channel_credentials(), args);
  rep->artifacts = v1::ArtifactService::NewStub(rep->channel);
  rep->jobs = v1::JobService::NewStub(rep->channel);
  rep->workers = v1::WorkerService::NewStub(rep->channel);
  return Client(std::move(rep));
}

absl::Status Client::Ping() {
  return rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::FindMissingBlobs, v1::FindMissingBlobsRequest())
      .status();
}

BlobUploader Client::Uploader(std::function<bool()> cancelled) {
  return BlobUploader(rep_->channel, rep_->Transfers(std::move(cancelled)));
}
BlobDownloader Client::Downloader(std::function<bool()> cancelled) {
  return BlobDownloader(rep_->channel, rep_->Transfers(std::move(cancelled)));
}

absl::StatusOr<v1::Model> Client::CreateModel(const v1::CreateModelRequest& request) {
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::CreateModel, request));
  return std::move(*response.mutable_model());
}
absl::StatusOr<v1::Model> Client::GetModel(const std::string& id) {
  v1::GetModelRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::GetModel, request));
  return std::move(*response.mutable_model());
}
absl::StatusOr<std::vector<v1::Model>> Client::ListModels(int64_t limit, bool* more) {
  return rep_->List<v1::Model>(*rep_->artifacts, &v1::ArtifactService::Stub::ListModels, v1::ListModelsRequest(), limit,
                               more, [](v1::ListModelsResponse& page) { return page.mutable_models(); });
}
absl::Status Client::DeleteModel(const std::string& id) {
  return rep_->Delete(*rep_->artifacts, &v1::ArtifactService::Stub::DeleteModel, id);
}

absl::StatusOr<v1::Dataset> Client::CreateDataset(const v1::CreateDatasetRequest& request) {
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::CreateDataset, request));
  return std::move(*response.mutable_dataset());
}
absl::StatusOr<v1::Dataset> Client::GetDataset(const std::string& id) {
  v1::GetDatasetRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::GetDataset, request));
  return std::move(*response.mutable_dataset());
}
absl::StatusOr<std::vector<v1::Dataset>> Client::ListDatasets(int64_t limit, bool* more) {
  return rep_->List<v1::Dataset>(*rep_->artifacts, &v1::ArtifactService::Stub::ListDatasets, v1::ListDatasetsRequest(),
                                 limit, more, [](v1::ListDatasetsResponse& page) { return page.mutable_datasets(); });
}
absl::Status Client::DeleteDataset(const std::string& id) {
  return rep_->Delete(*rep_->artifacts, &v1::ArtifactService::Stub::DeleteDataset, id);
}

absl::StatusOr<v1::SetRetentionResponse> Client::SetRetention(const v1::SetRetentionRequest& request) {
  return rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::SetRetention, request);
}
absl::StatusOr<v1::GetStorageResponse> Client::GetStorage() {
  return rep_->Call(*rep_->artifacts, &v1::ArtifactService::Stub::GetStorage, v1::GetStorageRequest());
}

absl::StatusOr<v1::Job> Client::SubmitJob(const v1::SubmitJobRequest& request) {
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->jobs, &v1::JobService::Stub::SubmitJob, request));
  return std::move(*response.mutable_job());
}
absl::StatusOr<v1::Job> Client::GetJob(const std::string& id) {
  v1::GetJobRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->jobs, &v1::JobService::Stub::GetJob, request));
  return std::move(*response.mutable_job());
}
absl::StatusOr<std::vector<v1::Job>> Client::ListJobs(const v1::ListJobsRequest& filter, int64_t limit, bool* more) {
  return rep_->List<v1::Job>(*rep_->jobs, &v1::JobService::Stub::ListJobs, filter, limit, more,
                             [](v1::ListJobsResponse& page) { return page.mutable_jobs(); });
}
absl::StatusOr<v1::Job> Client::CancelJob(const std::string& id) {
  v1::CancelJobRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->jobs, &v1::JobService::Stub::CancelJob, request));
  return std::move(*response.mutable_job());
}
absl::StatusOr<v1::Job> Client::RetryJob(const std::string& id) {
  v1::RetryJobRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->jobs, &v1::JobService::Stub::RetryJob, request));
  return std::move(*response.mutable_job());
}
absl::Status Client::DeleteJob(const std::string& id) {
  return rep_->Delete(*rep_->jobs, &v1::JobService::Stub::DeleteJob, id);
}
absl::StatusOr<v1::Report> Client::GetJobReport(const std::string& id) {
  v1::GetJobReportRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->jobs, &v1::JobService::Stub::GetJobReport, request));
  return std::move(*response.mutable_report());
}

absl::StatusOr<std::vector<v1::Worker>> Client::ListWorkers() {
  ASSIGN_OR_RETURN(auto response,
                   rep_->Call(*rep_->workers, &v1::WorkerService::Stub::ListWorkers, v1::ListWorkersRequest()));
  return std::vector<v1::Worker>(response.workers().begin(), response.workers().end());
}
absl::StatusOr<v1::Worker> Client::DrainWorker(const std::string& id) {
  v1::DrainWorkerRequest request;
  request.set_id(id);
  ASSIGN_OR_RETURN(auto response, rep_->Call(*rep_->workers, &v1::WorkerService::Stub::DrainWorker, request));
  return std::move(*response.mutable_worker());
}

// One stream, until it ends. Asynchronous inside, so that a cancellation or a silent server is noticed while waiting.
absl::Status Client::Rep::WatchOnce(const v1::WatchJobRequest& request, const WatchCallbacks& callbacks, v1::Job& job) {
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  Prepare(context);
  absl::Time heard = absl::Now();
  bool silent = false;
  // Waits for the one operation under way; its success is the answer.
  const auto await = [&] {
    void* tag;
    bool ok = false;
    while (queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + absl::ToChronoMilliseconds(kPoll)) ==
           grpc::CompletionQueue::TIMEOUT) {
      if (absl::Now() - heard > kSilence) silent = true;
      if (silent || (callbacks.cancelled && callbacks.cancelled())) context.TryCancel();
    }
    return ok;
  };
  auto reader = jobs->AsyncWatchJob(&context, request, &queue, nullptr);
  if (await()) {
    v1::WatchJobResponse response;
    while (true) {
      reader->Read(&response, nullptr);
      if (!await()) break;
      heard = absl::Now();
      if (!TakeNewer(std::move(*response.mutable_job()), &job)) continue;
      if (callbacks.job) callbacks.job(job);
      if (IsSettled(job)) context.TryCancel();  // enough: do not wait for the server to end the stream
    }
  }
  grpc::Status status;
  reader->Finish(&status, nullptr);
  await();
  queue.Shutdown();
  void* tag;
  bool ok;
  while (queue.Next(&tag, &ok)) {
  }
  if (IsSettled(job)) return absl::OkStatus();
  if (silent) return absl::UnavailableError("the server has gone silent");
  return FromGrpc(status);
}

absl::StatusOr<v1::Job> Client::WatchJob(const std::string& id, const WatchCallbacks& callbacks) {
  const auto cancelled = [&] { return callbacks.cancelled && callbacks.cancelled(); };
  Backoff backoff({.first_wait = absl::Milliseconds(200),
                   .longest_wait = absl::Seconds(3),
                   .give_up_after = rep_->options.long_patience,
                   .cancelled = callbacks.cancelled});
  // Asking for the job first proves the server alive and the id right; the stream may then be silent for 15 s.
  ASSIGN_OR_RETURN(v1::Job job, GetJob(id));
  bool lost = false;
  while (true) {
    if (callbacks.job) callbacks.job(job);
    if (IsSettled(job)) return job;
    v1::WatchJobRequest request;
    request.set_id(id);
    request.set_after_sequence(job.sequence());
    const absl::Time began = absl::Now();
    absl::Status status = rep_->WatchOnce(request, callbacks, job);
    if (IsSettled(job)) return job;
    if (cancelled()) return absl::CancelledError("stopped watching");
    if (status.ok()) status = absl::UnavailableError("the server ended the watch before the job ended");
    if (!IsBrokenStream(status)) return status;
    while (true) {
      if (!std::exchange(lost, true) && callbacks.note) {
        callbacks.note(absl::StrCat("lost the server at ", server(), "; trying to reach it again for ",
                                    absl::FormatDuration(rep_->options.long_patience)));
      }
      RETURN_IF_ERROR(backoff.Wait(status));
      v1::GetJobRequest again;
      again.set_id(id);
      v1::GetJobResponse response;
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
      rep_->Prepare(context);
      status = FromGrpc(rep_->jobs->GetJob(&context, again, &response));
      if (cancelled()) return absl::CancelledError("stopped watching");
      if (status.ok()) {
        TakeNewer(std::move(*response.mutable_job()), &job);
        break;
      }
      if (!IsBrokenStream(status)) return status;
    }
    // A server that answers calls but drops every stream at once is no progress.
    if (absl::Now() - began > absl::Seconds(5) || job.sequence() > request.after_sequence()) backoff.Progress();
    lost = false;
    if (callbacks.note) callbacks.note(absl::StrCat("reached the server at ", server(), " again"));
  }
}

}  // namespace quant
