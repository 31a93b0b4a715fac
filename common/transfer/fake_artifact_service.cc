// SPDX-License-Identifier: Apache-2.0
#include "common/transfer/fake_artifact_service.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/grpc_status.h"

namespace quant {
namespace {

// True, once per entry, when `from` < entry <= `to`; `at` is the entry.
bool TakeFault(std::vector<int64_t>& entries, int64_t from, int64_t to, int64_t& at) {
  for (auto it = entries.begin(); it != entries.end(); ++it) {
    if (*it < from || *it > to) continue;
    at = *it;
    entries.erase(it);
    return true;
  }
  return false;
}

grpc::Status Unavailable() { return ToGrpc(absl::UnavailableError("the fake server has gone away")); }

}  // namespace

v1::Digest FakeArtifactService::Put(const std::string& bytes) {
  v1::Digest digest;
  digest.set_sha256(Sha256Hex(bytes));
  digest.set_size_bytes(static_cast<int64_t>(bytes.size()));
  blobs[digest.sha256()] = bytes;
  return digest;
}

void FakeArtifactService::Note(grpc::ServerContext* context) {
  const auto it = context->client_metadata().find("authorization");
  authorizations.push_back(it == context->client_metadata().end() ? ""
                                                                  : std::string(it->second.data(), it->second.size()));
}

grpc::Status FakeArtifactService::FindMissingBlobs(grpc::ServerContext* context,
                                                   const v1::FindMissingBlobsRequest* request,
                                                   v1::FindMissingBlobsResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  Note(context);
  if (faults.unavailable_queries > 0) return --faults.unavailable_queries, Unavailable();
  for (const v1::Digest& digest : request->digests()) {
    if (blobs.count(digest.sha256()) == 0) *response->add_missing() = digest;
  }
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::QueryWriteStatus(grpc::ServerContext* context,
                                                   const v1::QueryWriteStatusRequest* request,
                                                   v1::QueryWriteStatusResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  Note(context);
  if (faults.unavailable_queries > 0) return --faults.unavailable_queries, Unavailable();
  response->set_complete(blobs.count(request->digest().sha256()) > 0);
  response->set_committed_size(response->complete() ? request->digest().size_bytes()
                                                    : static_cast<int64_t>(uploads[request->upload_id()].size()));
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::WriteBlob(grpc::ServerContext* context,
                                            grpc::ServerReader<v1::WriteBlobRequest>* reader,
                                            v1::WriteBlobResponse* response) {
  v1::WriteBlobRequest request;
  v1::Digest digest;
  std::string id;
  bool first = true;
  const absl::Cleanup leave = [&] {
    std::lock_guard<std::mutex> lock(mu_);
    if (!first) --writes_now_;
  };
  while (reader->Read(&request)) {
    std::unique_lock<std::mutex> lock(mu_);
    if (std::exchange(first, false)) {
      Note(context);
      ++write_calls;
      most_writes_at_once = std::max(most_writes_at_once.load(), ++writes_now_);
      digest = request.digest();
      id = request.upload_id();
      if (faults.busy_writes > 0) {
        --faults.busy_writes;
        return ToGrpc(WithReason(absl::AbortedError("another stream writes this upload"), "UPLOAD_BUSY"));
      }
      if (faults.full_writes > 0) {
        --faults.full_writes;
        return ToGrpc(WithReason(absl::ResourceExhaustedError("no room"), "DISK_FULL"));
      }
      if (faults.early_answers > 0) {
        --faults.early_answers;
        response->set_complete(true);
        response->set_committed_size(digest.size_bytes());
        return grpc::Status::OK;
      }
      if (!faults.refuse_writes.ok()) return ToGrpc(faults.refuse_writes);
    }
    std::string& upload = uploads[id];
    const int64_t have = static_cast<int64_t>(upload.size());
    if (request.write_offset() != have) {
      return ToGrpc(
          WithReason(absl::OutOfRangeError(absl::StrCat("offset ", request.write_offset(), ", committed ", have)),
                     "UPLOAD_OFFSET_MISMATCH"));
    }
    int64_t cut;
    if (TakeFault(faults.cut_writes_at, have, have + static_cast<int64_t>(request.data().size()), cut)) {
      upload.append(request.data(), 0, static_cast<size_t>(cut - have));
      bytes_received += cut - have;
      return Unavailable();
    }
    upload += request.data();
    bytes_received += static_cast<int64_t>(request.data().size());
    if (!request.finish_write()) continue;
    if (faults.before_finish) {
      lock.unlock();
      faults.before_finish();
      lock.lock();
    }
    const std::string bytes = std::move(upload);
    uploads.erase(id);
    if (Sha256Hex(bytes) != digest.sha256()) {
      return ToGrpc(
          WithReason(absl::InvalidArgumentError("the bytes do not hash to the digest"), "BLOB_DIGEST_MISMATCH"));
    }
    response->set_complete(true);
    response->set_committed_size(digest.size_bytes());
    blobs[digest.sha256()] = bytes;
    return grpc::Status::OK;
  }
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::ReadBlob(grpc::ServerContext* context, const v1::ReadBlobRequest* request,
                                           grpc::ServerWriter<v1::ReadBlobResponse>* writer) {
  std::unique_lock<std::mutex> lock(mu_);
  Note(context);
  ++read_calls;
  const auto it = blobs.find(request->digest().sha256());
  if (it == blobs.end()) return ToGrpc(absl::NotFoundError(absl::StrCat("no blob ", request->digest().sha256())));
  const std::string bytes = it->second;
  bool damage = faults.damage_reads;
  for (size_t at = static_cast<size_t>(request->read_offset()); at < bytes.size();) {
    size_t count = std::min<size_t>(bytes.size() - at, 1 << 20);
    int64_t cut;
    const bool fault = TakeFault(faults.cut_reads_at, static_cast<int64_t>(at), static_cast<int64_t>(at + count), cut);
    if (fault) count = static_cast<size_t>(cut) - at;
    v1::ReadBlobResponse response;
    response.set_data(bytes.substr(at, count));
    if (std::exchange(damage, false)) (*response.mutable_data())[0] ^= 1;
    at += count;
    bytes_sent += static_cast<int64_t>(count);
    lock.unlock();
    if (count > 0 && !writer->Write(response)) return grpc::Status(grpc::StatusCode::CANCELLED, "");
    lock.lock();
    if (fault) return Unavailable();
  }
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::Missing(const std::string& sha256) {
  return ToGrpc(WithReason(absl::FailedPreconditionError(absl::StrCat("blob ", sha256, " is not stored")),
                           "BLOB_MISSING", {{"sha256", sha256}}));
}

grpc::Status FakeArtifactService::CreateModel(grpc::ServerContext*, const v1::CreateModelRequest* request,
                                              v1::CreateModelResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  v1::Model model;
  model.set_id(absl::StrCat("m-", absl::Dec(models.size(), absl::kZeroPad16)));
  model.set_name(request->name());
  model.set_format(v1::MODEL_FORMAT_ONNX);
  // The fake's time stands still at 1970-01-01T00:00:00Z.
  if (request->has_ttl()) model.mutable_expire_time()->set_seconds(request->ttl().seconds());
  for (const v1::File& file : request->files()) {
    if (blobs.count(file.digest().sha256()) == 0) return Missing(file.digest().sha256());
    *model.add_files() = file;
    model.set_size_bytes(model.size_bytes() + file.digest().size_bytes());
  }
  models[model.id()] = model;
  *response->mutable_model() = model;
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                                           v1::GetModelResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto it = models.find(request->id());
  if (it == models.end()) {
    return ToGrpc(absl::NotFoundError(absl::StrCat("no model \"", request->id(), "\": see quantctl model list")));
  }
  *response->mutable_model() = it->second;
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::ListModels(grpc::ServerContext*, const v1::ListModelsRequest* request,
                                             v1::ListModelsResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  // Pages of two, whatever was asked: clients must follow the token.
  auto it = request->page_token().empty() ? models.begin() : models.find(request->page_token());
  for (int i = 0; i < 2 && it != models.end(); ++i, ++it) *response->add_models() = it->second;
  if (it != models.end()) response->set_next_page_token(it->first);
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::DeleteModel(grpc::ServerContext*, const v1::DeleteModelRequest* request,
                                              v1::DeleteModelResponse*) {
  std::lock_guard<std::mutex> lock(mu_);
  if (models.erase(request->id()) == 0) {
    return ToGrpc(absl::NotFoundError(absl::StrCat("no model \"", request->id(), "\": see quantctl model list")));
  }
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::SetRetention(grpc::ServerContext*, const v1::SetRetentionRequest* request,
                                               v1::SetRetentionResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto it = models.find(request->id());
  if (it == models.end()) return ToGrpc(absl::NotFoundError(absl::StrCat("no model \"", request->id(), "\"")));
  if (request->has_pinned()) it->second.set_pinned(request->pinned());
  if (request->has_ttl()) it->second.mutable_expire_time()->set_seconds(request->ttl().seconds());
  if (it->second.has_expire_time()) *response->mutable_expire_time() = it->second.expire_time();
  response->set_pinned(it->second.pinned());
  return grpc::Status::OK;
}

grpc::Status FakeArtifactService::CreateDataset(grpc::ServerContext*, const v1::CreateDatasetRequest* request,
                                                v1::CreateDatasetResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  v1::Dataset dataset;
  dataset.set_id(absl::StrCat("d-", absl::Dec(datasets.size(), absl::kZeroPad16)));
  dataset.set_name(request->name());
  for (const v1::File& file : request->files()) {
    if (blobs.count(file.digest().sha256()) == 0) return Missing(file.digest().sha256());
    *dataset.add_files() = file;
  }
  datasets[dataset.id()] = dataset;
  *response->mutable_dataset() = dataset;
  return grpc::Status::OK;
}

LoopbackServer::LoopbackServer(std::vector<grpc::Service*> services) : services_(std::move(services)) { Start(); }
LoopbackServer::~LoopbackServer() { Stop(); }

void LoopbackServer::Start() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials(), &port_);
  for (grpc::Service* service : services_) builder.RegisterService(service);
  server_ = builder.BuildAndStart();
  CHECK(server_ != nullptr && port_ != 0) << "cannot listen on loopback";
}

void LoopbackServer::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

std::string LoopbackServer::address() const { return absl::StrCat("127.0.0.1:", port_); }

std::shared_ptr<grpc::Channel> LoopbackServer::Channel() const {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), args);
}

}  // namespace quant
