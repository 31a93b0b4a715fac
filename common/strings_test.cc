// SPDX-License-Identifier: Apache-2.0
#include "common/strings.h"

#include <gtest/gtest.h>

#include "common/status_macros.h"

namespace quant {
namespace {

TEST(Utf8, AcceptsWellFormedOnly) {
  for (const char* good : {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(good)) << good;
  }
  // stray continuation, overlong "/", surrogate, beyond U+10FFFF, cut short
  for (const char* bad :
       {"\x80", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "a\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(bad)) << bad;
  }
}

TEST(Quoted, IsOneCleanLineWhateverComesIn) {
  EXPECT_EQ(Quoted("a b"), "\"a b\"");
  EXPECT_EQ(Quoted("\"\\"), "\"\\\"\\\\\"");
  EXPECT_EQ(Quoted("a\n\xff\x1b"), "\"a\\x0a\\xff\\x1b\"");
  EXPECT_EQ(Quoted("\xC2\x9B"), "\"\\xc2\\x9b\"");
  EXPECT_EQ(Quoted("\xC3\xA9"), "\"\xC3\xA9\"");
  EXPECT_EQ(Quoted("abcdef", 3), "\"abc…\"");
  EXPECT_EQ(Quoted("ab\xC3\xA9", 3), "\"ab…\"");
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}
absl::StatusOr<int> Quarter(int x) {
  ASSIGN_OR_RETURN(const int half, Half(x));
  ASSIGN_OR_RETURN(x, Half(half));
  RETURN_IF_ERROR(Half(x).status());
  return x;
}

TEST(StatusMacros, PassValuesAndErrors) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
  EXPECT_EQ(Quarter(4).status().message(), "odd");
}

}  // namespace
}  // namespace quant
