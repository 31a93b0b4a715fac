// SPDX-License-Identifier: Apache-2.0
// Replays fuzz/corpus in the ordinary build: seeds, and the inputs that once broke a reader.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "fuzz/fuzz_target.h"

namespace quant::fuzz {
namespace {

const std::filesystem::path kCorpus = QUANT_CORPUS;

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& [name, target] : Targets()) names.push_back(name);
  return names;
}

class CorpusTest : public testing::TestWithParam<std::string> {};

TEST_P(CorpusTest, NothingBreaksItsReader) {
  absl::SetMinLogLevel(absl::LogSeverityAtLeast::kFatal);
  std::vector<std::filesystem::path> files;
  ASSERT_TRUE(std::filesystem::is_directory(kCorpus / GetParam())) << "a target without a corpus: fuzz/seeds.py";
  for (const auto& entry : std::filesystem::directory_iterator(kCorpus / GetParam())) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  EXPECT_FALSE(files.empty());
  for (const std::filesystem::path& file : files) {
    SCOPED_TRACE(file.string());
    std::ifstream in(file, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    Targets()[GetParam()](bytes);
    // What a damaged transfer makes of it.
    for (const size_t size : {bytes.size() / 2, bytes.size() - std::min<size_t>(bytes.size(), 1)}) {
      Targets()[GetParam()](std::string_view(bytes).substr(0, size));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, CorpusTest, testing::ValuesIn(Names()),
                         [](const auto& param) { return param.param; });

TEST(Corpus, HasNoFolderWithoutATarget) {
  for (const auto& entry : std::filesystem::directory_iterator(kCorpus)) {
    EXPECT_THAT(Names(), testing::Contains(entry.path().filename().string()));
  }
}

TEST(Parts, AreSplitAtMarksAndThereAreAsManyAsAsked) {
  EXPECT_THAT(Parts("a\n----\nb\n----\nc", 2), testing::ElementsAre("a", "b\n----\nc"));
  EXPECT_THAT(Parts("a", 3), testing::ElementsAre("a", "", ""));
}

}  // namespace
}  // namespace quant::fuzz
