// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/dataset/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/status/status_matchers.h"
#include "worker/formats/npy/npy_testing.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::absl_testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::EncodeNpy;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::WriteFile;
using Documents = std::vector<std::vector<int32_t>>;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// One id per byte; 300 is BOS where there is one.
class Bytes : public Tokenizer {
 public:
  explicit Bytes(bool has_bos) : has_bos_(has_bos) {}
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool /*add_special*/) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> /*ids*/) const override { return ""; }
  int64_t vocab_size() const override { return 301; }
  std::string_view token(int32_t /*id*/) const override { return "?"; }
  std::optional<int32_t> bos() const override { return has_bos_ ? std::optional<int32_t>(300) : std::nullopt; }
  std::optional<int32_t> eos() const override { return std::nullopt; }

 private:
  bool has_bos_;
};

Documents Read(const std::filesystem::path& path, bool has_bos = true) {
  const Bytes tokenizer(has_bos);
  const absl::StatusOr<TokenDataset> dataset = OpenTokenDataset(path, &tokenizer, 301);
  CHECK_OK(dataset.status());
  return dataset->documents;
}

TEST(TextDatasetTest, DocumentsAreSeparatedByLines) {
  const TempDir folder;
  WriteFile(folder / "b.txt", "ab\n<|endoftext|>\n\n<|endoftext|>\nc\n\n<|endoftext|>\nd<|endoftext|>");
  WriteFile(folder / "a.txt", "\xef\xbb\xbf\x7a\r\n<|endoftext|>\r\n");
  WriteFile(folder / "notes.md", "not text");
  const Documents documents = Read(folder.path(), false);
  ASSERT_EQ(documents.size(), 4U);
  EXPECT_THAT(documents[0], ElementsAre('z'));
  EXPECT_THAT(documents[1], ElementsAre('a', 'b'));
  EXPECT_THAT(documents[2], ElementsAre('c', '\n'));
  EXPECT_EQ(documents[3].size(), 14U);  // "d<|endoftext|>": the separator is a line of its own
  EXPECT_EQ(Read(folder / "a.txt"), (Documents{{300, 'z'}}));
}

TEST(TextDatasetTest, ArraysAreTakenAsTheyAre) {
  const TempDir folder;
  WriteFile(folder / "ids.npy", EncodeNpy(Tensor::Of<int32_t>({2, 3}, std::vector<int32_t>{1, 2, 3, 4, 5, 6})));
  WriteFile(folder / "readme.txt", "ignored");
  EXPECT_EQ(Read(folder.path()), (Documents{{1, 2, 3}, {4, 5, 6}}));
  WriteFile(folder / "attention_mask.npy",
            EncodeNpy(Tensor::Of<int64_t>({2, 3}, std::vector<int64_t>{1, 1, 1, 0, 1, 0})));
  EXPECT_EQ(Read(folder.path()), (Documents{{1, 2, 3}, {5}}));
}

TEST(TextDatasetTest, FlatArraysHaveOffsets) {
  const TempDir folder;
  const Tensor tokens = Tensor::Of<int64_t>({5}, std::vector<int64_t>{1, 2, 3, 4, 5});
  const auto write = [&](const std::vector<int32_t>& offsets) {
    WriteFile(folder / "data.npz",
              testing::EncodeZip(
                  {{"tokens.npy", EncodeNpy(tokens)},
                   {"offsets.npy", EncodeNpy(Tensor::Of<int32_t>({static_cast<int64_t>(offsets.size())}, offsets))}},
                  true, false));
  };
  write({0, 2, 2});
  EXPECT_EQ(Read(folder.path()), (Documents{{1, 2}, {3, 4, 5}}));
  write({0, 4, 5});
  EXPECT_EQ(Read(folder.path()), (Documents{{1, 2, 3, 4}, {5}}));
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{1, 2}, {0, 3, 2}, {0, 6}, {-1}}) {
    write(wrong);
    EXPECT_THAT(OpenTokenDataset(folder.path(), nullptr, 10), StatusIs(kInvalid, HasSubstr("offset")));
  }
  WriteFile(folder / "data.npz", testing::EncodeZip({{"x.npy", EncodeNpy(tokens)}}, false, false));
  EXPECT_EQ(Read(folder.path()), (Documents{{1, 2, 3, 4, 5}}));
}

