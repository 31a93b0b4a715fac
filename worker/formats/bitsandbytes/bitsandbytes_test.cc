// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/bitsandbytes/bitsandbytes.h"

#include <gtest/gtest.h>

#include <cmath>

#include "absl/status/status_matchers.h"
#include "worker/formats/checkpoint_testing.h"

namespace quant {
namespace {

using absl_testing::IsOk;
using absl_testing::StatusIs;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::TestLayer;

// The vectors were run on bitsandbytes' CPU operators (formats.md section 4): weight [2, 64], row 0 = (j - 32) / 32,
// row 1 = (j - 31) / 16, of float16.
constexpr char kNf4Row0[] = "000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff";
constexpr char kNf4Row1[] = "00001111111122222333344455566677788999aaabbbccccddddeeeeeeefffff";
constexpr char kFp4Row0[] = "bbbbbbaaaaaaaadddddccccfffeeee9901166667774444555552222222233333";

std::string Hex(const Tensor& t) {
  std::string out;
  for (const std::byte b : t.bytes()) {
    out += "0123456789abcdef"[std::to_integer<int>(b) >> 4];
    out += "0123456789abcdef"[std::to_integer<int>(b) & 15];
  }
  return out;
}

std::string Text(const Tensor& t) { return {reinterpret_cast<const char*>(t.bytes().data()), t.bytes().size()}; }

// The codes of a matrix by the rule of the format: the nearest table entry, of equally near ones the lower.
void Quantize(const std::vector<float>& values, CodebookMatrix* w) {
  const std::span<const float> table = w->fp4 ? Fp4Table() : Nf4Table();
  w->codebook.assign(table.begin(), table.end());
  for (size_t i = 0; i < values.size(); ++i) {
    const double v = double{values[i]} / double{w->absmax[i / static_cast<size_t>(w->block_size)]};
    size_t best = 0;
    for (size_t c = 1; c < table.size(); ++c) {
      const double d = std::abs(table[c] - v), b = std::abs(table[best] - v);
      if (d < b || (d == b && table[c] < table[best])) best = c;
    }
    w->codes.push_back(static_cast<uint8_t>(best));
  }
}

std::vector<float> VectorWeights() {
  std::vector<float> v;
  v.reserve(64);
  for (int j = 0; j < 64; ++j) v.push_back(static_cast<float>(j - 32) / 32.0f);
  for (int j = 0; j < 64; ++j) v.push_back(static_cast<float>(j - 31) / 16.0f);
  return v;
}

// The 256 values of the map of double quantization, as formats.md describes them.
std::vector<float> DynamicMap() {
  std::vector<double> map = {0, 1};
  for (int i = 0; i < 7; ++i) {
    const int steps = 1 << i;
    for (int k = 0; k < steps; ++k) {
      const double at = 0.1 + 0.9 * (k + 0.5) / steps;
      for (const double sign : {-1.0, 1.0}) map.push_back(sign * at * std::pow(10.0, i - 6));
    }
  }
  std::sort(map.begin(), map.end());
  return {map.begin(), map.end()};
}

std::shared_ptr<const Checkpoint> Write(const TempDir& dir, const WeightMatrix& w, DType dtype) {
  const auto source = testing::MakeCheckpoint(dir / "in", {{"model_type", "llama"}},
                                              {{"m.weight", *Tensor::Allocate(dtype, {Rows(w), Cols(w)})}});
  auto writer = CreateBitsandbytesWriter(*source, dir / "out", {});
  CHECK_OK(writer.status());
  CHECK_OK((*writer)->AddLinear("m", w, nullptr));
  CHECK_OK((*writer)->Finish());
  return *Checkpoint::Open(dir / "out");
}

TEST(Bitsandbytes, Nf4EqualsUpstreams) {
  CodebookMatrix w{.rows = 2, .cols = 64, .absmax = {1, 2}};
  Quantize(VectorWeights(), &w);
  TempDir dir;
  const auto out = Write(dir, w, DType::kFloat16);
  EXPECT_EQ(out->Find("m.weight")->shape(), (Shape{64, 1}));
  EXPECT_EQ(Hex(*out->Find("m.weight")), std::string(kNf4Row0) + kNf4Row1);
  const std::string state = Text(*out->Find("m.weight.quant_state.bitsandbytes__nf4"));
  EXPECT_EQ(state, R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [2, 64]})");
  EXPECT_EQ(state.size(), 76u);
  EXPECT_EQ(*ToFloat(*out->Find("m.weight.absmax")), (std::vector<float>{1, 2}));
  const std::vector<float> map = *ToFloat(*out->Find("m.weight.quant_map"));
  EXPECT_EQ(map[1], -0.6961928009986877f);
  EXPECT_EQ(map[14], 0.7229568362236023f);
}

TEST(Bitsandbytes, Fp4EqualsUpstreams) {
  CodebookMatrix w{.rows = 1, .cols = 64, .fp4 = true, .absmax = {1}};
  std::vector<float> row = VectorWeights();
  row.resize(64);
  Quantize(row, &w);
  TempDir dir;
  const auto out = Write(dir, w, DType::kFloat16);
  EXPECT_EQ(Hex(*out->Find("m.weight")), kFp4Row0);
  EXPECT_NE(out->Find("m.weight.quant_state.bitsandbytes__fp4"), nullptr);
}

TEST(Bitsandbytes, OddTailIsPaddedWithTheCodeOfZero) {
  CodebookMatrix w{.rows = 1, .cols = 3, .absmax = {1}};
  Quantize({1, -1, 0.5}, &w);
  TempDir dir;
  EXPECT_EQ(Hex(*Write(dir, w, DType::kFloat32)->Find("m.weight")), "f0c7");
}

TEST(Bitsandbytes, DoubleQuantizationEqualsUpstreams) {
  const std::vector<float> map = DynamicMap();
  ASSERT_EQ(map.size(), 256u);
  EXPECT_FLOAT_EQ(map[0], -0.9929687f);
  EXPECT_EQ(map[127], 0);
  EXPECT_EQ(map[255], 1);
  CodebookMatrix w{
      .rows = 2, .cols = 64, .nested_codes = {0, 255}, .nested_absmax = {0.5}, .nested_map = map, .nested_offset = 1.5};
  for (const uint8_t c : w.nested_codes) w.absmax.push_back(map[c] * 0.5f + 1.5f);
  EXPECT_FLOAT_EQ(w.absmax[0], 1.0035156f);
  EXPECT_EQ(w.absmax[1], 2);
  Quantize(VectorWeights(), &w);
  TempDir dir;
  const auto out = Write(dir, w, DType::kFloat16);
  EXPECT_EQ(Hex(*out->Find("m.weight.absmax")), "00ff");
  EXPECT_EQ(*ToFloat(*out->Find("m.weight.nested_absmax")), std::vector<float>{0.5});
  const std::string state = Text(*out->Find("m.weight.quant_state.bitsandbytes__nf4"));
  EXPECT_EQ(state.size(), 150u) << state;
  EXPECT_EQ(state,
            R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [2, 64], "nested_blocksize": 256, )"
            R"("nested_dtype": "float32", "nested_offset": 1.5})");
  auto read = ReadBitsandbytesLinear(*out, "m");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(std::get<CodebookMatrix>(**read).absmax, w.absmax);
}

