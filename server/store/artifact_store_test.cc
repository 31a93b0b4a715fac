// SPDX-License-Identifier: Apache-2.0
#include "server/store/artifact_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/random_id.h"
#include "common/strings.h"
#include "server/auth/tenant_limits.h"
#include "server/store/artifact_store_test_base.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

TEST_P(ArtifactStoreTest, ModelComesBackWholeAfterAReopening) {
  auto made =
      store_->CreateModel(OpenPrincipal(), ModelRequest("net", {Stored("z.bin", "data"), Stored("m.onnx", "graph")}));
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(IsRandomId(made->id(), "m-"));
  EXPECT_EQ(made->format(), v1::MODEL_FORMAT_ONNX);
  EXPECT_EQ(made->size_bytes(), 9);
  ASSERT_EQ(made->files_size(), 2);
  EXPECT_EQ(made->files(0).path(), "m.onnx");
  EXPECT_TRUE(made->has_create_time());
  Reopen();
  EXPECT_EQ(store_->GetModel(OpenPrincipal(), made->id())->SerializeAsString(), made->SerializeAsString());
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_artifacts{kind=\"model\"} 1"));
}

TEST_P(ArtifactStoreTest, SameManifestAndNameIsTheSameModel) {
  const v1::Model first = Make("net", "graph");
  EXPECT_EQ(Make("net", "graph").id(), first.id());
  EXPECT_EQ(Make("net", "graph").SerializeAsString(), first.SerializeAsString());
  EXPECT_NE(Make("other", "graph").id(), first.id());
  EXPECT_NE(Make("net", "changed").id(), first.id());
}

