// SPDX-License-Identifier: Apache-2.0
// Expiry, pins, and what they give back, on SQLite and PostgreSQL. Time is a fake clock's; only the blobs' files carry
// the machine's, which is never ahead of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/proto_time.h"
#include "server/auth/tenant_limits.h"
#include "server/store/artifact_store_test_base.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kGrace = absl::Hours(24);

class RetentionTest : public ArtifactStoreTest {
 protected:
  absl::StatusOr<v1::Model> Create(const Principal& caller, const std::string& name, const std::string& bytes,
                                   absl::Duration ttl = absl::InfiniteDuration()) {
    const v1::File file = Stored("m.onnx", bytes);
    EXPECT_TRUE(store_->NoteHeld(caller, IdOf(file)).ok());
    v1::CreateModelRequest request = ModelRequest(name, {file});
    if (ttl != absl::InfiniteDuration()) SetProto(ttl, request.mutable_ttl());
    return store_->CreateModel(caller, request);
  }
  v1::Model Expiring(const std::string& name, const std::string& bytes, absl::Duration ttl) {
    const auto model = Create(OpenPrincipal(), name, bytes, ttl);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.value_or(v1::Model());
  }
  v1::Dataset Dataset(const std::string& bytes, absl::Duration ttl) {
    v1::CreateDatasetRequest request;
    *request.add_files() = Stored("d.txt", bytes);
    SetProto(ttl, request.mutable_ttl());
    const auto dataset = store_->CreateDataset(OpenPrincipal(), request);
    EXPECT_TRUE(dataset.ok()) << dataset.status();
    return dataset.value_or(v1::Dataset());
  }
  bool IsThere(const std::string& id) {
    return id.starts_with("d-") ? store_->GetDataset(OpenPrincipal(), id).ok()
                                : store_->GetModel(OpenPrincipal(), id).ok();
  }
  absl::Time ExpireTime(const std::string& id) {
    const auto model = store_->GetModel(OpenPrincipal(), id);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() && model->has_expire_time() ? FromProto(model->expire_time()) : absl::InfiniteFuture();
  }
  absl::StatusOr<v1::SetRetentionResponse> Pin(const Principal& caller, const std::string& id, bool pinned) {
    v1::SetRetentionRequest request;
    request.set_id(id);
    request.set_pinned(pinned);
    return store_->SetRetention(caller, request);
  }
  // How many DeleteExpired took.
  int64_t Expired() {
    const auto deleted = store_->DeleteExpired();
    EXPECT_TRUE(deleted.ok()) << deleted.status();
    return deleted.value_or(-1);
  }
};

TEST_P(RetentionTest, ExpiresNotBeforeItsTimeAndThenWithItsBytes) {
  const v1::Model model = Expiring("net", "graph", absl::Hours(1));
  const v1::Dataset data = Dataset("words", absl::Hours(2));
  const v1::Model kept = Make("kept", "kept bytes");
  EXPECT_EQ(FromProto(model.expire_time()), clock_.Now() + absl::Hours(1));
  EXPECT_FALSE(kept.has_expire_time());
  clock_.Advance(absl::Hours(1) - absl::Nanoseconds(1));
  EXPECT_EQ(Expired(), 0);
  Reopen();
  clock_.Advance(absl::Nanoseconds(1));
  EXPECT_EQ(Expired(), 1);
  EXPECT_FALSE(IsThere(model.id()));
  EXPECT_TRUE(IsThere(data.id()));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_artifacts{kind=\"model\"} 1"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_artifacts_expired_total{kind=\"model\"} 1"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_artifacts_expired_bytes_total 5"));
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(Expired(), 1);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_artifacts_expired_total{kind=\"dataset\"} 1"));
  EXPECT_EQ(store_->SweepUnreferenced(kGrace).value(), 0);  // used within the grace
  clock_.Advance(kGrace);
  EXPECT_EQ(store_->SweepUnreferenced(kGrace).value(), 10);
  EXPECT_TRUE(IsThere(kept.id()));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_cas_gc_reclaimed_bytes_total 10"));
  const auto storage = store_->GetStorage(OpenPrincipal());
  ASSERT_TRUE(storage.ok()) << storage.status();
  EXPECT_EQ(storage->server().expired(), 2);
  EXPECT_EQ(storage->server().sweep_bytes(), 10);
  EXPECT_EQ(FromProto(storage->server().sweep_time()), clock_.Now());
}

TEST_P(RetentionTest, BytesThatSomethingElseNamesAreNotReclaimed) {
  Expiring("a", "graph", absl::Hours(1));
  const v1::Model other = Make("b", "graph");
  clock_.Advance(absl::Hours(48));
  EXPECT_EQ(Expired(), 1);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("quant_artifacts_expired_bytes_total 0"));
  EXPECT_EQ(store_->SweepUnreferenced(kGrace).value(), 0);
  EXPECT_TRUE(blobs_->Touch(IdOf(other.files(0))).value());
}

