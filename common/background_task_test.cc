// SPDX-License-Identifier: Apache-2.0
#include "common/background_task.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "common/thread_pool.h"

namespace quant {
namespace {

// Keeps the only thread of a pool busy until Free.
class BusyPool {
 public:
  explicit BusyPool(size_t max_waiting) : pool_(1, max_waiting) {
    pool_.PostNext([this] {
      busy_.count_down();
      free_.wait();
    });
    busy_.wait();
  }
  void Free() { free_.count_down(); }
  ThreadPool* get() { return &pool_; }

 private:
  std::latch busy_{1};
  std::latch free_{1};
  ThreadPool pool_;
};

TEST(ThreadPool, RunsEverythingInOrderAndRefusesBeyondItsBound) {
  std::string order;
  {
    BusyPool pool(2);
    EXPECT_TRUE(pool.get()->TryPost([&] { order += 'a'; }));
    EXPECT_TRUE(pool.get()->TryPost([&] { order += 'b'; }));
    EXPECT_FALSE(pool.get()->TryPost([&] { order += 'x'; }));
    pool.get()->PostNext([&] { order += 'c'; });
    pool.Free();
  }
  EXPECT_EQ(order, "abc");
}

TEST(BackgroundTask, RunsOnThePool) {
  ThreadPool pool(1, 10);
  std::thread::id ran_on;
  BackgroundTask task(&pool, [&] { ran_on = std::this_thread::get_id(); });
  while (!task.Done()) std::this_thread::yield();
  task.Wait();
  EXPECT_NE(ran_on, std::this_thread::get_id());
  EXPECT_NE(ran_on, std::thread::id());
}

TEST(BackgroundTask, RunsOnceHereWhenThePoolIsBusyOrFull) {
  for (const size_t max_waiting : {0, 10}) {
    int runs = 0;
    std::thread::id ran_on;
    {
      BusyPool pool(max_waiting);
      BackgroundTask task(pool.get(), [&] {
        ++runs;
        ran_on = std::this_thread::get_id();
      });
      EXPECT_FALSE(task.Done());
      task.Wait();
      EXPECT_TRUE(task.Done());
      task.Wait();
      pool.Free();
    }
    EXPECT_EQ(runs, 1) << max_waiting;
    EXPECT_EQ(ran_on, std::this_thread::get_id());
  }
}

TEST(BackgroundTask, ItsEndAndAnAssignmentWait) {
  ThreadPool pool(2, 10);
  std::atomic<int> runs = 0;
  for (int i = 0; i < 1000; ++i) {
    int first = 0;  // not atomic: a wait makes them visible
    int second = 0;
    {
      BackgroundTask task(&pool, [&] { ++first, ++runs; });
      task = BackgroundTask(&pool, [&] { ++second, ++runs; });
      EXPECT_EQ(first, 1);
      BackgroundTask moved = std::move(task);
    }
    ASSERT_EQ(second, 1);
  }
  EXPECT_EQ(runs, 2000);
  EXPECT_TRUE(BackgroundTask().Done());
}

TEST(UpdateBeside, HashesFewBytesHereAndManyOnThePool) {
  ThreadPool pool(1, 10);
  for (const size_t size : {0, 10, 1 << 20}) {
    const std::string bytes(size, 'x');
    const std::string_view pieces[] = {bytes, "", "end"};
    Sha256 sha256;
    BackgroundTask task = UpdateBeside(&pool, sha256, pieces);
    task.Wait();
    EXPECT_EQ(sha256.Finish(), Sha256Hex(bytes + "end"));
  }
  BusyPool busy(10);
  Sha256 sha256;
  const std::string bytes(1 << 20, 'x');
  const std::string_view few[] = {"few"};
  const std::string_view many[] = {bytes};
  EXPECT_TRUE(UpdateBeside(busy.get(), sha256, few).Done());
  EXPECT_FALSE(UpdateBeside(busy.get(), sha256, many).Done());
  EXPECT_EQ(sha256.Finish(), Sha256Hex("few" + bytes));
  busy.Free();
}

}  // namespace
}  // namespace quant
