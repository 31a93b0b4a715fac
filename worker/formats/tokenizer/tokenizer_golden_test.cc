// SPDX-License-Identifier: Apache-2.0
// Against what other implementations gave: the recorded ids of the shared stories, and python3-sentencepiece.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "worker/formats/tokenizer/tokenizer_testing.h"

namespace quant {
namespace {

using Json = nlohmann::json;
using testing::Ids;
using testing::LoadJson;
using testing::SharedData;
using testing::TempDir;

TEST(GoldenTest, TinyStoriesTokenForToken) {
  const auto folder = SharedData("models/tinystories-656k");
  const auto stories = SharedData("datasets/tinystories.txt");
  QUANT_SKIP_WITHOUT(folder);
  QUANT_SKIP_WITHOUT(stories);
  const auto tokenizer = Tokenizer::Load(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 2048);
  EXPECT_EQ((*tokenizer)->bos(), 1);
  EXPECT_EQ((*tokenizer)->eos(), 2);

  const std::string text = testing::ReadFile(stories);
  const std::string u16 = testing::ReadFile(SharedData("datasets/tinystories.tok2048.u16"));
  const std::string u32 = testing::ReadFile(SharedData("datasets/tinystories.tok2048.offsets.u32"));
  std::vector<uint32_t> offsets(u32.size() / 4);
  std::memcpy(offsets.data(), u32.data(), u32.size());
  static constexpr std::string_view kSeparator = "\n<|endoftext|>\n";
  size_t begin = 0;
  size_t document = 0;
  for (bool last = false; !last; ++document) {
    size_t end = text.find(kSeparator, begin);
    last = end == std::string::npos;
    if (last) end = text.ends_with('\n') ? text.size() - 1 : text.size();
    const std::vector<int32_t> ids = Ids(**tokenizer, std::string_view(text).substr(begin, end - begin), true);
    ASSERT_LT(document + 1, offsets.size() + 1);
    const size_t first = offsets[document];
    const size_t after = document + 1 < offsets.size() ? offsets[document + 1] : u16.size() / 2;
    std::vector<uint16_t> expected(after - first);
    std::memcpy(expected.data(), u16.data() + 2 * first, 2 * expected.size());
    ASSERT_EQ(ids, std::vector<int32_t>(expected.begin(), expected.end())) << "story " << document;
    const absl::StatusOr<std::string> back = (*tokenizer)->Decode(ids);
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_EQ(*back, text.substr(begin, end - begin)) << "story " << document;
    begin = end + kSeparator.size();
  }
  EXPECT_EQ(document, 463U);
}

// Byte-level BPE over all bytes with a few merges, as GPT-2.
Json ByteLevelJson() {
  Json vocab = Json::object();
  const auto add = [&](const std::string& token) {
    if (!vocab.contains(token)) vocab[token] = vocab.size();
  };
  for (int c = 0x21; c <= 0x143; ++c) {
    if ((c >= 0x7F && c <= 0xA0) || c == 0xAD) continue;
    std::string letter;
    if (c < 0x80) {
      letter = static_cast<char>(c);
    } else {
      letter = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    }
    add(letter);
  }
  Json merges = Json::array();
  for (const auto& [a, b] : std::vector<std::pair<std::string, std::string>>{{"t", "h"},
                                                                             {"th", "e"},
                                                                             {"\u0120", "the"},
                                                                             {"a", "a"},
                                                                             {"aa", "aa"},
                                                                             {"\u00c3", "\u00a9"},
                                                                             {"\u00e4", "\u00b8"}}) {
    add(a + b);
    merges.push_back(absl::StrCat(a, " ", b));
  }
  return {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

TEST(RoundTripTest, ByteLevelGivesAnyTextBack) {
  const auto tokenizer = LoadJson(ByteLevelJson());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  constexpr uint32_t kSeed = 20261126;
  std::mt19937 rng(kSeed);
  static constexpr char32_t kLimits[] = {0x80, 0x80, 0x800, 0x3000, 0x10000, 0x110000};
  for (int round = 0; round < 300; ++round) {
    std::string text;
    const size_t length = rng() % 200;
    while (text.size() < length) {
      const char32_t c = rng() % kLimits[rng() % std::size(kLimits)];
      if (c >= 0xD800 && c < 0xE000) continue;
      if (c < 0x80) {
        text += static_cast<char>(c);
      } else if (c < 0x800) {
        text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
      } else if (c < 0x10000) {
        text += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                 static_cast<char>(0x80 | (c & 0x3F))};
      } else {
        text += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
                 static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
      }
    }
    const absl::StatusOr<std::string> back = (*tokenizer)->Decode(Ids(**tokenizer, text));
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_EQ(*back, text) << "seed " << kSeed << ", round " << round;
  }
}

TEST(RoundTripTest, AMegabyteWithoutSpacesEnds) {
  const auto tokenizer = LoadJson(ByteLevelJson());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const std::string& unit : {std::string("a"), std::string(" "), std::string("the"), std::string("\n \t")}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const std::vector<int32_t> ids = Ids(**tokenizer, text);
    const absl::StatusOr<std::string> back = (*tokenizer)->Decode(ids);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, text);
    if (unit == "a") {
      EXPECT_EQ(ids.size(), 250'000U);
    }
  }
}

// What `python3 -c script` prints, or nothing when it fails.
std::string Python(const std::string& script, const std::filesystem::path& folder) {
  testing::WriteFile(folder / "script.py", script);
  const std::string command = "cd '" + folder.string() + "' && python3 script.py 2>/dev/null";
  std::string out;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return out;
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) out.append(buffer.data(), n);
  return pclose(pipe) == 0 ? out : std::string();
}

TEST(SentencePieceTest, GivesTheIdsOfPythonsBinding) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a program with AddressSanitizer cannot load libsentencepiece";
#endif
  if (Python("import sentencepiece\nprint('ok')", TempDir().path()) != "ok\n")
    GTEST_SKIP() << "python3-sentencepiece is not there";
  for (const std::string model_type : {"unigram", "bpe"}) {
    const TempDir folder;
    // Words of a small alphabet, so that pieces of several letters are learnt; accents and digits come in the samples
    // only.
    const std::string out = Python(
        "import random, json, sentencepiece as sp\n"
        "rng = random.Random(5)\n"
        "words = [''.join(rng.choice(['ka','lo','mi','ne','ts','u']) for _ in range(rng.randint(1, 4))) for _ in "
        "range(300)]\n"
        "lines = [' '.join(rng.choice(words) for _ in range(12)) for _ in range(400)]\n"
        "open('corpus.txt', 'w').write('\\n'.join(lines))\n"
        "sp.SentencePieceTrainer.train(input='corpus.txt', model_prefix='tokenizer', vocab_size=340, model_type='" +
            model_type +
            "', byte_fallback=True, num_threads=1, minloglevel=2)\n"
            "model = sp.SentencePieceProcessor(model_file='tokenizer.model')\n"
            "texts = lines[:40] + ['', ' ', 'mi  ka', 'Na\\u00efve \\u4e2d 42\\n', '<s> x']\n"
            "print(json.dumps([[t, model.encode(t), model.decode(model.encode(t))] for t in texts]))\n",
        folder.path());
    const Json expected = Json::parse(out, nullptr, false);
    ASSERT_TRUE(expected.is_array()) << "the trainer failed";
    const auto tokenizer = Tokenizer::Load(folder.path());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->vocab_size(), 340);
    EXPECT_EQ((*tokenizer)->bos(), 1);
    EXPECT_EQ((*tokenizer)->eos(), 2);
    for (const Json& e : expected) {
      const auto text = e[0].get<std::string>();
      auto ids = e[1].get<std::vector<int32_t>>();
      EXPECT_EQ(Ids(**tokenizer, text), ids) << model_type << " " << text;
      const absl::StatusOr<std::string> back = (*tokenizer)->Decode(ids);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(*back, e[2].get<std::string>());
      ids.insert(ids.begin(), 1);
      EXPECT_EQ(Ids(**tokenizer, text, true), ids);
    }
  }
}

}  // namespace
}  // namespace quant
