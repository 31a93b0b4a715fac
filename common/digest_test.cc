// SPDX-License-Identifier: Apache-2.0
#include "common/digest.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "common/random_id.h"

namespace quant {
namespace {

constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

// FIPS 180-4 example vectors.
TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(Sha256Hex(""), kEmpty);
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesDoNotMatter) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("");
  hash.Update("bc");
  EXPECT_EQ(hash.Finish(), kAbc);
}

TEST(Sha256, OnlyLowerCaseHexOf64IsADigest) {
  EXPECT_TRUE(IsSha256Hex(kAbc));
  EXPECT_FALSE(IsSha256Hex(""));
  EXPECT_FALSE(IsSha256Hex(std::string(63, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(65, 'a')));
  EXPECT_FALSE(IsSha256Hex(std::string(64, 'A')));
  EXPECT_FALSE(IsSha256Hex(std::string(64, 'g')));
  EXPECT_FALSE(IsSha256Hex("../" + std::string(61, 'a')));
}

TEST(DigestFile, HashesAFileAndRefusesOtherThings) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / RandomId("digest-");
  std::filesystem::create_directory(dir);
  std::ofstream(dir / "f", std::ios::binary) << std::string(3'000'001, 'x');
  const auto digest = DigestFile(dir / "f");
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(digest->size_bytes, 3'000'001);
  EXPECT_EQ(digest->sha256, Sha256Hex(std::string(3'000'001, 'x')));
  EXPECT_EQ(DigestFile(dir / "absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DigestFile(dir).status().code(), absl::StatusCode::kFailedPrecondition);
  std::filesystem::remove_all(dir);
}

TEST(RandomId, HasItsFormAndDoesNotRepeat) {
  const std::string a = RandomId("m-");
  EXPECT_EQ(a.size(), 18u);
  EXPECT_TRUE(IsRandomId(a, "m-"));
  EXPECT_NE(a, RandomId("m-"));
  EXPECT_TRUE(IsRandomId(RandomId("", 100), "", 100));
  EXPECT_FALSE(IsRandomId("d-0123456789abcdef", "m-"));
  EXPECT_FALSE(IsRandomId("m-0123456789abcde", "m-"));
  EXPECT_FALSE(IsRandomId("m-0123456789abcdE", "m-"));
  EXPECT_FALSE(IsRandomId("m-0123456789abc/f", "m-"));
}

}  // namespace
}  // namespace quant
