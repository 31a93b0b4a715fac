// SPDX-License-Identifier: Apache-2.0
#include "common/trace_context.h"

#include <gtest/gtest.h>

namespace quant {
namespace {

// The example of the specification.
constexpr char kGood[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContext, TakesWhatIsWellFormed) {
  EXPECT_EQ(ParseTraceparent(kGood), kGood);
  EXPECT_EQ(TraceId(kGood), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(ParseTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
}

TEST(TraceContext, AHigherVersionIsReadAsThisOne) {
  EXPECT_EQ(ParseTraceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), kGood);
  EXPECT_EQ(ParseTraceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes"), kGood);
  EXPECT_EQ(ParseTraceparent("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fb"), kGood);
  EXPECT_EQ(ParseTraceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what"), "");
}

TEST(TraceContext, RefusesEverythingElse) {
  for (const char* bad : {
           "",
           "00",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",         // short
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",       // long
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",  // version 00 has no more
           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",        // forbidden version
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",        // no trace
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",        // no parent
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",        // capitals
           "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",        // no hex
           "0g-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
           "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
           " 0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\n-01",
       }) {
    EXPECT_EQ(ParseTraceparent(bad), "") << bad;
  }
  EXPECT_EQ(ParseTraceparent(std::string(1 << 20, 'a')), "");
  EXPECT_EQ(TraceId(""), "");
}

TEST(TraceContext, NewOnesAreWellFormedAndDiffer) {
  const std::string a = NewTraceparent(), b = NewTraceparent();
  EXPECT_EQ(ParseTraceparent(a), a);
  EXPECT_NE(TraceId(a), TraceId(b));
}

}  // namespace
}  // namespace quant
