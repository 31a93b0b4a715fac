// SPDX-License-Identifier: Apache-2.0
// FakeArtifactCatalog: models and datasets in memory, for tests.
#ifndef QUANT_SERVER_QUEUE_FAKE_ARTIFACT_CATALOG_H_
#define QUANT_SERVER_QUEUE_FAKE_ARTIFACT_CATALOG_H_

#include <map>
#include <set>
#include <string>

#include "common/mutex.h"
#include "server/queue/artifact_catalog.h"

namespace quant {

// Thread-safe. Every blob counts as stored unless it is in the set of missing ones.
class FakeArtifactCatalog : public ArtifactCatalog {
 public:
  void AddModel(const std::string& id, v1::ModelFormat format = v1::MODEL_FORMAT_ONNX,
                const std::string& tenant = kDefaultTenant);
  void AddDataset(const std::string& id, const std::string& tenant = kDefaultTenant);
  void RemoveModel(const std::string& id);
  // PublishResult fails with `status` from now on, for this job or (empty) all; OK: no more.
  void FailPublish(absl::Status status, const std::string& job_id = "");
  void SetMissing(const std::string& sha256, bool missing);
  // Models that jobs made, in order.
  std::vector<v1::Model> Published();
  // How often UseModel and UseDataset were called for it.
  int UsesOf(std::string_view id);
  // Whose model or dataset it is; "" when there is none.
  std::string OwnerOf(std::string_view id);

  absl::StatusOr<v1::Model> GetModel(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::Dataset> GetDataset(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::Model> UseModel(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::Dataset> UseDataset(const Principal& caller, std::string_view id) override;
  absl::StatusOr<v1::Model> PublishResult(std::string_view tenant, std::string_view job_id, std::string_view name,
                                          const std::vector<v1::File>& files) override;

 private:
  Mutex mu_;
  std::map<std::string, std::string, std::less<>> owners_ ABSL_GUARDED_BY(mu_);  // id to tenant
  std::map<std::string, v1::Model, std::less<>> models_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, v1::Dataset, std::less<>> datasets_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::Model> published_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, int, std::less<>> uses_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> missing_ ABSL_GUARDED_BY(mu_);
  absl::Status publish_status_ ABSL_GUARDED_BY(mu_);
  std::string publish_fails_for_ ABSL_GUARDED_BY(mu_);
};

}  // namespace quant

#endif  // QUANT_SERVER_QUEUE_FAKE_ARTIFACT_CATALOG_H_
