// SPDX-License-Identifier: Apache-2.0
// The contract of BlobStore, run on FileBlobStore, on the fake and on S3BlobStore (with a real S3 server); and what a
// crash leaves in FileBlobStore's folder.
#include "server/blobs/blob_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/random_id.h"
#include "common/strings.h"
#include "server/blobs/file_blob_store.h"
#include "server/blobs/memory_blob_store.h"
#include "server/blobs/s3_blob_store.h"
#include "server/blobs/swift_for_test.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

BlobId IdOf(std::string_view bytes) { return {Sha256Hex(bytes), static_cast<int64_t>(bytes.size())}; }

enum class Kind { kFile, kMemory, kS3 };

class StoreTest {
 protected:
  explicit StoreTest(Kind kind) : kind_(kind) {
    if (kind_ == Kind::kS3) {
      swift_ = SwiftForTest::Get();
      if (swift_ != nullptr) s3_ = swift_->NewOptions();
    }
    Reopen();
  }
  ~StoreTest() {
    store_.reset();
    fs::remove_all(dir_);
  }

  // As a restart of the process does; the fake has none.
  void Reopen() {
    if (kind_ == Kind::kMemory) {
      if (store_ == nullptr) store_ = std::make_unique<MemoryBlobStore>(&clock_, /*commit_bytes=*/100);
      return;
    }
    store_.reset();
    if (kind_ == Kind::kS3) {
      if (swift_ == nullptr) return;
      auto store = S3BlobStore::Open(
          {.s3 = s3_, .part_bytes = 100, .commit_bytes = 100, .max_blob_bytes = 1 << 20, .clock = &clock_});
      ASSERT_TRUE(store.ok()) << store.status();
      store_ = *std::move(store);
      return;
    }
    auto store = FileBlobStore::Open(dir_, {.reserve_bytes = 1000,
                                            .max_blob_bytes = 1 << 20,
                                            .commit_bytes = 100,
                                            .clock = &clock_,
                                            .free_bytes = [this](const fs::path&) { return free_; }});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  absl::Status Put(std::string_view bytes, std::string_view upload = "u") {
    auto writer = store_->OpenWriter(upload, IdOf(bytes), 0);
    if (!writer.ok()) return writer.status();
    if (absl::Status status = (*writer)->Write(bytes); !status.ok()) return status;
    return (*writer)->Finish();
  }
  // Writes a part and ends the stream as a broken connection does.
  void PutPart(const BlobId& blob, std::string_view part, std::string_view upload = "u") {
    auto writer = store_->OpenWriter(upload, blob, 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(part).ok());
    ASSERT_TRUE((*writer)->Commit().ok());
  }
  bool Has(std::string_view bytes) { return store_->Touch(IdOf(bytes)).value(); }
  int64_t Committed(const BlobId& blob, std::string_view upload = "u") {
    return store_->CommittedSize(upload, blob).value();
  }
  // Files of uploads, objects and multipart uploads of S3; the fake has none.
  std::vector<std::string> Uploads() {
    std::vector<std::string> names;
    if (kind_ == Kind::kMemory) return names;
    if (kind_ == Kind::kS3) {
      S3Client client(s3_);
      EXPECT_TRUE(client.List("uploads/", [&](const S3Client::Object& object) { names.push_back(object.key); }).ok());
      const auto uploads = client.ListUploads("");
      EXPECT_TRUE(uploads.ok()) << uploads.status();
      for (const S3Client::Upload& upload : *uploads) names.push_back(upload.id);
      return names;
    }
    for (const auto& entry : fs::directory_iterator(dir_ / "uploads")) names.push_back(entry.path().filename());
    return names;
  }

  const Kind kind_;
  const fs::path dir_ = fs::path(testing::TempDir()) / RandomId("blobs-");
  FakeClock clock_{absl::Now()};
  SwiftForTest* swift_ = nullptr;
  S3Options s3_;
  int64_t free_ = 1 << 20;
  std::unique_ptr<BlobStore> store_;
};

class BlobStoreTest : public StoreTest, public ::testing::TestWithParam<Kind> {
 protected:
  BlobStoreTest() : StoreTest(GetParam()) {}
  void SetUp() override {
    if (store_ == nullptr) GTEST_SKIP() << "Swift is not installed";
  }
};
INSTANTIATE_TEST_SUITE_P(All, BlobStoreTest, ::testing::Values(Kind::kFile, Kind::kMemory, Kind::kS3),
                         [](const auto& kind) {
                           return kind.param == Kind::kFile ? "File" : kind.param == Kind::kMemory ? "Memory" : "S3";
                         });

class FileBlobStoreTest : public StoreTest, public ::testing::Test {
 protected:
  FileBlobStoreTest() : StoreTest(Kind::kFile) {}
};

TEST_P(BlobStoreTest, StoredBlobIsReadBackAndSurvivesReopening) {
  const std::string bytes(1000, 'x');
  EXPECT_FALSE(Has(bytes));
  ASSERT_TRUE(Put(bytes).ok());
  Reopen();
  EXPECT_TRUE(Has(bytes));
  EXPECT_THAT(Uploads(), IsEmpty());
  auto reader = store_->OpenReader(IdOf(bytes));
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->Read(0, 5000).value(), bytes);
  EXPECT_EQ((*reader)->Read(990, 100).value(), std::string(10, 'x'));
  EXPECT_EQ((*reader)->Read(1000, 100).value(), "");
  EXPECT_EQ(store_->stats().blobs, 1);
  EXPECT_EQ(store_->stats().bytes, 1000);
}

