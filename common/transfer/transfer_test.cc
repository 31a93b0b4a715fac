// SPDX-License-Identifier: Apache-2.0
#include "common/transfer/transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/error_detail.h"
#include "common/transfer/fake_artifact_service.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr int64_t kMessage = 1000;

std::string Random(size_t size) {
  std::mt19937 random(static_cast<unsigned>(size) + 7);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

class TransferTest : public testing::Test {
 protected:
  TransferTest() : server_({&fake_}) {
    std::string pattern = testing::TempDir() + "/transferXXXXXX";
    dir_ = mkdtemp(pattern.data());
    options_.message_bytes = kMessage;
    options_.retry.first_wait = absl::Milliseconds(5);
    options_.retry.longest_wait = absl::Milliseconds(50);
    options_.retry.give_up_after = absl::Seconds(5);
  }
  ~TransferTest() override { std::filesystem::remove_all(dir_); }

  LocalFile Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
    return {dir_ / name, {Sha256Hex(bytes), static_cast<int64_t>(bytes.size())}};
  }
  static std::string Read(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_)) names.push_back(entry.path().filename());
    return names;
  }
  BlobUploader Uploader() { return BlobUploader(server_.Channel(), options_); }
  BlobDownloader Downloader() { return BlobDownloader(server_.Channel(), options_); }
  TransferProgressFn Notes() {
    return [this](const TransferProgress& p) {
      if (!p.note.empty()) notes_.push_back(p.note);
      last_ = p;
    };
  }

  FakeArtifactService fake_;
  LoopbackServer server_;
  std::filesystem::path dir_;
  TransferOptions options_;
  std::vector<std::string> notes_;
  TransferProgress last_;
};

TEST_F(TransferTest, UploadsFilesOfEverySizeClass) {
  for (size_t size : {0, 1, 999, 1000, 1001, 2000, 12345}) {
    const LocalFile file = Write("f", Random(size));
    EXPECT_THAT(Uploader().Upload(file, Notes()), IsOk()) << size;
    EXPECT_EQ(fake_.blobs[file.digest.sha256], Random(size)) << size;
    EXPECT_EQ(last_.done_bytes, static_cast<int64_t>(size));
    EXPECT_EQ(last_.total_bytes, static_cast<int64_t>(size));
  }
  EXPECT_THAT(notes_, IsEmpty());
}

TEST_F(TransferTest, UploadResumesAfterACutAtEveryOffsetClass) {
  const std::string bytes = Random(3500);
  // Before anything, inside a message, at a boundary, in the last message, after all bytes but before publication.
  for (int64_t cut : {0, 1, 999, 1000, 1001, 2500, 3000, 3499, 3500}) {
    fake_.blobs.clear();
    fake_.uploads.clear();
    fake_.bytes_received = 0;
    fake_.faults.cut_writes_at = {cut};
    const LocalFile file = Write("f", bytes);
    EXPECT_THAT(Uploader().Upload(file, Notes()), IsOk()) << cut;
    EXPECT_EQ(fake_.blobs[file.digest.sha256], bytes) << cut;
    EXPECT_EQ(fake_.bytes_received, 3500) << "bytes were sent twice after a cut at " << cut;
    EXPECT_EQ(last_.done_bytes, 3500);
  }
}

