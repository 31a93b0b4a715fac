// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/npy/npz.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/npy/npy_testing.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::quant::testing::EncodeNpy;
using ::quant::testing::EncodeZip;
using ::quant::testing::Little;
using ::quant::testing::TempDir;
using ::quant::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string& Two() {
  static const std::string& npy = *new std::string(EncodeNpy(Tensor::Of<float>({2}, {1.5f, -2})));
  return npy;
}

absl::StatusOr<std::map<std::string, Tensor>> Read(const std::string& bytes, const NpzOptions& options = {}) {
  const TempDir dir;
  WriteFile(dir / "a.npz", bytes);
  return ReadNpz(dir / "a.npz", options);
}

TEST(Npz, ReadsStoredAndDeflatedWithAndWithoutZip64) {
  for (const bool deflated : {false, true}) {
    for (const bool zip64 : {false, true}) {
      const auto arrays = Read(EncodeZip({{"x.npy", Two()}, {"in/put:0.npy", Two()}}, deflated, zip64));
      ASSERT_TRUE(arrays.ok()) << arrays.status();
      ASSERT_EQ(arrays->size(), 2u);
      EXPECT_THAT(*ToFloat(arrays->at("x")), ElementsAre(1.5f, -2));
      EXPECT_THAT(*ToFloat(arrays->at("in/put:0")), ElementsAre(1.5f, -2));
    }
  }
}

TEST(Npz, EveryTruncationIsAnErrorAndNothingWorse) {
  const std::string zip = EncodeZip({{"x.npy", Two()}}, true, true);
  for (size_t n = 0; n < zip.size(); ++n) EXPECT_FALSE(Read(zip.substr(0, n)).ok()) << n;
}

// Damage anywhere is an error, or leaves what was read the same (dates, versions, the header's padding).
TEST(Npz, EverySingleByteOfDamageIsNoticedOrHarmless) {
  const std::string zip = EncodeZip({{"x.npy", Two()}}, false, false);
  for (size_t i = 0; i < zip.size(); ++i) {
    std::string bad = zip;
    bad[i] = static_cast<char>(bad[i] ^ 0x41);
    const auto arrays = Read(bad);
    if (!arrays.ok() || arrays->empty()) continue;
    EXPECT_THAT(*ToFloat(arrays->begin()->second), ElementsAre(1.5f, -2)) << i;
  }
}

TEST(Npz, RefusesHostileNamesAndDuplicates) {
  for (const char* name : {"/x.npy", "../x.npy", "a/../../x.npy", "a\\x.npy", "", "readme.txt", "bad\xff.npy"}) {
    EXPECT_EQ(Read(EncodeZip({{name, Two()}}, false, false)).status().code(), absl::StatusCode::kInvalidArgument)
        << name;
  }
  const absl::Status s = Read(EncodeZip({{"x.npy", Two()}, {"x.npy", Two()}}, false, false)).status();
  EXPECT_THAT(std::string(s.message()), HasSubstr("repeats"));
}

TEST(Npz, CapsWhatItInflates) {
  const std::string big = EncodeNpy(*Tensor::Allocate(DType::kFloat32, {1 << 18}));
  const std::string zip = EncodeZip({{"x.npy", big}}, true, false);
  ASSERT_LT(zip.size(), 10'000u);
  EXPECT_TRUE(Read(zip).ok());
  const absl::Status s = Read(zip, {.max_inflated_bytes = 1 << 20}).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(s.message()), HasSubstr("numpy.savez"));
}

TEST(Npz, ADeclaredSizeThatDiffersFromTheContentIsRefused) {
  // Both headers say 2^31 - 1 bytes; the ratio is beyond what deflate can do, so nothing is allocated.
  std::string zip = EncodeZip({{"x.npy", Two()}}, true, false);
  const std::string size = Little(Two().size(), 4);
  for (size_t at = zip.find(size); at != std::string::npos; at = zip.find(size, at + 4))
    zip.replace(at, 4, Little(0x7fffffff, 4));
  EXPECT_EQ(Read(zip).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Npz, RefusesEncryptionOtherMethodsAndOverlap) {
  const std::string zip = EncodeZip({{"x.npy", Two()}, {"y.npy", Two()}}, false, false);
  const size_t central = zip.find("PK\x01\x02");
  std::string encrypted = zip;
  encrypted[central + 8] = 1;
  EXPECT_THAT(std::string(Read(encrypted).status().message()), HasSubstr("encrypted"));
  std::string method = zip;
  method[central + 10] = 12;
  method[8] = 12;
  EXPECT_THAT(std::string(Read(method).status().message()), HasSubstr("method 12"));

  // Two entries of the directory for one local header: the names differ, so it is refused before it could be an
  // overlap; and with the same name it repeats.
  std::string shared = zip;
  const size_t second = shared.find("PK\x01\x02", central + 1);
  shared.replace(second + 42, 4, Little(0, 4));
  EXPECT_FALSE(Read(shared).ok());
}

}  // namespace
}  // namespace quant