TEST_P(BlobStoreTest, EmptyBlobIsABlob) {
  ASSERT_TRUE(Put("").ok());
  EXPECT_TRUE(Has(""));
}

TEST_P(BlobStoreTest, SizeIsPartOfTheName) {
  ASSERT_TRUE(Put("abc").ok());
  BlobId other = IdOf("abc");
  other.size_bytes = 4;
  EXPECT_FALSE(store_->Touch(other).value());
  EXPECT_EQ(store_->OpenReader(other).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(BlobStoreTest, NothingIsVisibleBeforeFinish) {
  const std::string bytes(300, 'y');
  auto writer = store_->OpenWriter("u", IdOf(bytes), 0);
  ASSERT_TRUE((*writer)->Write(bytes).ok());
  EXPECT_FALSE(Has(bytes));
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_TRUE(Has(bytes));
}

TEST_P(BlobStoreTest, BrokenStreamGoesOnFromTheCommittedOffset) {
  const std::string bytes = std::string(150, 'a') + std::string(150, 'b');
  const BlobId blob = IdOf(bytes);
  PutPart(blob, bytes.substr(0, 170));
  EXPECT_EQ(Committed(blob), 170);
  EXPECT_EQ(Committed(blob, "other"), 0);
  const absl::Status wrong = store_->OpenWriter("u", blob, 100).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(wrong), "UPLOAD_OFFSET_MISMATCH");
  EXPECT_EQ(MetadataOf(wrong, "committed"), "170");
  Reopen();
  EXPECT_EQ(Committed(blob), 170);
  auto writer = store_->OpenWriter("u", blob, 170);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->offset(), 170);
  ASSERT_TRUE((*writer)->Write(bytes.substr(170)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_TRUE(Has(bytes));
}

TEST_P(BlobStoreTest, OnlyCommittedBytesCount) {
  const std::string bytes(300, 'z');
  const BlobId blob = IdOf(bytes);
  const int64_t automatic = kind_ == Kind::kS3 ? 100 : 120;  // by itself S3 commits whole parts only
  {
    auto writer = store_->OpenWriter("u", blob, 0);
    ASSERT_TRUE((*writer)->Write(bytes.substr(0, 120)).ok());  // past commit_bytes: committed
    ASSERT_TRUE((*writer)->Write(bytes.substr(0, 30)).ok());   // not yet
  }
  EXPECT_EQ(Committed(blob), automatic);
}

// A power failure may leave bytes in the file that were never acknowledged, and they may be garbage.
TEST_F(FileBlobStoreTest, BytesPastTheCommittedNumberAreCutOffAfterACrash) {
  const std::string bytes(300, 'z');
  const BlobId blob = IdOf(bytes);
  PutPart(blob, bytes.substr(0, 200));
  std::ofstream(dir_ / "uploads" / ("u-" + blob.sha256), std::ios::app) << "garbage";
  Reopen();
  ASSERT_EQ(Committed(blob), 200);
  auto writer = store_->OpenWriter("u", blob, 200);
  ASSERT_TRUE((*writer)->Write(bytes.substr(200)).ok());
  EXPECT_TRUE((*writer)->Finish().ok());
}

TEST_F(FileBlobStoreTest, OrphansOfACrashAreSweptAtStartAndStrangersLeftAlone) {
  const BlobId blob = IdOf("never committed");
  std::ofstream(dir_ / "uploads" / ("u-" + blob.sha256)) << "never";
  std::ofstream(dir_ / "uploads" / ("v-" + blob.sha256 + ".committed")) << "00000000000000000005";
  std::ofstream(dir_ / "uploads" / "README") << "mine";
  const std::string kept(300, 'k');
  PutPart(IdOf(kept), kept.substr(0, 150), "w");
  Reopen();
  EXPECT_THAT(Uploads(), testing::UnorderedElementsAre("README", "w-" + IdOf(kept).sha256,
                                                       "w-" + IdOf(kept).sha256 + ".committed"));
}

TEST_P(BlobStoreTest, WrongBytesAreDroppedAndNamed) {
  const BlobId blob = IdOf("right");
  auto writer = store_->OpenWriter("u", blob, 0);
  ASSERT_TRUE((*writer)->Write("wrong").ok());
  const absl::Status status = (*writer)->Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "BLOB_DIGEST_MISMATCH");
  writer->reset();
  EXPECT_EQ(Committed(blob), 0);
  EXPECT_THAT(Uploads(), IsEmpty());
  EXPECT_FALSE(Has("right"));
  EXPECT_TRUE(Put("right").ok());
}

TEST_P(BlobStoreTest, TooManyOrTooFewBytesAreAMismatch) {
  const BlobId blob = IdOf("12345");
  auto writer = store_->OpenWriter("more", blob, 0);
  EXPECT_EQ(ReasonOf((*writer)->Write("123456")), "BLOB_DIGEST_MISMATCH");
  writer->reset();
  writer = store_->OpenWriter("fewer", blob, 0);
  ASSERT_TRUE((*writer)->Write("1234").ok());
  EXPECT_EQ(ReasonOf((*writer)->Finish()), "BLOB_DIGEST_MISMATCH");
}

TEST_P(BlobStoreTest, SecondWriterOfAnUploadIsBusyUntilTheFirstEnds) {
  const BlobId blob = IdOf("shared");
  auto first = store_->OpenWriter("u", blob, 0);
  const absl::Status second = store_->OpenWriter("u", blob, 0).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonOf(second), "UPLOAD_BUSY");
  auto other = store_->OpenWriter("v", blob, 0);  // another upload of the same blob may run beside it
  ASSERT_TRUE(other.ok());
  ASSERT_TRUE((*other)->Write("shared").ok());
  ASSERT_TRUE((*other)->Finish().ok());
  ASSERT_TRUE((*first)->Write("shared").ok());
  ASSERT_TRUE((*first)->Finish().ok());
  first->reset();
  EXPECT_EQ(store_->stats().blobs, 1);
  EXPECT_TRUE(store_->OpenWriter("u", blob, 0).ok());
}

