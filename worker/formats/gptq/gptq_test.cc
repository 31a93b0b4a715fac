// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/gptq/gptq.h"

#include <gtest/gtest.h>

#include "absl/status/status_matchers.h"
#include "worker/formats/checkpoint_testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::AllOf;
using testing::FirstWords;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TestLayer;
using Words = std::vector<uint32_t>;

// The layer of the vectors: K = 64, N = 32, groups of 32, scale 0.5, q[k][n] = (k + 3n) mod 2^bits,
// z[g][n] = 1 + ((g + n) mod (2^bits - 1)).
GroupedMatrix VectorLayer(int bits) {
  GroupedMatrix w{.rows = 32, .cols = 64, .bits = bits, .group_size = 32};
  for (int n = 0; n < 32; ++n) {
    for (int k = 0; k < 64; ++k) w.codes.push_back(static_cast<uint8_t>((k + 3 * n) % (1 << bits)));
    for (int g = 0; g < 2; ++g) {
      w.scales.push_back(0.5f);
      w.zeros.push_back(static_cast<float>(1 + (g + n) % ((1 << bits) - 1)));
    }
  }
  return w;
}

struct Vector {
  int bits;
  Words column0;
  Words v1, v2;
};

class GptqVectors : public ::testing::TestWithParam<Vector> {};

// Run on AutoGPTQ's pack (formats.md section 2).
TEST_P(GptqVectors, EqualUpstreams) {
  const Vector& v = GetParam();
  const std::vector<TestLayer> layers = {{"m.q", VectorLayer(v.bits)}};
  for (const bool second : {false, true}) {
    TempDir dir;
    const auto source = testing::MakeSource(dir / "in", layers);
    auto writer = CreateGptqWriter(*source, dir / "out", {}, second ? GptqVersion::kV2 : GptqVersion::kV1);
    ASSERT_THAT(writer, IsOk());
    ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
    auto out = Checkpoint::Open(dir / "out");
    ASSERT_THAT(out, IsOk());
    const Tensor* qweight = (*out)->Find("m.q.qweight");
    ASSERT_NE(qweight, nullptr);
    EXPECT_EQ(qweight->dtype(), DType::kInt32);
    EXPECT_EQ(qweight->shape(), (Shape{64 * v.bits / 32, 32}));
    const Words words = FirstWords(*qweight, static_cast<size_t>(qweight->elements()));
    for (size_t r = 0; r < v.column0.size(); ++r) EXPECT_EQ(words[r * 32], v.column0[r]) << r;
    if (v.bits == 2) {
      EXPECT_EQ(words[1], 0x93939393u);
    }
    if (v.bits == 4) {
      EXPECT_EQ(words[1], 0xA9876543u);
    }
    if (v.bits == 4) {
      EXPECT_EQ(words[33], 0x210FEDCBu);
    }
    const Tensor* qzeros = (*out)->Find("m.q.qzeros");
    ASSERT_NE(qzeros, nullptr);
    EXPECT_EQ(qzeros->shape(), (Shape{2, v.bits}));
    const Words& want = second ? v.v2 : v.v1;
    EXPECT_EQ(FirstWords(*qzeros, want.size()), want);
    EXPECT_EQ((*out)->Find("m.q.scales")->shape(), (Shape{2, 32}));
    EXPECT_EQ((*out)->Find("m.q.scales")->dtype(), DType::kFloat16);
    EXPECT_EQ((*out)->Find("m.q.g_idx")->shape(), (Shape{64}));
    EXPECT_EQ((*out)->Find("m.q.weight"), nullptr);
    auto read = ReadGptqLinear(**out, "m.q");
    ASSERT_THAT(read, IsOk());
    const std::vector<float> values = testing::Dequantized(**read);
    if (v.bits == 4) {
      EXPECT_EQ(values[0], -0.5f);
    }
    if (v.bits == 4) {
      EXPECT_EQ(values[64 + 5], 3.0f);
    }
    EXPECT_EQ(values, testing::Dequantized(layers[0].weights));
  }
}

