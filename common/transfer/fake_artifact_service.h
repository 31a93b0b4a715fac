// SPDX-License-Identifier: Apache-2.0
// An ArtifactService in memory with faults to order, served on loopback: for the tests of what talks to one.
#ifndef QUANT_COMMON_TRANSFER_FAKE_ARTIFACT_SERVICE_H_
#define QUANT_COMMON_TRANSFER_FAKE_ARTIFACT_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "quant/v1/artifacts.grpc.pb.h"

namespace quant {

class FakeArtifactService final : public v1::ArtifactService::Service {
 public:
  // What goes wrong. Offsets are absolute within a blob; each entry is used up by the first stream that reaches it.
  struct Faults {
    std::vector<int64_t> cut_writes_at;  // the stream ends UNAVAILABLE once this many bytes are committed
    std::vector<int64_t> cut_reads_at;   // the same for reads, after this many bytes of the blob were sent
    int unavailable_queries = 0;         // so many QueryWriteStatus and FindMissingBlobs calls answer UNAVAILABLE
    int busy_writes = 0;                 // so many WriteBlob calls answer ABORTED, UPLOAD_BUSY
    int full_writes = 0;                 // so many WriteBlob calls answer RESOURCE_EXHAUSTED, DISK_FULL
    int early_answers = 0;               // so many WriteBlob calls say after their first message that the blob is there
    bool damage_reads = false;           // flip a bit of the first byte sent by every read
    absl::Status refuse_writes;          // every WriteBlob answers this
    std::function<void()> before_finish;  // called when the last message of an upload has come
  };
  Faults faults;

  std::map<std::string, std::string> blobs;    // by sha256
  std::map<std::string, std::string> uploads;  // what arrived, by upload_id
  int write_calls = 0;
  std::atomic<int> most_writes_at_once{0};
  int read_calls = 0;
  int64_t bytes_received = 0;
  int64_t bytes_sent = 0;
  std::vector<std::string> authorizations;  // of every call

  // Stores a blob.
  v1::Digest Put(const std::string& bytes);

  grpc::Status FindMissingBlobs(grpc::ServerContext*, const v1::FindMissingBlobsRequest*,
                                v1::FindMissingBlobsResponse*) override;
  grpc::Status QueryWriteStatus(grpc::ServerContext*, const v1::QueryWriteStatusRequest*,
                                v1::QueryWriteStatusResponse*) override;
  grpc::Status WriteBlob(grpc::ServerContext*, grpc::ServerReader<v1::WriteBlobRequest>*,
                         v1::WriteBlobResponse*) override;
  grpc::Status ReadBlob(grpc::ServerContext*, const v1::ReadBlobRequest*,
                        grpc::ServerWriter<v1::ReadBlobResponse>*) override;
  grpc::Status CreateModel(grpc::ServerContext*, const v1::CreateModelRequest*, v1::CreateModelResponse*) override;
  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest*, v1::GetModelResponse*) override;
  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*, v1::ListModelsResponse*) override;
  grpc::Status DeleteModel(grpc::ServerContext*, const v1::DeleteModelRequest*, v1::DeleteModelResponse*) override;
  grpc::Status CreateDataset(grpc::ServerContext*, const v1::CreateDatasetRequest*,
                             v1::CreateDatasetResponse*) override;

  grpc::Status SetRetention(grpc::ServerContext*, const v1::SetRetentionRequest*, v1::SetRetentionResponse*) override;

  std::map<std::string, v1::Model> models;
  std::map<std::string, v1::Dataset> datasets;

 private:
  grpc::Status Missing(const std::string& sha256);
  void Note(grpc::ServerContext* context);
  int writes_now_ = 0;  // WriteBlob streams past their first message
  std::mutex mu_;       // guards everything above while the server runs; tests read it between calls
};

// A server on 127.0.0.1 for services that outlive it. Stopped and started again it keeps its port.
class LoopbackServer {
 public:
  explicit LoopbackServer(std::vector<grpc::Service*> services);
  ~LoopbackServer();
  void Start();
  // Ends streams at once.
  void Stop();
  std::string address() const;
  std::shared_ptr<grpc::Channel> Channel() const;

 private:
  std::vector<grpc::Service*> services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace quant

#endif  // QUANT_COMMON_TRANSFER_FAKE_ARTIFACT_SERVICE_H_