TEST(Bitsandbytes, Int8EqualsUpstreams) {
  // F16 rows [1, -2, 0.5, 0], [0.25, -0.125, 0.0625, -0.25].
  GroupedMatrix w{.rows = 2, .cols = 4, .bits = 8, .group_size = 4};
  for (const int q : {64, -127, 32, 0, 127, -64, 32, -127}) w.codes.push_back(static_cast<uint8_t>(q + 128));
  w.scales = {2.0f / 127, 0.25f / 127};
  TempDir dir;
  const auto out = Write(dir, w, DType::kFloat16);
  EXPECT_EQ(Hex(*out->Find("m.weight")), "408120007fc02081");
  EXPECT_EQ(*ToFloat(*out->Find("m.SCB")), (std::vector<float>{2, 0.25}));
  EXPECT_EQ(out->Find("m.weight_format")->shape(), Shape{});
  EXPECT_EQ(Hex(*out->Find("m.weight_format")), "00");
  auto read = ReadBitsandbytesLinear(*out, "m");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(std::get<GroupedMatrix>(**read).codes, w.codes);
  EXPECT_EQ(std::get<GroupedMatrix>(**read).scales, w.scales);
}

TEST(Bitsandbytes, ConfigBlocksAreTheDocumentedOnes) {
  const std::string common =
      R"("bnb_4bit_quant_storage":"uint8","llm_int8_threshold":6.0,"llm_int8_skip_modules":["head.out","lm_head"],
         "llm_int8_enable_fp32_cpu_offload":false,"llm_int8_has_fp16_weight":false})";
  const auto block = [](const WeightMatrix& w) {
    const std::vector<TestLayer> layers = {{"m", w}};
    TempDir dir;
    const auto source = testing::MakeSource(dir / "in", layers);
    auto writer = CreateBitsandbytesWriter(*source, dir / "out", {});
    CHECK_OK(testing::WriteAll(**writer, *source, layers));
    EXPECT_THAT(testing::ReadFile(dir / "out" / "config.json"), HasSubstr("\"llm_int8_threshold\": 6.0"));
    return (*Checkpoint::Open(dir / "out"))->config()["quantization_config"];
  };
  EXPECT_EQ(block(testing::RandomCodebook(2, 64, 64, false, true, 1)),
            nlohmann::json::parse(R"({"quant_method":"bitsandbytes","load_in_4bit":true,"load_in_8bit":false,
                "_load_in_4bit":true,"_load_in_8bit":false,"bnb_4bit_quant_type":"nf4",
                "bnb_4bit_use_double_quant":true,"bnb_4bit_compute_dtype":"bfloat16",)" +
                                  common));
  EXPECT_EQ(block(testing::RandomGrouped({.rows = 2, .cols = 64, .bits = 8, .group_size = 64}, 1)),
            nlohmann::json::parse(R"({"quant_method":"bitsandbytes","load_in_4bit":false,"load_in_8bit":true,
                "_load_in_4bit":false,"_load_in_8bit":true,"bnb_4bit_quant_type":"nf4",
                "bnb_4bit_use_double_quant":false,"bnb_4bit_compute_dtype":"bfloat16",)" +
                                  common));
}