INSTANTIATE_TEST_SUITE_P(
    , GptqVectors,
    ::testing::Values(Vector{2, {0xE4E4E4E4, 0xE4E4E4E4}, {0x24924924, 0x49249249}, {0x79E79E79, 0x9E79E79E}},
                      Vector{3,
                             {0x88FAC688, 0xC688FAC6, 0xFAC688FA},
                             {0xD11AC688, 0x6B1A2358, 0x688D6344},
                             {0x1A3F58D1, 0xFD6347EB, 0x8D1FAC68}},
                      Vector{4,
                             {0x76543210, 0xFEDCBA98},
                             {0x76543210, 0x0EDCBA98, 0x87654321, 0x10EDCBA9},
                             {0x87654321, 0x1FEDCBA9, 0x98765432, 0x21FEDCBA}},
                      Vector{8, {0x03020100, 0x07060504}, {0x03020100, 0x07060504}, {0x04030201, 0x08070605}}),
    [](const auto& test) { return absl::StrCat(test.param.bits, "Bits"); });

TEST(Gptq, SymmetricZeroPointsAreTheKnownWords) {
  constexpr std::pair<int, std::pair<uint32_t, uint32_t>> kWords[] = {
      {2, {0x55555555, 0xAAAAAAAA}}, {4, {0x77777777, 0x88888888}}, {8, {0x7F7F7F7F, 0x80808080}}};
  for (const auto& [bits, words] : kWords) {
    const std::vector<TestLayer> layers = {{"m", testing::RandomGrouped({.rows = 32, .cols = 64, .bits = bits}, 1)}};
    for (const bool second : {false, true}) {
      TempDir dir;
      const auto source = testing::MakeSource(dir / "in", layers);
      auto writer = CreateGptqWriter(*source, dir / "out", {}, second ? GptqVersion::kV2 : GptqVersion::kV1);
      ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
      auto out = Checkpoint::Open(dir / "out");
      EXPECT_EQ(FirstWords(*(*out)->Find("m.qzeros"), 1)[0], second ? words.second : words.first) << bits;
    }
  }
}

