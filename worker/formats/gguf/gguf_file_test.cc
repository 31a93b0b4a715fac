// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/gguf_file.h"

#include <gtest/gtest.h>

#include "absl/status/status_matchers.h"
#include "common/digest.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::TempDir;

std::string Floats(const std::vector<float>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float)};
}

// Header byte-identical to ggml's writer, and the whole file (formats.md section 6).
TEST(GgufFile, EqualsGgmls) {
  TempDir dir;
  auto file = GgufFile::Create(dir / "a.gguf",
                               {{"general.architecture", "llama"},
                                {"general.quantization_version", uint32_t{2}},
                                {"general.file_type", uint32_t{0}}},
                               {{"b.bias", 1}, {"a.weight", 2}});
  ASSERT_THAT(file, IsOk());
  std::vector<float> x(64);
  for (size_t i = 0; i < 64; ++i) x[i] = static_cast<float>(i);
  std::string rows;
  QuantizeGgufRow(GgufType::kQ8_0, std::span(x).first(32), &rows);
  QuantizeGgufRow(GgufType::kQ8_0, std::span(x).last(32), &rows);
  ASSERT_THAT(file->Begin("a.weight", {2, 32}, GgufType::kQ8_0), IsOk());
  ASSERT_THAT(file->Write(rows), IsOk());
  ASSERT_THAT(file->Begin("b.bias", {3}, GgufType::kF32), IsOk());
  ASSERT_THAT(file->Write(Floats({0, 1, 2})), IsOk());
  file->Set("general.file_type", 7);
  ASSERT_THAT(file->Finish(), IsOk());
  const std::string bytes = testing::ReadFile(dir / "a.gguf");
  ASSERT_EQ(bytes.size(), 384u);
  EXPECT_EQ(Sha256Hex(bytes.substr(0, 256)), "702fef85fa223c77224c55a7d6e4c5998529a9c84f276a77bbbb7c3f189d44f9");
  EXPECT_EQ(Sha256Hex(bytes), "60ae557c3e3657dc556340792b15ab8edb0d0c88770808d94ef25c3f7b40677a");
}

TEST(GgufFile, RefusesWhatReadersRefuse) {
  TempDir dir;
  const auto create = [&](GgufKeys keys, std::vector<std::pair<std::string, int>> tensors) {
    return GgufFile::Create(dir / "a.gguf", std::move(keys), std::move(tensors)).status();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(create({{"", 1.0f}}, {}), StatusIs(kBad, HasSubstr("empty or repeats")));
  EXPECT_THAT(create({{"a", 1.0f}, {"a", 1.0f}}, {}), StatusIs(kBad, HasSubstr("empty or repeats")));
  EXPECT_THAT(create({}, {{"a", 1}, {"a", 1}}), StatusIs(kBad, HasSubstr("repeats")));
  EXPECT_THAT(create({}, {{std::string(64, 'a'), 1}}), StatusIs(kBad, HasSubstr("1 to 63 bytes")));
  EXPECT_THAT(create({}, {{"a", 5}}), StatusIs(kBad, HasSubstr("1 to 4 dimensions")));
  auto file = GgufFile::Create(dir / "a.gguf", {}, {{"a", 2}, {"b", 1}});
  EXPECT_THAT(file->Begin("c", {1}, GgufType::kF32), StatusIs(kBad, HasSubstr("not awaited")));
  EXPECT_THAT(file->Begin("a", {1}, GgufType::kF32), StatusIs(kBad, HasSubstr("another rank")));
  EXPECT_THAT(file->Begin("a", {2, 33}, GgufType::kQ8_0), StatusIs(kBad, HasSubstr("blocks of 32")));
  ASSERT_THAT(file->Begin("a", {1, 2}, GgufType::kF32), IsOk());
  EXPECT_THAT(file->Write("123456789"), StatusIs(kBad, HasSubstr("9 bytes where 8 are left")));
  EXPECT_THAT(file->Begin("b", {1}, GgufType::kF32), StatusIs(kBad, HasSubstr("lacks 8 bytes")));
  ASSERT_THAT(file->Write("12345678"), IsOk());
  EXPECT_THAT(file->Begin("a", {1, 2}, GgufType::kF32), StatusIs(kBad, HasSubstr("given before")));
  EXPECT_THAT(file->Finish(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("\"b\" was never written")));
  EXPECT_FALSE(std::filesystem::exists(dir / "a.gguf"));
}

}  // namespace
}  // namespace quant