TEST_F(FileBlobStoreTest, DiskFullIsToldBeforeAByteIsWritten) {
  free_ = 1500;
  const std::string bytes(501, 'f');
  const absl::Status status = Put(bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "DISK_FULL");
  EXPECT_THAT(std::string(StdView(status.message())),
              testing::AllOf(HasSubstr("501"), HasSubstr("1500"), HasSubstr("1000"), HasSubstr("delete")));
  EXPECT_THAT(Uploads(), IsEmpty());
  EXPECT_TRUE(Put(bytes.substr(1)).ok());
}

TEST_F(FileBlobStoreTest, OpenUploadsKeepTheirRoom) {
  free_ = 1500;
  const std::string a(300, 'a');
  const std::string b(300, 'b');
  auto writer = store_->OpenWriter("a", IdOf(a), 0);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(ReasonOf(Put(b, "b")), "DISK_FULL");
  ASSERT_TRUE((*writer)->Write(a).ok());  // now the bytes are in free_, were it real
  EXPECT_TRUE(Put(b, "b").ok());
}

TEST_F(FileBlobStoreTest, TooLargeABlobIsRefused) {
  free_ = int64_t{1} << 40;
  const absl::Status status = store_->OpenWriter("u", {Sha256Hex("x"), (1 << 20) + 1}, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "BLOB_TOO_LARGE");
}

