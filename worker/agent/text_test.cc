// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/text.h"

#include <string>

#include "absl/status/status_matchers.h"
#include "common/strings.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;

TEST(CheckManifestPath, TakesOrdinaryPaths) {
  for (const char* path :
       {"model.onnx", "a/b/c.bin", "weights..bin", ".hidden", "..a/b..", "weights/größe.bin", "a b"}) {
    EXPECT_THAT(CheckManifestPath(path), IsOk()) << path;
  }
  EXPECT_THAT(CheckManifestPath(std::string(255, 'a')), IsOk());
}

TEST(CheckManifestPath, RefusesWhatCouldLeaveTheFolder) {
  const std::string bad[] = {"",
                             "/etc/passwd",
                             "..",
                             "../x",
                             "a/../b",
                             "a/..",
                             ".",
                             "./a",
                             "a/./b",
                             "a//b",
                             "a/",
                             "a\\..\\b",
                             "a\nb",
                             std::string("a\0b", 3),
                             "\x7f",
                             "a/\xff",
                             "\xc0\xae\xc0\xae/x",
                             std::string(513, 'a'),
                             std::string(256, 'a'),
                             "x/" + std::string(256, 'a')};
  for (const std::string& path : bad) {
    EXPECT_THAT(CheckManifestPath(path), StatusIs(absl::StatusCode::kInvalidArgument)) << Quoted(path);
  }
}

TEST(CleanText, ReplacesWhatIsNoText) {
  EXPECT_EQ(CleanText("a\x01 b\xff\xfe c\n\td", 100, Keep::kHead), "a? b?? c\n\td");
  EXPECT_EQ(CleanText("größe ∞ 😀", 100, Keep::kHead), "größe ∞ 😀");
}

TEST(CleanText, NeverCutsACharacterInTwo) {
  for (size_t n = 0; n < 12; ++n) {
    const std::string head = CleanText("aß∞😀z", n, Keep::kHead);
    EXPECT_LE(head.size(), n);
    EXPECT_TRUE(IsValidUtf8(head));
    const std::string tail = CleanText("aß∞😀z", n, Keep::kTail);
    EXPECT_LE(tail.size(), n);
    EXPECT_TRUE(IsValidUtf8(tail)) << n;
    if (n > 0) {
      EXPECT_EQ(tail.back(), 'z');
    }
  }
}

}  // namespace
}  // namespace quant
