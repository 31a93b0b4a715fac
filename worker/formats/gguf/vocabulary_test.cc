// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/vocabulary.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "absl/status/status_matchers.h"
#include "absl/strings/str_format.h"
#include "worker/formats/checkpoint_testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;

// A checkpoint with these files and nothing of interest besides.
std::shared_ptr<const Checkpoint> With(const TempDir& dir,
                                       const std::vector<std::pair<std::string, std::string>>& files,
                                       const nlohmann::json& config = nlohmann::json::object()) {
  (void)testing::MakeCheckpoint(dir.path(), config, {{"t", Tensor::Scalar(1.0f)}});
  for (const auto& [name, content] : files) testing::WriteFile(dir / name, content);
  return *Checkpoint::Open(dir.path());
}

constexpr char kFallback[] = R"({"model":{"type":"BPE","byte_fallback":true,"unk_token":"<unk>",
  "vocab":{"<unk>":0,"<s>":1,"</s>":2,"<0x0A>":3,"a":4,"b":5,"c":6,"ab":7,"abc":8,"bc":9},
  "merges":["a b","ab c",["b","c"]]},
  "added_tokens":[{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true},
                  {"id":10,"content":"<tool>","special":false}],
  "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"_"}]},
  "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},
                    {"Sequence":{"id":"A","type_id":0}}]},
  "pre_tokenizer":null,"decoder":null})";