TEST_P(BlobStoreTest, MalformedNamesAreRefusedEverywhere) {
  for (const char* upload :
       {"", "../up", "a/b", "a.b", "ä", "0123456789012345678901234567890123456789012345678901234567890123x"}) {
    EXPECT_EQ(store_->OpenWriter(upload, IdOf("x"), 0).status().code(), absl::StatusCode::kInvalidArgument) << upload;
    EXPECT_EQ(store_->CommittedSize(upload, IdOf("x")).status().code(), absl::StatusCode::kInvalidArgument);
  }
  for (const BlobId& blob : {BlobId{"", 0}, BlobId{"../../../etc/passwd", 1}, BlobId{Sha256Hex("x"), -1}}) {
    EXPECT_EQ(store_->Touch(blob).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->OpenReader(blob).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->OpenWriter("u", blob, 0).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(store_->Remove(blob, absl::InfiniteFuture()).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_P(BlobStoreTest, StaleBlobsGoUnlessTheyWereUsed) {
  ASSERT_TRUE(Put("old", "a").ok());
  ASSERT_TRUE(Put("used", "b").ok());
  clock_.Advance(absl::Hours(25));
  const absl::Time cutoff = clock_.Now() - absl::Hours(24);
  EXPECT_EQ(store_->Stale(cutoff)->size(), 2u);
  EXPECT_TRUE(Has("used"));  // a use
  EXPECT_THAT(*store_->Stale(cutoff), ElementsAre(IdOf("old")));
  EXPECT_FALSE(store_->Remove(IdOf("used"), cutoff).value());
  auto reader = store_->OpenReader(IdOf("old"));
  clock_.Advance(absl::Hours(25));
  EXPECT_TRUE(store_->Remove(IdOf("old"), clock_.Now() - absl::Hours(24)).value());
  EXPECT_FALSE(store_->Remove(IdOf("old"), clock_.Now()).value());
  EXPECT_FALSE(Has("old"));
  const auto read = (*reader)->Read(0, 3);
  if (kind_ == Kind::kS3) {  // gone is gone, but said so
    EXPECT_EQ(read.status().code(), absl::StatusCode::kNotFound);
  } else {
    EXPECT_EQ(read.value(), "old");  // an open one is still readable
  }
  EXPECT_EQ(store_->stats().blobs, 1);
  EXPECT_EQ(store_->stats().bytes, 4);
}

TEST_P(BlobStoreTest, UntouchedUploadsAreDroppedAndOpenOnesKept) {
  const std::string bytes(300, 'd');
  PutPart(IdOf(bytes), bytes.substr(0, 150), "idle");
  PutPart(IdOf(bytes), bytes.substr(0, 150), "open");
  auto open = store_->OpenWriter("open", IdOf(bytes), 150);
  const absl::Time later = clock_.Now() + absl::Hours(25);
  EXPECT_EQ(store_->DropUploads(absl::UnixEpoch()).value(), 0);
  EXPECT_EQ(store_->DropUploads(later).value(), 150);
  EXPECT_EQ(Committed(IdOf(bytes), "idle"), 0);
  EXPECT_EQ(Committed(IdOf(bytes), "open"), 150);
}

}  // namespace
}  // namespace quant
