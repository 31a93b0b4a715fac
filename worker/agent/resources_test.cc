// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/resources.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

TEST(UsableCpus, IsAtLeastOne) { EXPECT_GE(UsableCpus(), 1); }

TEST(UsableMemory, IsTheSmallestLimitOnTheWayUp) {
  const fs::path root = fs::path(::testing::TempDir()) / ("resources_test." + std::to_string(::getpid()));
  EXPECT_EQ(UsableMemory(root), 0);
  fs::create_directories(root / "proc/self");
  fs::create_directories(root / "sys/fs/cgroup/a/b");
  std::ofstream(root / "proc/meminfo") << "MemTotal:       1000 kB\nMemFree: 5 kB\n";
  EXPECT_EQ(UsableMemory(root), 1024000);
  std::ofstream(root / "proc/self/cgroup") << "1:name=x:/old\n0::/a/b\n";
  std::ofstream(root / "sys/fs/cgroup/a/b/memory.max") << "max\n";
  EXPECT_EQ(UsableMemory(root), 1024000);
  std::ofstream(root / "sys/fs/cgroup/a/memory.max") << "5000\n";
  EXPECT_EQ(UsableMemory(root), 5000);
  std::ofstream(root / "sys/fs/cgroup/a/b/memory.max") << "9000\n";
  EXPECT_EQ(UsableMemory(root), 5000);
  fs::remove_all(root);
}

}  // namespace
}  // namespace quant