TEST_P(RetentionTest, APinHoldsAndItsEndLeavesAnHour) {
  const v1::Model model = Expiring("net", "graph", absl::Hours(1));
  ASSERT_TRUE(Pin(OpenPrincipal(), model.id(), true)->pinned());
  clock_.Advance(absl::Hours(1000));
  Reopen();
  EXPECT_EQ(Expired(), 0);
  const auto pinned = store_->GetModel(OpenPrincipal(), model.id());
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_TRUE(pinned->pinned());
  EXPECT_EQ(pinned->expire_time().seconds(), model.expire_time().seconds());
  ASSERT_TRUE(Pin(OpenPrincipal(), model.id(), true).ok());  // again: no change
  const auto unpinned = Pin(OpenPrincipal(), model.id(), false);
  ASSERT_TRUE(unpinned.ok()) << unpinned.status();
  EXPECT_FALSE(unpinned->pinned());
  EXPECT_EQ(FromProto(unpinned->expire_time()), clock_.Now() + absl::Hours(1));
  // Not pinned any more, a second unpin puts nothing off.
  clock_.Advance(absl::Minutes(30));
  ASSERT_TRUE(Pin(OpenPrincipal(), model.id(), false).ok());
  clock_.Advance(absl::Minutes(30));
  EXPECT_EQ(Expired(), 1);
}

TEST_P(RetentionTest, APinOfWhatHasNoTimeKeepsThat) {
  const v1::Model model = Make("net", "graph");
  ASSERT_TRUE(Pin(OpenPrincipal(), model.id(), true).ok());
  EXPECT_FALSE(Pin(OpenPrincipal(), model.id(), false)->has_expire_time());
}

