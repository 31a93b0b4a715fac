// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/compressed_tensors/compressed_tensors.h"

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

std::shared_ptr<const Checkpoint> Write(const TempDir& dir, const std::vector<TestLayer>& layers,
                                        const ExportOptions& options = {}) {
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateCompressedTensorsWriter(*source, dir / "out", options);
  CHECK_OK(writer.status());
  CHECK_OK(testing::WriteAll(**writer, *source, layers));
  return *Checkpoint::Open(dir / "out");
}

GroupedMatrix Rows(int bits, const std::vector<std::vector<int>>& rows) {
  GroupedMatrix w{
      .rows = static_cast<int64_t>(rows.size()), .cols = static_cast<int64_t>(rows[0].size()), .bits = bits};
  w.group_size = w.cols;
  for (const auto& row : rows) {
    for (const int q : row) w.codes.push_back(static_cast<uint8_t>(q + (1 << (bits - 1))));
    w.scales.push_back(1);
  }
  return w;
}

// Run on pack_to_int32 (formats.md section 5).
TEST(CompressedTensors, PackedWordsEqualUpstreams) {
  std::vector<int> up, down;
  for (int q = -8; q < 8; ++q) up.push_back(q);
  down.assign(up.rbegin(), up.rend());
  TempDir a, b, c;
  EXPECT_EQ(FirstWords(*Write(a, {{"m", Rows(4, {up, down})}})->Find("m.weight_packed"), 4),
            (Words{0x76543210, 0xFEDCBA98, 0x89ABCDEF, 0x01234567}));
  up.resize(10);
  const auto ten = Write(b, {{"m", Rows(4, {up})}});
  EXPECT_EQ(FirstWords(*ten->Find("m.weight_packed"), 2), (Words{0x76543210, 0x00000098}));
  EXPECT_EQ(*ToInt64(*ten->Find("m.weight_shape")), (std::vector<int64_t>{1, 10}));
  EXPECT_EQ(ten->Find("m.weight_shape")->dtype(), DType::kInt64);
  EXPECT_EQ(FirstWords(*Write(c, {{"m", Rows(8, {{-128, -1, 0, 1, 127}})}})->Find("m.weight_packed"), 2),
            (Words{0x81807F00, 0x000000FF}));
}

TEST(CompressedTensors, PackedZeroPointsEqualUpstreams) {
  GroupedMatrix w = testing::RandomGrouped({.rows = 8, .cols = 64, .symmetric = false}, 1);
  for (size_t r = 0; r < 8; ++r) {
    w.zeros[2 * r] = static_cast<float>(r);           // -8 .. -1
    w.zeros[2 * r + 1] = static_cast<float>(15 - r);  // 7 .. 0
  }
  TempDir dir;
  const auto out = Write(dir, {{"m", w}});
  EXPECT_EQ(out->Find("m.weight_zero_point")->shape(), (Shape{1, 2}));
  EXPECT_EQ(FirstWords(*out->Find("m.weight_zero_point"), 2), (Words{0x76543210, 0x89ABCDEF}));
}

constexpr char kW4A16[] = R"({"quant_method":"compressed-tensors","format":"pack-quantized",
    "quantization_status":"compressed","global_compression_ratio":null,"kv_cache_scheme":null,
    "ignore":["head.out","lm_head"],"config_groups":{"group_0":{"targets":["Linear"],
    "weights":{"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":32,"dynamic":false,
      "actorder":null,"block_structure":null,"observer":"minmax","observer_kwargs":{}},
    "input_activations":null,"output_activations":null}}})";

TEST(CompressedTensors, ConfigBlocksAreTheDocumentedOnes) {
  TempDir a, b, c;
  EXPECT_EQ(Write(a, {{"m", testing::RandomGrouped({.rows = 4, .cols = 64}, 1)}})->config()["quantization_config"],
            nlohmann::json::parse(kW4A16));
  const auto w8 = Write(b, {{"m", testing::RandomGrouped({.rows = 4, .cols = 5, .bits = 8, .group_size = 5}, 1)}},
                        {.int8_activations = true});
  EXPECT_EQ(w8->config()["quantization_config"], nlohmann::json::parse(R"({"quant_method":"compressed-tensors",
      "format":"int-quantized","quantization_status":"compressed","global_compression_ratio":null,
      "kv_cache_scheme":null,"ignore":["head.out","lm_head"],"config_groups":{"group_0":{"targets":["Linear"],
      "weights":{"num_bits":8,"type":"int","symmetric":true,"strategy":"channel","group_size":null,"dynamic":false,
        "actorder":null,"block_structure":null,"observer":"minmax","observer_kwargs":{}},
      "input_activations":{"num_bits":8,"type":"int","symmetric":true,"strategy":"token","group_size":null,
        "dynamic":true,"actorder":null,"block_structure":null,"observer":null,"observer_kwargs":{}},
      "output_activations":null}}})"));
  EXPECT_EQ(w8->Find("m.weight")->dtype(), DType::kInt8);
  EXPECT_EQ(w8->Find("m.weight_scale")->shape(), (Shape{4, 1}));
  EXPECT_EQ(w8->Find("m.weight_zero_point"), nullptr);
  // Two layers of one grid stand for Linear, the third is named.
  const auto mixed =
      Write(c, {{"a", testing::RandomGrouped({.rows = 4, .cols = 64}, 1)},
                {"b", testing::RandomGrouped({.rows = 4, .cols = 64}, 2)},
                {"x.c", testing::RandomGrouped({.rows = 4, .cols = 43, .bits = 8, .group_size = 43}, 3)}});
  const nlohmann::json groups = mixed->config()["quantization_config"]["config_groups"];
  EXPECT_EQ(groups["group_0"]["weights"]["group_size"], 32);
  EXPECT_EQ(groups["group_1"]["targets"], nlohmann::json({"re:^x\\.c$"}));
  EXPECT_EQ(groups["group_1"]["weights"]["num_bits"], 8);
  EXPECT_EQ(groups["group_1"]["weights"]["strategy"], "channel");
}

