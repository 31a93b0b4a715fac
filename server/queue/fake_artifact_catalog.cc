// SPDX-License-Identifier: Apache-2.0
#include "server/queue/fake_artifact_catalog.h"

#include "absl/strings/str_cat.h"
#include "common/error_detail.h"
#include "common/strings.h"

namespace quant {

void FakeArtifactCatalog::AddModel(const std::string& id, v1::ModelFormat format, const std::string& tenant) {
  MutexLock lock(&mu_);
  owners_[id] = tenant;
  v1::Model& model = models_[id];
  model.set_id(id);
  model.set_name("name of " + id);
  model.set_format(format);
  model.set_digest("digest of " + id);
}

void FakeArtifactCatalog::AddDataset(const std::string& id, const std::string& tenant) {
  MutexLock lock(&mu_);
  owners_[id] = tenant;
  datasets_[id].set_id(id);
  datasets_[id].set_digest("digest of " + id);
}

void FakeArtifactCatalog::RemoveModel(const std::string& id) {
  MutexLock lock(&mu_);
  models_.erase(id);
}

void FakeArtifactCatalog::FailPublish(absl::Status status, const std::string& job_id) {
  MutexLock lock(&mu_);
  publish_fails_for_ = job_id;
  publish_status_ = std::move(status);
}

void FakeArtifactCatalog::SetMissing(const std::string& sha256, bool missing) {
  MutexLock lock(&mu_);
  if (missing) {
    missing_.insert(sha256);
  } else {
    missing_.erase(sha256);
  }
}

std::string FakeArtifactCatalog::OwnerOf(std::string_view id) {
  MutexLock lock(&mu_);
  const auto it = owners_.find(id);
  return it == owners_.end() ? "" : it->second;
}

std::vector<v1::Model> FakeArtifactCatalog::Published() {
  MutexLock lock(&mu_);
  return published_;
}

absl::StatusOr<v1::Model> FakeArtifactCatalog::GetModel(const Principal& caller, std::string_view id) {
  MutexLock lock(&mu_);
  const auto it = models_.find(id);
  if (it == models_.end() || !caller.Sees(owners_[it->first])) return NotVisible(caller, "model", id);
  return it->second;
}

absl::StatusOr<v1::Dataset> FakeArtifactCatalog::GetDataset(const Principal& caller, std::string_view id) {
  MutexLock lock(&mu_);
  const auto it = datasets_.find(id);
  if (it == datasets_.end() || !caller.Sees(owners_[it->first])) return NotVisible(caller, "dataset", id);
  return it->second;
}

absl::StatusOr<v1::Model> FakeArtifactCatalog::UseModel(const Principal& caller, std::string_view id) {
  {
    MutexLock lock(&mu_);
    ++uses_[std::string(id)];
  }
  return GetModel(caller, id);
}

absl::StatusOr<v1::Dataset> FakeArtifactCatalog::UseDataset(const Principal& caller, std::string_view id) {
  {
    MutexLock lock(&mu_);
    ++uses_[std::string(id)];
  }
  return GetDataset(caller, id);
}

int FakeArtifactCatalog::UsesOf(std::string_view id) {
  MutexLock lock(&mu_);
  const auto it = uses_.find(id);
  return it == uses_.end() ? 0 : it->second;
}

absl::StatusOr<v1::Model> FakeArtifactCatalog::PublishResult(std::string_view tenant, std::string_view job_id,
                                                             std::string_view name,
                                                             const std::vector<v1::File>& files) {
  MutexLock lock(&mu_);
  if (!publish_status_.ok() && (publish_fails_for_.empty() || publish_fails_for_ == job_id)) return publish_status_;
  for (const v1::File& file : files) {
    if (missing_.contains(file.digest().sha256())) {
      return WithReason(absl::FailedPreconditionError("a blob is not stored"), "BLOB_MISSING");
    }
  }
  v1::Model model;
  model.set_id(absl::StrCat("m-result-", published_.size()));
  model.set_name(std::string(name));
  model.set_source_job_id(std::string(job_id));
  model.mutable_files()->Assign(files.begin(), files.end());
  for (const v1::Model& old : published_) {
    model.set_id(old.id());
    if (old.SerializeAsString() == model.SerializeAsString()) return old;
  }
  model.set_id(absl::StrCat("m-result-", published_.size()));
  published_.push_back(model);
  models_[model.id()] = model;
  owners_[model.id()] = std::string(tenant);
  return model;
}

}  // namespace quant