TEST_P(RetentionTest, ATtlReplacesTheTime) {
  const v1::Model model = Make("net", "graph");
  v1::SetRetentionRequest request;
  request.set_id(model.id());
  EXPECT_EQ(store_->SetRetention(OpenPrincipal(), request).status().code(), absl::StatusCode::kInvalidArgument);
  for (const absl::Duration bad : {absl::ZeroDuration(), absl::Seconds(-5), absl::Hours(24) * 36'501}) {
    SetProto(bad, request.mutable_ttl());
    const absl::Status status = store_->SetRetention(OpenPrincipal(), request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("from 1 second to 100 years"));
    EXPECT_EQ(Create(OpenPrincipal(), "other", "bytes", bad).status().code(), absl::StatusCode::kInvalidArgument);
  }
  SetProto(absl::Hours(3), request.mutable_ttl());
  ASSERT_TRUE(store_->SetRetention(OpenPrincipal(), request).ok());
  EXPECT_EQ(ExpireTime(model.id()), clock_.Now() + absl::Hours(3));
  SetProto(absl::Seconds(1), request.mutable_ttl());
  ASSERT_TRUE(store_->SetRetention(OpenPrincipal(), request).ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_EQ(Expired(), 1);
  request.set_id(model.id());
  EXPECT_EQ(store_->SetRetention(OpenPrincipal(), request).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(RetentionTest, AnotherTenantsRetentionIsAsThatOfWhatIsNotThere) {
  const auto model = Create(kAnn, "net", "graph", absl::Hours(5));
  ASSERT_TRUE(model.ok()) << model.status();
  for (const std::string& id : {model->id(), std::string("m-0123456789abcdef"), std::string("d-0123456789abcdef")}) {
    const absl::Status status = Pin(kBob, id, true).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(std::string(status.message()),
              absl::StrCat("tenant \"zoo\" has no ", id[0] == 'd' ? "dataset" : "model", " \"", id, "\""));
  }
  EXPECT_FALSE(store_->GetModel(kAnn, model->id())->pinned());
  EXPECT_TRUE(Pin(kAnn, model->id(), true).ok());
  EXPECT_TRUE(Pin(OpenPrincipal(), model->id(), false).ok());
}

TEST_P(RetentionTest, WhatAJobNeedsOrMakesStaysUntilItEnds) {
  store_->SetDefaultTtl(absl::Hours(1));
  const v1::Model input = Expiring("in", "input", absl::Hours(1));
  const v1::Dataset data = Dataset("words", absl::Hours(1));
  const auto result = store_->PublishResult(kDefaultTenant, "j-1", "out", {Stored("m.onnx", "result")});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(FromProto(result->expire_time()), clock_.Now() + absl::Hours(1));
  const v1::Model loose = Expiring("loose", "loose", absl::Hours(2));
  bool running = true;
  store_->SetInUse([&](std::string_view id, std::string_view source) -> absl::StatusOr<std::string> {
    return running && (id == input.id() || id == data.id() || source == "j-1") ? "j-1" : "";
  });
  clock_.Advance(absl::Hours(100));
  EXPECT_EQ(Expired(), 1);  // what comes after those that are kept is found
  EXPECT_FALSE(IsThere(loose.id()));
  EXPECT_EQ(store_->SweepUnreferenced(kGrace).value(), 5);
  for (const v1::File& file : {input.files(0), data.files(0), result->files(0)}) {
    EXPECT_TRUE(blobs_->Touch(IdOf(file)).value());
  }
  EXPECT_EQ(ReasonOf(store_->DeleteModel(OpenPrincipal(), result->id())), "IN_USE");
  running = false;
  EXPECT_EQ(Expired(), 3);
}

TEST_P(RetentionTest, WhenTheQueueCannotTellNothingExpires) {
  const v1::Model model = Expiring("net", "graph", absl::Hours(1));
  store_->SetInUse([](std::string_view, std::string_view) { return absl::UnavailableError("the database is away"); });
  clock_.Advance(absl::Hours(2));
  EXPECT_FALSE(store_->DeleteExpired().ok());
  EXPECT_TRUE(IsThere(model.id()));
}

TEST_P(RetentionTest, MoreThanAPageOfKeptOnesDoNotHideTheRest) {
  std::string last;
  for (int i = 0; i < 103; ++i) last = Expiring(absl::StrCat("net", i), "graph", absl::Hours(1)).id();
  store_->SetInUse(
      [&](std::string_view id, std::string_view) -> absl::StatusOr<std::string> { return id == last ? "" : "j-1"; });
  clock_.Advance(absl::Hours(2));
  EXPECT_EQ(Expired(), 1);
  EXPECT_FALSE(IsThere(last));
}

TEST_P(RetentionTest, AUsePutsTheTimeOff) {
  const v1::Model model = Expiring("net", "graph", absl::Hours(2));
  ASSERT_TRUE(store_->UseModel(OpenPrincipal(), model.id()).ok());
  EXPECT_EQ(ExpireTime(model.id()), FromProto(model.expire_time()));  // far enough
  clock_.Advance(absl::Hours(3));                                     // over, not yet swept
  const auto used = store_->UseModel(OpenPrincipal(), model.id());
  ASSERT_TRUE(used.ok()) << used.status();
  EXPECT_EQ(FromProto(used->expire_time()), clock_.Now() + absl::Hours(1));
  EXPECT_EQ(Expired(), 0);
  EXPECT_EQ(ExpireTime(model.id()), clock_.Now() + absl::Hours(1));
  EXPECT_EQ(store_->UseModel(kBob, model.id()).status().code(), absl::StatusCode::kPermissionDenied);
  // A pin that ends between the use and the job must not cut it short.
  const v1::Dataset data = Dataset("words", absl::Hours(1));
  ASSERT_TRUE(Pin(OpenPrincipal(), data.id(), true).ok());
  clock_.Advance(absl::Hours(10));
  ASSERT_TRUE(store_->UseDataset(OpenPrincipal(), data.id())->pinned());
  EXPECT_GE(FromProto(Pin(OpenPrincipal(), data.id(), false)->expire_time()), clock_.Now() + absl::Hours(1));
}

TEST_P(RetentionTest, TheSameUploadAgainIsKeptUntilTheLaterTime) {
  const v1::Model first = Expiring("net", "graph", absl::Hours(5));
  clock_.Advance(absl::Hours(1));
  const v1::Model shorter = Expiring("net", "graph", absl::Hours(1));
  EXPECT_EQ(shorter.id(), first.id());
  EXPECT_EQ(shorter.expire_time().seconds(), first.expire_time().seconds());
  EXPECT_EQ(FromProto(Expiring("net", "graph", absl::Hours(9)).expire_time()), clock_.Now() + absl::Hours(9));
  EXPECT_FALSE(Make("net", "graph").has_expire_time());
  EXPECT_EQ(ExpireTime(first.id()), absl::InfiniteFuture());
  EXPECT_FALSE(Expiring("net", "graph", absl::Hours(1)).has_expire_time());
}

TEST_P(RetentionTest, TheDefaultIsForWhatIsMadeWithoutATtl) {
  const v1::Model before = Make("before", "graph");
  store_->SetDefaultTtl(absl::Hours(10));
  EXPECT_EQ(FromProto(Make("net", "graph").expire_time()), clock_.Now() + absl::Hours(10));
  EXPECT_EQ(FromProto(Expiring("own", "graph", absl::Hours(2)).expire_time()), clock_.Now() + absl::Hours(2));
  clock_.Advance(absl::Hours(11));
  EXPECT_EQ(Expired(), 2);
  EXPECT_TRUE(IsThere(before.id()));
}

TEST_P(RetentionTest, AQuotaIsGivenBackWhenTheBytesAreReclaimed) {
  LimitsTable limits;
  limits.Set("acme", {.max_stored_bytes = 8});
  store_->SetLimits(&limits);
  ASSERT_TRUE(Create(kAnn, "net", "graph", absl::Hours(1)).ok());
  const v1::File next = NotStored("n", "12345");
  EXPECT_FALSE(store_->Reserve(kAnn, IdOf(next)).ok());
  clock_.Advance(absl::Hours(2));
  EXPECT_EQ(Expired(), 1);
  EXPECT_EQ(store_->GetStorage(kAnn)->tenant_bytes(), 5);  // its bytes are still stored
  EXPECT_EQ(store_->GetStorage(kAnn)->tenant_limit_bytes(), 8);
  EXPECT_FALSE(store_->GetStorage(kAnn)->has_server());
  clock_.Advance(kGrace);
  EXPECT_EQ(store_->SweepUnreferenced(kGrace).value(), 5);
  EXPECT_EQ(store_->GetStorage(kAnn)->tenant_bytes(), 0);
  EXPECT_TRUE(store_->Reserve(kAnn, IdOf(next)).ok());
}

TEST_P(RetentionTest, AQuotaIsGivenBackThoughAnotherTenantKeepsTheBytes) {
  ASSERT_TRUE(Create(kAnn, "net", "graph", absl::Hours(1)).ok());
  const auto bobs = Create(kBob, "net", "graph");
  ASSERT_TRUE(bobs.ok()) << bobs.status();
  clock_.Advance(kGrace + absl::Hours(1));
  EXPECT_EQ(Expired(), 1);
  ASSERT_TRUE(store_->SweepUnreferenced(kGrace).ok());
  EXPECT_EQ(store_->GetStorage(kAnn)->tenant_bytes(), 0);
  EXPECT_FALSE(store_->HoldsBlob(kAnn, bobs->files(0).digest().sha256()).value());
  EXPECT_EQ(store_->GetStorage(kBob)->tenant_bytes(), 5);
  EXPECT_TRUE(store_->HoldsBlob(kBob, bobs->files(0).digest().sha256()).value());
}

TEST_P(RetentionTest, WhatAnUploadHoldsLastsTheGraceFromTheLastQuestion) {
  const v1::File file = Stored("m.onnx", "graph");
  ASSERT_TRUE(store_->NoteHeld(kAnn, IdOf(file)).ok());
  ASSERT_TRUE(Create(kBob, "net", "graph").ok());  // keeps the blob
  clock_.Advance(absl::Hours(20));
  EXPECT_TRUE(store_->HoldsBlob(kAnn, file.digest().sha256()).value());  // FindMissingBlobs asks so
  clock_.Advance(absl::Hours(20));
  ASSERT_TRUE(store_->SweepUnreferenced(kGrace).ok());
  EXPECT_TRUE(store_->CreateModel(kAnn, ModelRequest("net", {file})).ok());
  clock_.Advance(absl::Hours(100));
  ASSERT_TRUE(store_->SweepUnreferenced(kGrace).ok());
  EXPECT_TRUE(store_->HoldsBlob(kAnn, file.digest().sha256()).value());  // by its model
}

TEST_P(RetentionTest, StorageTellsWhatIsReclaimable) {
  ASSERT_TRUE(Make("a", "graph").has_create_time());
  ASSERT_TRUE(Make("b", "graph").has_create_time());
  Stored("loose", "loose bytes");
  const auto storage = store_->GetStorage(OpenPrincipal());
  ASSERT_TRUE(storage.ok()) << storage.status();
  EXPECT_EQ(storage->tenant_bytes(), 5);
  EXPECT_EQ(storage->server().blobs(), 2);
  EXPECT_EQ(storage->server().blob_bytes(), 16);
  EXPECT_EQ(storage->server().named_bytes(), 5);
  EXPECT_FALSE(storage->server().has_sweep_time());
}

INSTANTIATE_TEST_SUITE_P(Stores, RetentionTest, ::testing::Values("sqlite", "postgres"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace quant
