// SPDX-License-Identifier: Apache-2.0
#include "common/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/log/log.h"

namespace quant {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

constexpr char kTrace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(Logging, ScopesNestAndAreOfTheirThread) {
  const LogScope call({.request = "r-1", .traceparent = kTrace});
  {
    const LogScope job({.job = "j-1"});
    EXPECT_EQ(LogScope::Current().job, "j-1");
    EXPECT_EQ(LogScope::Current().request, "r-1");
    EXPECT_EQ(LogScope::Current().traceparent, kTrace);
    std::thread([] { EXPECT_EQ(LogScope::Current().job, ""); }).join();
  }
  EXPECT_EQ(LogScope::Current().job, "");
  EXPECT_EQ(LogScope::Current().request, "r-1");
}

TEST(Logging, AJsonLineIsOneObjectOnOneLineWhateverItSays) {
  const std::string line = JsonLogLine({.time = "t",
                                        .severity = "INFO",
                                        .program = "quantd",
                                        .source = "x.cc:1",
                                        .message = "two\nlines, \"quotes\", \xff and \x1b[2J",
                                        .fields = {.job = "j-1", .request = "r-1", .traceparent = kTrace}});
  EXPECT_THAT(line, AllOf(Not(HasSubstr("\n")), Not(HasSubstr("\x1b"))));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["message"].get<std::string>().substr(0, 20), "two\nlines, \"quotes\",");
  EXPECT_EQ(json["job"], "j-1");
  EXPECT_EQ(json["request"], "r-1");
  EXPECT_EQ(json["trace"], "0af7651916cd43dd8448eb211c80319c");
  EXPECT_FALSE(nlohmann::json::parse(JsonLogLine({.message = "x"})).contains("job"));
}

TEST(Logging, FormatsHaveTheFields) {
  EXPECT_FALSE(ParseLogFormat("xml").ok());
  InitLogging("test");
  const LogScope scope({.job = "j-1", .traceparent = kTrace});
  testing::internal::CaptureStderr();
  LOG(INFO) << "hello";
  SetLogFormat(*ParseLogFormat("json"));
  LOG(WARNING) << "there";
  SetLogFormat(*ParseLogFormat("text"));
  const std::string out = testing::internal::GetCapturedStderr();
  const std::string text = out.substr(0, out.find('\n'));
  EXPECT_THAT(text, EndsWith("hello [job=j-1 trace=0af7651916cd43dd8448eb211c80319c]"));
  const auto json = nlohmann::json::parse(out.substr(out.find('\n') + 1));
  EXPECT_EQ(json["severity"], "WARNING");
  EXPECT_EQ(json["program"], "test");
  EXPECT_EQ(json["message"], "there");
  EXPECT_EQ(json["job"], "j-1");
  EXPECT_THAT(json["source"].get<std::string>(), testing::StartsWith("logging_test.cc:"));
}

}  // namespace
}  // namespace quant