TEST(TextDatasetTest, SixteenBitArrays) {
  const TempDir folder;
  WriteFile(folder / "ids.npy", testing::NpyWithHeader("{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }",
                                                       std::string("\xff\xff\x07\0", 4)));
  const absl::StatusOr<TokenDataset> dataset = OpenTokenDataset(folder.path(), nullptr, 65536);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->documents, (Documents{{65535, 7}}));
}

TEST(TextDatasetTest, ErrorsNameValuePositionAndLimit) {
  const Bytes tokenizer(true);
  const TempDir folder;
  EXPECT_THAT(OpenTokenDataset(folder / "none", &tokenizer, 301),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_THAT(OpenTokenDataset(folder.path(), &tokenizer, 301), StatusIs(kInvalid, HasSubstr("no .txt file")));
  WriteFile(folder / "a.txt", "");
  EXPECT_THAT(OpenTokenDataset(folder.path(), &tokenizer, 301), StatusIs(kInvalid, HasSubstr("no token")));
  WriteFile(folder / "a.txt", "hello");
  EXPECT_THAT(OpenTokenDataset(folder.path(), nullptr, 301),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("tokenizer.json")));
  EXPECT_THAT(OpenTokenDataset(folder.path(), &tokenizer, 300),
              StatusIs(kInvalid, AllOf(HasSubstr("token 0 of document 0 is 300"), HasSubstr("vocabulary has 300"))));
  EXPECT_THAT(OpenTokenDataset(folder.path(), &tokenizer, 301, {.max_text_bytes = 4}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("4 bytes")));
  EXPECT_THAT(OpenTokenDataset(folder.path(), &tokenizer, 301, {.max_tokens = 5}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("5 tokens")));
  WriteFile(folder / "a.txt", "caf\xc3\xa9 \xe2\x82 x");
  EXPECT_THAT(OpenTokenDataset(folder.path(), &tokenizer, 301),
              StatusIs(kInvalid, HasSubstr("\"a.txt\" is not UTF-8 at byte 6")));
  WriteFile(folder / "x.npy", EncodeNpy(Tensor::Of<int64_t>({1, 3}, std::vector<int64_t>{1, 2, -100})));
  EXPECT_THAT(OpenTokenDataset(folder.path(), nullptr, 301),
              StatusIs(kInvalid, HasSubstr("token 2 of document 0 is -100, outside the model's vocabulary of 301")));
  WriteFile(folder / "x.npy", EncodeNpy(Tensor::Of<float>({1, 2}, std::vector<float>{1, 2})));
  EXPECT_THAT(OpenTokenDataset(folder.path(), nullptr, 301), StatusIs(kInvalid, HasSubstr("float32")));
  WriteFile(folder / "x.npy", EncodeNpy(Tensor::Of<int64_t>({1, 1, 1}, std::vector<int64_t>{1})));
  EXPECT_THAT(OpenTokenDataset(folder.path(), nullptr, 301), StatusIs(kInvalid, HasSubstr("3 axes")));
}

TEST(WindowsTest, DocumentsAreCut) {
  const TokenDataset dataset{{{300, 1, 2, 3}, {300}, {300, 4}}, 300};
  for (const WindowMode mode : {WindowMode::kDefault, WindowMode::kDocuments}) {
    const auto windows = MakeWindows(dataset, {.length = 3, .mode = mode});
    ASSERT_TRUE(windows.ok()) << windows.status();
    EXPECT_EQ(*windows, (Documents{{300, 1, 2}, {300, 4}}));
  }
}

