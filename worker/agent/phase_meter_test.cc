// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/phase_meter.h"

#include "gtest/gtest.h"

namespace quant {
namespace {

SteadyTime At(double seconds) { return absl::Seconds(seconds); }
double Seconds(std::optional<absl::Duration> d) { return d.has_value() ? absl::ToDoubleSeconds(*d) : -1; }

TEST(PhaseMeter, TellsRateAndRemainingTimeOfASteadyPhase) {
  PhaseMeter meter;
  meter.Begin();
  for (int i = 0; i <= 20; ++i) meter.Report(i / 100.0, 10 * i, "samples", At(100 + i));
  EXPECT_NEAR(meter.Rate(), 10, 1e-9);
  EXPECT_NEAR(Seconds(meter.Remaining(At(120))), 80, 1e-6);
  EXPECT_NEAR(Seconds(meter.Remaining(At(125))), 75, 1e-6);  // time goes on between reports
  EXPECT_EQ(Seconds(meter.Remaining(At(500))), 0);           // late, not negative
}

TEST(PhaseMeter, SaysNothingBeforeItKnows) {
  PhaseMeter meter;
  meter.Begin();
  EXPECT_EQ(meter.Rate(), 0);
  EXPECT_FALSE(meter.Remaining(At(1)).has_value());
  meter.Report(0, 0, "samples", At(0));
  meter.Report(0.1, 10, "samples", At(0.1));  // too short a time
  EXPECT_EQ(meter.Rate(), 0);
  EXPECT_FALSE(meter.Remaining(At(1)).has_value());
  meter.Report(0.1, 10, "samples", At(10));  // nothing new
  EXPECT_FALSE(meter.Remaining(At(10)).has_value());
  meter.Begin();
  meter.Report(0.1, 10, "samples", At(0));
  meter.Report(0.1 + 1e-12, 10, "samples", At(20));  // no forecast of centuries
  EXPECT_FALSE(meter.Remaining(At(20)).has_value());
}

TEST(PhaseMeter, AResumedPhaseIsMeasuredFromWhereItGoesOn) {
  PhaseMeter meter;
  meter.Begin();
  meter.Report(0.5, 500, "samples", At(0));
  meter.Report(0.6, 600, "samples", At(10));
  EXPECT_NEAR(meter.Rate(), 10, 1e-9);
  EXPECT_NEAR(Seconds(meter.Remaining(At(10))), 40, 1e-6);
}

TEST(PhaseMeter, FollowsAChangeOfPaceWithinAMinute) {
  PhaseMeter meter;
  meter.Begin();
  int64_t done = 0;
  double now = 0;
  const auto report = [&](double seconds) {
    ++done;
    now += seconds;
    meter.Report(static_cast<double>(done) / 1e4, done, "samples", At(now));
  };
  for (int i = 0; i < 100; ++i) report(1);
  for (int i = 0; i < 1000; ++i) report(0.1);
  EXPECT_NEAR(meter.Rate(), 10, 0.1);
}

TEST(PhaseMeter, StepsLongerThanTheWindowCountWhole) {
  PhaseMeter meter;
  meter.Begin();
  for (int i = 0; i < 5; ++i) meter.Report(i / 10.0, i, "layers", At(300.0 * i));
  EXPECT_NEAR(meter.Rate(), 1 / 300.0, 1e-9);
  EXPECT_NEAR(Seconds(meter.Remaining(At(1200))), 1800, 1e-6);
}

TEST(PhaseMeter, AnotherPartOfThePhaseAndAnotherPhaseBeginAnew) {
  PhaseMeter meter;
  meter.Begin();
  meter.Report(0, 0, "samples", At(0));
  meter.Report(0.5, 100, "samples", At(10));
  meter.Report(0.6, 1, "layers", At(20));
  EXPECT_EQ(meter.Rate(), 0);  // layers are not samples
  EXPECT_NEAR(Seconds(meter.Remaining(At(20))), 40.0 / 3, 1e-6);
  meter.Report(0.7, 3, "layers", At(24));
  EXPECT_NEAR(meter.Rate(), 0.5, 1e-9);
  meter.Report(0.7, 0, "layers", At(25));  // counts from 0 again
  EXPECT_EQ(meter.Rate(), 0);
  meter.Begin();
  EXPECT_FALSE(meter.Remaining(At(25)).has_value());
}

TEST(PhaseMeter, KeepsBoundedMemoryWhateverIsReported) {
  PhaseMeter meter;
  meter.Begin();
  for (int i = 0; i < 100'000; ++i) meter.Report(i / 1e6, i, "samples", At(i * 1e-3));
  EXPECT_NEAR(meter.Rate(), 1000, 1e-3);
}

}  // namespace
}  // namespace quant
