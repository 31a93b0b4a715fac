// SPDX-License-Identifier: Apache-2.0
#include "common/view/job_view.h"

#include <gtest/gtest.h>

#include <limits>

#include "common/proto_time.h"
#include "common/view/html.h"
#include "quant/v1/jobs.pb.h"

namespace quant {
namespace {

v1::Progress Counting(int64_t done, int64_t total, const char* unit, double rate, double seconds_left) {
  v1::Progress progress;
  progress.set_done(done);
  progress.set_total(total);
  progress.set_unit(unit);
  progress.set_rate(rate);
  if (seconds_left >= 0) SetProto(absl::Seconds(seconds_left), progress.mutable_remaining());
  return progress;
}

TEST(ProgressFigures, TellsWhatIsKnown) {
  EXPECT_EQ(ProgressFigures(v1::Progress()), "");
  EXPECT_EQ(ProgressFigures(Counting(431, 1024, "samples", 35.21, 17)),
            "431 of 1024 samples, 35.2 samples/s, 17 s left");
  EXPECT_EQ(ProgressFigures(Counting(3, 84, "layers", 0.025, 3240)), "3 of 84 layers, 1.5 layers/min, 54m00s left");
  EXPECT_EQ(ProgressFigures(Counting(1 << 20, 4 << 20, "bytes", 2 << 20, 1.5)),
            "1.00 MiB of 4.00 MiB, 2.00 MiB/s, 1.5 s left");
  EXPECT_EQ(ProgressFigures(Counting(0, 5, "windows", 0, -1)), "0 of 5 windows");
  EXPECT_EQ(ProgressFigures(Counting(0, 0, "", 0, 60)), "1m00s left");
}

TEST(ProgressFigures, WhateverNumbersAWorkerSends) {
  EXPECT_NE(ProgressFigures(Counting(1, 2, "bytes", std::numeric_limits<double>::max(), 1)), "");
  EXPECT_NE(ProgressFigures(Counting(1, 2, "samples", std::numeric_limits<double>::infinity(), 1)), "");
}

TEST(ProgressText, IsOfJobsThatRunOrWait) {
  v1::Job job;
  const absl::Time now = absl::FromUnixSeconds(1000);
  EXPECT_EQ(ProgressText(job, now), "");
  job.set_state(v1::JOB_STATE_RUNNING);
  EXPECT_EQ(ProgressText(job, now), "starting");
  job.mutable_progress()->set_phase("quantize");
  job.mutable_progress()->set_fraction(0.339);
  EXPECT_EQ(ProgressText(job, now), "quantize 33%");
  job.set_state(v1::JOB_STATE_RETRY_WAIT);
  SetProto(now + absl::Seconds(12), job.mutable_retry_time());
  EXPECT_EQ(ProgressText(job, now), "tries again in 12 s");
}

TEST(HtmlEscape, LeavesNothingThatIsMarkup) {
  EXPECT_EQ(HtmlEscape("<a b=\"c\" d='e'>&amp;</a>"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;amp;&lt;/a&gt;");
  EXPECT_EQ(HtmlEscape("\x1b[2J\n\xff"), "?[2J??");
  EXPECT_EQ(HtmlEscape("äöü …"), "äöü …");
}

}  // namespace
}  // namespace quant
