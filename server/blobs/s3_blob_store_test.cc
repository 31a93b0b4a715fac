// SPDX-License-Identifier: Apache-2.0
// What S3BlobStore does beyond the contract (blob_store_test.cc), on a real S3 server: OpenStack Swift.
#include "server/blobs/s3_blob_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/error_detail.h"
#include "common/strings.h"
#include "server/blobs/s3_upload_state.h"
#include "server/blobs/sha256_state.h"
#include "server/blobs/swift_for_test.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kPart = int64_t{1} << 16;

BlobId IdOf(std::string_view bytes) { return {Sha256Hex(bytes), static_cast<int64_t>(bytes.size())}; }

std::string Bytes(size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
  return bytes;
}

class S3BlobStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    swift_ = SwiftForTest::Get();
    if (swift_ == nullptr) GTEST_SKIP() << "Swift is not installed";
    options_ = {.s3 = swift_->NewOptions(), .part_bytes = kPart, .commit_bytes = 2 * kPart, .clock = &clock_};
    store_ = Open();
  }
  std::unique_ptr<S3BlobStore> Open() {
    auto store = S3BlobStore::Open(options_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  static absl::Status Put(BlobStore* store, std::string_view bytes) {
    auto writer = store->OpenWriter("u", IdOf(bytes), 0);
    if (!writer.ok()) return writer.status();
    if (absl::Status status = (*writer)->Write(bytes); !status.ok()) return status;
    return (*writer)->Finish();
  }
  static std::string ReadAll(BlobStore* store, const BlobId& blob, int64_t piece) {
    auto reader = store->OpenReader(blob);
    if (!reader.ok()) return std::string(StdView(reader.status().message()));
    std::string bytes;
    while (true) {
      auto read = (*reader)->Read(std::ssize(bytes), piece);
      if (!read.ok()) return std::string(StdView(read.status().message()));
      if (read->empty()) return bytes;
      bytes += *read;
    }
  }
  std::vector<std::string> Keys(std::string_view prefix) {
    std::vector<std::string> keys;
    S3Client client(options_.s3);
    EXPECT_TRUE(client.List(prefix, [&](const S3Client::Object& object) { keys.push_back(object.key); }).ok());
    return keys;
  }

  SwiftForTest* swift_ = nullptr;
  FakeClock clock_{absl::Now()};
  S3BlobStoreOptions options_;
  std::unique_ptr<S3BlobStore> store_;
};

TEST_F(S3BlobStoreTest, WrongCredentialsAreRefusedAndNamed) {
  S3BlobStoreOptions wrong = options_;
  wrong.s3.credentials.secret_key = "guess";
  const absl::Time start = absl::Now();
  const absl::Status status = S3BlobStore::Open(wrong).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "BLOB_STORE_REFUSED");
  EXPECT_THAT(std::string(StdView(status.message())), HasSubstr("SignatureDoesNotMatch"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10)) << "a refusal is not repeated";
  wrong = options_;
  wrong.s3.bucket = "no-such-bucket";
  EXPECT_EQ(S3BlobStore::Open(wrong).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(S3BlobStoreTest, PrefixOfAnotherOwnerIsRefused) {
  options_.owner = "store-a";
  EXPECT_NE(Open(), nullptr);
  EXPECT_NE(Open(), nullptr);
  options_.owner = "store-b";
  EXPECT_EQ(S3BlobStore::Open(options_).status().code(), absl::StatusCode::kFailedPrecondition);
  options_.s3.prefix += "b/";
  EXPECT_NE(Open(), nullptr);
}

TEST_F(S3BlobStoreTest, LargeBlobOfManyPartsIsReadBackInRanges) {
  const std::string bytes = Bytes(5 * kPart + 4321, 1);
  ASSERT_TRUE(Put(store_.get(), bytes).ok());
  EXPECT_EQ(ReadAll(store_.get(), IdOf(bytes), 50'000), bytes);
  auto reader = store_->OpenReader(IdOf(bytes));
  EXPECT_EQ((*reader)->Read(kPart - 5, 10).value(), bytes.substr(kPart - 5, 10));
  EXPECT_EQ((*reader)->Read(3, 1).value(), bytes.substr(3, 1));
  EXPECT_EQ((*reader)->Read(std::ssize(bytes) - 2, 10).value(), bytes.substr(bytes.size() - 2));
  EXPECT_THAT(Keys("uploads/"), IsEmpty());
  EXPECT_THAT(Keys("sha256/"), ElementsAre("sha256/" + IdOf(bytes).sha256.substr(0, 2) + "/" + IdOf(bytes).sha256));
}

TEST_F(S3BlobStoreTest, BlobOfExactlyWholeParts) {
  for (const int64_t parts : {1, 2, 3}) {
    const std::string bytes = Bytes(static_cast<size_t>(parts * kPart), static_cast<unsigned>(parts));
    ASSERT_TRUE(Put(store_.get(), bytes).ok());
    EXPECT_EQ(ReadAll(store_.get(), IdOf(bytes), kPart), bytes);
  }
}

// As after kill -9 of quantd: the writer is never destroyed, and another process goes on.
TEST_F(S3BlobStoreTest, KilledUploadGoesOnInAnotherProcessFromTheConfirmedParts) {
  const std::string bytes = Bytes(7 * kPart + 99, 2);
  const BlobId blob = IdOf(bytes);
  auto* const killed = store_->OpenWriter("u", blob, 0)->release();
  ASSERT_TRUE(killed->Write(bytes.substr(0, 5 * kPart + 10)).ok());  // five parts sent, four of them in the state
  auto other = Open();
  EXPECT_EQ(other->CommittedSize("u", blob).value(), 4 * kPart);
  EXPECT_EQ(ReasonOf(other->OpenWriter("u", blob, 0).status()), "UPLOAD_OFFSET_MISMATCH");
  {
    auto writer = other->OpenWriter("u", blob, 4 * kPart);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(bytes.substr(4 * kPart, kPart + 7)).ok());
    EXPECT_EQ((*writer)->Commit().value(), 5 * kPart + 7) << "a tail is durable too";
  }
  other = Open();
  EXPECT_EQ(other->CommittedSize("u", blob).value(), 5 * kPart + 7);
  auto writer = other->OpenWriter("u", blob, 5 * kPart + 7);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Write(bytes.substr(5 * kPart + 7)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(ReadAll(other.get(), blob, kPart), bytes);
  // The killed one, had it only been slow: its parts are no longer wanted, and it cannot publish.
  EXPECT_TRUE(store_->Touch(blob).value());
  (void)killed->Write(bytes.substr(5 * kPart + 10));
  (void)killed->Finish();
  EXPECT_EQ(ReadAll(other.get(), blob, kPart), bytes);
  delete killed;
}

TEST_F(S3BlobStoreTest, StateThatListPartsDoesNotConfirmCountsForNothing) {
  const std::string bytes = Bytes(6 * kPart, 3);
  const BlobId blob = IdOf(bytes);
  {
    auto writer = store_->OpenWriter("u", blob, 0);
    ASSERT_TRUE((*writer)->Write(bytes.substr(0, 4 * kPart)).ok());
  }
  ASSERT_EQ(store_->CommittedSize("u", blob).value(), 4 * kPart);
  S3Client client(options_.s3);
  const std::vector<S3Client::Upload> uploads = client.ListUploads("").value();
  ASSERT_EQ(uploads.size(), 1u);
  for (const S3Client::Upload& upload : uploads) {
    ASSERT_TRUE(client.AbortUpload(upload.key, upload.id).ok());
  }
  EXPECT_EQ(store_->CommittedSize("u", blob).value(), 0);
  ASSERT_TRUE(Put(store_.get(), bytes).ok());
  EXPECT_EQ(ReadAll(store_.get(), blob, kPart), bytes);
}

TEST_F(S3BlobStoreTest, ResumedUploadOfOtherBytesIsRefused) {
  const std::string bytes = Bytes(4 * kPart, 4);
  const BlobId blob = IdOf(bytes);
  {
    auto writer = store_->OpenWriter("u", blob, 0);
    std::string wrong = bytes.substr(0, 2 * kPart);
    wrong[12345] ^= 1;
    ASSERT_TRUE((*writer)->Write(wrong).ok());
  }
  auto writer = store_->OpenWriter("u", blob, 2 * kPart);
  ASSERT_TRUE((*writer)->Write(bytes.substr(2 * kPart)).ok());
  EXPECT_EQ(ReasonOf((*writer)->Finish()), "BLOB_DIGEST_MISMATCH");
  EXPECT_FALSE(store_->Touch(blob).value());
  EXPECT_THAT(Keys(""), IsEmpty());
  S3Client client(options_.s3);
  EXPECT_THAT(client.ListUploads("").value(), IsEmpty());
}

TEST_F(S3BlobStoreTest, ServerKilledAndRestartedInTheMiddleCostsAWaitOnly) {
  const std::string bytes = Bytes(8 * kPart + 5, 5);
  const BlobId blob = IdOf(bytes);
  auto writer = store_->OpenWriter("u", blob, 0);
  ASSERT_TRUE((*writer)->Write(bytes.substr(0, 3 * kPart)).ok());
  swift_->Kill();
  std::thread back([&] {
    absl::SleepFor(absl::Milliseconds(500));
    swift_->Restart();
  });
  EXPECT_TRUE((*writer)->Write(bytes.substr(3 * kPart)).ok());
  back.join();
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(ReadAll(store_.get(), blob, kPart), bytes);
}

TEST_F(S3BlobStoreTest, ServerThatStaysAwayIsNamedAndTheUploadGoesOnWhenItIsBack) {
  options_.s3.give_up_after = absl::Milliseconds(300);
  store_ = Open();
  const std::string bytes = Bytes(6 * kPart, 6);
  const BlobId blob = IdOf(bytes);
  {
    auto writer = store_->OpenWriter("u", blob, 0);
    ASSERT_TRUE((*writer)->Write(bytes.substr(0, 2 * kPart)).ok());
    swift_->Kill();
    const absl::Status status = (*writer)->Write(bytes.substr(2 * kPart));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReasonOf(status), "BLOB_STORE_UNREACHABLE");
    EXPECT_GT(RetryAfterOf(status), absl::ZeroDuration());
    EXPECT_EQ((*writer)->Commit().status(), status) << "no second wait for what cannot be";
  }
  EXPECT_EQ(store_->Touch(IdOf("other")).status().code(), absl::StatusCode::kUnavailable);
  swift_->Restart();
  ASSERT_EQ(store_->CommittedSize("u", blob).value(), 2 * kPart);
  auto writer = store_->OpenWriter("u", blob, 2 * kPart);
  ASSERT_TRUE((*writer)->Write(bytes.substr(2 * kPart)).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(ReadAll(store_.get(), blob, kPart), bytes);
}

// Swift keeps the bytes of an object at the beginning of a file. The reader of a blob verifies it (common/transfer):
// here it is shown that what the store hands out is what is there, not something remembered.
TEST_F(S3BlobStoreTest, ByteThatRotsOnTheServerIsSeenByWhoVerifies) {
  const std::string bytes = Bytes(kPart, 7);
  ASSERT_TRUE(Put(store_.get(), bytes).ok());
  int changed = 0;
  for (const auto& entry : fs::recursive_directory_iterator(swift_->folder() / "devices")) {
    if (entry.path().extension() != ".data" || entry.file_size() != bytes.size()) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    std::string there(bytes.size(), '\0');
    file.read(there.data(), std::ssize(there));
    if (there != bytes) continue;
    file.seekp(100);
    file.put(static_cast<char>(~bytes[100]));
    ++changed;
  }
  ASSERT_EQ(changed, 1);
  const std::string read = ReadAll(store_.get(), IdOf(bytes), 1000);
  EXPECT_NE(Sha256Hex(read), IdOf(bytes).sha256);
}

TEST_F(S3BlobStoreTest, RemoverAndUserMeetByTheirMarks) {
  const std::string bytes = "doomed or used";
  const BlobId blob = IdOf(bytes);
  ASSERT_TRUE(Put(store_.get(), bytes).ok());
  clock_.Advance(absl::Hours(25));
  // Another process is between its mark and the removal.
  S3Client client(options_.s3);
  const std::string doom = absl::StrCat("used/", blob.sha256, "/doomed-", "00", absl::ToUnixSeconds(clock_.Now()));
  ASSERT_TRUE(client.Put(doom, "").ok());
  EXPECT_FALSE(store_->Touch(blob).value()) << "as good as gone";
  const absl::Status anew = Put(store_.get(), bytes);
  EXPECT_EQ(anew.code(), absl::StatusCode::kUnavailable) << anew;
  EXPECT_EQ(ReasonOf(anew), "SERVER_BUSY");
  // It died there: after a while its mark means nothing.
  clock_.Advance(absl::Minutes(11));
  EXPECT_TRUE(store_->Touch(blob).value());
  EXPECT_FALSE(store_->Remove(blob, clock_.Now() - absl::Hours(24)).value());
}

TEST_F(S3BlobStoreTest, UseByOneProcessKeepsTheBlobFromTheSweepOfAnother) {
  const std::string bytes = "shared";
  const BlobId blob = IdOf(bytes);
  ASSERT_TRUE(Put(store_.get(), bytes).ok());
  auto other = Open();
  EXPECT_EQ(other->stats().blobs, 1);
  clock_.Advance(absl::Hours(25));
  const absl::Time cutoff = clock_.Now() - absl::Hours(24);
  ASSERT_THAT(*store_->Stale(cutoff), ElementsAre(blob));
  EXPECT_TRUE(other->Touch(blob).value());
  EXPECT_FALSE(store_->Remove(blob, cutoff).value());
  EXPECT_THAT(*store_->Stale(cutoff), IsEmpty());
  EXPECT_THAT(Keys("used/"), testing::SizeIs(1)) << "older marks are tidied away";
}

TEST_F(S3BlobStoreTest, PartsLeftBeforeTheFirstStateAreSwept) {
  const std::string bytes = Bytes(5 * kPart, 8);
  S3Client client(options_.s3);
  const std::string id = client.CreateUpload(S3BlobKey(IdOf(bytes).sha256)).value();
  ASSERT_TRUE(client.PutPart(S3BlobKey(IdOf(bytes).sha256), id, 1, bytes).ok());
  EXPECT_EQ(store_->DropUploads(absl::Now() - absl::Hours(1)).value(), 0);
  EXPECT_THAT(client.ListUploads("").value(), testing::SizeIs(1));
  EXPECT_EQ(store_->DropUploads(absl::Now() + absl::Hours(1)).value(), 0);
  EXPECT_THAT(client.ListUploads("").value(), IsEmpty());
}

TEST_F(S3BlobStoreTest, PartsInMemoryAreBounded) {
  options_.max_buffer_bytes = 3 * kPart;
  store_ = Open();
  const BlobId blob = IdOf(Bytes(4 * kPart, 9));
  std::vector<std::unique_ptr<BlobWriter>> open;
  for (const char* upload : {"a", "b", "c"}) open.push_back(store_->OpenWriter(upload, blob, 0).value());
  const absl::Status status = store_->OpenWriter("d", blob, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "SERVER_BUSY");
  open.pop_back();
  EXPECT_TRUE(store_->OpenWriter("d", blob, 0).ok());
}

TEST(S3UploadStateTest, ReadsBackWhatItWroteAndNothingElse) {
  ResumableSha256 hash;
  hash.Update(std::string(205, 'x'));
  const S3UploadState state = {"id", 100, 2, hash.Save(), "\nxxx "};
  const std::string text = state.Encode();
  const auto back = S3UploadState::Decode(text);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->Encode(), text);
  EXPECT_EQ(back->committed(), 205);
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(S3UploadState::Decode(text.substr(0, size)).has_value()) << size;
  }
  EXPECT_FALSE(S3UploadState::Decode("quant-upload 2" + text.substr(14)).has_value());
  EXPECT_FALSE(S3UploadState::Decode(text + "x").has_value());
}

}  // namespace
}  // namespace quant