// The block of docs/formats/gptq.md, and the same in quantize_config.json.
TEST(Gptq, ConfigBlockIsTheDocumentedOne) {
  const std::vector<TestLayer> layers = {
      {"m.a", testing::RandomGrouped({.rows = 32, .cols = 256, .group_size = 128}, 1)},
      {"m.b", testing::RandomGrouped({.rows = 32, .cols = 128, .group_size = 128}, 2)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateGptqWriter(*source, dir / "out", {.method = "rtn", .tool_version = "1.0"}, GptqVersion::kV1);
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  const auto config = nlohmann::json::parse(testing::ReadFile(dir / "out" / "config.json"));
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["quantization_config"], nlohmann::json::parse(R"({"bits":4,"group_size":128,"sym":true,
      "desc_act":false,"static_groups":false,"true_sequential":true,"damp_percent":0.01,"lm_head":false,
      "quant_method":"gptq","checkpoint_format":"gptq","format":"gptq","pack_dtype":"int32",
      "meta":{"quantizer":["quantd:1.0"],"method":"rtn"},"dynamic":{"-:^head\\.out$":{}}})"));
  EXPECT_EQ(nlohmann::json::parse(testing::ReadFile(dir / "out" / "quantize_config.json")),
            config["quantization_config"]);
  EXPECT_EQ(testing::ReadFile(dir / "out" / "tokenizer.json"), "{}");
}

TEST(Gptq, LayersOfOtherBitsAndGroupsAreListedAndReadBack) {
  const std::vector<TestLayer> layers = {
      {"a", testing::RandomGrouped({.rows = 32, .cols = 128, .group_size = 64}, 1)},
      {"b", testing::RandomGrouped({.rows = 32, .cols = 128, .group_size = 64}, 2)},
      {"c", testing::RandomGrouped({.rows = 32, .cols = 128, .bits = 8, .group_size = 128}, 3)},
      {"d", testing::RandomGrouped({.rows = 32, .cols = 96, .bits = 3, .group_size = 32}, 4)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateGptqWriter(*source, dir / "out", {}, GptqVersion::kV1);
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  auto out = *Checkpoint::Open(dir / "out");
  const nlohmann::json block = out->config()["quantization_config"];
  EXPECT_EQ(block["group_size"], 64);
  EXPECT_EQ(block["dynamic"]["+:^c$"], nlohmann::json({{"bits", 8}, {"group_size", -1}}));
  EXPECT_EQ(block["dynamic"]["+:^d$"], nlohmann::json({{"bits", 3}, {"group_size", 32}}));
  for (const TestLayer& l : layers) {
    auto read = ReadGptqLinear(*out, l.module);
    ASSERT_THAT(read, IsOk()) << l.module;
    EXPECT_EQ(testing::Dequantized(**read), testing::Dequantized(l.weights)) << l.module;
  }
}

TEST(Gptq, ZeroPointZeroIsRaisedWhereThatIsExactAndRefusedElsewhere) {
  GroupedMatrix w = testing::RandomGrouped({.rows = 32, .cols = 64, .symmetric = false, .least_zero = 1}, 1);
  w.zeros[3] = 0;  // of row 1, group 1
  for (int c = 32; c < 64; ++c) w.codes[64 + static_cast<size_t>(c)] = static_cast<uint8_t>(c % 15);
  const auto write = [](const GroupedMatrix& m, GptqVersion version,
                        TempDir& dir) -> absl::StatusOr<std::vector<float>> {
    const std::vector<TestLayer> layers = {{"m", m}};
    const auto source = testing::MakeSource(dir / "in", layers);
    auto writer = CreateGptqWriter(*source, dir / "out", {}, version);
    if (absl::Status s = testing::WriteAll(**writer, *source, layers); !s.ok()) return s;
    auto read = ReadGptqLinear(**Checkpoint::Open(dir / "out"), "m");
    if (!read.ok()) return read.status();
    return testing::Dequantized(**read);
  };
  TempDir a, b, c;
  EXPECT_THAT(write(w, GptqVersion::kV1, a), absl_testing::IsOkAndHolds(testing::Dequantized(w)));
  w.codes[64 + 40] = 15;
  EXPECT_THAT(
      write(w, GptqVersion::kV1, b),
      StatusIs(absl::StatusCode::kInvalidArgument,
               AllOf(HasSubstr("\"m\""), HasSubstr("zero point 0 in group 1 of output 1"), HasSubstr("gptq_v2"))));
  EXPECT_THAT(write(w, GptqVersion::kV2, c), absl_testing::IsOkAndHolds(testing::Dequantized(w)));
}

TEST(Gptq, RefusesScalesThatAreNoFloat16) {
  GroupedMatrix w = testing::RandomGrouped({.rows = 32, .cols = 64}, 1);
  w.scales[5] = 0.1f;
  const std::vector<TestLayer> layers = {{"m", w}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateGptqWriter(*source, dir / "out", {}, GptqVersion::kV1);
  EXPECT_THAT(testing::WriteAll(**writer, *source, layers),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no float16 number")));
}

// ---- hostile files

struct Hostile {
  const char* name;
  const char* says;
  void (*change)(std::map<std::string, Tensor>& tensors, nlohmann::json& config);
};

class HostileGptq : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileGptq, IsRefusedByName) {
  const std::vector<TestLayer> layers = {{"m", testing::RandomGrouped({.rows = 32, .cols = 64}, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateGptqWriter(*source, dir / "out", {}, GptqVersion::kV1);
  ASSERT_THAT(testing::WriteAll(**writer, *source, layers), IsOk());
  auto good = *Checkpoint::Open(dir / "out");
  ASSERT_THAT(ReadGptqLinear(*good, "m"), IsOk());
  std::map<std::string, Tensor> tensors(good->tensors().begin(), good->tensors().end());
  nlohmann::json config = good->config();
  GetParam().change(tensors, config["quantization_config"]);
  std::vector<NamedTensor> changed;
  changed.reserve(tensors.size());
  for (const auto& [name, t] : tensors) changed.push_back({name, t});
  const auto bad = testing::MakeCheckpoint(dir / "bad", config, changed);
  const auto read = ReadGptqLinear(*bad, "m");
  EXPECT_FALSE(read.ok());
  EXPECT_THAT(std::string(read.status().message()), HasSubstr(GetParam().says));
}

using Tensors = std::map<std::string, Tensor>;
using J = nlohmann::json;

constexpr Hostile kHostile[] = {
    Hostile{"NoZeros", "no tensor \"m.qzeros\"", [](Tensors& t, J&) { t.erase("m.qzeros"); }},
    Hostile{"NoScales", "no tensor \"m.scales\"", [](Tensors& t, J&) { t.erase("m.scales"); }},
    Hostile{"NoCodes", "no qweight", [](Tensors& t, J&) { t.erase("m.qweight"); }},
    Hostile{"FloatCodes", "qweight is float32",
            [](Tensors& t, J&) { t["m.qweight"] = *Tensor::Allocate(DType::kFloat32, {8, 32}); }},
    Hostile{"FlatCodes", "qweight has shape [256]",
            [](Tensors& t, J&) { t["m.qweight"] = t["m.qweight"].Reshaped({256}); }},
    Hostile{"OddCodes", "does not hold",
            [](Tensors& t, J&) { t["m.qweight"] = *Tensor::Allocate(DType::kInt32, {7, 32}); }},
    Hostile{"NarrowScales", "scales has shape [2,31]; it must be [any,32]",
            [](Tensors& t, J&) { t["m.scales"] = *Tensor::Allocate(DType::kFloat16, {2, 31}); }},
    Hostile{"ManyScales", "scales has 7 groups",
            [](Tensors& t, J&) { t["m.scales"] = *Tensor::Allocate(DType::kFloat16, {7, 32}); }},
    Hostile{"NarrowZeros", "qzeros has shape [2,3]; it must be [2,4]",
            [](Tensors& t, J&) { t["m.qzeros"] = *Tensor::Allocate(DType::kInt32, {2, 3}); }},
    Hostile{"LostZero", "qzeros holds 15",
            [](Tensors& t, J&) {
              t["m.qzeros"] = *Tensor::Allocate(DType::kInt32, {2, 4});
              t["m.qzeros"].mutable_data<int32_t>()[1] = -1;
            }},
    Hostile{"NaNScale", "scales has nan at element 3",
            [](Tensors& t, J&) {
              t["m.scales"] = *Tensor::Allocate(DType::kFloat16, {2, 32});
              t["m.scales"].mutable_data<uint16_t>()[3] = 0x7e00;
            }},
    Hostile{"GroupOutOfRange", "puts input 7 into group 2",
            [](Tensors& t, J&) {
              t["m.g_idx"] = *Tensor::Allocate(DType::kInt32, {64});
              t["m.g_idx"].mutable_data<int32_t>()[7] = 2;
            }},
    Hostile{"NegativeGroup", "puts input 0 into group -1",
            [](Tensors& t, J&) {
              t["m.g_idx"] = *Tensor::Allocate(DType::kInt32, {64});
              t["m.g_idx"].mutable_data<int32_t>()[0] = -1;
            }},
    Hostile{"ShortGroups", "does not hold",
            [](Tensors& t, J&) { t["m.g_idx"] = *Tensor::Allocate(DType::kInt32, {60}); }},
    Hostile{"Bits", "bits is 9", [](Tensors&, J& c) { c["bits"] = 9; }},
    Hostile{"Format", "format \"marlin\"", [](Tensors&, J& c) { c["format"] = c["checkpoint_format"] = "marlin"; }},
    Hostile{"Formats", "they must agree", [](Tensors&, J& c) { c["format"] = "gptq_v2"; }},
    Hostile{"Words", "packed in \"int16\"", [](Tensors&, J& c) { c["pack_dtype"] = "int16"; }}};

INSTANTIATE_TEST_SUITE_P(, HostileGptq, ::testing::ValuesIn(kHostile),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace quant
