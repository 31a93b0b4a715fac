// SPDX-License-Identifier: Apache-2.0
#include "common/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/strings.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Options {
  std::string name = "none";
  bool verbose = false;
  bool color = true;
  int64_t count = 5;
  int bits = 8;
  double alpha = 0.5;
  absl::Duration wait = absl::Seconds(3);
  std::vector<std::string> labels;
  int64_t memory = 0;
  FlagSet flags{"prog", "prog [flags]"};

  Options() {
    flags.Add("name", &name, "NAME", "A name.");
    flags.Add("verbose", &verbose, "", "More words.");
    flags.Add("color", &color, "", "Colours.");
    flags.Add("count", &count, "N", "How many.", 1, 100);
    flags.Add("bits", &bits, "N", "Bits.", 2, 8);
    flags.Add("alpha", &alpha, "X", "Strength.");
    flags.Add("wait", &wait, "TIME", "How long.");
    flags.Add("label", &labels, "KEY=VALUE", "A label.");
    flags.AddBytes("memory", &memory, "BYTES", "Memory.");
  }
  std::string Error(const std::vector<std::string>& args) {
    return std::string(StdView(flags.Parse(args, nullptr).message()));
  }
};

TEST(Flags, EveryFormOfEveryType) {
  Options o;
  std::vector<std::string> rest;
  ASSERT_TRUE(
      o.flags
          .Parse({"up", "--name", "x y", "--verbose", "--no-color", "--count=7", "--bits", "4", "--alpha", "-1e-3",
                  "--wait=1h30m", "--label", "a=1", "--label=b=2", "--memory", "1.5GiB", "--", "--name"},
                 &rest)
          .ok());
  EXPECT_EQ(o.name, "x y");
  EXPECT_TRUE(o.verbose);
  EXPECT_FALSE(o.color);
  EXPECT_EQ(o.count, 7);
  EXPECT_EQ(o.bits, 4);
  EXPECT_EQ(o.alpha, -1e-3);
  EXPECT_EQ(o.wait, absl::Minutes(90));
  EXPECT_THAT(o.labels, ElementsAre("a=1", "b=2"));
  EXPECT_EQ(o.memory, int64_t{3} << 29);
  EXPECT_THAT(rest, ElementsAre("up", "--name"));
  EXPECT_TRUE(o.flags.IsSet("count"));
}

TEST(Flags, DefaultsStayAndIsSetTellsThemApart) {
  Options o;
  ASSERT_TRUE(o.flags.Parse({}, nullptr).ok());
  EXPECT_EQ(o.count, 5);
  EXPECT_FALSE(o.flags.IsSet("count"));
}

TEST(Flags, UnknownFlagNamesTheNearest) {
  Options o;
  EXPECT_THAT(o.Error({"--cuont", "3"}), HasSubstr("did you mean --count?"));
  EXPECT_THAT(o.Error({"--zzzzzzzzz"}), Not(HasSubstr("did you mean")));
  EXPECT_THAT(o.Error({"-x"}), HasSubstr("\"-x\""));
}

TEST(Flags, BadValuesAreNamedWithTheirRange) {
  Options o;
  EXPECT_EQ(o.Error({"--count", "101"}), "--count wants an integer from 1 to 100, not \"101\"");
  EXPECT_THAT(o.Error({"--count", "7x"}), HasSubstr("\"7x\""));
  EXPECT_THAT(o.Error({"--count", "99999999999999999999"}), HasSubstr("1 to 100"));
  EXPECT_THAT(o.Error({"--bits=1"}), HasSubstr("2 to 8"));
  EXPECT_THAT(o.Error({"--wait", "5"}), HasSubstr("unit"));
  EXPECT_THAT(o.Error({"--wait=-5s"}), HasSubstr("not negative"));
  EXPECT_THAT(o.Error({"--alpha=nan"}), HasSubstr("finite"));
  EXPECT_THAT(o.Error({"--verbose=maybe"}), HasSubstr("true or false"));
  EXPECT_THAT(o.Error({"--memory", "12Q"}), HasSubstr("size in bytes"));
  EXPECT_THAT(o.Error({"--name"}), HasSubstr("--name NAME"));
  EXPECT_THAT(o.Error({"--name", "--verbose"}), HasSubstr("wants a value"));
  EXPECT_THAT(o.Error({"stray"}), HasSubstr("\"stray\""));
  EXPECT_THAT(o.Error({"--no-count"}), HasSubstr("no flag"));
}

TEST(Flags, HelpListsEverythingAndStopsParsing) {
  Options o;
  o.flags.SetEpilog("Examples:\n  prog --name x");
  ASSERT_TRUE(o.flags.Parse({"--help", "--nonsense"}, nullptr).ok());
  EXPECT_TRUE(o.flags.help_requested());
  const std::string help = o.flags.Help();
  for (const char* part :
       {"Usage: prog [flags]", "--name NAME  (default none)", "--[no-]verbose", "(default 3s)", "Examples:"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
  EXPECT_THAT(o.flags.Names(), testing::Contains("--memory"));
}

TEST(ParseBytes, UnitsAndLimits) {
  EXPECT_EQ(ParseBytes("0").value(), 0);
  EXPECT_EQ(ParseBytes("512MiB").value(), int64_t{512} << 20);
  EXPECT_EQ(ParseBytes("4g").value(), int64_t{4} << 30);
  EXPECT_EQ(ParseBytes("2kB").value(), 2000);
  EXPECT_EQ(ParseBytes("9223372036854775807").value(), INT64_MAX);
  for (const char* bad : {"", "x", "-1", "1X", "1KiBs", "9223372036854775808", "9223372036854775807k", "1..5", "."}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace quant
