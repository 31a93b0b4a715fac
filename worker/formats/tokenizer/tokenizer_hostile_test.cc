// SPDX-License-Identifier: Apache-2.0
// Tokenizer files and texts that are wrong or meant to hurt: each is refused with the code and the words that help.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status_matchers.h"
#include "worker/formats/tokenizer/tokenizer_testing.h"

namespace quant {
namespace {

using ::absl_testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::LoadJson;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

Json Small() { return {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}}}, {"merges", Json::array()}}}}; }

TEST(HostileTest, NoTokenizerSaysWhatOneIs) {
  const testing::TempDir folder;
  EXPECT_THAT(Tokenizer::Load(folder.path()),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("tokenizer.json"), HasSubstr("tokenizer.model"))));
}

TEST(HostileTest, FilesThatAreNone) {
  for (const char* text : {"", "[]", "{", "nonsense", "{\"model\": 3}", "{}"}) {
    const testing::TempDir folder;
    testing::WriteFile(folder / "tokenizer.json", text);
    EXPECT_THAT(Tokenizer::Load(folder.path()), StatusIs(kInvalid)) << text;
  }
  const testing::TempDir deep;
  testing::WriteFile(deep / "tokenizer.json", "{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}");
  EXPECT_THAT(Tokenizer::Load(deep.path()), StatusIs(kInvalid, HasSubstr("deeper")));
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a program with AddressSanitizer cannot load libsentencepiece";
#endif
  for (const std::string& text : {std::string(), std::string("no model"), std::string(5000, '\xff')}) {
    const testing::TempDir folder;
    testing::WriteFile(folder / "tokenizer.model", text);
    EXPECT_THAT(Tokenizer::Load(folder.path()), StatusIs(kInvalid, HasSubstr("tokenizer.model")));
  }
}

TEST(HostileTest, UnknownComponentsAreNamed) {
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    Json json = Small();
    json[key] = {{"type", "Frobnicate"}};
    EXPECT_THAT(LoadJson(json),
                StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr(key), HasSubstr("Frobnicate"))));
  }
  Json json = Small();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({{{"type", "Nmt"}}})}};
  EXPECT_THAT(LoadJson(json), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("normalizer.normalizers[0]")));
  json = Small();
  json["model"]["type"] = "Other";
  EXPECT_THAT(LoadJson(json), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("model has type \"Other\"")));
}

TEST(HostileTest, VocabulariesThatCannotBe) {
  Json json = Small();
  json["model"]["vocab"]["b"] = 0;
  EXPECT_THAT(LoadJson(json), StatusIs(kInvalid, HasSubstr("id 0 is")));
  for (const Json& id : {Json(-1), Json(1'000'000'000), Json(1.5), Json("1"), Json(uint64_t{1} << 63)}) {
    json = Small();
    json["model"]["vocab"]["b"] = id;
    EXPECT_THAT(LoadJson(json), StatusIs(kInvalid)) << id;
  }
  json = Small();
  json["model"]["vocab"][std::string(5000, 'x')] = 2;
  EXPECT_THAT(LoadJson(json), StatusIs(kInvalid, HasSubstr("4096")));
  for (const Json& merge : {Json("a"), Json("a b c"), Json("a x"), Json("a b"), Json(3), Json::array({"a"})}) {
    json = Small();
    json["model"]["merges"].push_back(merge);
    EXPECT_THAT(LoadJson(json), StatusIs(kInvalid, HasSubstr("merges has an entry 0"))) << merge;
  }
  json = Small();
  json["added_tokens"] = Json::array({{{"id", 0}, {"content", "<s>"}}});
  EXPECT_THAT(LoadJson(json), StatusIs(kInvalid, HasSubstr("added_tokens[0].id is 0")));
  json = Small();
  json["post_processor"] = {{"type", "BertProcessing"}, {"cls", {"a", 7}}, {"sep", {"b", 1}}};
  EXPECT_THAT(LoadJson(json), StatusIs(kInvalid, HasSubstr("adds id 7")));
}

Json WithSplit(const std::string& regex) {
  Json json = Small();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
  return json;
}

TEST(HostileTest, PatternsThatDoNotCompileOrNeverEnd) {
  EXPECT_THAT(LoadJson(WithSplit("(a")), StatusIs(kInvalid, HasSubstr("pre_tokenizer.pattern")));
  const auto tokenizer = LoadJson(WithSplit("(a+)+(?<=x)"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode(std::string(100, 'a'), false),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("backtracks too much at byte 0")));
  // Oniguruma's classes inside classes, as BLOOM's pattern has them.
  Json bloom = WithSplit(" ?[^(\\s|[.,!?])]+");
  bloom["model"] = {{"type", "WordLevel"},
                    {"unk_token", "?"},
                    {"vocab", {{"?", 0}, {"a", 1}, {" b", 2}, {"c", 3}, {".", 4}, {"(", 5}}}};
  const auto nested = LoadJson(bloom);
  ASSERT_TRUE(nested.ok()) << nested.status();
  EXPECT_EQ(testing::Ids(**nested, "a b.c("), (std::vector<int32_t>{1, 2, 4, 3, 5}));
  EXPECT_EQ(testing::Ids(**LoadJson(WithSplit("[\\p{L}&&[^a]]")), "ab"), (std::vector<int32_t>{0, 1}));
  // An empty match moves on.
  const auto empty = LoadJson(WithSplit("x*"));
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(testing::Ids(**empty, "ab"), (std::vector<int32_t>{0, 1}));
}

TEST(HostileTest, TextsThatAreNone) {
  const auto tokenizer = LoadJson(Small());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a\xff", false), StatusIs(kInvalid, HasSubstr("not UTF-8")));
  EXPECT_THAT((*tokenizer)->Encode(std::string(static_cast<size_t>(Tokenizer::kMaxTextBytes) + 1, 'a'), false),
              StatusIs(kInvalid, HasSubstr("33554432")));
  EXPECT_EQ(testing::Ids(**tokenizer, ""), std::vector<int32_t>());
  EXPECT_THAT((*tokenizer)->Decode(std::vector<int32_t>{0, 2}), StatusIs(kInvalid, HasSubstr("id 2 at position 1")));
  EXPECT_THAT((*tokenizer)->Decode(std::vector<int32_t>{-1}), StatusIs(kInvalid));
}

TEST(HostileTest, NormalizersThatBlowUp) {
  Json json = Small();
  const Json grow = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(4000, 'a')}};
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {grow, grow, grow}}};
  const auto tokenizer = LoadJson(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a", false),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("longer than")));
}

}  // namespace
}  // namespace quant
