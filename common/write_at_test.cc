// SPDX-License-Identifier: Apache-2.0
#include "common/write_at.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "common/unique_fd.h"

namespace quant {
namespace {

class WriteAtTest : public testing::Test {
 protected:
  WriteAtTest() {
    std::string name = testing::TempDir() + "/write_atXXXXXX";
    fd_ = UniqueFd(::mkstemp(name.data()));
    ::unlink(name.c_str());
  }
  std::string Read() {
    std::string bytes(100'000, '\0');
    const ssize_t n = ::pread(fd_.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(n < 0 ? 0 : static_cast<size_t>(n));
    return bytes;
  }
  UniqueFd fd_;
};

TEST_F(WriteAtTest, PiecesOfAnySizeAndNumberComeInOrder) {
  for (const size_t count : {0, 1, 63, 64, 65, 200}) {
    std::string all = "..";
    std::vector<std::string> bytes;
    bytes.reserve(count);
    for (size_t i = 0; i < count; ++i) bytes.emplace_back(i * 7 % 50, static_cast<char>('a' + i % 26));
    for (const std::string& one : bytes) all += one;
    const std::vector<std::string_view> pieces(bytes.begin(), bytes.end());
    ASSERT_EQ(::ftruncate(fd_.get(), 0), 0);
    EXPECT_EQ(WriteAt(fd_.get(), {".."}, 0), 0);
    EXPECT_EQ(WriteAt(fd_.get(), pieces, 2), 0);
    EXPECT_EQ(Read(), all) << count;
  }
}

TEST_F(WriteAtTest, AShortWriteIsGoneOnWith) {
  // A limit on the file's size makes one; the rest is tried, and its error told.
  const auto write = [this] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {.rlim_cur = 1000, .rlim_max = 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string piece(400, 'p');
    const int error = WriteAt(fd_.get(), {piece, piece, piece}, 0);
    ::_exit(error == EFBIG && Read() == std::string(1000, 'p') ? 0 : 1);
  };
  EXPECT_EXIT(write(), testing::ExitedWithCode(0), "");
  EXPECT_EQ(WriteAt(-1, {"x"}, 0), EBADF);
}

}  // namespace
}  // namespace quant
