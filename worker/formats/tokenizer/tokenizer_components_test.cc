// SPDX-License-Identifier: Apache-2.0
// Each component of tokenizer.json on small texts. Expected values were worked out by hand from the upstream sources
// (tokenizers/src/{normalizers,pre_tokenizers,models,processors,decoders}) and the published regular expressions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status_matchers.h"
#include "worker/formats/tokenizer/tokenizer_testing.h"

namespace quant {
namespace {

using ::absl_testing::IsOkAndHolds;
using ::testing::ElementsAre;
using testing::Ids;
using testing::LoadJson;
using testing::Pieces;
using testing::PiecesOnly;
using Json = nlohmann::json;
using Words = std::vector<std::string>;

// What `normalizer` makes of `text`.
std::string Normalized(const Json& normalizer, std::string_view text, const std::string& expected) {
  Json json = PiecesOnly();
  json["normalizer"] = normalizer;
  const Words pieces = Pieces(json, text, {expected});
  return pieces.size() == 1 ? pieces[0] : "not one piece";
}

Words Cut(const Json& pre_tokenizer, std::string_view text, const Words& expected) {
  Json json = PiecesOnly();
  json["pre_tokenizer"] = pre_tokenizer;
  return Pieces(json, text, expected);
}

#define EXPECT_NORMALIZED(normalizer, text, expected) EXPECT_EQ(Normalized(normalizer, text, expected), expected)
#define EXPECT_CUT(pre_tokenizer, text, ...) EXPECT_EQ(Cut(pre_tokenizer, text, Words __VA_ARGS__), (Words __VA_ARGS__))

TEST(NormalizerTest, UnicodeForms) {
  EXPECT_NORMALIZED(Json({{"type", "NFC"}}), "e\u0301\u212B", "\u00e9\u00c5");
  EXPECT_NORMALIZED(Json({{"type", "NFD"}}), "\u00e9\u1e69", "e\u0301s\u0323\u0307");
  EXPECT_NORMALIZED(Json({{"type", "NFKC"}}), "\ufb01\u00b2e\u0301", "fi2\u00e9");
  EXPECT_NORMALIZED(Json({{"type", "NFKD"}}), "\u2460\u00e9", "1e\u0301");
}

TEST(NormalizerTest, Characters) {
  EXPECT_NORMALIZED(Json({{"type", "Lowercase"}}), "\u00c4\u0130\u03a3X", "\u00e4i\u0307\u03c3x");
  EXPECT_NORMALIZED(Json({{"type", "StripAccents"}}), "e\u0301\u00e9", "e\u00e9");
  EXPECT_NORMALIZED(Json({{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}}), " \u3000a b\n", "a b");
  EXPECT_NORMALIZED(Json({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}}), " a ", " a");
  EXPECT_NORMALIZED(Json({{"type", "Prepend"}, {"prepend", "\u2581"}}), "a", "\u2581\u0061");
  EXPECT_NORMALIZED(Json({{"type", "ByteLevel"}}), "a \u00e9\n", "a\u0120\u00c3\u00a9\u010a");
  EXPECT_NORMALIZED(Json({{"type", "BertNormalizer"}}), "H\u00c9\tl\u4e2d", "he l \u4e2d ");
}

TEST(NormalizerTest, ReplaceAndSequence) {
  const Json string = {{"type", "Replace"}, {"pattern", {{"String", "aa"}}}, {"content", "b"}};
  EXPECT_NORMALIZED(string, "aaaaa", "bba");
  const Json regex = {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", "_"}};
  EXPECT_NORMALIZED(regex, "a   b c", "a_b c");
  EXPECT_NORMALIZED(Json({{"type", "Sequence"}, {"normalizers", {regex, {{"type", "Lowercase"}}}}}), "A  B", "a_b");
}

TEST(NormalizerTest, PrecompiledReplacesByTheShortestPrefix) {
  // A double array for "A" -> "xy": the root's offset is 0; unit 'A' = 65 has its leaf at 65 ^ 2 = 67.
  std::string bytes;
  const auto word = [&](uint32_t v) {
    for (int i = 0; i < 4; ++i) bytes += static_cast<char>(v >> (8 * i) & 255);
  };
  word(4 * 68);
  for (uint32_t i = 0; i < 68; ++i) word(i == 65 ? (2U << 10 | 1U << 8 | 65U) : i == 67 ? 1U << 31 : 0U);
  bytes += std::string("xy\0", 3);
  static constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string base64;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    for (size_t k = 0; k < 3; ++k) v = v << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    for (size_t k = 0; k < 4; ++k) base64 += i + k > bytes.size() ? '=' : kLetters[v >> (18 - 6 * k) & 63];
  }
  EXPECT_NORMALIZED(Json({{"type", "Precompiled"}, {"precompiled_charsmap", base64}}), "BAA\u00e9", "Bxyxy\u00e9");
}

TEST(PreTokenizerTest, ByteLevelCutsAsGpt2) {
  const Json plain = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  EXPECT_CUT(plain, "I'm  here, 42\n\n x",
             {"I", "'m", "\u0120", "\u0120here", ",", "\u012042", "\u010a\u010a", "\u0120x"});
  EXPECT_CUT(Json({{"type", "ByteLevel"}, {"add_prefix_space", true}}), "a", {"\u0120\u0061"});
  EXPECT_CUT(Json({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}), "a b",
             {"a\u0120\u0062"});
}

TEST(PreTokenizerTest, LlamaThreesSplit) {
  const Json split = {
      {"type", "Split"},
      {"pattern",
       {{"Regex",
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  EXPECT_CUT(split, "It'S 12345 a\u0308\u00e4!!\n\n  z (q",
             {"It", "'S", " ", "123", "45", " a", "\u0308\u00e4", "!!\n\n", " ", " z", " (", "q"});
}

TEST(PreTokenizerTest, BehavioursOfSplit) {
  const auto split = [](const char* behavior, bool invert) {
    return Json({{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", invert}});
  };
  EXPECT_CUT(split("Removed", false), "a-b--c", {"a", "b", "c"});
  EXPECT_CUT(split("Removed", true), "a-b--c", {"-", "-", "-"});
  EXPECT_CUT(split("Isolated", false), "a-b--c", {"a", "-", "b", "-", "-", "c"});
  EXPECT_CUT(split("MergedWithPrevious", false), "a-b--c", {"a-", "b-", "-", "c"});
  EXPECT_CUT(split("MergedWithNext", false), "a-b--c", {"a", "-b", "-", "-c"});
  EXPECT_CUT(split("Contiguous", false), "a-b--c", {"a", "-", "b", "--", "c"});
}

TEST(PreTokenizerTest, CharacterClasses) {
  EXPECT_CUT(Json({{"type", "Whitespace"}}), "Hey, you_2\u00e9?! x", {"Hey", ",", "you_2\u00e9", "?!", "x"});
  EXPECT_CUT(Json({{"type", "WhitespaceSplit"}}), "a,\u3000b  c", {"a,", "b", "c"});
  EXPECT_CUT(Json({{"type", "Digits"}, {"individual_digits", true}}), "a12\u00bd", {"a", "1", "2", "\u00bd"});
  EXPECT_CUT(Json({{"type", "Digits"}, {"individual_digits", false}}), "a12b", {"a", "12", "b"});
  EXPECT_CUT(Json({{"type", "Punctuation"}}), "a$b\u2014", {"a", "$", "b", "\u2014"});
  EXPECT_CUT(Json({{"type", "BertPreTokenizer"}}), "a b,c", {"a", "b", ",", "c"});
  EXPECT_CUT(Json({{"type", "CharDelimiterSplit"}, {"delimiter", "x"}}), "axb", {"a", "b"});
}

TEST(PreTokenizerTest, Metaspace) {
  const auto metaspace = [](const char* scheme, bool split) {
    return Json({{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", scheme}, {"split", split}});
  };
  EXPECT_CUT(metaspace("always", true), "a  b", {"\u2581\u0061", "\u2581", "\u2581\u0062"});
  EXPECT_CUT(metaspace("never", true), "a b", {"a", "\u2581\u0062"});
  EXPECT_CUT(metaspace("first", false), "a b", {"\u2581\u0061\u2581\u0062"});
  EXPECT_CUT(Json({{"type", "Sequence"}, {"pretokenizers", {{{"type", "WhitespaceSplit"}}, metaspace("first", true)}}}),
             "a b", {"\u2581\u0061", "b"});
}

Json Bpe(const Json& vocab, const Json& merges) {
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

TEST(BpeTest, TheLowestRankMergesFirstAndTheLeftmostOfEquals) {
  const Json json = Bpe({{"a", 0}, {"b", 1}, {"c", 2}, {"bc", 3}, {"ab", 4}, {"aa", 5}}, {"b c", "a b", "a a"});
  const auto tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "abc"), ElementsAre(0, 3));  // b c has the lower rank
  EXPECT_THAT(Ids(**tokenizer, "aaa"), ElementsAre(5, 0));  // leftmost
  EXPECT_THAT(Ids(**tokenizer, "aab"), ElementsAre(0, 4));
}

TEST(BpeTest, MergesMayBePairs) {
  const auto tokenizer = LoadJson(Bpe({{"a", 0}, {" ", 1}, {"a ", 2}}, Json::array({Json::array({"a", " "})})));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "a a"), ElementsAre(2, 0));
}

TEST(BpeTest, UnknownCharacters) {
  Json json = Bpe({{"a", 0}, {"<unk>", 1}}, Json::array());
  EXPECT_THAT(Ids(**LoadJson(json), "axya"), ElementsAre(0, 0));  // no unknown token: dropped, as upstream does
  json["model"]["unk_token"] = "<unk>";
  EXPECT_THAT(Ids(**LoadJson(json), "axya"), ElementsAre(0, 1, 1, 0));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(Ids(**LoadJson(json), "axyax"), ElementsAre(0, 1, 0, 1));
  json["model"]["byte_fallback"] = true;
  json["model"]["vocab"]["<0xC3>"] = 2;
  json["model"]["vocab"]["<0xA9>"] = 3;
  EXPECT_THAT(Ids(**LoadJson(json), "a\u00e9x"), ElementsAre(0, 2, 3, 1));  // x's byte is not there
}

TEST(BpeTest, IgnoreMergesTakesWholeWords) {
  Json json = Bpe({{"a", 0}, {"b", 1}, {"aba", 2}, {"ab", 3}}, Json::array({"a b"}));
  EXPECT_THAT(Ids(**LoadJson(json), "aba"), ElementsAre(3, 0));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(Ids(**LoadJson(json), "aba"), ElementsAre(2));
}

TEST(BpeTest, PrefixAndSuffix) {
  Json json = Bpe({{"a", 0}, {"##b", 1}, {"##c</w>", 2}, {"ab", 3}, {"abc</w>", 4}}, {"a ##b", "ab ##c</w>"});
  json["model"]["continuing_subword_prefix"] = "##";
  json["model"]["end_of_word_suffix"] = "</w>";
  EXPECT_THAT(Ids(**LoadJson(json), "abc"), ElementsAre(4));
}

TEST(UnigramTest, TakesTheMostProbableCut) {
  Json json = {
      {"model",
       {{"type", "Unigram"},
        {"unk_id", 0},
        {"vocab", Json::array({{"<unk>", 0.0}, {"a", -1.0}, {"b", -1.0}, {"ab", -1.5}, {"abc", -9.0}, {"c", -2.0}})}}}};
  EXPECT_THAT(Ids(**LoadJson(json), "abc"), ElementsAre(3, 5));      // -3.5 beats -4 and -9
  EXPECT_THAT(Ids(**LoadJson(json), "axyb"), ElementsAre(1, 0, 2));  // a run is one unknown token
  json["model"]["byte_fallback"] = true;
  json["model"]["vocab"].push_back(Json::array({"<0x78>", -5.0}));
  EXPECT_THAT(Ids(**LoadJson(json), "ax"), ElementsAre(1, 6));
}

TEST(WordPieceTest, TakesTheLongestPrefix) {
  const Json json = {{"model",
                      {{"type", "WordPiece"},
                       {"unk_token", "[UNK]"},
                       {"continuing_subword_prefix", "##"},
                       {"max_input_chars_per_word", 5},
                       {"vocab", {{"[UNK]", 0}, {"un", 1}, {"##aff", 2}, {"##a", 3}, {"u", 4}}}}}};
  EXPECT_THAT(Ids(**LoadJson(json), "unaff"), ElementsAre(1, 2));
  EXPECT_THAT(Ids(**LoadJson(json), "una"), ElementsAre(1, 3));
  EXPECT_THAT(Ids(**LoadJson(json), "unb"), ElementsAre(0));
  EXPECT_THAT(Ids(**LoadJson(json), "unaffa"), ElementsAre(0));  // six characters
}

Json WithAdded(const Json& token) {
  Json json = Bpe({{"a", 0}, {"b", 1}, {" ", 2}, {"<", 3}, {"s", 4}, {">", 5}, {"A", 6}}, Json::array());
  json["added_tokens"] = Json::array({token});
  return json;
}

TEST(AddedTokensTest, AreCutOutOfTheText) {
  Json token = {{"id", 9}, {"content", "<s>"}, {"special", true}, {"normalized", false}};
  EXPECT_THAT(Ids(**LoadJson(WithAdded(token)), "a <s> b"), ElementsAre(0, 2, 9, 2, 1));
  token["lstrip"] = true;
  EXPECT_THAT(Ids(**LoadJson(WithAdded(token)), "a <s> b"), ElementsAre(0, 9, 2, 1));
  token["rstrip"] = true;
  EXPECT_THAT(Ids(**LoadJson(WithAdded(token)), "a <s> b"), ElementsAre(0, 9, 1));
  EXPECT_THAT(Ids(**LoadJson(WithAdded(token)), "<s>  <s>"), ElementsAre(9, 9));
  token["single_word"] = true;
  EXPECT_THAT(Ids(**LoadJson(WithAdded(token)), "a<s> <s>"), ElementsAre(0, 3, 4, 5, 9));
}

TEST(AddedTokensTest, NormalizedTokensAreFoundAfterTheNormalizer) {
  Json json = WithAdded({{"id", 9}, {"content", "A"}, {"special", false}, {"normalized", true}});
  json["model"]["vocab"].erase("A");
  json["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(Ids(**LoadJson(json), "bAa"), ElementsAre(1, 9, 9));
  json["added_tokens"][0]["normalized"] = false;
  EXPECT_THAT(Ids(**LoadJson(json), "bAa"), ElementsAre(1, 9, 0));
}

TEST(AddedTokensTest, TheLongestOfTheLeftmostWins) {
  Json json = WithAdded({{"id", 9}, {"content", "ab"}, {"normalized", false}});
  json["added_tokens"].push_back({{"id", 10}, {"content", "abb"}, {"normalized", false}});
  EXPECT_THAT(Ids(**LoadJson(json), "aabbab"), ElementsAre(0, 10, 9));
}

TEST(PostProcessorTest, SpecialTokensAroundTheText) {
  Json json = WithAdded({{"id", 9}, {"content", "<s>"}, {"special", true}});
  const Json special = {{"<s>", {{"id", "<s>"}, {"ids", Json::array({9})}, {"tokens", Json::array({"<s>"})}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json begin = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const Json templ = {{"type", "TemplateProcessing"}, {"single", {begin, text}}, {"special_tokens", special}};
  json["post_processor"] = {{"type", "Sequence"}, {"processors", {{{"type", "ByteLevel"}}, templ}}};
  auto tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "ab", true), ElementsAre(9, 0, 1));
  EXPECT_THAT(Ids(**tokenizer, "ab", false), ElementsAre(0, 1));
  EXPECT_EQ((*tokenizer)->bos(), 9);
  EXPECT_EQ((*tokenizer)->eos(), std::nullopt);
  EXPECT_EQ((*tokenizer)->vocab_size(), 10);
  json["post_processor"] = {{"type", "BertProcessing"}, {"cls", {"a", 0}}, {"sep", {"b", 1}}};
  tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "s", true), ElementsAre(0, 4, 1));
}

TEST(EndsTest, ComeFromTheConfigurationFiles) {
  const testing::TempDir folder;
  testing::WriteFile(folder / "tokenizer.json", WithAdded({{"id", 9}, {"content", "<s>"}, {"special", true}}).dump());
  testing::WriteFile(folder / "tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": null})");
  testing::WriteFile(folder / "special_tokens_map.json", R"({"eos_token": "b"})");
  auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos(), 9);
  EXPECT_EQ((*tokenizer)->eos(), 1);
  testing::WriteFile(folder / "tokenizer_config.json", R"({"bos_token": "<none>"})");
  EXPECT_THAT(Tokenizer::Load(folder.path()).status().message(), ::testing::HasSubstr("\"<none>\", which is not in"));
}

TEST(VocabAndMergesTest, AreAByteLevelBpe) {
  const testing::TempDir folder;
  testing::WriteFile(folder / "vocab.json",
                     Json({{"</s>", 0}, {"a", 1}, {"b", 2}, {"\u0120", 3}, {"ab", 4}, {"\u0120ab", 5}}).dump());
  testing::WriteFile(folder / "merges.txt", "#version: 0.2\na b\n\u0120 ab\n");
  testing::WriteFile(folder / "special_tokens_map.json", R"({"bos_token": "</s>"})");
  testing::WriteFile(folder / "added_tokens.json", R"({"<new>": 7})");
  const auto tokenizer = Tokenizer::Load(folder.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Ids(**tokenizer, "ab ab</s><new>a"), ElementsAre(4, 5, 0, 7, 1));
  EXPECT_EQ((*tokenizer)->bos(), 0);
  EXPECT_THAT((*tokenizer)->Decode(std::vector<int32_t>{0, 5, 7}), IsOkAndHolds(" ab<new>"));
}

std::string Decoded(const Json& decoder, const Words& tokens) {
  Json json = Bpe(Json::object(), Json::array());
  std::vector<int32_t> ids;
  for (const std::string& token : tokens) {
    Json& vocab = json["model"]["vocab"];
    if (!vocab.contains(token)) vocab[token] = vocab.size();
    ids.push_back(vocab[token].get<int32_t>());
  }
  json["decoder"] = decoder;
  const auto tokenizer = LoadJson(json);
  CHECK_OK(tokenizer.status());
  const absl::StatusOr<std::string> text = (*tokenizer)->Decode(ids);
  CHECK_OK(text.status());
  return *text;
}

TEST(DecoderTest, EachType) {
  EXPECT_EQ(Decoded(nullptr, {"a", "b"}), "a b");
  EXPECT_EQ(Decoded({{"type", "ByteLevel"}}, {"a\u0120", "\u00c3", "\u00a9", "\u00c3"}), "a \u00e9\ufffd");
  EXPECT_EQ(Decoded({{"type", "Metaspace"}, {"prepend_scheme", "first"}}, {"\u2581\u0061", "\u2581\u0062"}), "a b");
  EXPECT_EQ(Decoded({{"type", "WordPiece"}}, {"un", "##aff", "."}), "unaff.");
  EXPECT_EQ(Decoded({{"type", "BPEDecoder"}}, {"un", "a</w>", "b</w>"}), "una b");
  const Json llama = {{"type", "Sequence"},
                      {"decoders",
                       {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                        {{"type", "ByteFallback"}},
                        {{"type", "Fuse"}},
                        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  EXPECT_EQ(Decoded(llama, {"\u2581\u0061", "<0xC3>", "<0xA9>", "\u2581\u2581\u0062"}), "a\u00e9  b");
  EXPECT_EQ(Decoded(llama, {"<0xC3>", "x"}), "\ufffdx");
}

TEST(DecoderTest, LeavesSpecialTokensOut) {
  const auto tokenizer = LoadJson(WithAdded({{"id", 9}, {"content", "<s>"}, {"special", true}}));
  EXPECT_THAT((*tokenizer)->Decode(std::vector<int32_t>{9, 0}), IsOkAndHolds("a"));
}

}  // namespace
}  // namespace quant
