// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/file/mapped_file.h"

#include <sys/stat.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/file/atomic_file.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::quant::testing::ReadFile;
using ::quant::testing::TempDir;
using ::quant::testing::WriteFile;
using ::testing::HasSubstr;

TEST(MappedFile, ShowsTheBytesAndTakesAnEmptyFile) {
  const TempDir dir;
  WriteFile(dir / "a", "hello");
  WriteFile(dir / "empty", "");
  EXPECT_EQ((*MappedFile::Open(dir / "a"))->text(), "hello");
  EXPECT_EQ((*MappedFile::Open(dir / "empty"))->bytes().size(), 0u);
}

TEST(MappedFile, RefusesWhatIsNoRegularFileWithoutBlocking) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(dir / "fifo").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(dir / "none").status().code(), absl::StatusCode::kNotFound);
}

TEST(MappedFile, BeneathStaysBelowTheFolder) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "model");
  std::filesystem::create_directory(dir / "model/sub");
  WriteFile(dir / "secret", "s");
  WriteFile(dir / "model/sub/w", "weights");
  std::filesystem::create_symlink("../secret", dir / "model/link");
  std::filesystem::create_symlink("sub", dir / "model/folder_link");
  EXPECT_EQ((*MappedFile::OpenBeneath(dir / "model", "sub/w"))->text(), "weights");
  EXPECT_EQ((*MappedFile::OpenBeneath(dir / "model", "./sub//w"))->text(), "weights");
  for (const std::string& bad :
       {std::string("../secret"), std::string("sub/../../secret"), std::string("sub/.."), (dir / "secret").string(),
        std::string("link"), std::string("folder_link/w"), std::string(), std::string("."), std::string("sub/"),
        std::string("a\\b"), std::string("w\0x", 3), std::string(5000, 'a')}) {
    const absl::Status s = MappedFile::OpenBeneath(dir / "model", bad).status();
    EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << bad << ": " << s;
  }
  EXPECT_EQ(MappedFile::OpenBeneath(dir / "model", "absent").status().code(), absl::StatusCode::kNotFound);
}

TEST(AtomicFile, AppearsWholeOnCommitAndNotAtAllWithout) {
  const TempDir dir;
  {
    absl::StatusOr<AtomicFile> lost = AtomicFile::Create(dir / "a");
    ASSERT_TRUE(lost.ok()) << lost.status();
    ASSERT_TRUE(lost->Write("half").ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  WriteFile(dir / "a", "old");
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(dir / "a");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Write("new").ok());
  ASSERT_TRUE(file->Pad(8).ok());
  EXPECT_EQ(ReadFile(dir / "a"), "old");
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(ReadFile(dir / "a"), std::string("new\0\0\0\0\0", 8));
}

TEST(AtomicFile, AMissingFolderIsNotFoundAndNamesTheFile) {
  const absl::Status s = AtomicFile::Create("/nonexistent-folder/file.onnx").status();
  EXPECT_EQ(s.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(s.message()), HasSubstr("file.onnx"));
}

}  // namespace
}  // namespace quant
