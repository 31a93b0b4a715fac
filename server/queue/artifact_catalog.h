// SPDX-License-Identifier: Apache-2.0
// ArtifactCatalog: what the queue needs to know of stored models and datasets. The artifact store implements it; tests
// use FakeArtifactCatalog.
#ifndef QUANT_SERVER_QUEUE_ARTIFACT_CATALOG_H_
#define QUANT_SERVER_QUEUE_ARTIFACT_CATALOG_H_

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/artifacts.pb.h"
#include "server/auth/principal.h"

namespace quant {

// Thread-safe. The queue holds none of its locks while it calls; an implementation may hold its own while it calls
// JobQueue::UnfinishedJobUsing.
class ArtifactCatalog {
 public:
  virtual ~ArtifactCatalog() = default;

  // NotVisible: no such model or dataset, or `caller` does not see it.
  virtual absl::StatusOr<v1::Model> GetModel(const Principal& caller, std::string_view id) = 0;
  virtual absl::StatusOr<v1::Dataset> GetDataset(const Principal& caller, std::string_view id) = 0;

  // The same for a job that is about to be stored: the model or dataset will not expire within the next hour, and then
  // not before the job has ended (UnfinishedJobUsing).
  virtual absl::StatusOr<v1::Model> UseModel(const Principal& caller, std::string_view id) = 0;
  virtual absl::StatusOr<v1::Dataset> UseDataset(const Principal& caller, std::string_view id) = 0;

  // Makes the model that job `job_id` of `tenant` produced, and that will be the tenant's; durable when this returns.
  // Called again with the same job, name and files it returns the model that is there. A job makes at most one model,
  // and the queue decides on its manifest durably before it calls (JobStore::PutResult), so another manifest for the
  // same job comes only after the first was refused with an error.
  //   FAILED_PRECONDITION, reason BLOB_MISSING: a file is not stored.
  //   INVALID_ARGUMENT: as ArtifactService.CreateModel.
  virtual absl::StatusOr<v1::Model> PublishResult(std::string_view tenant, std::string_view job_id,
                                                  std::string_view name, const std::vector<v1::File>& files) = 0;
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_ARTIFACT_CATALOG_H_
