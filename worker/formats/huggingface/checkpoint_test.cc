// SPDX-License-Identifier: Apache-2.0
#include "worker/formats/huggingface/checkpoint.h"

#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/huggingface/testing.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using ::quant::testing::TempDir;
using ::quant::testing::WriteFile;
using ::quant::testing::ZeroTensors;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kIndex[] = "model.safetensors.index.json";

std::string Index(const nlohmann::json& weight_map) { return nlohmann::json{{"weight_map", weight_map}}.dump(); }

void ExpectRefused(const fs::path& folder, absl::StatusCode code, const std::string& says) {
  const auto c = Checkpoint::Open(folder);
  ASSERT_FALSE(c.ok()) << says;
  EXPECT_EQ(c.status().code(), code) << c.status();
  EXPECT_THAT(std::string(c.status().message()), HasSubstr(says));
}

void ExpectInvalid(const fs::path& folder, const std::string& says) {
  ExpectRefused(folder, absl::StatusCode::kInvalidArgument, says);
}

TEST(Checkpoint, ReadsConfigOneFileAndNamesTheOthers) {
  TempDir dir;
  WriteFile(dir / "config.json", R"({"model_type":"llama","hidden_size":64,"nothing":null,"deep":{"er":[1]},
                                     "quantization_config":{"quant_method":"gptq"}})");
  WriteFile(dir / "weights.safetensors", ZeroTensors({{"a", {2, 3}}, {"b", {4}}}));
  WriteFile(dir / "tokenizer.json", "{}");
  WriteFile(dir / "training_args.bin", "pickle");
  fs::create_directory(dir / "onnx");
  const auto c = Checkpoint::Open(dir.path());
  ASSERT_TRUE(c.ok()) << c.status();
  ASSERT_NE((*c)->Find("a"), nullptr);
  EXPECT_EQ((*c)->Find("a")->shape(), Shape({2, 3}));
  EXPECT_EQ((*c)->Find("a")->dtype(), DType::kBFloat16);
  EXPECT_EQ((*c)->Find("c"), nullptr);
  EXPECT_THAT((*c)->other_files(), ElementsAre("config.json", "tokenizer.json"));
  EXPECT_EQ((*c)->QuantMethod(), "gptq");
  EXPECT_TRUE((*c)->Has("deep/er"));
  EXPECT_FALSE((*c)->Has("deep/er/x"));
  EXPECT_FALSE((*c)->Has("nothing"));
}

TEST(Checkpoint, TensorsOutliveTheCheckpoint) {
  TempDir dir;
  testing::WriteCheckpoint(dir.path(), {{"a", 1}}, {{"t", {3}}});
  Tensor t;
  {
    const auto c = Checkpoint::Open(dir.path());
    ASSERT_TRUE(c.ok()) << c.status();
    t = *(*c)->Find("t");
  }
  EXPECT_THAT(*ToFloat(t), ElementsAre(0, 0, 0));
}

TEST(Checkpoint, ReadsTheShardsOfAnIndexAndNoOtherFile) {
  TempDir dir;
  WriteFile(dir / "config.json", "{}");
  WriteFile(dir / "m-1.safetensors", ZeroTensors({{"a", {2}}}));
  WriteFile(dir / "m-2.safetensors", ZeroTensors({{"b", {3}}, {"c", {1}}}));
  WriteFile(dir / "consolidated.safetensors", ZeroTensors({{"a", {9}}}));
  WriteFile(dir / kIndex, Index({{"a", "m-1.safetensors"}, {"b", "m-2.safetensors"}, {"c", "m-2.safetensors"}}));
  const auto c = Checkpoint::Open(dir.path());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ((*c)->tensors().size(), 3u);
  EXPECT_EQ((*c)->Find("a")->shape(), Shape({2}));
}

TEST(Checkpoint, ModelSafetensorsComesBeforeOthersWithoutAnIndex) {
  TempDir dir;
  WriteFile(dir / "config.json", "{}");
  WriteFile(dir / "b.safetensors", ZeroTensors({{"b", {2}}}));
  WriteFile(dir / "c.safetensors", ZeroTensors({{"c", {2}}}));
  ExpectInvalid(dir.path(), "2 .safetensors files (\"b.safetensors\", \"c.safetensors\")");
  WriteFile(dir / "model.safetensors", ZeroTensors({{"m", {2}}}));
  const auto c = Checkpoint::Open(dir.path());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_NE((*c)->Find("m"), nullptr);
}

