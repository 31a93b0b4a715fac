// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/job_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/v1/workers.pb.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using absl_testing::IsOk;
using absl_testing::StatusIs;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

class JobFolderTest : public ::testing::Test {
 protected:
  JobFolderTest() : root_(fs::path(::testing::TempDir()) / absl::StrCat("job_folder_test.", ::getpid())) {
    fs::remove_all(root_);
    fs::create_directories(root_);
    std::ofstream(root_ / "blob") << "bytes";
  }
  ~JobFolderTest() override { fs::remove_all(root_); }
  JobFolder Make() {
    auto folder = JobFolder::Create(root_, root_ / "resume", "j-1", 7);
    EXPECT_THAT(folder, IsOk());
    return *std::move(folder);
  }
  void Write(const JobFolder& folder, const std::string& name, const std::string& bytes) {
    std::ofstream(folder.path() / name, std::ios::binary) << bytes;
  }
  const fs::path root_;
};

TEST_F(JobFolderTest, IsMadeFreshAndRemovedAtItsEnd) {
  fs::create_directories(root_ / "j-1-7/output/old");
  {
    JobFolder folder = Make();
    EXPECT_EQ(folder.path(), root_ / "j-1-7");
    for (const char* part : {"model", "baseline", "calibration", "evaluation", "output"}) {
      EXPECT_TRUE(fs::is_empty(folder.path() / part)) << part;
    }
    JobFolder moved = std::move(folder);
    EXPECT_TRUE(fs::exists(root_ / "j-1-7"));
  }
  EXPECT_FALSE(fs::exists(root_ / "j-1-7"));
}

TEST_F(JobFolderTest, WhatAnAttemptKeptIsThereForTheNextUntilItIsDiscarded) {
  {
    JobFolder first = Make();
    Write(first, "resume/block", "done");
  }
  JobFolder second = Make();
  EXPECT_EQ(fs::file_size(second.path() / "resume/block"), 4u);
  second.DiscardResume();
  EXPECT_FALSE(fs::exists(root_ / "resume/j-1"));
  JobFolder third = Make();
  EXPECT_TRUE(fs::is_empty(third.path() / "resume"));
}

TEST_F(JobFolderTest, RefusesAJobIdThatIsAPath) {
  for (const char* id : {"", "..", "a/b", "../../x", "a b"}) {
    EXPECT_THAT(JobFolder::Create(root_, root_ / "resume", id, 1), StatusIs(kInvalid)) << id;
  }
}

TEST_F(JobFolderTest, LinksInputsAtTheirManifestPaths) {
  JobFolder folder = Make();
  ASSERT_THAT(folder.Link("model", "a/b/model.onnx", root_ / "blob"), IsOk());
  ASSERT_THAT(folder.Link("calibration", "x.npy", root_ / "blob"), IsOk());
  EXPECT_TRUE(fs::is_regular_file(folder.path() / "model/a/b/model.onnx"));
  EXPECT_EQ(fs::file_size(folder.path() / "calibration/x.npy"), 5u);
}

TEST_F(JobFolderTest, RefusesHostileAndCollidingPaths) {
  JobFolder folder = Make();
  EXPECT_THAT(folder.Link("model", "../../escape", root_ / "blob"), StatusIs(kInvalid));
  EXPECT_THAT(folder.Link("model", "/etc/x", root_ / "blob"), StatusIs(kInvalid));
  ASSERT_THAT(folder.Link("model", "a", root_ / "blob"), IsOk());
  EXPECT_THAT(folder.Link("model", "a", root_ / "blob"), StatusIs(kInvalid));
  EXPECT_THAT(folder.Link("model", "a/b", root_ / "blob"), StatusIs(kInvalid));
  ASSERT_THAT(folder.Link("model", "c/d", root_ / "blob"), IsOk());
  EXPECT_THAT(folder.Link("model", "c", root_ / "blob"), StatusIs(kInvalid));
}

TEST_F(JobFolderTest, ReadsOnlyAWholeOutcome) {
  JobFolder folder = Make();
  v1::CompleteJobRequest outcome;
  EXPECT_THAT(folder.ReadOutcome(outcome), StatusIs(absl::StatusCode::kNotFound));
  Write(folder, "work/outcome.pb", "\x0a\xff");
  EXPECT_THAT(folder.ReadOutcome(outcome), StatusIs(kInvalid));
  Write(folder, "work/outcome.pb", "");
  EXPECT_THAT(folder.ReadOutcome(outcome), StatusIs(kInvalid));
  v1::CompleteJobRequest good;
  good.mutable_failure()->set_reason("MODEL_INVALID");
  Write(folder, "work/outcome.pb", good.SerializeAsString());
  ASSERT_THAT(folder.ReadOutcome(outcome), IsOk());
  EXPECT_EQ(outcome.failure().reason(), "MODEL_INVALID");
}

TEST_F(JobFolderTest, DoesNotReadAnOutcomeThatIsNoPlainFile) {
  JobFolder folder = Make();
  v1::CompleteJobRequest outcome;
  fs::create_symlink("/dev/zero", folder.path() / "work/outcome.pb");
  EXPECT_THAT(folder.ReadOutcome(outcome), StatusIs(kInvalid));
  fs::remove(folder.path() / "work/outcome.pb");
  ASSERT_EQ(::mkfifo((folder.path() / "work/outcome.pb").c_str(), 0600), 0);
  EXPECT_THAT(folder.ReadOutcome(outcome), StatusIs(kInvalid));
  fs::remove(folder.path() / "work/outcome.pb");
  Write(folder, "work/outcome.pb", "");
  fs::resize_file(folder.path() / "work/outcome.pb", JobFolder::kMaxOutcomeBytes + 1);
  EXPECT_THAT(folder.ReadOutcome(outcome), StatusIs(kInvalid));
}

TEST_F(JobFolderTest, ListsOutputSortedAndRefusesLinks) {
  JobFolder folder = Make();
  EXPECT_TRUE(folder.ListOutput()->empty());
  fs::create_directories(folder.path() / "output/sub/empty");
  Write(folder, "output/z.onnx", "z");
  Write(folder, "output/sub/a.bin", "a");
  const auto files = folder.ListOutput();
  ASSERT_THAT(files, IsOk());
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[0].path, "sub/a.bin");
  EXPECT_EQ((*files)[1].path, "z.onnx");
  fs::create_symlink("/etc/passwd", folder.path() / "output/secret");
  EXPECT_THAT(folder.ListOutput(), StatusIs(kInvalid));
  fs::remove(folder.path() / "output/secret");
  fs::create_directory_symlink("/etc", folder.path() / "output/etc");
  EXPECT_THAT(folder.ListOutput(), StatusIs(kInvalid));
  fs::remove(folder.path() / "output/etc");
  Write(folder, "output/a\\b", "");
  EXPECT_THAT(folder.ListOutput(), StatusIs(kInvalid));
}

}  // namespace
}  // namespace quant
