// SPDX-License-Identifier: Apache-2.0
#include "server/store/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/digest.h"
#include "common/strings.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

v1::File FileOf(const std::string& path, const std::string& bytes = "x") {
  v1::File file;
  file.set_path(path);
  file.mutable_digest()->set_sha256(Sha256Hex(bytes));
  file.mutable_digest()->set_size_bytes(static_cast<int64_t>(bytes.size()));
  return file;
}

std::string Error(std::vector<v1::File> files) { return std::string(StdView(CheckAndSortManifest(&files).message())); }

TEST(Path, OrdinaryOnesAreFine) {
  for (const char* path :
       {"model.onnx", "onnx/model.onnx_data", "a/b/c", "..hidden", "a..b", "päth/ü", "with space", "C:x"}) {
    EXPECT_TRUE(CheckPath(path).ok()) << path;
  }
  EXPECT_TRUE(CheckPath(std::string(255, 'a') + "/" + std::string(255, 'b')).ok());
}

TEST(Path, WhatCouldLeaveTheFolderOrConfuseAReaderIsRefused) {
  for (const std::string& path : std::vector<std::string>{
           "", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/.", "a//b", "a/", "a\\b", "..\\x", "a\nb",
           "a\x7f", std::string("a\0b", 3), "\xff", "\xC2\x85", "a\xED\xA0\x80"}) {
    EXPECT_EQ(CheckPath(path).code(), absl::StatusCode::kInvalidArgument) << Quoted(path);
  }
  EXPECT_THAT(std::string(StdView(CheckPath(std::string(513, 'a')).message())), HasSubstr("512"));
  EXPECT_THAT(std::string(StdView(CheckPath(std::string(256, 'a')).message())), HasSubstr("255"));
}

TEST(Manifest, IsSortedAndItsDigestDependsOnEveryField) {
  std::vector<v1::File> files = {FileOf("b"), FileOf("a")};
  ASSERT_TRUE(CheckAndSortManifest(&files).ok());
  EXPECT_EQ(files[0].path(), "a");
  const std::string x = Sha256Hex("x");
  EXPECT_EQ(ManifestDigest(files), Sha256Hex(x + " 1 a\n" + x + " 1 b\n"));
  std::vector<v1::File> other = {FileOf("a"), FileOf("c")};
  EXPECT_NE(ManifestDigest(other), ManifestDigest(files));
}

TEST(Manifest, BrokenOnesAreNamed) {
  EXPECT_THAT(Error({}), HasSubstr("no files"));
  EXPECT_THAT(Error({FileOf("a"), FileOf("a", "y")}), HasSubstr("twice"));
  EXPECT_THAT(Error({FileOf("a/b"), FileOf("a")}), HasSubstr("folder"));
  EXPECT_THAT(Error({FileOf("a/b/c"), FileOf("a/b.x"), FileOf("a")}), HasSubstr("folder"));
  v1::File bad = FileOf("a");
  bad.mutable_digest()->set_sha256("XYZ");
  EXPECT_THAT(Error({bad}), HasSubstr("64 lower-case hex"));
  bad = FileOf("a");
  bad.mutable_digest()->set_size_bytes(-1);
  EXPECT_THAT(Error({bad}), HasSubstr("negative"));
  EXPECT_THAT(Error(std::vector<v1::File>(10'001, FileOf("a"))), HasSubstr("10000"));
  std::vector<v1::File> big;
  big.reserve(9000);
  for (int i = 0; i < 9000; ++i)
    big.push_back(FileOf(std::string(250, 'p') + "/" + std::string(100, 'q') + std::to_string(i)));
  EXPECT_THAT(Error(big), HasSubstr("shorter paths"));
}

TEST(Format, IsToldFromNames) {
  EXPECT_EQ(DetectModelFormat({FileOf("net.ONNX")}), v1::MODEL_FORMAT_ONNX);
  EXPECT_EQ(DetectModelFormat({FileOf("sub/model.onnx"), FileOf("sub/model.onnx_data")}), v1::MODEL_FORMAT_ONNX);
  EXPECT_EQ(DetectModelFormat({FileOf("config.json"), FileOf("model-00001.safetensors"), FileOf("onnx/m.onnx")}),
            v1::MODEL_FORMAT_HUGGING_FACE);
  EXPECT_EQ(DetectModelFormat({FileOf("m.gguf")}), v1::MODEL_FORMAT_GGUF);
  EXPECT_EQ(DetectModelFormat({FileOf("config.json")}), v1::MODEL_FORMAT_UNSPECIFIED);
  EXPECT_EQ(DetectModelFormat({FileOf("a.safetensors")}), v1::MODEL_FORMAT_UNSPECIFIED);
  EXPECT_EQ(DetectModelFormat({FileOf("model.pkl")}), v1::MODEL_FORMAT_UNSPECIFIED);
}

TEST(Name, HasRules) {
  EXPECT_TRUE(CheckName("").ok());
  EXPECT_TRUE(CheckName("ResNet-20 (ü)").ok());
  EXPECT_FALSE(CheckName(std::string(129, 'a')).ok());
  EXPECT_FALSE(CheckName("a\nb").ok());
  EXPECT_FALSE(CheckName("\xff").ok());
}

}  // namespace
}  // namespace quant
