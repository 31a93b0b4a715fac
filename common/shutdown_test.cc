// SPDX-License-Identifier: Apache-2.0
#include "common/shutdown.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "common/unique_fd.h"

namespace quant {
namespace {

TEST(ShutdownSignal, SignalRunsCallbacksInOrder) {
  ShutdownSignal shutdown;
  std::string order;
  Mutex mu;
  CondVar changed;
  const auto note = [&](char c) {
    MutexLock lock(&mu);
    order += c;
    changed.Signal();
  };
  shutdown.OnSignal([&] { note('a'); });
  shutdown.OnSignal([&] { note('b'); });
  EXPECT_FALSE(shutdown.Requested());
  EXPECT_FALSE(shutdown.WaitFor(absl::Milliseconds(1)));
  ::kill(::getpid(), SIGTERM);
  shutdown.Wait();
  EXPECT_TRUE(shutdown.Requested());
  {
    MutexLock lock(&mu);
    while (order.size() < 2) changed.Wait(&mu);
  }
  shutdown.OnSignal([&] { note('c'); });  // too late: at once
  EXPECT_EQ(order, "abc");
}

TEST(ShutdownSignal, RequestCountsOnce) {
  ShutdownSignal shutdown;
  int calls = 0;
  shutdown.OnSignal([&] { ++calls; });
  shutdown.Request();
  shutdown.Request();
  EXPECT_EQ(calls, 1);
}

TEST(ShutdownSignalDeathTest, SecondSignalEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        ShutdownSignal shutdown;
        ::kill(::getpid(), SIGINT);
        shutdown.Wait();
        ::kill(::getpid(), SIGINT);
        ::sleep(10);
      },
      testing::ExitedWithCode(130), "");
}

TEST(UniqueFd, ClosesOnceAndMoves) {
  int raw = -1;
  {
    UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    raw = fd.get();
    ASSERT_TRUE(fd.valid());
    UniqueFd other(std::move(fd));
    EXPECT_EQ(other.get(), raw);
  }
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
}

}  // namespace
}  // namespace quant
