// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/awq/awq.h"

#include <gtest/gtest.h>

#include "absl/status/status_matchers.h"
#include "worker/formats/checkpoint_testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using testing::FirstWords;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TestLayer;
using Words = std::vector<uint32_t>;

// Run on AutoAWQ (formats.md section 3): the codes of the first two inputs of 16 outputs, and zero points.
TEST(Awq, WordsEqualUpstreams) {
  GroupedMatrix w{.rows = 16, .cols = 32, .bits = 4, .group_size = 32};
  w.codes.resize(16 * 32);
  for (size_t n = 0; n < 16; ++n) {
    w.codes[n * 32] = static_cast<uint8_t>(n);
    w.codes[n * 32 + 1] = static_cast<uint8_t>((n + 5) % 16);
    w.scales.push_back(0.5f);
    w.zeros.push_back(static_cast<float>((n + 1) % 16));
  }
  const std::vector<TestLayer> layers = {{"m", w}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateAwqWriter(*source, dir / "out", {});
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  auto out = *Checkpoint::Open(dir / "out");
  EXPECT_EQ(out->Find("m.qweight")->shape(), (Shape{32, 2}));
  EXPECT_EQ(FirstWords(*out->Find("m.qweight"), 4), (Words{0x75316420, 0xFDB9ECA8, 0xCA86B975, 0x420E31FD}));
  EXPECT_EQ(FirstWords(*out->Find("m.qzeros"), 2), (Words{0x86427531, 0x0ECAFDB9}));
  EXPECT_EQ(out->Find("m.scales")->shape(), (Shape{1, 16}));
  auto read = ReadAwqLinear(*out, "m");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(std::get<GroupedMatrix>(**read).codes, w.codes);
  EXPECT_EQ(std::get<GroupedMatrix>(**read).zeros, w.zeros);
}

TEST(Awq, SymmetricLayersHaveZeroPointEightAndTheDocumentedBlock) {
  const std::vector<TestLayer> layers = {{"a", testing::RandomGrouped({.rows = 8, .cols = 64}, 1), true},
                                         {"b", testing::RandomGrouped({.rows = 24, .cols = 32}, 2)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateAwqWriter(*source, dir / "out", {});
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  auto out = *Checkpoint::Open(dir / "out");
  EXPECT_EQ(FirstWords(*out->Find("a.qzeros"), 1)[0], 0x88888888u);
  EXPECT_EQ(out->Find("a.bias")->dtype(), DType::kFloat16);
  EXPECT_EQ(out->config()["quantization_config"], nlohmann::json::parse(R"({"quant_method":"awq","bits":4,
      "group_size":32,"zero_point":true,"version":"gemm","lm_head":false,
      "modules_to_not_convert":["head.out","lm_head"]})"));
}

TEST(Awq, LayersHaveOneGroupSize) {
  const std::vector<TestLayer> layers = {{"a", testing::RandomGrouped({.rows = 8, .cols = 64}, 1)},
                                         {"b", testing::RandomGrouped({.rows = 8, .cols = 64, .group_size = 64}, 2)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateAwqWriter(*source, dir / "out", {});
  EXPECT_THAT(testing::WriteAll(**writer, *source, layers),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("one group size for all")));
}

TEST(Awq, HostileFilesAreRefusedByName) {
  const std::vector<TestLayer> layers = {{"m", testing::RandomGrouped({.rows = 8, .cols = 64, .symmetric = false}, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateAwqWriter(*source, dir / "out", {});
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  auto good = *Checkpoint::Open(dir / "out");
  int count = 0;
  const auto refuses = [&](const char* says, auto change) {
    std::map<std::string, Tensor> tensors(good->tensors().begin(), good->tensors().end());
    nlohmann::json config = good->config();
    change(tensors, config["quantization_config"]);
    std::vector<NamedTensor> changed;
    changed.reserve(tensors.size());
    for (const auto& [name, t] : tensors) changed.push_back({name, t});
    const auto bad = testing::MakeCheckpoint(dir / absl::StrCat("bad", count++), config, changed);
    const auto read = ReadAwqLinear(*bad, "m");
    EXPECT_FALSE(read.ok()) << says;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(says));
  };
  refuses("no tensor \"m.qzeros\"", [](auto& t, auto&) { t.erase("m.qzeros"); });
  refuses("no qweight", [](auto& t, auto&) { t.erase("m.qweight"); });
  refuses("qzeros has shape [4,1]", [](auto& t, auto&) { t["m.qzeros"] = *Tensor::Allocate(DType::kInt32, {4, 1}); });
  refuses("scales is int32", [](auto& t, auto&) { t["m.scales"] = *Tensor::Allocate(DType::kInt32, {2, 8}); });
  refuses("scales has shape [2,9]", [](auto& t, auto&) { t["m.scales"] = *Tensor::Allocate(DType::kFloat16, {2, 9}); });
  refuses("group_size 48 does not divide its 64", [](auto&, auto& c) { c["group_size"] = 48; });
  refuses("group_size 128 does not divide", [](auto&, auto& c) { c["group_size"] = 128; });
  refuses("not 8", [](auto&, auto& c) { c["bits"] = 8; });
  refuses("version \"gemv\"", [](auto&, auto& c) { c["version"] = "gemv"; });
  refuses("without zero points", [](auto&, auto& c) { c["zero_point"] = false; });
}

}  // namespace
}  // namespace quant