TEST(WindowsTest, AStreamHasOneBos) {
  const TokenDataset dataset{{{300, 1, 2}, {300, 3, 4}, {300, 5}}, 300};
  const auto windows = MakeWindows(dataset, {.length = 2, .mode = WindowMode::kStream});
  ASSERT_TRUE(windows.ok()) << windows.status();
  EXPECT_EQ(*windows, (Documents{{300, 1}, {2, 3}, {4, 5}}));
  const auto one = MakeWindows(TokenDataset{{{1, 2, 3, 4, 5}}, {}}, {.length = 2});  // one document is a stream
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(*one, (Documents{{1, 2}, {3, 4}}));
}

TEST(WindowsTest, TooShort) {
  const TokenDataset dataset{{{300, 1, 2}, {300}}, 300};
  EXPECT_THAT(MakeWindows(dataset, {.length = 4, .mode = WindowMode::kStream}),
              StatusIs(kInvalid, AllOf(HasSubstr("3 tokens"), HasSubstr("a window has 4"))));
  EXPECT_THAT(MakeWindows(TokenDataset{{{300}, {300}}, 300}, {.length = 4}),
              StatusIs(kInvalid, HasSubstr("none of the 2")));
  EXPECT_THAT(MakeWindows(dataset, {.length = 1}), StatusIs(kInvalid, HasSubstr("at least 2")));
}

TEST(RealTextTest, TinyStoriesByTheManifestsProtocol) {
  const auto model = testing::SharedData("models/tinystories-656k");
  QUANT_SKIP_WITHOUT(model);
  const auto tokenizer = Tokenizer::Load(model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto dataset = OpenTokenDataset(testing::SharedData("datasets/tinystories.txt"), tokenizer->get(), 2048);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->documents.size(), 463U);
  std::vector<uint16_t> golden(testing::ReadFile(testing::SharedData("datasets/tinystories.tok2048.u16")).size() / 2);
  std::memcpy(golden.data(), testing::ReadFile(testing::SharedData("datasets/tinystories.tok2048.u16")).data(),
              2 * golden.size());
  std::vector<uint16_t> all;
  for (const auto& document : dataset->documents) all.insert(all.end(), document.begin(), document.end());
  EXPECT_EQ(all, golden);
  const auto windows = MakeWindows(*dataset, {.length = 512});
  ASSERT_TRUE(windows.ok()) << windows.status();
  size_t predicted = 0;
  for (const auto& window : *windows) predicted += window.size() - 1;
  EXPECT_EQ(predicted, 88'257U);
}

// The number of documents and tokens, and the CRC-32 of the ids as little-endian int32, that examples/stories/bpe.py,
// an implementation of its own, gives.
TEST(ExampleTest, OurStoriesTokenizeAsTheirTrainerDoes) {
  const std::filesystem::path stories = std::filesystem::path(QUANT_EXAMPLES) / "stories";
  const auto tokenizer = Tokenizer::Load(stories / "model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  struct Expected {
    const char* folder;
    size_t documents;
    size_t tokens;
    uint32_t crc;
  };
  for (const Expected& e :
       {Expected{"calibration", 128, 19498, 0x167d219e}, Expected{"evaluation", 320, 49109, 0x054643ed}}) {
    const auto dataset = OpenTokenDataset(stories / e.folder, tokenizer->get(), 1024);
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    EXPECT_EQ(dataset->documents.size(), e.documents);
    std::vector<int32_t> all;
    for (const auto& document : dataset->documents) all.insert(all.end(), document.begin(), document.end());
    EXPECT_EQ(all.size(), e.tokens);
    EXPECT_EQ(crc32(0, reinterpret_cast<const Bytef*>(all.data()), static_cast<uInt>(4 * all.size())), e.crc);
  }
}

}  // namespace
}  // namespace quant
