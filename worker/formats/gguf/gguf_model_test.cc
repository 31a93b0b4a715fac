// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gguf/gguf_model.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/status/status_matchers.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::TempDir;

// A small file with keys of every type and tensors of some.
std::string SmallFile() {
  TempDir dir;
  auto file = GgufFile::Create(dir / "a.gguf",
                               {{"general.architecture", "llama"},
                                {"llama.rope.dimension_count", uint32_t{4}},
                                {"f", 1.5f},
                                {"b", true},
                                {"s", std::vector<std::string>{"x", ""}},
                                {"fs", std::vector<float>{1, 2}},
                                {"is", std::vector<int32_t>{-3}}},
                               {{"blk.0.attn_q.weight", 2}, {"output_norm.weight", 1}});
  CHECK_OK(file.status());
  std::string rows;
  for (int r = 0; r < 4; ++r) QuantizeGgufRow(GgufType::kQ4_0, std::vector<float>(32, static_cast<float>(r)), &rows);
  CHECK_OK(file->Begin("blk.0.attn_q.weight", {4, 32}, GgufType::kQ4_0));
  CHECK_OK(file->Write(rows));
  CHECK_OK(file->Begin("output_norm.weight", {3}, GgufType::kF32));
  CHECK_OK(file->Write(std::string(12, '\0')));
  CHECK_OK(file->Finish());
  return testing::ReadFile(dir / "a.gguf");
}

absl::StatusOr<std::shared_ptr<const GgufModel>> Parse(const std::string& bytes) {
  return GgufModel::Parse(std::as_bytes(std::span(bytes)), nullptr);
}

TEST(GgufModel, ReadsKeysAndRowsInTheCheckpointsOrder) {
  const std::string bytes = SmallFile();
  const auto model = Parse(bytes);
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(std::get<std::string>((*model)->keys().at("general.architecture")), "llama");
  EXPECT_EQ(std::get<float>((*model)->keys().at("f")), 1.5f);
  EXPECT_EQ(std::get<bool>((*model)->keys().at("b")), true);
  EXPECT_EQ(std::get<std::vector<std::string>>((*model)->keys().at("s")), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ(std::get<std::vector<int32_t>>((*model)->keys().at("is")), std::vector<int32_t>{-3});
  // Heads of 4: the file's rows 0, 1, 2, 3 are the checkpoint's 0, 2, 1, 3.
  const auto rows = (*model)->Rows("model.layers.0.self_attn.q_proj.weight", 0, 4);
  ASSERT_THAT(rows, IsOk());
  EXPECT_EQ((*rows)[0], 0);
  EXPECT_EQ((*rows)[32], 2);
  EXPECT_EQ((*rows)[64], 1);
  EXPECT_EQ((*rows)[96], 3);
  EXPECT_THAT((*model)->Rows("model.norm.weight", 1, 3), absl_testing::IsOkAndHolds(std::vector<float>(2, 0.0f)));
  EXPECT_THAT((*model)->Rows("model.norm.weight", 1, 4), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT((*model)->Rows("lm_head.weight", 0, 1), StatusIs(absl::StatusCode::kNotFound));
}

TEST(GgufModel, DamageIsAnErrorOrAnotherSoundFile) {
  const std::string good = SmallFile();
  for (size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(Parse(good.substr(0, n)).ok()) << n;
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    std::string bad = good;
    for (int k = 0; k < 1 + i % 3; ++k) bad[random() % bad.size()] = static_cast<char>(i % 2 == 0 ? 0xff : random());
    const auto model = Parse(bad);
    if (!model.ok()) continue;
    (void)(*model)->Rows("model.layers.0.self_attn.q_proj.weight", 0, 4);
    (void)(*model)->Rows("model.norm.weight", 0, 3);
  }
}

TEST(GgufModel, SaysWhatIsWrong) {
  const std::string good = SmallFile();
  const auto with = [&](size_t at, const std::string& bytes) {
    return std::string(good).replace(at, bytes.size(), bytes);
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Parse(with(0, "GGML")), StatusIs(kBad, HasSubstr("does not begin with GGUF")));
  EXPECT_THAT(Parse(with(4, "\x09")), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("version 9")));
  EXPECT_THAT(Parse(with(15, "\x7f")), StatusIs(kBad, HasSubstr("tensors and")));
  EXPECT_THAT(Parse(with(24 + 7, "\x7f")), StatusIs(kBad, HasSubstr("a string of")));
}

}  // namespace
}  // namespace quant
