// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli.h"
#include "client/command.h"

namespace quant {
namespace {

using testing::Contains;

using testing::Not;

// What bash would offer after the words of `line`, the last one being completed.
std::vector<std::string> Complete(const std::string& line) {
  const std::string script = testing::TempDir() + "/quantctl_completion.bash";
  const std::string out = testing::TempDir() + "/quantctl_completion.out";
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  std::string array;
  for (const std::string& word : words) absl::StrAppend(&array, "'", word, "' ");
  std::ofstream(script) << CompletionScript() << "\nCOMP_WORDS=(" << array << ")\nCOMP_CWORD=" << words.size() - 1
                        << "\nset -u\n_quantctl\nprintf '%s\\n' \"${COMPREPLY[@]-}\"\n";
  EXPECT_EQ(std::system(absl::StrCat("bash ", script, " >", out, " 2>&1").c_str()), 0);
  std::ifstream in(out);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

TEST(CompletionTest, CoversEveryCommandAndFlag) {
  const std::vector<std::string> groups = Complete("quantctl ");
  for (const auto& command : MakeCommands()) {
    const CommandInfo& info = command->info();
    EXPECT_THAT(groups, Contains(info.group));
    EXPECT_THAT(Complete(absl::StrCat("quantctl ", info.group, " ")), Contains(info.name));
    FlagSet flags("", "");
    command->AddFlags(flags);
    const std::vector<std::string> offered = Complete(absl::StrCat("quantctl ", info.group, " ", info.name, " --"));
    for (const std::string& name : flags.Names())
      EXPECT_THAT(offered, Contains(name)) << info.group << " " << info.name;
    EXPECT_THAT(offered, Contains("--server"));
  }
}

TEST(CompletionTest, OffersValuesOfFlagsAndSkipsThoseOfGlobalOnes) {
  EXPECT_THAT(Complete("quantctl job submit --method sm"), testing::ElementsAre("smoothquant"));
  EXPECT_THAT(Complete("quantctl job submit --method = gp"), testing::ElementsAre("gptq"));
  EXPECT_THAT(Complete("quantctl --server localhost : 9000 --output json job report j-1 --format h"),
              testing::ElementsAre("html"));
  EXPECT_THAT(Complete("quantctl --server = localhost : 9000 mod"), testing::ElementsAre("model"));
  EXPECT_THAT(Complete("quantctl job submit --format com"), testing::ElementsAre("compressed-tensors"));
  EXPECT_THAT(Complete("quantctl model upload /et"), testing::ElementsAre("/etc"));
  EXPECT_THAT(Complete("quantctl job submit --model "), Not(Contains("--bits")));
}

TEST(CompletionTest, TheScriptInTheRepositoryIsTheOneTheCommandsMake) {
  std::ifstream in(QUANT_COMPLETION_FILE);
  const std::string there{std::istreambuf_iterator<char>(in), {}};
  EXPECT_TRUE(there == CompletionScript()) << "make it again: quantctl completion >client/completion/quantctl.bash";
}

}  // namespace
}  // namespace quant