TEST(CompressedTensors, ScalesTakeTheSmallestExactType) {
  GroupedMatrix w = testing::RandomGrouped({.rows = 1, .cols = 32}, 1);
  for (const auto& [scale, dtype] : std::vector<std::pair<float, DType>>{
           {1.0009765625f, DType::kFloat16}, {1e30f, DType::kFloat32}, {0x1p100f, DType::kBFloat16}}) {
    w.scales[0] = scale;
    TempDir dir;
    const auto out = Write(dir, {{"m", w}});
    EXPECT_EQ(out->Find("m.weight_scale")->dtype(), dtype);
    auto read = ReadCompressedTensorsLinear(*out, "m");
    ASSERT_THAT(read, IsOk());
    EXPECT_EQ(testing::Dequantized(**read), testing::Dequantized(w));
  }
}

TEST(CompressedTensors, ReadsOneScaleForAllAndInt8ZeroPoints) {
  TempDir dir;
  const auto checkpoint = testing::MakeCheckpoint(
      dir.path(), {{"quantization_config", {{"quant_method", "compressed-tensors"}, {"format", "int-quantized"}}}},
      {{"m.weight", Tensor::Of<int8_t>({2, 2}, std::vector<int8_t>{-128, 0, 5, 127})},
       {"m.weight_scale", Tensor::Of<float>({1}, std::vector<float>{0.5f})},
       {"m.weight_zero_point", Tensor::Of<int8_t>({1}, std::vector<int8_t>{-3})}});
  auto read = ReadCompressedTensorsLinear(*checkpoint, "m");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(testing::Dequantized(**read), (std::vector<float>{-62.5f, 1.5f, 4, 65}));
}

TEST(CompressedTensors, RefusesOtherWeightsForInt8Activations) {
  const std::vector<TestLayer> layers = {{"m", testing::RandomGrouped({.rows = 4, .cols = 64, .bits = 8}, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateCompressedTensorsWriter(*source, dir / "out", {.int8_activations = true});
  EXPECT_THAT(testing::WriteAll(**writer, *source, layers),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("group size -1")));
}

TEST(CompressedTensors, HostileFilesAreRefusedByName) {
  TempDir dir, first;
  const auto good = Write(first, {{"m", testing::RandomGrouped({.rows = 8, .cols = 64, .symmetric = false}, 1)}});
  int count = 0;
  const auto refuses = [&](const char* says, auto change) {
    std::map<std::string, Tensor> tensors(good->tensors().begin(), good->tensors().end());
    nlohmann::json config = good->config();
    change(tensors, config["quantization_config"]);
    std::vector<NamedTensor> changed;
    changed.reserve(tensors.size());
    for (const auto& [name, t] : tensors) changed.push_back({name, t});
    const auto bad = testing::MakeCheckpoint(dir / absl::StrCat("bad", count++), config, changed);
    const auto read = ReadCompressedTensorsLinear(*bad, "m");
    EXPECT_FALSE(read.ok()) << says;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(says));
  };
  const auto shape = [](int64_t n, int64_t k) {
    return [=](auto& t, auto&) { t["m.weight_shape"] = Tensor::Of<int64_t>({2}, std::vector<int64_t>{n, k}); };
  };
  refuses("no tensor weight_scale", [](auto& t, auto&) { t.erase("m.weight_scale"); });
  refuses("no tensor \"m.weight_shape\"", [](auto& t, auto&) { t.erase("m.weight_shape"); });
  refuses("no weight", [](auto& t, auto&) { t.erase("m.weight_packed"); });
  refuses("both weight and weight_packed", [](auto& t, auto&) { t["m.weight"] = Tensor::Scalar(1.0f); });
  refuses("weight_shape says [9,64]", shape(9, 64));
  refuses("weight_shape says [8,-64]", shape(8, -64));
  refuses("weight_shape says [8,9223372036854775807]", shape(8, INT64_MAX));
  refuses("does not hold 72 inputs", shape(8, 72));
  refuses("does not divide 63 inputs", shape(8, 63));
  refuses("weight_zero_point has shape [2,2]",
          [](auto& t, auto&) { t["m.weight_zero_point"] = *Tensor::Allocate(DType::kInt32, {2, 2}); });
  refuses("does not divide 64 inputs",
          [](auto& t, auto&) { t["m.weight_scale"] = *Tensor::Allocate(DType::kFloat16, {8, 3}); });
  refuses("weight_scale has shape [7,2]",
          [](auto& t, auto&) { t["m.weight_scale"] = *Tensor::Allocate(DType::kFloat16, {7, 2}); });
  refuses("into group 9",
          [](auto& t, auto&) { t["m.weight_g_idx"] = Tensor::Of<int32_t>({64}, std::vector<int32_t>(64, 9)); });
  refuses("format \"nvfp4-pack-quantized\"", [](auto&, auto& c) { c["format"] = "nvfp4-pack-quantized"; });
}

}  // namespace
}  // namespace quant
