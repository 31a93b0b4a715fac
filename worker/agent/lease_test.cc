// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/lease.h"

#include <poll.h>

#include <cmath>
#include <thread>

#include "gtest/gtest.h"
#include "worker/agent/agent_state.h"

namespace quant {
namespace {

bool Readable(int fd) {
  pollfd p{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&p, 1, 0) == 1;
}

TEST(ActiveLease, AnOrderOnlyGrowsMoreSevere) {
  ActiveLease lease("j-1", 7);
  EXPECT_EQ(lease.order(), LeaseOrder::kContinue);
  lease.Give(LeaseOrder::kCancel);
  EXPECT_EQ(lease.order(), LeaseOrder::kCancel);
  lease.Give(LeaseOrder::kRelease);
  lease.Give(LeaseOrder::kContinue);
  EXPECT_EQ(lease.order(), LeaseOrder::kCancel);
  lease.Give(LeaseOrder::kLost);
  EXPECT_EQ(lease.order(), LeaseOrder::kLost);
}

TEST(ActiveLease, AnOrderWakesThePoller) {
  ActiveLease lease("j-1", 7);
  EXPECT_FALSE(Readable(lease.wake_fd()));
  lease.Give(LeaseOrder::kContinue);
  EXPECT_FALSE(Readable(lease.wake_fd()));
  lease.Give(LeaseOrder::kRelease);
  EXPECT_TRUE(Readable(lease.wake_fd()));
  lease.ClearWake();
  EXPECT_FALSE(Readable(lease.wake_fd()));
  lease.Give(LeaseOrder::kRelease);  // nothing new
  EXPECT_FALSE(Readable(lease.wake_fd()));
}

TEST(ActiveLease, SleepEndsAtTheWantedOrderOnly) {
  ActiveLease lease("j-1", 7);
  lease.Give(LeaseOrder::kRelease);
  EXPECT_FALSE(lease.SleepUnless(LeaseOrder::kLost, absl::Milliseconds(1)));
  std::thread giver([&] { lease.Give(LeaseOrder::kLost); });
  EXPECT_TRUE(lease.SleepUnless(LeaseOrder::kLost, absl::Minutes(1)));
  giver.join();
}

TEST(ActiveLease, ProgressIsCutToItsLegalRange) {
  ActiveLease lease("j-1", 7);
  lease.SetProgress(std::string(100, 'p'), 7, std::string(1000, 'm'));
  EXPECT_EQ(lease.state().phase.size(), 32u);
  EXPECT_EQ(lease.state().message.size(), 256u);
  EXPECT_EQ(lease.state().fraction, 1);
  lease.SetProgress("load", std::nan(""), "\xff");
  EXPECT_EQ(lease.state().fraction, 0);
  EXPECT_EQ(lease.state().message, "?");
  lease.SetProgress("load", -1, "");
  EXPECT_EQ(lease.state().fraction, 0);
  lease.SetProgress("load", 0.5, "x", {9, 4, std::string(40, 'u')});
  EXPECT_EQ(lease.state().done, 4);
  EXPECT_EQ(lease.state().unit.size(), 16u);
  lease.SetProgress("load", 0.5, "x", {-1, -2, "samples"});
  EXPECT_EQ(lease.state().done, 0);
  EXPECT_EQ(lease.state().total, 0);
}

TEST(ActiveLease, AChangeOfPhaseBeginsItsTimeAnew) {
  ActiveLease lease("j-1", 7);
  lease.SetProgress("load", 0, "");
  const absl::Time load = lease.state().phase_start_time;
  lease.SetProgress("load", 0.5, "x");
  EXPECT_EQ(lease.state().phase_start_time, load);
  EXPECT_EQ(lease.state().rate, 0);
  EXPECT_FALSE(lease.state().remaining.has_value());
  lease.SetProgress("quantize", 0, "");
  EXPECT_GE(lease.state().phase_start_time, load);
}

TEST(AgentState, ClaimsOnlyWhileConnectedAndNotDraining) {
  AgentState state;
  std::thread connect([&] { state.SetConnected(true); });
  EXPECT_TRUE(state.BeginClaim());  // waited for the connection
  connect.join();
  EXPECT_FALSE(state.WaitNoClaims(absl::Milliseconds(1)));
  state.EndClaim();
  EXPECT_TRUE(state.WaitNoClaims(absl::ZeroDuration()));
  state.SetConnected(false);
  std::thread drain([&] { state.Drain(); });
  EXPECT_FALSE(state.BeginClaim());  // waited for the drain
  drain.join();
}

TEST(AgentState, KnowsWhenItIsIdle) {
  AgentState state;
  EXPECT_TRUE(state.WaitIdle(absl::ZeroDuration()));
  const auto lease = state.Add("j-1", 3);
  EXPECT_FALSE(state.WaitIdle(absl::Milliseconds(1)));
  state.GiveAll(LeaseOrder::kRelease);
  EXPECT_EQ(lease->order(), LeaseOrder::kRelease);
  std::thread remove([&] { state.Remove(*lease); });
  EXPECT_TRUE(state.WaitIdle(absl::Minutes(1)));
  remove.join();
}

TEST(AgentState, TheFirstBeatOfADrainIsNotDelayed) {
  AgentState state;
  state.Drain();
  EXPECT_TRUE(state.SleepUntilBeat(absl::Hours(1)));
  EXPECT_TRUE(state.SleepUntilBeat(absl::Milliseconds(1)));
  state.Stop();
  EXPECT_FALSE(state.SleepUntilBeat(absl::Hours(1)));
}

}  // namespace
}  // namespace quant
