// SPDX-License-Identifier: Apache-2.0
#include "server/api/artifact_service.h"

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "quant/v1/artifacts.grpc.pb.h"
#include "server/api/blob_streams.h"
#include "server/auth/gate.h"
#include "server/blobs/blob_store.h"
#include "server/store/artifact_store.h"

namespace quant {
namespace {

constexpr int kMaxAsked = 10'000;

absl::StatusOr<v1::FindMissingBlobsResponse> FindMissing(const Principal& caller, const BlobStreams& streams,
                                                         const v1::FindMissingBlobsRequest& request) {
  if (request.digests_size() > kMaxAsked) {
    return absl::InvalidArgumentError(
        absl::StrCat("asks for ", request.digests_size(), " blobs; the limit is ", kMaxAsked));
  }
  v1::FindMissingBlobsResponse response;
  for (const v1::Digest& digest : request.digests()) {
    ASSIGN_OR_RETURN(const bool stored, IsThereFor(caller, streams, ToBlobId(digest)));
    if (!stored) *response.add_missing() = digest;
  }
  return response;
}

absl::StatusOr<v1::QueryWriteStatusResponse> QueryStatus(const Principal& caller, const BlobStreams& streams,
                                                         const v1::QueryWriteStatusRequest& request) {
  const BlobId blob = ToBlobId(request.digest());
  v1::QueryWriteStatusResponse response;
  RETURN_IF_ERROR(CheckUploadId(request.upload_id()));
  ASSIGN_OR_RETURN(const int64_t committed,
                   streams.blobs->CommittedSize(StoredUploadId(caller, request.upload_id()), blob));
  ASSIGN_OR_RETURN(const bool stored, IsThereFor(caller, streams, blob));
  response.set_complete(stored);
  response.set_committed_size(stored ? blob.size_bytes : committed);
  return response;
}

}  // namespace

// WriteBlob and ReadBlob take their messages apart themselves.
using WithBlobStreams = v1::ArtifactService::WithRawCallbackMethod_WriteBlob<
    v1::ArtifactService::WithRawCallbackMethod_ReadBlob<v1::ArtifactService::CallbackService>>;

class ArtifactService::Impl final : public WithBlobStreams {
 public:
  Impl(BlobStore* blobs, ArtifactStore* artifacts, ServerMetrics* metrics, const ArtifactServiceOptions& options)
      : artifacts_(artifacts),
        streams_{.blobs = blobs,
                 .artifacts = artifacts,
                 .limiter = options.limiter,
                 .metrics = metrics,
                 .pool = &pool_,
                 .max_streams = options.max_streams},
        pool_(options.threads, static_cast<size_t>(options.max_waiting)) {}

  void Shutdown() { streams_.stopping = true; }

