// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/blob_cache.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;

class BlobCacheTest : public ::testing::Test {
 protected:
  BlobCacheTest() : root_(fs::path(::testing::TempDir()) / absl::StrCat("blob_cache_test.", ::getpid())) {
    fs::remove_all(root_);
  }
  ~BlobCacheTest() override {
    cache_.reset();
    fs::remove_all(root_);
  }

  void Open(int64_t max_bytes) {
    cache_.reset();
    absl::StatusOr<std::unique_ptr<BlobCache>> cache = BlobCache::Open(root_, max_bytes);
    ASSERT_THAT(cache, IsOk());
    cache_ = *std::move(cache);
  }

  static FileDigest DigestOf(const std::string& bytes) {
    return {Sha256Hex(bytes), static_cast<int64_t>(bytes.size())};
  }

  // A downloader of these bytes that counts its calls.
  BlobCache::Downloader Serve(const std::string& bytes) {
    return [this, bytes](const FileDigest&, const fs::path& dst) {
      ++downloads_;
      std::ofstream(dst, std::ios::binary) << bytes;
      return absl::OkStatus();
    };
  }
  // Pins and fetches `bytes`, and drops the pin.
  absl::StatusOr<fs::path> Use(const std::string& bytes) {
    auto pins = cache_->Pin({DigestOf(bytes)}, nullptr);
    if (!pins.ok()) return pins.status();
    return cache_->Fetch(DigestOf(bytes), Serve(bytes), nullptr);
  }
  bool Has(const std::string& bytes) const {
    const std::string name = Sha256Hex(bytes);
    return fs::exists(root_ / "blobs" / name.substr(0, 2) / name);
  }
  static std::string Read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  const fs::path root_;
  std::atomic<int> downloads_{0};
  std::unique_ptr<BlobCache> cache_;
};