TEST(Bitsandbytes, ReadsBytesStoredAsWordsOfAnotherType) {
  const CodebookMatrix w = testing::RandomCodebook(4, 64, 64, false, false, 1);
  TempDir dir;
  const auto plain = Write(dir, w, DType::kFloat16);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, t] : plain->tensors()) {
    const bool weight = name == "m.weight";
    tensors.push_back({name, weight ? *Tensor::Borrow(DType::kBFloat16, {64, 1}, t.bytes(), nullptr) : t});
  }
  const auto words = testing::MakeCheckpoint(dir / "words", plain->config(), tensors);
  auto read = ReadBitsandbytesLinear(*words, "m");
  ASSERT_THAT(read, IsOk());
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ(std::get<CodebookMatrix>(**read).codes, w.codes);
}

TEST(Bitsandbytes, RefusesLayersOfTwoKinds) {
  const std::vector<TestLayer> layers = {{"a", testing::RandomCodebook(2, 64, 64, false, false, 1)},
                                         {"b", testing::RandomCodebook(2, 64, 64, true, false, 1)}};
  TempDir dir;
  const auto source = testing::MakeSource(dir / "in", layers);
  auto writer = CreateBitsandbytesWriter(*source, dir / "out", {});
  EXPECT_THAT(testing::WriteAll(**writer, *source, layers),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("another kind")));
}