  grpc::ServerUnaryReactor* FindMissingBlobs(grpc::CallbackServerContext* context,
                                             const v1::FindMissingBlobsRequest* request,
                                             v1::FindMissingBlobsResponse* response) override {
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(FindMissing(caller, streams_, *request), response);
    });
  }
  grpc::ServerUnaryReactor* QueryWriteStatus(grpc::CallbackServerContext* context,
                                             const v1::QueryWriteStatusRequest* request,
                                             v1::QueryWriteStatusResponse* response) override {
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(QueryStatus(caller, streams_, *request), response);
    });
  }
  grpc::ServerReadReactor<grpc::ByteBuffer>* WriteBlob(grpc::CallbackServerContext* context,
                                                       grpc::ByteBuffer* response) override {
    return StartWriteBlob(&streams_, context, response);
  }
  grpc::ServerWriteReactor<grpc::ByteBuffer>* ReadBlob(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override {
    return StartReadBlob(&streams_, context, *request);
  }

  grpc::ServerUnaryReactor* CreateModel(grpc::CallbackServerContext* context, const v1::CreateModelRequest* request,
                                        v1::CreateModelResponse* response) override {
    return Run(context, [this, context, request, response](const Principal& caller) {
      const absl::Status status = Put(artifacts_->CreateModel(caller, *request), response->mutable_model());
      SetObject(context, response->model().id());
      return status;
    });
  }
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    SetObject(context, request->id());
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(artifacts_->GetModel(caller, request->id()), response->mutable_model());
    });
  }
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override {
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(artifacts_->ListModels(caller, *request), response);
    });
  }
  grpc::ServerUnaryReactor* DeleteModel(grpc::CallbackServerContext* context, const v1::DeleteModelRequest* request,
                                        v1::DeleteModelResponse*) override {
    SetObject(context, request->id());
    return Run(context,
               [this, request](const Principal& caller) { return artifacts_->DeleteModel(caller, request->id()); });
  }

  grpc::ServerUnaryReactor* CreateDataset(grpc::CallbackServerContext* context, const v1::CreateDatasetRequest* request,
                                          v1::CreateDatasetResponse* response) override {
    return Run(context, [this, context, request, response](const Principal& caller) {
      const absl::Status status = Put(artifacts_->CreateDataset(caller, *request), response->mutable_dataset());
      SetObject(context, response->dataset().id());
      return status;
    });
  }
  grpc::ServerUnaryReactor* GetDataset(grpc::CallbackServerContext* context, const v1::GetDatasetRequest* request,
                                       v1::GetDatasetResponse* response) override {
    SetObject(context, request->id());
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(artifacts_->GetDataset(caller, request->id()), response->mutable_dataset());
    });
  }
  grpc::ServerUnaryReactor* ListDatasets(grpc::CallbackServerContext* context, const v1::ListDatasetsRequest* request,
                                         v1::ListDatasetsResponse* response) override {
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(artifacts_->ListDatasets(caller, *request), response);
    });
  }
  grpc::ServerUnaryReactor* DeleteDataset(grpc::CallbackServerContext* context, const v1::DeleteDatasetRequest* request,
                                          v1::DeleteDatasetResponse*) override {
    SetObject(context, request->id());
    return Run(context,
               [this, request](const Principal& caller) { return artifacts_->DeleteDataset(caller, request->id()); });
  }
  grpc::ServerUnaryReactor* SetRetention(grpc::CallbackServerContext* context, const v1::SetRetentionRequest* request,
                                         v1::SetRetentionResponse* response) override {
    SetObject(context, request->id());
    return Run(context, [this, request, response](const Principal& caller) {
      return Put(artifacts_->SetRetention(caller, *request), response);
    });
  }
  grpc::ServerUnaryReactor* GetStorage(grpc::CallbackServerContext* context, const v1::GetStorageRequest*,
                                       v1::GetStorageResponse* response) override {
    return Run(context,
               [this, response](const Principal& caller) { return Put(artifacts_->GetStorage(caller), response); });
  }

 private:
  // gRPC keeps request and response until the reactor finishes, so that a task may use them.
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context,
                                std::function<absl::Status(const Principal& caller)> work) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    absl::StatusOr<Principal> caller = CallerOf(context);
    if (!caller.ok()) {
      reactor->Finish(ToGrpc(caller.status()));
      return reactor;
    }
    const bool posted = pool_.TryPost([context, reactor, caller = *std::move(caller), work = std::move(work)] {
      // The client may have given up while the call waited for a thread.
      reactor->Finish(context->IsCancelled() ? grpc::Status::CANCELLED : ToGrpc(work(caller)));
    });
    if (!posted) reactor->Finish(ToGrpc(TooBusy("calls are waiting")));
    return reactor;
  }

  template <typename T>
  static absl::Status Put(absl::StatusOr<T> result, T* response) {
    if (!result.ok()) return std::move(result).status();
    *response = *std::move(result);
    return absl::OkStatus();
  }

  ArtifactStore* const artifacts_;
  BlobStreams streams_;
  ThreadPool pool_;  // the last: its threads are joined while the rest is still there
};

ArtifactService::ArtifactService(BlobStore* blobs, ArtifactStore* artifacts, ServerMetrics* metrics,
                                 ArtifactServiceOptions options)
    : impl_(std::make_unique<Impl>(blobs, artifacts, metrics, options)) {}
ArtifactService::~ArtifactService() = default;
grpc::Service* ArtifactService::service() { return impl_.get(); }
void ArtifactService::Shutdown() { impl_->Shutdown(); }

}  // namespace quant