TEST(Checkpoint, HostileIndexesAreRefused) {
  const struct {
    std::string index;
    std::string says;
  } cases[] = {
      {"[]", "not a JSON object"},
      {"{", "not JSON"},
      {"{}", "no object weight_map"},
      {R"({"weight_map":["a"]})", "no object weight_map"},
      {R"({"weight_map":{"a":7}})", "the file of \"a\" is not a string"},
      {Index({{"a", "../secret.safetensors"}}), "not a .safetensors file of this folder"},
      {Index({{"a", "/etc/secret.safetensors"}}), "not a .safetensors file of this folder"},
      {Index({{"a", "./m-1.safetensors"}}), "not a .safetensors file of this folder"},
      {Index({{"a", "/etc/passwd"}}), "not a .safetensors file of this folder"},
      {Index({{"a", ""}}), "not a .safetensors file of this folder"},
      {Index({{"a", std::string("m-1\0.safetensors", 16)}}), "NUL"},
      {Index({{"a", "..\\m-1.safetensors"}}), "backslash"},
      {Index({{"a", "link.safetensors"}}), "symbolic link"},
      {Index({{"a", "pipe.safetensors"}}), "pipe.safetensors"},
      {Index({{"a", "m-1.safetensors"}, {"z", "m-1.safetensors"}}), "tensor \"z\" is not in \"m-1.safetensors\""},
      {Index({{"a", "m-2.safetensors"}, {"b", "m-1.safetensors"}}), "is not in"},
      {Index({{"b", "m-2.safetensors"}}), "tensor \"c\" of \"m-2.safetensors\" is not listed"},
      {Index({{"a", "m-1.safetensors"}, {"b", "twin.safetensors"}}), "tensor \"a\" is in"},
      {Index({{"a", "bad.safetensors"}}), "\"bad.safetensors\": "},
  };
  TempDir dir;
  WriteFile(dir / "config.json", "{}");
  WriteFile(dir / "m-1.safetensors", ZeroTensors({{"a", {2}}}));
  WriteFile(dir / "m-2.safetensors", ZeroTensors({{"b", {3}}, {"c", {1}}}));
  WriteFile(dir / "twin.safetensors", ZeroTensors({{"a", {2}}, {"b", {3}}}));
  WriteFile(dir / "bad.safetensors", "nonsense and more");
  fs::create_symlink(dir / "m-1.safetensors", dir / "link.safetensors");
  ASSERT_EQ(::mkfifo((dir / "pipe.safetensors").c_str(), 0600), 0);
  for (const auto& c : cases) {
    WriteFile(dir / kIndex, c.index);
    ExpectInvalid(dir.path(), c.says);
  }
  WriteFile(dir / kIndex, Index({{"a", "missing.safetensors"}}));
  ExpectRefused(dir.path(), absl::StatusCode::kNotFound, "missing.safetensors");
}

TEST(Checkpoint, BadConfigsAreRefused) {
  TempDir dir;
  WriteFile(dir / "model.safetensors", ZeroTensors({{"a", {2}}}));
  ExpectRefused(dir.path(), absl::StatusCode::kNotFound, "config.json");
  const struct {
    std::string config;
    std::string says;
  } cases[] = {
      {"", "not JSON"},
      {"[1]", "config.json is not a JSON object"},
      {"7", "config.json is not a JSON object"},
      {"{\"a\":1", "not JSON"},
      {"{\"a\":NaN}", "not JSON"},
      {"{\"a\":1e999}", "not JSON, or holds a number"},
      {"{\"a\":\"\xff\"}", "not JSON"},
      {"{\"a\":" + std::string(200000, '[') + std::string(200000, ']') + "}", "nested deeper than 32"},
      {"{\"a\":\"" + std::string(5 << 20, 'x') + "\"}", "at most 4194304 are read"},
  };
  for (const auto& c : cases) {
    WriteFile(dir / "config.json", c.config);
    ExpectInvalid(dir.path(), c.says);
  }
  fs::remove(dir / "config.json");
  WriteFile(dir / "real.json", "{}");
  fs::create_symlink(dir / "real.json", dir / "config.json");
  ExpectInvalid(dir.path(), "symbolic link");
}

TEST(Checkpoint, PickledAndMissingWeightsAreRefusedByName) {
  TempDir dir;
  WriteFile(dir / "config.json", "{}");
  ExpectRefused(dir.path(), absl::StatusCode::kNotFound, "no .safetensors file; save the model");
  WriteFile(dir / "pytorch_model.bin", "pickle");
  ExpectRefused(dir.path(), absl::StatusCode::kNotFound, "only \"pytorch_model.bin\", which is not read");
  ExpectRefused(dir / "nowhere", absl::StatusCode::kNotFound, "cannot be read");
}

TEST(Checkpoint, ValuesOfConfigHaveTypesAndLimits) {
  TempDir dir;
  WriteFile(dir / "config.json", R"({"i":7,"big":18446744073709551615,"f":2.5,"whole":3.0,"b":true,"s":"x","neg":-1,
                                     "null":null,"o":{"i":5}})");
  WriteFile(dir / "model.safetensors", ZeroTensors({{"a", {2}}}));
  const auto opened = Checkpoint::Open(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const Checkpoint& c = **opened;
  EXPECT_EQ(*c.Int("i", 0, 0, 10), 7);
  EXPECT_EQ(*c.Int("o/i", 0, 0, 10), 5);
  EXPECT_EQ(*c.Int("absent", 42, 0, 10), 42);
  EXPECT_EQ(*c.Int("null", 42, 0, 10), 42);
  EXPECT_EQ(*c.Float("f", 0), 2.5);
  EXPECT_EQ(*c.Float("i", 0), 7);
  EXPECT_EQ(*c.Bool("b", false), true);
  EXPECT_EQ(*c.String("s", ""), "x");
  for (const auto& status : {c.Int("i", 0, 8, 10).status(), c.Int("neg", 0, 0, 10).status(),
                             c.Int("big", 0, 0, INT64_MAX).status(), c.Int("whole", 0, 0, 10).status(),
                             c.Int("s", 0, 0, 10).status(), c.Float("s", 0).status(), c.Float("b", 0).status(),
                             c.Bool("i", false).status(), c.String("i", "").status(), c.Int("o", 0, 0, 1).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("config.json: "));
  }
  EXPECT_THAT(std::string(c.Int("i", 0, 8, 10).status().message()), HasSubstr("i is 7; it must be from 8 to 10"));
  EXPECT_EQ(c.QuantMethod(), "");
}

}  // namespace
}  // namespace quant