TEST(GgufVocabulary, OfByteFallbackBpe) {
  TempDir dir;
  const auto checkpoint = With(dir, {{"tokenizer.json", kFallback},
                                     {"tokenizer_config.json", R"({"bos_token":{"content":"<s>"},"eos_token":"</s>",
                                                                   "unk_token":"<unk>","chat_template":"{{x}}"})"}});
  const auto v = ReadGgufVocabulary(*checkpoint, 12);
  ASSERT_THAT(v, IsOk());
  EXPECT_EQ(v->model, "llama");
  EXPECT_THAT(v->tokens,
              ElementsAre("<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "c", "ab", "abc", "bc", "<tool>", "[PAD11]"));
  EXPECT_THAT(v->types, ElementsAre(2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 4, 5));
  EXPECT_GT(v->scores[7], v->scores[8]);
  EXPECT_GT(v->scores[8], v->scores[9]);
  EXPECT_GT(v->scores[9], v->scores[4]);
  EXPECT_EQ(v->bos, 1u);
  EXPECT_EQ(v->eos, 2u);
  EXPECT_EQ(v->unknown, 0u);
  EXPECT_EQ(v->padding, std::nullopt);
  EXPECT_TRUE(v->add_bos);  // by the post-processor
  EXPECT_EQ(v->add_space_prefix, true);
  EXPECT_EQ(v->chat_template, "{{x}}");
  // "abc" is also "a" + "bc", which no merge names.
  ASSERT_EQ(v->notes.size(), 2u);
  EXPECT_THAT(v->notes[0], HasSubstr("1 of 12 tokens"));
  EXPECT_THAT(v->notes[1], HasSubstr("no token for 252 of the 256 bytes"));  // there are 0x0A, a, b and c
}

TEST(GgufVocabulary, EveryByteHasAToken) {
  nlohmann::json vocab;
  for (int b = 0; b < 256; ++b) vocab[absl::StrFormat("<0x%02X>", b)] = b;
  const nlohmann::json file = {
      {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  TempDir dir;
  const auto v = ReadGgufVocabulary(*With(dir, {{"tokenizer.json", file.dump()}}), 256);
  ASSERT_THAT(v, IsOk());
  EXPECT_THAT(v->types, ::testing::Each(6));
  EXPECT_THAT(v->notes, ::testing::IsEmpty());
}

TEST(GgufVocabulary, OfByteLevelBpe) {
  const auto file = [](const std::string& pre) {
    return R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},
               "added_tokens":[{"id":3,"content":"<|end|>","special":true}],"pre_tokenizer":)" +
           pre + "}";
  };
  const auto split = [](const char* regex) {
    return nlohmann::json{
        {"type", "Sequence"},
        {"pretokenizers", {{{"type", "Split"}, {"pattern", {{"Regex", regex}}}}, {{"type", "ByteLevel"}}}}}
        .dump();
  };
  const std::pair<std::string, const char*> kCases[] = {
      {R"({"type":"ByteLevel"})", "gpt-2"},
      {split(
           R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
       "llama-bpe"},
      {split(
           R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
       "qwen2"},
      {split("[a-z]+"), "default"}};
  for (const auto& [pre, name] : kCases) {
    TempDir dir;
    const auto v = ReadGgufVocabulary(*With(dir, {{"tokenizer.json", file(pre)}}, {{"eos_token_id", {3, 2}}}), 4);
    ASSERT_THAT(v, IsOk());
    EXPECT_EQ(v->model, "gpt2");
    EXPECT_EQ(v->pre, name);
    EXPECT_THAT(v->merges, ElementsAre("a b"));
    EXPECT_THAT(v->types, ElementsAre(1, 1, 1, 3));
    EXPECT_TRUE(v->scores.empty());
    EXPECT_EQ(v->eos, 3u);
    EXPECT_FALSE(v->add_bos);
    EXPECT_EQ(v->notes.empty(), std::string(name) != "default");
  }
}

// Protobuf by hand: field number and wire type, then the value.
std::string Piece(const std::string& text, float score, char type) {
  std::string inner = "\x0a" + std::string(1, static_cast<char>(text.size())) + text + "\x15";
  inner.append(reinterpret_cast<const char*>(&score), 4);
  inner += std::string("\x18") + type;
  return "\x0a" + std::string(1, static_cast<char>(inner.size())) + inner;
}

TEST(GgufVocabulary, OfASentencePieceModel) {
  const std::string model = Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("<0x0A>", 0, 6) + Piece("ab", -1.5f, 1) +
                            std::string("\x1a\x02\x18\x00", 4);  // normalizer_spec {add_dummy_prefix: false}
  TempDir dir;
  const auto checkpoint =
      With(dir, {{"tokenizer.model", model},
                 {"tokenizer_config.json",
                  R"({"bos_token":"<s>","added_tokens_decoder":{"4":{"content":"<pad>","special":true}}})"}});
  const auto v = ReadGgufVocabulary(*checkpoint, 6);
  ASSERT_THAT(v, IsOk());
  EXPECT_EQ(v->model, "llama");
  EXPECT_THAT(v->tokens, ElementsAre("<unk>", "<s>", "<0x0A>", "ab", "<pad>", "[PAD5]"));
  EXPECT_THAT(v->types, ElementsAre(2, 3, 6, 1, 3, 5));
  EXPECT_EQ(v->scores[3], -1.5f);
  EXPECT_EQ(v->bos, 1u);
  EXPECT_TRUE(v->add_bos);
  EXPECT_EQ(v->add_space_prefix, false);
  EXPECT_THAT(
      ReadGgufVocabulary(*checkpoint, 3),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4 pieces, but config.json has a vocabulary of 3")));
  // Every truncation and many flips: an error or a vocabulary, never a crash.
  std::mt19937 random(1);
  for (size_t n = 0; n < model.size(); ++n) (void)ParseSentencePieceModel(std::string_view(model).substr(0, n));
  for (int i = 0; i < 2000; ++i) {
    std::string bad = model;
    bad[random() % bad.size()] = static_cast<char>(random());
    (void)ParseSentencePieceModel(bad);
  }
}

TEST(GgufVocabulary, RefusesWhatItCannotRead) {
  const auto read = [](const std::vector<std::pair<std::string, std::string>>& files) {
    TempDir dir;
    return ReadGgufVocabulary(*With(dir, files), 4).status();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(read({}), StatusIs(absl::StatusCode::kNotFound, HasSubstr("neither tokenizer.json")));
  EXPECT_THAT(read({{"tokenizer.json", "[]"}}), StatusIs(kBad, HasSubstr("not a JSON object")));
  EXPECT_THAT(read({{"tokenizer.json", std::string(100000, '[')}}), StatusIs(kBad));
  EXPECT_THAT(read({{"tokenizer.json", "{}"}}), StatusIs(kBad, HasSubstr("model.vocab")));
  EXPECT_THAT(read({{"tokenizer.json", R"({"model":{"type":"Unigram"}})"}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("Unigram")));
  EXPECT_THAT(read({{"tokenizer.json", R"({"model":{"vocab":{"a":9},"merges":[]}})"}}),
              StatusIs(kBad, HasSubstr("\"a\" has id 9, but config.json has a vocabulary of 4")));
  EXPECT_THAT(read({{"tokenizer.json", R"({"model":{"vocab":{"a":-1},"merges":[]}})"}}), StatusIs(kBad));
  EXPECT_THAT(read({{"tokenizer.json", R"({"model":{"vocab":{"a":1,"b":1},"merges":[]}})"}}),
              StatusIs(kBad, HasSubstr("two tokens have id 1")));
  EXPECT_THAT(read({{"tokenizer.json", R"({"model":{"vocab":{"a":1},"merges":["ab"]}})"}}),
              StatusIs(kBad, HasSubstr("no two parts")));
  EXPECT_THAT(read({{"tokenizer.json", R"({"model":{"vocab":{"a":1},"merges":{}}})"}}),
              StatusIs(kBad, HasSubstr("merges")));
  EXPECT_THAT(read({{"tokenizer.model", "\xff\xff"}}), StatusIs(kBad, HasSubstr("no SentencePiece model")));
}

TEST(GgufVocabulary, OfTheSharedModel) {
  const std::filesystem::path folder = testing::SharedData("models/tinystories-656k");
  QUANT_SKIP_WITHOUT(folder);
  const auto v = ReadGgufVocabulary(**Checkpoint::Open(folder), 2048);
  ASSERT_THAT(v, IsOk());
  EXPECT_EQ(v->tokens.size(), 2048u);
  EXPECT_EQ(v->bos, 1u);
  EXPECT_EQ(v->eos, 2u);
  EXPECT_TRUE(v->add_bos);
  EXPECT_EQ(v->types[1], 3);
  for (const std::string& note : v->notes) std::cout << note << "\n";
}

}  // namespace
}  // namespace quant