TEST_F(TransferTest, UploadSurvivesManyCuts) {
  const std::string bytes = Random(20'000);
  for (int64_t at = 500; at < 20'000; at += 1100) fake_.faults.cut_writes_at.push_back(at);
  EXPECT_THAT(Uploader().Upload(Write("f", bytes)), IsOk());
  EXPECT_EQ(fake_.blobs[Sha256Hex(bytes)], bytes);
}

TEST_F(TransferTest, ANewUploaderResumesWhatAnEarlierOneLeft) {
  const std::string bytes = Random(5000);
  const LocalFile file = Write("f", bytes);
  fake_.uploads[UploadId(file.digest)] = bytes.substr(0, 3210);
  EXPECT_THAT(Uploader().Upload(file, Notes()), IsOk());
  EXPECT_EQ(fake_.bytes_received, 5000 - 3210);
  EXPECT_THAT(notes_, ElementsAre("resuming f at 3210 of 5000 bytes"));
  EXPECT_EQ(last_.skipped_bytes, 3210);
}

TEST_F(TransferTest, UploadSurvivesARestartOfTheServer) {
  const std::string bytes = Random(4000);
  const LocalFile file = Write("f", bytes);
  fake_.faults.cut_writes_at = {1500};
  bool stopped = false;
  std::thread restart;
  const absl::Status status = Uploader().Upload(file, [&](const TransferProgress& p) {
    if (p.note.empty() || std::exchange(stopped, true)) return;
    server_.Stop();  // after the cut, before the next query
    restart = std::thread([this] {
      absl::SleepFor(absl::Milliseconds(300));
      server_.Start();
    });
  });
  ASSERT_TRUE(stopped);
  restart.join();
  EXPECT_THAT(status, IsOk());
  EXPECT_EQ(fake_.blobs[file.digest.sha256], bytes);
}

TEST_F(TransferTest, GivesUpWithUnavailableWhenTheServerStaysAway) {
  options_.retry.give_up_after = absl::Milliseconds(200);
  const LocalFile file = Write("f", "x");
  BlobUploader uploader = Uploader();
  server_.Stop();
  EXPECT_THAT(uploader.Upload(file), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("gave up after")));
  EXPECT_THAT(uploader.FindMissing({file.digest}).status(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Downloader().Download(file.digest, dir_ / "g"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(TransferTest, ADigestMismatchIsNotRetried) {
  LocalFile file = Write("f", Random(100));
  file.digest.sha256 = Sha256Hex("something else");
  const absl::Status status = Uploader().Upload(file);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("Did the file change?")));
  EXPECT_EQ(ReasonOf(status), "BLOB_DIGEST_MISMATCH");
  EXPECT_EQ(fake_.write_calls, 1);
}

TEST_F(TransferTest, ARefusalIsNotRetried) {
  fake_.faults.refuse_writes = WithReason(absl::ResourceExhaustedError("no room for 100 bytes"), "DISK_FULL");
  EXPECT_THAT(Uploader().Upload(Write("f", Random(100))),
              StatusIs(absl::StatusCode::kResourceExhausted, "no room for 100 bytes"));
  EXPECT_EQ(fake_.write_calls, 1);
}

// Somebody else finished the blob meanwhile: the answer comes while we are still sending.
TEST_F(TransferTest, AnEarlyAnswerEndsAnUpload) {
  options_.message_bytes = 1 << 20;
  options_.stream_deadline = absl::Seconds(20);
  const LocalFile file = Write("f", Random(40 << 20));  // more than the windows hold
  fake_.faults.early_answers = 1;
  EXPECT_THAT(Uploader().Upload(file), IsOk());
  EXPECT_EQ(fake_.write_calls, 1);
}

TEST_F(TransferTest, AFullDiskOfTheServerIsWaitedForOnRequest) {
  fake_.faults.full_writes = 3;
  const LocalFile file = Write("f", Random(1500));
  EXPECT_THAT(Uploader().Upload(file), StatusIs(absl::StatusCode::kResourceExhausted, "no room"));
  options_.wait_for_room = true;
  EXPECT_THAT(Uploader().Upload(file), IsOk());
  EXPECT_EQ(fake_.faults.full_writes, 0);
  EXPECT_EQ(fake_.blobs.size(), 1u);
}

TEST_F(TransferTest, ManyFilesAreMovedSeveralAtATimeAndTheirProgressAddsUp) {
  std::vector<LocalFile> files;
  files.reserve(40);
  int64_t total = 0;
  for (int i = 0; i < 40; ++i) {
    files.push_back(Write(absl::StrCat("f", i), Random(500 + 100 * static_cast<size_t>(i))));
    total += files.back().digest.size_bytes;
  }
  // The first one does not end before another has begun.
  fake_.faults.before_finish = [&] {
    for (int i = 0; i < 5000 && fake_.most_writes_at_once < 2; ++i) absl::SleepFor(absl::Milliseconds(1));
  };
  int64_t before = 0;
  ASSERT_THAT(Uploader().UploadMissing(files,
                                       [&](const TransferProgress& p) {
                                         EXPECT_GE(p.done_bytes, before);
                                         before = p.done_bytes;
                                         last_ = p;
                                       }),
              IsOk());
  EXPECT_EQ(last_.done_bytes, total);
  EXPECT_EQ(last_.total_bytes, total);
  EXPECT_EQ(fake_.blobs.size(), 40u);
  EXPECT_GT(fake_.most_writes_at_once, 1);
  EXPECT_LE(fake_.most_writes_at_once, 4);
  std::vector<LocalFile> copies;
  copies.reserve(files.size());
  for (const LocalFile& file : files) copies.push_back({file.path.string() + ".copy", file.digest});
  ASSERT_THAT(Downloader().DownloadAll(copies, Notes()), IsOk());
  EXPECT_EQ(last_.done_bytes, total);
  for (size_t i = 0; i < files.size(); ++i) EXPECT_EQ(Read(copies[i].path), Read(files[i].path)) << i;
}

TEST_F(TransferTest, TheFirstErrorStopsTheOtherFilesAndIsTheOneTold) {
  std::vector<LocalFile> files;
  files.reserve(40);
  for (int i = 0; i < 40; ++i) files.push_back(Write(absl::StrCat("f", i), Random(100 + static_cast<size_t>(i))));
  std::ofstream(files[5].path, std::ios::app) << "more";
  EXPECT_THAT(Uploader().UploadMissing(files),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("changed since")));
  EXPECT_LT(fake_.blobs.size(), 39u);
}

TEST_F(TransferTest, WaitsWhileAnotherStreamWritesTheUpload) {
  fake_.faults.busy_writes = 3;
  EXPECT_THAT(Uploader().Upload(Write("f", "abc")), IsOk());
  EXPECT_EQ(fake_.write_calls, 4);
}

TEST_F(TransferTest, AFileThatShrinksWhileItIsSentIsAnErrorAndLeavesNoBlob) {
  const LocalFile file = Write("f", Random(100 * kMessage));
  bool shrunk = false;
  const absl::Status status = Uploader().Upload(file, [&](const TransferProgress& p) {
    if (p.done_bytes < kMessage || std::exchange(shrunk, true)) return;
    std::filesystem::resize_file(file.path, 2 * kMessage);
  });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("changed")));
  EXPECT_TRUE(fake_.blobs.empty());
  EXPECT_THAT(Uploader().Upload({dir_ / "absent", file.digest}), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(TransferTest, UploadMissingSendsEachMissingContentOnce) {
  const LocalFile a = Write("a", Random(1500)), b = Write("b", Random(2500)), again = Write("c", Random(2500));
  fake_.Put(Random(1500));
  fake_.faults.unavailable_queries = 2;
  EXPECT_THAT(Uploader().UploadMissing({a, b, again}, Notes()), IsOk());
  EXPECT_EQ(fake_.bytes_received, 2500);
  EXPECT_EQ(last_.total_bytes, 2500);
  EXPECT_EQ(last_.done_bytes, 2500);
  EXPECT_EQ(fake_.blobs.size(), 2u);
}

TEST_F(TransferTest, FindMissingAsksInPortions) {
  std::vector<FileDigest> digests;
  digests.reserve(10'050);
  for (int i = 0; i < 10'050; ++i) digests.push_back({Sha256Hex(std::to_string(i)), 5});
  digests.push_back(digests[0]);
  fake_.blobs[digests[3].sha256] = "";
  absl::StatusOr<std::vector<FileDigest>> missing = Uploader().FindMissing(digests);
  ASSERT_THAT(missing, IsOk());
  EXPECT_EQ(missing->size(), 10'049u);
  EXPECT_EQ(missing->front().sha256, digests[0].sha256);
  EXPECT_EQ(fake_.authorizations.size(), 2u);
}

TEST_F(TransferTest, PreparesTheContextOfEveryCall) {
  options_.prepare = [](grpc::ClientContext& context) { context.AddMetadata("authorization", "Bearer t"); };
  const LocalFile file = Write("f", "abc");
  EXPECT_THAT(Uploader().UploadMissing({file}), IsOk());
  EXPECT_THAT(Downloader().Download(file.digest, dir_ / "g"), IsOk());
  EXPECT_THAT(fake_.authorizations, ElementsAre("Bearer t", "Bearer t", "Bearer t", "Bearer t"));
}

TEST_F(TransferTest, CancellationStopsAnUpload) {
  bool cancel = false;
  options_.retry.cancelled = [&] { return cancel; };
  const absl::Status status =
      Uploader().Upload(Write("f", Random(50'000)), [&](const TransferProgress& p) { cancel = p.done_bytes > 3000; });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(fake_.blobs.empty());
}

TEST_F(TransferTest, DownloadsAndVerifies) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{1} << 20, (size_t{1} << 20) + 1, size_t{3'500'000}}) {
    const v1::Digest digest = fake_.Put(Random(size));
    EXPECT_THAT(Downloader().Download({digest.sha256(), digest.size_bytes()}, dir_ / "f"), IsOk());
    EXPECT_EQ(Read(dir_ / "f"), Random(size));
    EXPECT_THAT(Names(), ElementsAre("f"));
  }
}

TEST_F(TransferTest, DownloadResumesAfterACutAtEveryOffsetClass) {
  const int64_t mib = 1 << 20, size = 2 * mib + 500'000;
  const std::string bytes = Random(static_cast<size_t>(size));
  const v1::Digest digest = fake_.Put(bytes);
  for (int64_t cut : {int64_t{0}, int64_t{1}, mib - 1, mib, mib + 1, 2 * mib, size - 1, size}) {
    fake_.faults.cut_reads_at = {cut};
    fake_.bytes_sent = 0;
    EXPECT_THAT(Downloader().Download({digest.sha256(), size}, dir_ / "f", Notes()), IsOk()) << cut;
    EXPECT_TRUE(Read(dir_ / "f") == bytes) << cut;
    EXPECT_EQ(fake_.bytes_sent, size) << cut;
    EXPECT_THAT(Names(), ElementsAre("f"));
  }
}

TEST_F(TransferTest, ANewDownloaderResumesWhatAnEarlierOneLeft) {
  const std::string bytes = Random(3'000'000);
  const v1::Digest digest = fake_.Put(bytes);
  fake_.faults.cut_reads_at = {2'000'000};
  bool cancel = false;
  options_.retry.cancelled = [&] { return cancel; };
  EXPECT_THAT(Downloader().Download({digest.sha256(), 3'000'000}, dir_ / "f",
                                    [&](const TransferProgress& p) { cancel = p.done_bytes >= 2'000'000; }),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(Names(), ElementsAre(HasSubstr(".part")));
  cancel = false;
  fake_.bytes_sent = 0;
  EXPECT_THAT(Downloader().Download({digest.sha256(), 3'000'000}, dir_ / "f", Notes()), IsOk());
  EXPECT_TRUE(Read(dir_ / "f") == bytes);
  EXPECT_EQ(fake_.bytes_sent, 1'000'000);
  EXPECT_THAT(notes_, ElementsAre("resuming f at 2000000 of 3000000 bytes"));
  EXPECT_EQ(last_.skipped_bytes, 2'000'000);
}

TEST_F(TransferTest, ADamagedPartOfAnEarlierRunIsFetchedAgainFromTheStart) {
  const std::string bytes = Random(5000);
  const v1::Digest digest = fake_.Put(bytes);
  const std::string part = ".f." + digest.sha256().substr(0, 32) + ".part";
  for (const std::string& left : {std::string(2000, 'x'), std::string(5000, 'x'), std::string(9000, 'x')}) {
    Write(part, left);
    EXPECT_THAT(Downloader().Download({digest.sha256(), 5000}, dir_ / "f"), IsOk());
    EXPECT_EQ(Read(dir_ / "f"), bytes);
  }
  // A whole part needs no stream at all.
  Write(part, bytes);
  fake_.read_calls = 0;
  EXPECT_THAT(Downloader().Download({digest.sha256(), 5000}, dir_ / "f"), IsOk());
  EXPECT_EQ(fake_.read_calls, 0);
  EXPECT_THAT(Names(), ElementsAre("f"));
}

TEST_F(TransferTest, WrongBytesFromTheServerNeverReachTheFile) {
  const v1::Digest digest = fake_.Put(Random(5000));
  Write("f", "old");
  fake_.faults.damage_reads = true;
  EXPECT_THAT(Downloader().Download({digest.sha256(), 5000}, dir_ / "f"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(fake_.read_calls, 1);
  fake_.faults.damage_reads = false;
  EXPECT_THAT(Downloader().Download({digest.sha256(), 4000}, dir_ / "f"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(Downloader().Download({digest.sha256(), 6000}, dir_ / "f"), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(Read(dir_ / "f"), "old");
  EXPECT_THAT(Names(), ElementsAre("f"));
}

TEST_F(TransferTest, DownloadErrorsNameTheirCause) {
  EXPECT_THAT(Downloader().Download({Sha256Hex("absent"), 6}, dir_ / "f"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Downloader().Download({"short", 6}, dir_ / "f"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Downloader().Download({Sha256Hex("absent"), 6}, dir_ / "no" / "f"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/.f.")));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(TransferTest, ALinkInPlaceOfThePartIsNotFollowed) {
  const v1::Digest digest = fake_.Put(Random(5000));
  Write("victim", "untouched");
  std::filesystem::create_symlink(dir_ / "victim", dir_ / (".f." + digest.sha256().substr(0, 32) + ".part"));
  EXPECT_THAT(Downloader().Download({digest.sha256(), 5000}, dir_ / "f"), IsOk());
  EXPECT_EQ(Read(dir_ / "f"), Random(5000));
  EXPECT_EQ(Read(dir_ / "victim"), "untouched");
}

TEST_F(TransferTest, TwoDownloadsOfOneFileDoNotDisturbEachOther) {
  const std::string bytes = Random(4'000'000);
  const v1::Digest digest = fake_.Put(bytes);
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 5; ++j) {
        EXPECT_THAT(Downloader().Download({digest.sha256(), 4'000'000}, dir_ / "f"), IsOk());
        EXPECT_TRUE(Read(dir_ / "f") == bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(Names(), ElementsAre("f"));
}

TEST(RetryTest, OnlyWhatAnotherAttemptMayCureIsRetried) {
  EXPECT_TRUE(IsBrokenStream(absl::UnavailableError("")));
  EXPECT_TRUE(IsBrokenStream(absl::DeadlineExceededError("")));
  EXPECT_TRUE(IsBrokenStream(absl::CancelledError("")));
  EXPECT_TRUE(IsBrokenStream(absl::InternalError("Received RST_STREAM with error code 2")));
  EXPECT_FALSE(IsBrokenStream(WithReason(absl::InternalError("Received RST_STREAM"), "OURS")));
  EXPECT_FALSE(IsBrokenStream(absl::InternalError("a bug")));
  EXPECT_FALSE(IsBrokenStream(absl::ResourceExhaustedError("")));
  const absl::Status limited = WithReason(absl::ResourceExhaustedError(""), "RATE_LIMITED", {}, absl::Seconds(1));
  EXPECT_TRUE(IsBrokenStream(limited));
  EXPECT_TRUE(IsWorthRepeating(limited));
  EXPECT_TRUE(IsWorthRepeating(absl::UnavailableError("")));
  EXPECT_FALSE(IsWorthRepeating(WithReason(absl::ResourceExhaustedError(""), "DISK_FULL")));
  EXPECT_FALSE(IsWorthRepeating(absl::UnauthenticatedError("")));
  EXPECT_FALSE(IsWorthRepeating(absl::DeadlineExceededError("")));  // it may have been done
}

TEST(RetryTest, WaitsGrowToTheLongestAndStartAgainAfterProgress) {
  std::vector<double> waits;
  RetryOptions options{.first_wait = absl::Milliseconds(100), .longest_wait = absl::Seconds(1)};
  options.sleep = [&](absl::Duration d) { waits.push_back(absl::ToDoubleSeconds(d)); };
  Backoff backoff(options);
  for (int i = 0; i < 6; ++i) ASSERT_THAT(backoff.Wait(absl::UnavailableError("x")), IsOk());
  backoff.Progress();
  ASSERT_THAT(backoff.Wait(absl::UnavailableError("x")), IsOk());
  const double centre[] = {0.1, 0.2, 0.4, 0.8, 1, 1, 0.1};
  ASSERT_THAT(waits, SizeIs(7));
  for (int i = 0; i < 7; ++i) {
    EXPECT_GE(waits[i], 0.74 * centre[i]) << i;
    EXPECT_LE(waits[i], 1.26 * centre[i]) << i;
  }
  ASSERT_THAT(backoff.Wait(WithReason(absl::UnavailableError("x"), "BUSY", {}, absl::Seconds(7))), IsOk());
  EXPECT_EQ(waits.back(), 7) << "the server asked for seven seconds";
}

}  // namespace
}  // namespace quant
