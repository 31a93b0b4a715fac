// SPDX-License-Identifier: Apache-2.0
// Client: every call of the service as a function that returns a StatusOr. Sets deadlines and the authorization header,
// repeats what UNAVAILABLE cut short and what a limit refused with a time to wait, follows page tokens. Errors keep the
// server's message and reason (common/error_detail.h).
//
//   ASSIGN_OR_RETURN(Client client, Client::Create({.server = "127.0.0.1:9000"}));
//   ASSIGN_OR_RETURN(v1::Job job, client.GetJob("j-…"));
//
// Thread-safe.
#ifndef QUANT_CLIENT_CLIENT_H_
#define QUANT_CLIENT_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/client_auth.h"
#include "common/transfer/transfer.h"
#include "common/view/job_view.h"

namespace quant {

namespace v1 {
class CreateDatasetRequest;
class CreateModelRequest;
class Dataset;
class GetStorageResponse;
class Job;
class ListJobsRequest;
class Model;
class Report;
class SetRetentionRequest;
class SetRetentionResponse;
class SubmitJobRequest;
class Worker;
}  // namespace v1

struct ClientOptions {
  std::string server;      // "host:port"; an empty host means this machine
  ClientAuthOptions auth;  // TLS and the token
  absl::Duration call_deadline = absl::Seconds(30);
  // How long a call is repeated while the server is not reachable. Short: somebody is waiting at a prompt.
  absl::Duration patience = absl::Seconds(5);
  // The same for transfers and watches that were under way when the server went.
  absl::Duration long_patience = absl::Seconds(60);
};

class Client {
 public:
  //   INVALID_ARGUMENT: no server, or not an address; as ClientAuth::Create. Does not connect yet.
  static absl::StatusOr<Client> Create(ClientOptions options);
  ~Client();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;

  const ClientOptions& options() const;
  const std::string& server() const;  // "host:port"

  // OK when the server answers and accepts the token.
  absl::Status Ping();

  // Transfers over this client's connection. `cancelled` as in RetryOptions.
  BlobUploader Uploader(std::function<bool()> cancelled = nullptr);
  BlobDownloader Downloader(std::function<bool()> cancelled = nullptr);

  absl::StatusOr<v1::Model> CreateModel(const v1::CreateModelRequest& request);
  absl::StatusOr<v1::Model> GetModel(const std::string& id);
  // The newest `limit`; 0: all. One more than `limit` may exist: *more tells.
  absl::StatusOr<std::vector<v1::Model>> ListModels(int64_t limit, bool* more);
  absl::Status DeleteModel(const std::string& id);

  absl::StatusOr<v1::Dataset> CreateDataset(const v1::CreateDatasetRequest& request);
  absl::StatusOr<v1::Dataset> GetDataset(const std::string& id);
  absl::StatusOr<std::vector<v1::Dataset>> ListDatasets(int64_t limit, bool* more);
  absl::Status DeleteDataset(const std::string& id);

  // Of a model or dataset.
  absl::StatusOr<v1::SetRetentionResponse> SetRetention(const v1::SetRetentionRequest& request);
  absl::StatusOr<v1::GetStorageResponse> GetStorage();

  // REQUIRES: request_id is set, so that repeating is safe.
  absl::StatusOr<v1::Job> SubmitJob(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const std::string& id);
  // `filter` without page_size and page_token.
  absl::StatusOr<std::vector<v1::Job>> ListJobs(const v1::ListJobsRequest& filter, int64_t limit, bool* more);
  absl::StatusOr<v1::Job> CancelJob(const std::string& id);
  absl::StatusOr<v1::Job> RetryJob(const std::string& id);
  absl::Status DeleteJob(const std::string& id);
  absl::StatusOr<v1::Report> GetJobReport(const std::string& id);

  struct WatchCallbacks {
    std::function<void(const v1::Job&)> job;       // every state that arrives
    std::function<void(const std::string&)> note;  // the connection was lost, or is back
    std::function<bool()> cancelled;               // polled; true ends with CANCELLED
  };
  // Follows a job until it is SUCCEEDED, FAILED, CANCELLED or DEAD and returns that state. A server that goes away is
  // asked again, from the newest sequence seen, until nothing was heard for long_patience: then UNAVAILABLE. States
  // that are older than one that was told are not told.
  absl::StatusOr<v1::Job> WatchJob(const std::string& id, const WatchCallbacks& callbacks);

  absl::StatusOr<std::vector<v1::Worker>> ListWorkers();
  absl::StatusOr<v1::Worker> DrainWorker(const std::string& id);

 private:
  struct Rep;
  explicit Client(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace quant

#endif  // QUANT_CLIENT_CLIENT_H_
