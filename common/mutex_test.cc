// SPDX-License-Identifier: Apache-2.0
#include "common/mutex.h"

#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/clock.h"
#include "common/proto_time.h"

namespace quant {
namespace {

TEST(CondVar, WaitForTellsTimeoutFromSignal) {
  Mutex mu;
  CondVar changed;
  bool ready = false;
  {
    MutexLock lock(&mu);
    EXPECT_TRUE(changed.WaitFor(&mu, absl::Milliseconds(1)));
    EXPECT_TRUE(changed.WaitFor(&mu, -absl::Seconds(1)));
  }
  std::thread other([&] {
    MutexLock lock(&mu);
    ready = true;
    changed.Signal();
  });
  {
    MutexLock lock(&mu);
    while (!ready) changed.WaitFor(&mu, absl::InfiniteDuration());
    EXPECT_TRUE(ready);
  }
  other.join();
}

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock(absl::FromUnixSeconds(100));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(100));
  clock.Advance(absl::Minutes(1));
  EXPECT_EQ(clock.Now(), absl::FromUnixSeconds(160));
}

TEST(ProtoTime, RoundTripsAndSaturates) {
  for (const absl::Time time :
       {absl::FromUnixNanos(1'700'000'000'123'456'789), absl::FromUnixNanos(-1), absl::UnixEpoch()}) {
    google::protobuf::Timestamp proto;
    SetProto(time, &proto);
    EXPECT_GE(proto.nanos(), 0);
    EXPECT_EQ(FromProto(proto), time);
  }
  google::protobuf::Timestamp last;
  SetProto(absl::InfiniteFuture(), &last);
  EXPECT_EQ(last.seconds(), 253402300799);
  google::protobuf::Duration duration;
  SetProto(-absl::Milliseconds(1500), &duration);
  EXPECT_EQ(duration.seconds(), -1);
  EXPECT_EQ(duration.nanos(), -500'000'000);
  EXPECT_EQ(FromProto(duration), -absl::Milliseconds(1500));
  duration.set_seconds(INT64_MAX);
  EXPECT_LT(FromProto(duration), absl::InfiniteDuration());
}

}  // namespace
}  // namespace quant
