// SPDX-License-Identifier: Apache-2.0
#include "client/local_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "absl/status/status_matchers.h"
#include "common/digest.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

class LocalFilesTest : public testing::Test {
 protected:
  LocalFilesTest() {
    std::string pattern = testing::TempDir() + "/local_filesXXXXXX";
    dir_ = fs::canonical(mkdtemp(pattern.data()));
  }
  ~LocalFilesTest() override { fs::remove_all(dir_); }
  void Write(const fs::path& path, const std::string& bytes) {
    fs::create_directories((dir_ / path).parent_path());
    std::ofstream(dir_ / path, std::ios::binary) << bytes;
  }
  static std::vector<std::string> Paths(const FileSet& set) {
    std::vector<std::string> paths;
    paths.reserve(set.files.size());
    for (const UploadFile& file : set.files) paths.push_back(file.path);
    return paths;
  }
  fs::path dir_;
};

TEST_F(LocalFilesTest, AFolderIsWalkedSortedWithoutHiddenAndSpecialFiles) {
  Write("m/b.onnx", "22");
  Write("m/a/weights.bin", "333");
  Write("m/a-file", "1");
  Write("m/.git/config", "x");
  Write("m/.hidden", "x");
  ASSERT_EQ(mkfifo((dir_ / "m/pipe").c_str(), 0600), 0);
  const absl::StatusOr<FileSet> set = FindFiles(dir_ / "m");
  ASSERT_THAT(set, IsOk());
  EXPECT_THAT(Paths(*set), ElementsAre("a-file", "a/weights.bin", "b.onnx"));
  EXPECT_EQ(set->size_bytes, 6);
  EXPECT_THAT(set->skipped, UnorderedElementsAre(".git: hidden", ".hidden: hidden", "pipe: not a regular file"));
}

TEST_F(LocalFilesTest, AFileGivenByItselfIsSentAloneUnderItsName) {
  Write("m/.net.onnx", "22");
  Write("m/weights.bin", "333");
  const absl::StatusOr<FileSet> set = FindFiles(dir_ / "m/.net.onnx");
  ASSERT_THAT(set, IsOk());
  EXPECT_THAT(Paths(*set), ElementsAre(".net.onnx"));
}

TEST_F(LocalFilesTest, LinksMayNotLeadOutOfTheFolder) {
  Write("secret", "s");
  Write("m/data/real", "r");
  fs::create_symlink("data/real", dir_ / "m/inside");
  absl::StatusOr<FileSet> set = FindFiles(dir_ / "m");
  ASSERT_THAT(set, IsOk());
  EXPECT_THAT(Paths(*set), ElementsAre("data/real", "inside"));
  fs::create_symlink("../secret", dir_ / "m/out");
  EXPECT_THAT(FindFiles(dir_ / "m").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cp -rL")));
  fs::remove(dir_ / "m/out");
  fs::create_directory_symlink(".", dir_ / "m/loop");
  EXPECT_THAT(FindFiles(dir_ / "m").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no file")));
  fs::remove(dir_ / "m/loop");
  fs::create_symlink("nowhere", dir_ / "m/broken");
  EXPECT_THAT(FindFiles(dir_ / "m").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("leads nowhere")));
  // A sibling whose name begins like the folder's is outside too.
  fs::remove(dir_ / "m/broken");
  Write("m2/f", "x");
  fs::create_symlink("../m2/f", dir_ / "m/sibling");
  EXPECT_THAT(FindFiles(dir_ / "m").status(), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(LocalFilesTest, ErrorsNameThePath) {
  EXPECT_THAT(FindFiles(dir_ / "absent").status(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  EXPECT_THAT(FindFiles("/dev/null").status(), StatusIs(absl::StatusCode::kInvalidArgument));
  fs::create_directory(dir_ / "empty");
  EXPECT_THAT(FindFiles(dir_ / "empty").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no files")));
  Write("bad/\xff.onnx", "x");
  EXPECT_THAT(FindFiles(dir_ / "bad").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
  Write("control/a\nb.onnx", "x");
  EXPECT_THAT(FindFiles(dir_ / "control").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\\x0a")));
  Write("long/" + std::string(250, 'd') + "/" + std::string(250, 'e') + "/" + std::string(20, 'f'), "x");
  EXPECT_THAT(FindFiles(dir_ / "long").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 512")));
}

TEST_F(LocalFilesTest, HashesWhatTheFilesHold) {
  Write("m/a", std::string(3'000'000, 'x'));
  Write("m/b", "");
  absl::StatusOr<FileSet> set = FindFiles(dir_ / "m");
  ASSERT_THAT(set, IsOk());
  int64_t last = 0;
  EXPECT_THAT(HashFiles(*set, [&](int64_t done) { return last = done, true; }), IsOk());
  EXPECT_EQ(last, 3'000'000);
  EXPECT_EQ(set->files[0].local.digest.sha256, Sha256Hex(std::string(3'000'000, 'x')));
  EXPECT_EQ(set->files[1].local.digest.sha256, Sha256Hex(""));
  EXPECT_THAT(HashFiles(*set, [](int64_t) { return false; }), StatusIs(absl::StatusCode::kCancelled));
}

TEST(ManifestPathTest, HostilePathsAreUnsafe) {
  for (const char* path : {"a", "a/b.onnx", "..a", "a..", "a b/ü", ".hidden"})
    EXPECT_TRUE(IsSafeManifestPath(path)) << path;
  for (const char* path : {"", "/", "/etc/passwd", "..", "../x", "a/..", "a/../b", "a//b", "a/", ".", "./a", "a/./b",
                           "a\\b", "a\nb", "a\x7f", "\xff"}) {
    EXPECT_FALSE(IsSafeManifestPath(path)) << path;
  }
  EXPECT_FALSE(IsSafeManifestPath(std::string_view("a\0b", 3)));
  EXPECT_TRUE(IsSafeManifestPath(std::string(512, 'a')));
  EXPECT_FALSE(IsSafeManifestPath(std::string(513, 'a')));
}

TEST_F(LocalFilesTest, ADownloadIsPlacedBelowItsRootOnly) {
  EXPECT_EQ(*PlaceBelow(dir_, "a/b/c"), dir_ / "a/b/c");
  EXPECT_TRUE(fs::is_directory(dir_ / "a/b"));
  EXPECT_THAT(PlaceBelow(dir_, "../x").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"../x\"")));
  fs::create_directory_symlink("/tmp", dir_ / "link");
  EXPECT_THAT(PlaceBelow(dir_, "link/x").status(), StatusIs(absl::StatusCode::kFailedPrecondition));
  Write("file", "x");
  EXPECT_THAT(PlaceBelow(dir_, "file/x").status(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(PlaceBelow(dir_, "a/b").status(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("folder")));
  fs::create_symlink("nowhere", dir_ / "broken");
  EXPECT_THAT(PlaceBelow(dir_, "broken/x").status(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace quant