TEST_P(ArtifactStoreTest, AModelIsNoDataset) {
  const v1::Model model = Make("net", "graph");
  EXPECT_EQ(store_->GetDataset(OpenPrincipal(), model.id()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->DeleteDataset(OpenPrincipal(), model.id()).code(), absl::StatusCode::kNotFound);
  v1::CreateDatasetRequest request;
  *request.add_files() = Stored("m.onnx", "graph");
  auto dataset = store_->CreateDataset(OpenPrincipal(), request);
  ASSERT_TRUE(dataset.ok());
  EXPECT_TRUE(IsRandomId(dataset->id(), "d-"));
  EXPECT_EQ(store_->ListDatasets(OpenPrincipal(), {})->datasets_size(), 1);
}

TEST_P(ArtifactStoreTest, MissingBlobAndUnreadableModelAreRefused) {
  const absl::Status missing =
      store_->CreateModel(OpenPrincipal(), ModelRequest("n", {Stored("m.onnx", "here"), NotStored("w.bin", "absent")}))
          .status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(missing), "BLOB_MISSING");
  EXPECT_EQ(MetadataOf(missing, "sha256"), Sha256Hex("absent"));
  EXPECT_EQ(store_->CreateModel(OpenPrincipal(), ModelRequest("n", {Stored("m.pkl", "here")})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->CreateModel(OpenPrincipal(), ModelRequest("n", {Stored("../m.onnx", "here")})).status().code(),
            absl::StatusCode::kInvalidArgument);
  v1::File huge = NotStored("a.onnx", "x");
  huge.mutable_digest()->set_size_bytes(INT64_MAX);
  v1::File other = huge;
  other.set_path("b.onnx");
  EXPECT_EQ(store_->CreateModel(OpenPrincipal(), ModelRequest("n", {huge, other})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(store_->ListModels(OpenPrincipal(), {})->models_size(), 0);
}

TEST_P(ArtifactStoreTest, ListPagesNewestFirstAndSurvivesChangesInBetween) {
  std::vector<std::string> ids;
  ids.reserve(7);
  for (int i = 0; i < 7; ++i) ids.push_back(Make(absl::StrCat("n", i), absl::StrCat("g", i)).id());
  v1::ListModelsRequest request;
  request.set_page_size(3);
  std::vector<std::string> seen;
  for (int page = 0; page < 10; ++page) {
    auto response = store_->ListModels(OpenPrincipal(), request);
    ASSERT_TRUE(response.ok()) << response.status();
    for (const v1::Model& model : response->models()) seen.push_back(model.id());
    if (page == 0) {
      Make("newer", "newer");                                               // newer than the first page: not shown
      ASSERT_TRUE(store_->DeleteModel(OpenPrincipal(), ids[2]).ok());       // not yet shown: skipped
      ASSERT_TRUE(store_->DeleteModel(OpenPrincipal(), seen.back()).ok());  // the token's own row
    }
    if (response->next_page_token().empty()) break;
    request.set_page_token(response->next_page_token());
  }
  EXPECT_THAT(seen, testing::ElementsAre(ids[6], ids[5], ids[4], ids[3], ids[1], ids[0]));
}

TEST_P(ArtifactStoreTest, ForeignPageTokensAndNegativeSizesAreRefused) {
  for (int i = 0; i < 2; ++i) Make(absl::StrCat("n", i), "g");
  v1::ListModelsRequest request;
  request.set_page_size(1);
  const std::string token = store_->ListModels(OpenPrincipal(), request)->next_page_token();
  ASSERT_FALSE(token.empty());
  v1::ListDatasetsRequest other;
  other.set_page_token(token);
  EXPECT_EQ(store_->ListDatasets(OpenPrincipal(), other).status().code(), absl::StatusCode::kInvalidArgument);
  for (const std::string& bad : {std::string("x"), token + "A", std::string(5000, 'A')}) {
    request.set_page_token(bad);
    EXPECT_EQ(store_->ListModels(OpenPrincipal(), request).status().code(), absl::StatusCode::kInvalidArgument);
  }
  request.clear_page_token();
  request.set_page_size(-1);
  EXPECT_EQ(store_->ListModels(OpenPrincipal(), request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(ArtifactStoreTest, DeleteRefusesWhatAJobNeeds) {
  const v1::Model model = Make("net", "graph");
  std::string user = "j-0123456789abcdef";
  store_->SetInUse([&](std::string_view id, std::string_view) -> absl::StatusOr<std::string> {
    return id == model.id() ? user : "";
  });
  const absl::Status status = store_->DeleteModel(OpenPrincipal(), model.id());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "IN_USE");
  EXPECT_EQ(MetadataOf(status, "job"), user);
  user.clear();
  EXPECT_TRUE(store_->DeleteModel(OpenPrincipal(), model.id()).ok());
  EXPECT_EQ(store_->DeleteModel(OpenPrincipal(), model.id()).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_->GetModel(OpenPrincipal(), model.id()).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(ArtifactStoreTest, AJobPublishesOneModel) {
  const v1::Model uploaded = Make("net", "graph");
  const std::vector<v1::File> files = {Stored("m.onnx", "graph")};
  auto first = store_->PublishResult(kDefaultTenant, "j-1", "net", files);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->source_job_id(), "j-1");
  EXPECT_NE(first->id(), uploaded.id());
  EXPECT_EQ(store_->PublishResult(kDefaultTenant, "j-1", "net", files)->id(), first->id());
  EXPECT_EQ(store_->PublishResult(kDefaultTenant, "j-1", "net", {Stored("m.onnx", "else")}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(store_->PublishResult(kDefaultTenant, "j-2", "net", files)->id(), first->id());
  EXPECT_EQ(store_->PublishResult(kDefaultTenant, "j-3", "out", {Stored("m.gguf", "g")})->format(),
            v1::MODEL_FORMAT_GGUF);
  EXPECT_EQ(ReasonOf(store_->PublishResult(kDefaultTenant, "j-4", "net", {NotStored("m.onnx", "no")}).status()),
            "BLOB_MISSING");
}

// ---------------------------------------------------------------- tenants

TEST_P(ArtifactStoreTest, WhatAnotherTenantHasIsAsWhatIsNotThere) {
  const v1::File file = Stored("m.onnx", "graph");
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  const auto model = store_->CreateModel(kAnn, ModelRequest("net", {file}));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(store_->GetModel(kAnn, model->id()).ok());
  EXPECT_TRUE(store_->GetModel(OpenPrincipal(), model->id()).ok());
  const absl::Status theirs = store_->GetModel(kBob, model->id()).status();
  EXPECT_EQ(theirs.code(), absl::StatusCode::kPermissionDenied);
  std::string nobodys = "m-0123456789abcdef";
  const std::string unknown(store_->GetModel(kBob, nobodys).status().message());
  EXPECT_EQ(absl::StrReplaceAll(std::string(theirs.message()), {{model->id(), nobodys}}), unknown);
  EXPECT_EQ(store_->DeleteModel(kBob, model->id()).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(store_->DeleteModel(kBob, nobodys).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(store_->ListModels(kAnn, {})->models_size(), 1);
  EXPECT_EQ(store_->ListModels(kBob, {})->models_size(), 0);
  EXPECT_EQ(store_->ListModels(OpenPrincipal(), {})->models_size(), 1);
}

TEST_P(ArtifactStoreTest, ADigestAloneOpensNothing) {
  const v1::File file = Stored("m.onnx", "graph");
  const std::string sha256 = file.digest().sha256();
  EXPECT_FALSE(store_->HoldsBlob(kAnn, sha256).value());
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  EXPECT_TRUE(store_->HoldsBlob(kAnn, sha256).value());
  EXPECT_FALSE(store_->HoldsBlob(kBob, sha256).value());
  EXPECT_TRUE(store_->HoldsBlob(OpenPrincipal(), sha256).value());
  // Bob names Ann's blob: the answer is that of a blob nobody has.
  const absl::Status stolen = store_->CreateModel(kBob, ModelRequest("net", {file})).status();
  EXPECT_EQ(ReasonOf(stolen), "BLOB_MISSING");
  Reopen();
  EXPECT_TRUE(store_->CreateModel(kAnn, ModelRequest("net", {file})).ok());
}

TEST_P(ArtifactStoreTest, TheFilesOfAJobsResultAreItsTenants) {
  const v1::File file = Stored("m.onnx", "quantized");
  const auto result = store_->PublishResult("acme", "j-1", "out", {file});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(store_->GetModel(kAnn, result->id()).ok());
  EXPECT_TRUE(store_->HoldsBlob(kAnn, file.digest().sha256()).value());
  EXPECT_FALSE(store_->HoldsBlob(kBob, file.digest().sha256()).value());
}

TEST_P(ArtifactStoreTest, TheSameManifestOfTwoTenantsIsTwoModels) {
  const v1::File file = Stored("m.onnx", "graph");
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  ASSERT_TRUE(store_->NoteHeld(kBob, IdOf(file)).ok());
  const auto ann = store_->CreateModel(kAnn, ModelRequest("net", {file}));
  const auto bob = store_->CreateModel(kBob, ModelRequest("net", {file}));
  ASSERT_TRUE(ann.ok() && bob.ok());
  EXPECT_NE(ann->id(), bob->id());
  EXPECT_TRUE(store_->DeleteModel(kAnn, ann->id()).ok());
  EXPECT_TRUE(store_->GetModel(kBob, bob->id()).ok());
}

TEST_P(ArtifactStoreTest, ASweptBlobHasNoHolders) {
  const v1::File file = Stored("m.onnx", "graph");
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  clock_.Advance(absl::Hours(25));
  EXPECT_GT(store_->SweepUnreferenced(absl::Hours(24)).value(), 0);
  EXPECT_FALSE(store_->HoldsBlob(kAnn, file.digest().sha256()).value());
}

TEST_P(ArtifactStoreTest, StoredBytesCountEachBlobOnceAgainstTheQuota) {
  LimitsTable limits;
  limits.Set("acme", {.max_stored_bytes = 10});
  store_->SetLimits(&limits);
  const v1::File file = Stored("m.onnx", "graph");  // 5 bytes
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  ASSERT_TRUE(store_->CreateModel(kAnn, ModelRequest("net", {file})).ok());
  {
    const auto first = store_->Reserve(kAnn, IdOf(NotStored("a", "12345")));
    EXPECT_TRUE(first.ok()) << first.status();
    const auto second = store_->Reserve(kAnn, IdOf(NotStored("b", "1")));
    EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ReasonOf(second.status()), "QUOTA_EXCEEDED");
    EXPECT_TRUE(store_->Reserve(kBob, IdOf(NotStored("b", "1"))).ok());
  }
  EXPECT_TRUE(store_->Reserve(kAnn, IdOf(NotStored("b", "1"))).ok());
  EXPECT_EQ(ReasonOf(store_->Reserve(kAnn, IdOf(NotStored("c", "123456"))).status()), "QUOTA_EXCEEDED");
}

TEST_P(ArtifactStoreTest, SweepTakesOnlyOldBlobsThatNothingNames) {
  const v1::Model model = Make("net", "graph");
  Stored("loose", "loose bytes");
  EXPECT_EQ(store_->SweepUnreferenced(absl::Hours(24)).value(), 0);
  clock_.Advance(absl::Hours(25));
  Stored("young", "young bytes");
  const BlobId young{Sha256Hex("young bytes"), 11};
  EXPECT_TRUE(blobs_->Touch(young).value());  // its file carries the machine's time, which the fake clock left behind
  EXPECT_EQ(store_->SweepUnreferenced(absl::Hours(24)).value(), 11);
  EXPECT_FALSE(blobs_->Touch({Sha256Hex("loose bytes"), 11}).value());
  EXPECT_TRUE(blobs_->Touch(young).value());
  EXPECT_TRUE(blobs_->Touch({Sha256Hex("graph"), 5}).value());
  ASSERT_TRUE(store_->DeleteModel(OpenPrincipal(), model.id()).ok());
  clock_.Advance(absl::Hours(25));
  EXPECT_EQ(store_->SweepUnreferenced(absl::Hours(24)).value(), 16);
  EXPECT_EQ(blobs_->stats().blobs, 0);
}

INSTANTIATE_TEST_SUITE_P(Stores, ArtifactStoreTest, ::testing::Values("sqlite", "postgres"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace quant
