// SPDX-License-Identifier: Apache-2.0
#include "worker/agent/child_output.h"

#include <string>
#include <vector>

#include "absl/status/status_matchers.h"
#include "gtest/gtest.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;

std::string Frame(const std::string& payload) {
  std::string out;
  for (int i = 0; i < 4; ++i) out += static_cast<char>(payload.size() >> (8 * i));
  return out + payload;
}

TEST(OutputTail, KeepsTheNewestBytes) {
  for (size_t piece : {1, 3, 7, 100}) {
    OutputTail tail(10);
    std::string all;
    for (int i = 0; i < 50; ++i) {
      const std::string bytes(piece, static_cast<char>('a' + i % 26));
      all += bytes;
      tail.Append(bytes);
    }
    EXPECT_EQ(std::string(tail.Get()), all.substr(all.size() - 10)) << piece;
  }
  OutputTail little(10);
  little.Append("abc");
  EXPECT_EQ(std::string(little.Get()), "abc");
}

TEST(FrameSplitter, FindsFramesHoweverTheyArrive) {
  const std::string stream = Frame("one") + Frame("") + Frame(std::string(1000, 'x'));
  for (size_t piece = 1; piece <= stream.size(); ++piece) {
    FrameSplitter splitter;
    std::vector<std::string> got;
    for (size_t at = 0; at < stream.size(); at += piece) {
      ASSERT_THAT(splitter.Append(std::string_view(stream).substr(at, piece),
                                  [&](std::string_view payload) {
                                    got.emplace_back(payload);
                                    return absl::OkStatus();
                                  }),
                  IsOk());
    }
    ASSERT_EQ(got, (std::vector<std::string>{"one", "", std::string(1000, 'x')})) << piece;
  }
}

TEST(FrameSplitter, RefusesAFrameThatIsTooLong) {
  FrameSplitter splitter;
  int frames = 0;
  const auto count = [&](std::string_view) {
    ++frames;
    return absl::OkStatus();
  };
  EXPECT_THAT(splitter.Append(Frame("ok"), count), IsOk());
  EXPECT_THAT(splitter.Append(std::string("\xff\xff\xff\xff", 4), count), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(frames, 1);
}

TEST(FrameSplitter, PassesOnTheReadersError) {
  FrameSplitter splitter;
  EXPECT_THAT(splitter.Append(Frame("x"), [](std::string_view) { return absl::DataLossError("bad"); }),
              StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace quant