TEST_F(BlobCacheTest, DownloadsOnceAndKeepsReadOnly) {
  Open(1000);
  for (int i = 0; i < 3; ++i) {
    const auto path = Use("hello");
    ASSERT_THAT(path, IsOk());
    EXPECT_EQ(Read(*path), "hello");
    struct stat info;
    ASSERT_EQ(::stat(path->c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0444u);
  }
  EXPECT_EQ(downloads_, 1);
  EXPECT_EQ(cache_->stats().hit_bytes, 10);
  EXPECT_EQ(cache_->stats().miss_bytes, 5);
  EXPECT_EQ(cache_->stats().bytes, 5);
  EXPECT_TRUE(fs::is_empty(root_ / "tmp"));
}

TEST_F(BlobCacheTest, EvictsTheLeastRecentlyUsed) {
  Open(30);
  const std::string a(10, 'a'), b(10, 'b'), c(10, 'c'), d(10, 'd');
  for (const std::string& s : {a, b, c, a}) ASSERT_THAT(Use(s), IsOk());
  ASSERT_THAT(Use(d), IsOk());
  EXPECT_TRUE(Has(a) && Has(c) && Has(d));
  EXPECT_FALSE(Has(b));
  EXPECT_EQ(cache_->stats().bytes, 30);
  EXPECT_EQ(cache_->stats().evicted_bytes, 10);
}

TEST_F(BlobCacheTest, NeverEvictsWhatIsPinned) {
  Open(30);
  const std::string a(10, 'a'), b(10, 'b'), c(20, 'c');
  auto pins = cache_->Pin({DigestOf(a)}, nullptr);
  ASSERT_THAT(pins, IsOk());
  ASSERT_THAT(cache_->Fetch(DigestOf(a), Serve(a), nullptr), IsOk());
  ASSERT_THAT(Use(b), IsOk());
  ASSERT_THAT(Use(c), IsOk());  // needs 20: b goes, although a is older
  EXPECT_TRUE(Has(a) && Has(c));
  EXPECT_FALSE(Has(b));
}

TEST_F(BlobCacheTest, AJobWaitsUntilPinsLeaveItRoom) {
  Open(30);
  const std::string a(20, 'a'), b(20, 'b');
  auto first = cache_->Pin({DigestOf(a)}, nullptr);
  ASSERT_THAT(first, IsOk());
  int polls = 0;
  EXPECT_THAT(cache_->Pin({DigestOf(b)}, [&] { return ++polls == 2; }), StatusIs(absl::StatusCode::kCancelled));
  std::thread second([&] { EXPECT_THAT(Use(b), IsOk()); });
  *first = BlobCache::Pins();  // drops
  second.join();
  EXPECT_TRUE(Has(b));
}

TEST_F(BlobCacheTest, AJobThatCannotEverFitIsRefusedAtOnce) {
  Open(30);
  const std::string a(20, 'a'), b(11, 'b');
  EXPECT_THAT(cache_->Pin({DigestOf(a), DigestOf(b)}, nullptr),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--cache-bytes")));
  EXPECT_THAT(cache_->Pin({DigestOf(a), DigestOf(a)}, nullptr), IsOk()) << "a repeat counts once";
  FileDigest huge{Sha256Hex("x"), INT64_MAX};
  EXPECT_THAT(cache_->Pin({huge, DigestOf(a), huge}, nullptr), StatusIs(absl::StatusCode::kResourceExhausted));
  huge.size_bytes = -1;
  EXPECT_THAT(cache_->Pin({huge}, nullptr), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(cache_->Pin({{"../../etc/passwd", 1}}, nullptr), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(cache_->stats().bytes, 0);
}

TEST_F(BlobCacheTest, AFailedDownloadLeavesNothingAndTheNextOneIsTried) {
  Open(100);
  const FileDigest digest = DigestOf("hello");
  auto pins = cache_->Pin({digest}, nullptr);
  ASSERT_THAT(pins, IsOk());
  EXPECT_THAT(cache_->Fetch(digest, Serve("hell"), nullptr), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(cache_->Fetch(
                  digest, [](auto&, auto&) { return absl::DataLossError("other bytes"); }, nullptr),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_FALSE(Has("hello"));
  EXPECT_TRUE(fs::is_empty(root_ / "tmp"));
  EXPECT_THAT(cache_->Fetch(digest, Serve("hello"), nullptr), IsOk());
}

TEST_F(BlobCacheTest, ConcurrentJobsShareOneDownload) {
  Open(100);
  const FileDigest digest = DigestOf("hello");
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      auto pins = cache_->Pin({digest}, nullptr);
      ASSERT_THAT(pins, IsOk());
      EXPECT_THAT(cache_->Fetch(digest, Serve("hello"), nullptr), IsOk());
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(downloads_, 1);
}

TEST_F(BlobCacheTest, AFileThatWasCutBehindItsBackIsFetchedAgain) {
  Open(100);
  const auto path = Use("hello");
  ASSERT_THAT(path, IsOk());
  fs::permissions(*path, fs::perms::owner_all);
  fs::resize_file(*path, 2);
  ASSERT_THAT(Use("hello"), IsOk());
  EXPECT_EQ(Read(*path), "hello");
  EXPECT_EQ(downloads_, 2);
}

TEST_F(BlobCacheTest, FetchingWithoutAPinIsRefused) {
  Open(100);
  EXPECT_THAT(cache_->Fetch(DigestOf("x"), Serve("x"), nullptr), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(BlobCacheTest, ARestartKeepsBlobsAndSweepsLeftovers) {
  Open(100);
  ASSERT_THAT(Use("hello"), IsOk());
  ASSERT_THAT(Use("world, older than hello"), IsOk());
  ASSERT_THAT(Use("hello"), IsOk());
  fs::create_directories(root_ / "tmp/7");
  std::ofstream(root_ / "tmp/7/blob") << "half";
  fs::create_directories(root_ / "jobs/j-1-2/output");
  std::ofstream(root_ / "blobs/notes.txt") << "stray";
  Open(100);
  EXPECT_TRUE(fs::is_empty(root_ / "tmp"));
  EXPECT_TRUE(fs::is_empty(root_ / "jobs"));
  EXPECT_FALSE(fs::exists(root_ / "blobs/notes.txt"));
  EXPECT_EQ(cache_->stats().bytes, 28);
  ASSERT_THAT(Use("hello"), IsOk());
  EXPECT_EQ(downloads_, 2);
  const std::string name = Sha256Hex("world, older than hello");  // file times may be equal within a clock tick
  fs::last_write_time(root_ / "blobs" / name.substr(0, 2) / name,
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  Open(10);  // a smaller limit: the one used longest ago goes
  EXPECT_TRUE(Has("hello"));
  EXPECT_FALSE(Has("world, older than hello"));
}

TEST_F(BlobCacheTest, TwoWorkersCannotShareAFolder) {
  Open(100);
  EXPECT_THAT(BlobCache::Open(root_, 100),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("in use by another quant-worker")));
  cache_.reset();
  EXPECT_THAT(BlobCache::Open(root_, 100), IsOk());
  EXPECT_THAT(BlobCache::Open(root_, 0), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace quant
