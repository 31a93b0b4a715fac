// SPDX-License-Identifier: Apache-2.0
#include "common/net.h"

#include <gtest/gtest.h>

namespace quant {
namespace {

TEST(HostPort, ReadsEveryForm) {
  EXPECT_EQ(ParseHostPort(":9000")->host, "");
  EXPECT_EQ(ParseHostPort(":9000")->port, 9000);
  EXPECT_EQ(ParseHostPort("127.0.0.1:0")->ToString(), "127.0.0.1:0");
  EXPECT_EQ(ParseHostPort("[::1]:65535")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:65535")->ToString(), "[::1]:65535");
  EXPECT_EQ(ParseHostPort("quantd.example:80")->ToString(), "quantd.example:80");
}

TEST(HostPort, RefusesWhatIsNone) {
  for (const char* bad : {"", "9000", "host", "host:", "host:x", "host:65536", "host:-1", "host:123456", "::1:9000",
                          "[::1:9000", "[]:1", "[zz]:1", "http://h:1", "a b:1", "a/b:1"}) {
    EXPECT_FALSE(ParseHostPort(bad).ok()) << bad;
  }
}

TEST(Net, LoopbackIsTheMachineItself) {
  for (const char* host : {"localhost", "127.0.0.1", "127.1.2.3", "::1"}) EXPECT_TRUE(IsLoopback(host)) << host;
  for (const char* host : {"", "0.0.0.0", "::", "10.0.0.1", "127.example.com", "127.0.0.1.example.com"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

}  // namespace
}  // namespace quant
