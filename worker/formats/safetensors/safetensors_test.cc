// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/safetensors/safetensors.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(std::string header, const std::string& data) {
  std::string n;
  for (int i = 0; i < 8; ++i) n += static_cast<char>((header.size() >> (8 * i)) & 255);
  return n + header + data;
}

absl::StatusOr<SafetensorsFile> Parse(const std::string& file) {
  return ParseSafetensors(std::as_bytes(std::span<const char>(file)), nullptr);
}

TEST(Safetensors, ReadsTheVectorOfTheReferenceWriter) {
  // huggingface/safetensors: F32 b = [1.5, -2], I8 a = [1, -1, 127], metadata format=pt.
  const std::string file = File(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I8","shape":[3],"data_offsets":[8,11]}}      )",
      std::string("\x00\x00\xc0\x3f\x00\x00\x00\xc0\x01\xff\x7f", 11));
  ASSERT_EQ(file.size(), 163u);
  const absl::StatusOr<SafetensorsFile> f = Parse(file);
  ASSERT_TRUE(f.ok()) << f.status();
  EXPECT_THAT(*ToFloat(f->tensors.at("b")), ElementsAre(1.5f, -2));
  EXPECT_THAT(*ToInt64(f->tensors.at("a")), ElementsAre(1, -1, 127));
  EXPECT_EQ(f->metadata.at("format"), "pt");
  EXPECT_TRUE(Parse(File("{}      ", "")).ok());
}

TEST(Safetensors, UnalignedAndEmptyTensorsAndScalarsAreRead) {
  const std::string file = File(
      R"({"u":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"e":{"dtype":"F32","shape":[0,3],"data_offsets":[1,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      std::string("\x05\x00\x00\xc0\x3f", 5));
  const absl::StatusOr<SafetensorsFile> f = Parse(file);
  ASSERT_TRUE(f.ok()) << f.status();
  EXPECT_THAT(*ToFloat(f->tensors.at("f")), ElementsAre(1.5f));
  EXPECT_THAT(*ToInt64(f->tensors.at("u")), ElementsAre(5));
  EXPECT_EQ(f->tensors.at("e").elements(), 0);
}

TEST(Safetensors, RefusalsSayWhy) {
  const std::string ok = R"("dtype":"U8","shape":[1],"data_offsets":[0,1])";
  const struct {
    std::string file;
    const char* says;
  } cases[] = {
      {"abc", "shorter than 8"},
      {std::string(7, '\xff') + std::string(1, '\x7f') + "{}", "claims"},
      {File("{}", "x"), "after the last"},
      {File(" {}", ""), "JSON object"},
      {File("[]", ""), "JSON object"},
      {File("{\"\xff\":1}", ""), "UTF-8"},
      {File("{} x", ""), "not JSON"},
      {File(std::string("{}\0", 3), ""), "JSON object"},
      {File("{\"a\":{" + ok + "},\"a\":{" + ok + "}}", "x"), "repeats"},
      {File("{\"a\":{" + ok + ",\"dtype\":\"U8\"}}", "x"), "repeats"},
      {File("{\"a\":{" + ok + ",\"more\":1}}", "x"), "unknown field"},
      {File(R"({"__metadata__":{"k":"1","k":"2"}})", ""), "repeats"},
      {File(R"({"__metadata__":{"k":1}})", ""), "number"},
      {File(R"({"__metadata__":null})", ""), "null"},
      {File("{\"\":{" + ok + "}}", "x"), "empty"},
      {File("{\"a\\u0000b\":{" + ok + "}}", "x"), "control"},
      {File(R"({"a":{"dtype":"U8","shape":[1]}})", "x"), "missing"},
      {File(R"({"a":{"dtype":"u8","shape":[1],"data_offsets":[0,1]}})", "x"), "unknown"},
      {File(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "x"), "not an integer"},
      {File(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "x"), "negative"},
      {File(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", "x"), "array"},
      {File(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", "x"), "dimensions"},
      {File(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]}})", "x"), "too large"},
      {File(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", "x"), "needs 2 bytes"},
      {File(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "x"), "two numbers"},
      {File(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", "x"), "where none belongs"},
      {File(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xx"), "do not follow"},
      {File(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", "x"), "do not follow"},
      {File("{\"a\":{" + ok + "},\"b\":{" + ok + "}}", "x"), "do not follow"},
      {File(std::string("{\"a\":") + std::string(100'000, '['), ""), "array"},
  };
  for (const auto& c : cases) {
    const absl::Status s = Parse(c.file).status();
    EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << c.says << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr(c.says));
  }
  const absl::Status f8 = Parse(File(R"({"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", "x")).status();
  EXPECT_EQ(f8.code(), absl::StatusCode::kUnimplemented);
}

TEST(Safetensors, ReadsARealCheckpoint) {
  const std::filesystem::path file = testing::SharedData("models/tinystories-656k/model.safetensors");
  QUANT_SKIP_WITHOUT(file);
  const absl::StatusOr<SafetensorsFile> f = ReadSafetensors(file);
  ASSERT_TRUE(f.ok()) << f.status();
  int64_t parameters = 0;
  for (const auto& [name, t] : f->tensors) parameters += t.elements();
  // 2048 x 128 embeddings, two layers of 49,152 + 147,456 + 256, one norm of 128.
  EXPECT_EQ(parameters, 656000);
}

}  // namespace
}  // namespace quant
