// SPDX-License-Identifier: Apache-2.0
#include "common/build_info.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace quant {
namespace {

using ::testing::AnyOf;
using ::testing::MatchesRegex;

TEST(BuildInfo, VersionNamesTheRevisionWhereThereIsOne) {
  EXPECT_THAT(BuildVersion(), MatchesRegex("[0-9]+[.][0-9]+[.][0-9]+([+][0-9a-f]+([.]dirty)?)?"));
}

TEST(Isa, IsOneOfTheDocumentedNames) {
  EXPECT_THAT(DetectIsa(), AnyOf("generic", "sse", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx"));
}

TEST(Isa, IsCappedByOnednnsVariable) {
  EXPECT_EQ(CapIsa("amx", ""), "amx");
  EXPECT_EQ(CapIsa("amx", "ALL"), "amx");
  EXPECT_EQ(CapIsa("amx", "AVX512_CORE_VNNI"), "avx512_vnni");
  EXPECT_EQ(CapIsa("amx", "avx512_core"), "avx512");
  EXPECT_EQ(CapIsa("amx", "AVX512_CORE_BF16"), "avx512_bf16");
  EXPECT_EQ(CapIsa("avx512_bf16", "AVX512_CORE_VNNI"), "avx512_vnni");
  EXPECT_EQ(CapIsa("avx512_vnni", "AVX512_CORE_BF16"), "avx512_vnni");
  EXPECT_EQ(CapIsa("avx512_vnni", "AVX2_VNNI"), "avx_vnni");
  EXPECT_EQ(CapIsa("avx512_vnni", "AVX2"), "avx2");
  EXPECT_EQ(CapIsa("avx512_vnni", "SSE41"), "sse");
}

TEST(Isa, CapNeverRaises) { EXPECT_EQ(CapIsa("avx2", "AVX512_CORE_AMX"), "avx2"); }

}  // namespace
}  // namespace quant