TEST(Bitsandbytes, HostileFilesAreRefusedByName) {
  const auto bytes = [](std::string_view text) {
    return Tensor::Of<uint8_t>({static_cast<int64_t>(text.size())}, std::vector<uint8_t>(text.begin(), text.end()));
  };
  const std::string state = "m.weight.quant_state.bitsandbytes__nf4";
  int count = 0;
  TempDir dir, four, nested, eight;
  const auto refuses = [&](const std::shared_ptr<const Checkpoint>& good, const char* says, auto change) {
    std::map<std::string, Tensor> tensors(good->tensors().begin(), good->tensors().end());
    change(tensors);
    std::vector<NamedTensor> changed;
    changed.reserve(tensors.size());
    for (const auto& [name, t] : tensors) changed.push_back({name, t});
    const auto bad = testing::MakeCheckpoint(dir / absl::StrCat("bad", count++), good->config(), changed);
    const auto read = ReadBitsandbytesLinear(*bad, "m");
    EXPECT_FALSE(read.ok()) << says;
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(says));
  };
  const auto a = Write(four, testing::RandomCodebook(4, 64, 64, false, false, 1), DType::kFloat16);
  const auto set = [&](const char* text) { return [&, text](auto& t) { t[state] = bytes(text); }; };
  refuses(a, "no weight", [](auto& t) { t.erase("m.weight"); });
  refuses(a, "no quant_state", [&](auto& t) { t.erase(state); });
  refuses(a, "two quant_states", [&](auto& t) { t["m.weight.quant_state.bitsandbytes__fp4"] = t[state]; });
  refuses(a, "no tensor \"m.weight.absmax\"", [](auto& t) { t.erase("m.weight.absmax"); });
  refuses(a, "no tensor \"m.weight.quant_map\"", [](auto& t) { t.erase("m.weight.quant_map"); });
  refuses(a, "absmax has shape [5]; it must be [4]",
          [](auto& t) { t["m.weight.absmax"] = *Tensor::Allocate(DType::kFloat32, {5}); });
  refuses(a, "weight has shape [127,1]; it must be [128,1]",
          [](auto& t) { t["m.weight"] = *Tensor::Allocate(DType::kUInt8, {127, 1}); });
  refuses(a, "not a JSON object", set("[1"));
  refuses(a, "not a JSON object", [&](auto& t) { t[state] = bytes(std::string(4000, '[')); });
  refuses(a, "at most 4096", [&](auto& t) { t[state] = bytes(std::string(5000, ' ')); });
  refuses(a, "unknown key \"x\"", set(R"({"x":1})"));
  refuses(a, "quant_type", set(R"({"quant_type":"fp4","blocksize":64,"shape":[4,64]})"));
  refuses(a, "blocksize and a shape", set(R"({"quant_type":"nf4","shape":[4,64]})"));
  refuses(a, "blocksize 48", set(R"({"quant_type":"nf4","blocksize":48,"shape":[4,64]})"));
  refuses(a, "not a positive integer", set(R"({"quant_type":"nf4","blocksize":64,"shape":[-4,64]})"));
  refuses(a, "too large", set(R"({"quant_type":"nf4","blocksize":64,"shape":[1099511627776,1099511627776]})"));
  refuses(a, "weight has shape", set(R"({"quant_type":"nf4","blocksize":64,"shape":[64,64]})"));
  const auto b = Write(nested, testing::RandomCodebook(4, 64, 64, false, true, 1), DType::kFloat16);
  refuses(b, "no tensor \"m.weight.nested_absmax\"", [](auto& t) { t.erase("m.weight.nested_absmax"); });
  refuses(b, "absmax is float32", [](auto& t) { t["m.weight.absmax"] = *Tensor::Allocate(DType::kFloat32, {4}); });
  refuses(b, "together", set(R"({"quant_type":"nf4","blocksize":64,"shape":[4,64],"nested_offset":1.0})"));
  const auto c =
      Write(eight, testing::RandomGrouped({.rows = 4, .cols = 8, .bits = 8, .group_size = 8}, 1), DType::kFloat16);
  refuses(c, "no tensor \"m.SCB\"", [](auto& t) { t.erase("m.SCB"); });
  refuses(c, "no weight", [](auto& t) { t.erase("m.weight"); });
  refuses(c, "weight_format is 1",
          [](auto& t) { t["m.weight_format"] = Tensor::Of<uint8_t>({}, std::vector<uint8_t>{1}); });
  refuses(c, "weight is uint8", [](auto& t) { t["m.weight"] = *Tensor::Allocate(DType::kUInt8, {4, 8}); });
}

}  // namespace
}  // namespace quant
