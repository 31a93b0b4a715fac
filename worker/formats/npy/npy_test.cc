// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/npy/npy.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/npy/npy_testing.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::quant::testing::EncodeNpy;
using ::quant::testing::NpyWithHeader;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Tensor> Parse(const std::string& file) {
  return ParseNpy(std::as_bytes(std::span<const char>(file)), nullptr);
}

std::string Text(std::string_view descr, std::string_view order, std::string_view shape) {
  return "{'descr': '" + std::string(descr) + "', 'fortran_order': " + std::string(order) +
         ", 'shape': " + std::string(shape) + ", }";
}

TEST(Npy, ReadsTheVectorsOfNumPy) {
  // numpy 1.24: np.save of float32 [[1,2,3],[4,5,6]] is 152 bytes with the data from byte 128.
  const Tensor t = Tensor::Of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
  const std::string file = EncodeNpy(t);
  ASSERT_EQ(file.size(), 152u);
  EXPECT_EQ(file.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  const absl::StatusOr<Tensor> back = Parse(file);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_THAT(back->shape(), ElementsAre(2, 3));
  EXPECT_THAT(*ToFloat(*back), ElementsAre(1, 2, 3, 4, 5, 6));

  const std::string one = NpyWithHeader(Text("<f4", "False", "()"), std::string("\0\0\xc0\x3f", 4));
  const absl::StatusOr<Tensor> scalar = Parse(one);
  ASSERT_TRUE(scalar.ok()) << scalar.status();
  EXPECT_EQ(scalar->rank(), 0);
  EXPECT_THAT(*ToFloat(*scalar), ElementsAre(1.5f));
}

TEST(Npy, TakesKeysInAnyOrderEitherQuoteVersion2AndPython2Longs) {
  const absl::StatusOr<Tensor> t =
      Parse(NpyWithHeader("{\"shape\": (2L,), \"fortran_order\": True, \"descr\": \"|u1\"}", "ab"));
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_THAT(t->shape(), ElementsAre(2));

  const std::string header = Text("<i2", "False", "(1,)");
  std::string v2("\x93NUMPY\x02\x00", 8);
  v2 +=
      std::string(1, static_cast<char>(header.size())) + std::string(3, '\0') + header + "\x07" + std::string(1, '\0');
  const absl::StatusOr<Tensor> two = Parse(v2);
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_THAT(*ToInt64(*two), ElementsAre(7));
}

TEST(Npy, RefusalsSayWhy) {
  const struct {
    std::string file;
    const char* says;
  } cases[] = {
      {"", "truncated"},
      {"PK\x03\x04 is a zip file", "not a .npy"},
      {std::string("\x93NUMPY\x09\x00\x10\x00  ", 12), "version 9"},
      {std::string("\x93NUMPY\x01\x00\xff\xff{}", 12), "65535 bytes"},
      {std::string("\x93NUMPY\x01\x00\x40\x00{}", 12), "truncated"},
      {std::string("\x93NUMPY\x02\x00\x00", 9), "truncated"},
      {NpyWithHeader(Text("|O", "False", "(1,)"), "x"), "pickle"},
      {NpyWithHeader(Text(">f4", "False", "(1,)"), "abcd"), "big-endian"},
      {NpyWithHeader(Text("<c8", "False", "(1,)"), "abcdefgh"), "only bool"},
      {NpyWithHeader(Text("<U4", "False", "(1,)"), "abcd"), "only bool"},
      {NpyWithHeader("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "abcd"), "structures"},
      {NpyWithHeader(Text("<i2", "True", "(2, 3)"), std::string(12, '\0')), "column-major"},
      {NpyWithHeader(Text("<f4", "False", "(3,)"), "12345678"), "needs 12 bytes, there are 8"},
      {NpyWithHeader(Text("<f4", "False", "(1,)"), "12345678"), "needs 4 bytes, there are 8"},
      {NpyWithHeader(Text("<f4", "False", "(-1,)"), ""), "not a number"},
      {NpyWithHeader(Text("<f4", "False", "(4611686018427387904, 4)"), ""), "too large"},
      {NpyWithHeader(Text("<f4", "False", "(1099511627776, 1099511627776)"), ""), "elements"},
      {NpyWithHeader(Text("<f4", "False", "(1,1,1,1,1,1,1,1,1)"), "abcd"), "dimensions"},
      {NpyWithHeader(Text("<f4", "Maybe", "(1,)"), "abcd"), "True or False"},
      {NpyWithHeader("{'descr': '<f4', 'shape': (1,)}", "abcd"), "missing"},
      {NpyWithHeader("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "abcd"), "repeats"},
      {NpyWithHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} import os", "abcd"), "after"},
      {NpyWithHeader("{'descr': '<f4", "abcd"), "string is expected"},
      {NpyWithHeader("{'descr'", "abcd"), "':'"},
      {NpyWithHeader("{'shape': (1", "abcd"), "','"},
  };
  for (const auto& c : cases) {
    const absl::Status s = Parse(c.file).status();
    EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument) << c.says;
    EXPECT_THAT(std::string(s.message()), HasSubstr(c.says));
  }
}

TEST(Npy, EveryTruncationOfAFileIsAnErrorAndNothingWorse) {
  const std::string file = EncodeNpy(Tensor::Of<float>({3}, {1, 2, 3}));
  for (size_t n = 0; n < file.size(); ++n) EXPECT_FALSE(Parse(file.substr(0, n)).ok()) << n;
}

TEST(Npy, RealImagesAreMapped) {
  const std::filesystem::path file = testing::SharedData("datasets/cifar10/images.npy");
  QUANT_SKIP_WITHOUT(file);
  const absl::StatusOr<Tensor> t = ReadNpy(file);
  ASSERT_TRUE(t.ok()) << t.status();
  EXPECT_THAT(t->shape(), ElementsAre(5000, 32, 32, 3));
  EXPECT_EQ(t->dtype(), DType::kUInt8);
  EXPECT_FALSE(t->writable());
}

}  // namespace
}  // namespace quant
