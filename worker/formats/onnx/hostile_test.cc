// SPDX-License-Identifier: Apache-2.0
// Importing what is malformed, hostile or not supported: each an error that says what is wrong, none a crash, and no
// memory spent on what a file only claims.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/onnx/model_builder.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/testing.h"

namespace quant {
namespace {

using ::quant::testing::ReadFile;
using ::quant::testing::SharedData;
using ::quant::testing::TempDir;
using ::quant::testing::WriteFile;
using ::testing::HasSubstr;

// x + w -> y, where w has two floats.
ModelBuilder Sound() {
  ModelBuilder b(13);
  b.Input("x", {2}).Floats("w", {2}, {1, 2}).Node("Add", {"x", "w"}, {"y"}, "add").Output("y", {2});
  return b;
}

absl::Status ImportBytes(const std::string& bytes, const OnnxImportOptions& options = {}) {
  const TempDir dir;
  WriteFile(dir / "m.onnx", bytes);
  return ImportOnnx(dir / "m.onnx", options).status();
}

void Expect(const ModelBuilder& b, absl::StatusCode code, const std::string& says) {
  const absl::Status s = ImportBytes(b.Serialize());
  EXPECT_EQ(s.code(), code) << s;
  EXPECT_THAT(std::string(s.message()), HasSubstr(says));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

TEST(HostileOnnx, TheModelTheseTestsSpoilIsSound) { EXPECT_TRUE(ImportBytes(Sound().Serialize()).ok()); }

TEST(HostileOnnx, NotAModel) {
  EXPECT_EQ(ImportBytes("").code(), kInvalid);
  EXPECT_EQ(ImportBytes("\x89PNG\r\n\x1a\n and so on").code(), kInvalid);
  EXPECT_EQ(ImportBytes(std::string(100'000, '\xff')).code(), kInvalid);
  EXPECT_EQ(ImportOnnx("/nonexistent/m.onnx").status().code(), absl::StatusCode::kNotFound);
}

TEST(HostileOnnx, EveryTruncationIsAnErrorOrASmallerModel) {
  const std::string bytes = Sound().Serialize();
  for (size_t n = 0; n < bytes.size(); ++n) {
    const absl::Status s = ImportBytes(bytes.substr(0, n));
    EXPECT_FALSE(s.ok()) << n << " of " << bytes.size();
  }
}

TEST(HostileOnnx, DamageNeverCrashes) {
  const std::string bytes = Sound().Serialize();
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const int flip : {0x01, 0x08, 0x80, 0xff}) {
      std::string bad = bytes;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      ImportBytes(bad).IgnoreError();
    }
  }
}

TEST(HostileOnnx, ARealModelCutShortIsRefused) {
  const std::filesystem::path file = SharedData("models/mnist-8.onnx");
  QUANT_SKIP_WITHOUT(file);
  const std::string bytes = ReadFile(file);
  for (size_t n = 0; n < bytes.size(); n += 997) EXPECT_FALSE(ImportBytes(bytes.substr(0, n)).ok()) << n;
}

TEST(HostileOnnx, ATensorThatOnlyClaimsToBeLargeIsRefusedUnallocated) {
  ModelBuilder b = Sound();
  b.graph().mutable_initializer(0)->set_dims(0, int64_t{5} << 29);  // 10 GiB
  Expect(b, kInvalid, "10737418240 bytes, but holds 8 bytes");

  ModelBuilder raw = Sound();
  raw.graph().mutable_initializer(0)->clear_float_data();
  raw.graph().mutable_initializer(0)->set_raw_data("123");
  Expect(raw, kInvalid, "8 bytes, but holds 3 bytes");

  ModelBuilder empty = Sound();
  empty.graph().mutable_initializer(0)->clear_float_data();
  Expect(empty, kInvalid, "holds 0 bytes");
}

TEST(HostileOnnx, ImpossibleShapesAreRefused) {
  ModelBuilder negative = Sound();
  negative.graph().mutable_initializer(0)->set_dims(0, -2);
  Expect(negative, kInvalid, "negative dimension");

  ModelBuilder overflow = Sound();
  for (int i = 0; i < 3; ++i) overflow.graph().mutable_initializer(0)->add_dims(int64_t{1} << 40);
  Expect(overflow, kInvalid, "elements");

  ModelBuilder rank = Sound();
  for (int i = 0; i < 1000; ++i) rank.graph().mutable_initializer(0)->add_dims(1);
  Expect(rank, kInvalid, "rank 1001");

  ModelBuilder input_rank(13);
  input_rank.Input("x", std::vector<int64_t>(40, 1))
      .Node("Relu", {"x"}, {"y"})
      .Output("y", std::vector<int64_t>(40, 1));
  Expect(input_rank, kInvalid, "rank 40");

  ModelBuilder input_negative = Sound();
  input_negative.graph()
      .mutable_input(0)
      ->mutable_type()
      ->mutable_tensor_type()
      ->mutable_shape()
      ->mutable_dim(0)
      ->set_dim_value(-7);
  Expect(input_negative, kInvalid, "dimension of -7");
}

TEST(HostileOnnx, WeightsBeyondTheLimitAreRefused) {
  const absl::Status s = ImportBytes(Sound().Serialize(), {.max_weight_bytes = 7});
  EXPECT_EQ(s.code(), kInvalid);
  EXPECT_THAT(std::string(s.message()), HasSubstr("limit of 7 bytes"));
  EXPECT_TRUE(ImportBytes(Sound().Serialize(), {.max_weight_bytes = 8}).ok());
}

TEST(HostileOnnx, EntriesThatDoNotFitTheirTypeAreRefused) {
  ModelBuilder b = Sound();
  onnx::TensorProto& t = b.AddTensor("bytes", {1}, onnx::TensorProto::UINT8);
  t.add_int32_data(256);
  Expect(b, kInvalid, "256, which does not fit uint8");
}

TEST(HostileOnnx, GraphsThatAreNoneAreRefused) {
  ModelBuilder cycle(13);
  cycle.Input("x", {1}).Node("Add", {"x", "b"}, {"a"}).Node("Neg", {"a"}, {"b"}).Output("b", {1});
  Expect(cycle, kInvalid, "checker");

  ModelBuilder twice = Sound();
  twice.Node("Neg", {"x"}, {"y"});
  Expect(twice, kInvalid, "checker");

  ModelBuilder initializers = Sound();
  initializers.Floats("w", {2}, {3, 4});
  Expect(initializers, kInvalid, "w");

  ModelBuilder undefined = Sound();
  undefined.graph().mutable_node(0)->set_input(0, "nowhere");
  Expect(undefined, kInvalid, "nowhere");

  ModelBuilder output = Sound();
  output.Output("z", {1});
  Expect(output, kInvalid, "z");

  ModelBuilder outputs = Sound();
  outputs.Output("y", {2});
  Expect(outputs, kInvalid, "y");

  ModelBuilder shadow = Sound();
  shadow.Input("x", {2});
  Expect(shadow, kInvalid, "x");
}

TEST(HostileOnnx, NamesThatAreNoTextAreRefused) {
  ModelBuilder b = Sound();
  b.graph().mutable_node(0)->set_name("bad\xff");
  Expect(b, kInvalid, "not UTF-8");
}

TEST(HostileOnnx, DeepNestingIsCutOffByTheParser) {
  onnx::GraphProto inner;
  for (int i = 0; i < 200; ++i) {
    onnx::GraphProto outer;
    onnx::AttributeProto& a = *outer.add_node()->add_attribute();
    a.set_type(onnx::AttributeProto::GRAPH);
    a.mutable_g()->Swap(&inner);
    inner.Swap(&outer);
  }
  ModelBuilder b(13);
  b.graph().Swap(&inner);
  Expect(b, kInvalid, "not an ONNX model");
}

TEST(HostileOnnx, OperatorSetsOutsideTheRangeAreNamed) {
  for (const int64_t opset : {0, 6, 23, 1 << 30})
    Expect(ModelBuilder(opset), kUnimplemented, absl::StrCat("version ", opset));
  ModelBuilder twice = Sound();
  twice.model().add_opset_import()->set_version(14);
  Expect(twice, kInvalid, "imported twice");
  ModelBuilder ir = Sound();
  ir.model().set_ir_version(99);
  Expect(ir, kUnimplemented, "IR version 99");
}

TEST(HostileOnnx, EverythingUnsupportedIsListedAtOnceWithItsNode) {
  ModelBuilder b = Sound();
  b.Node("Frobnicate", {"x"}, {"f"}, "first");
  b.Node("Upsample", {"x"}, {"u"}, "second");
  b.Node("If", {"x"}, {"i"}, "third");
  onnx::AttributeProto& a = *b.graph().mutable_node(3)->add_attribute();
  a.set_name("then_branch");
  a.set_type(onnx::AttributeProto::GRAPH);
  a.mutable_g();
  b.AddTensor("text", {1}, onnx::TensorProto::STRING).add_string_data("s");
  b.model().add_functions()->set_name("fun");
  const absl::Status s = ImportBytes(b.Serialize());
  EXPECT_EQ(s.code(), kUnimplemented);
  for (const char* part :
       {"Frobnicate", "first", "Upsample", "second", "removed", "third", "then_branch", "text", "STRING", "fun"}) {
    EXPECT_THAT(std::string(s.message()), HasSubstr(part));
  }
}

TEST(HostileOnnx, InputsThatAreNoTensorsAreNamed) {
  ModelBuilder b = Sound();
  onnx::ValueInfoProto& v = *b.graph().add_input();
  v.set_name("list");
  v.mutable_type()->mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(1);
  Expect(b, kUnimplemented, "\"list\" is not a tensor");
}

// ---- external data

class ExternalOnnx : public ::testing::Test {
 protected:
  ExternalOnnx() {
    std::filesystem::create_directory(dir_ / "model");
    WriteFile(dir_ / "model/w.bin", "garb" + Floats(3000));
    WriteFile(dir_ / "secret", Floats(3000));
  }

  static std::string Floats(int n) {
    std::string bytes;
    for (int i = 0; i < n; ++i) bytes += std::string("\x00\x00\x80\x3f", 4);  // 1.0f
    return bytes;
  }

  // x + w, w of `elements` floats kept elsewhere as these entries say.
  absl::StatusOr<Graph> Import(int64_t elements, const std::vector<std::pair<std::string, std::string>>& entries) {
    ModelBuilder b(13);
    b.Input("x", {elements}).Node("Add", {"x", "w"}, {"y"}, "add").Output("y", {elements});
    onnx::TensorProto& t = b.AddTensor("w", {elements}, onnx::TensorProto::FLOAT);
    t.set_data_location(onnx::TensorProto::EXTERNAL);
    for (const auto& [key, value] : entries) {
      auto* e = t.add_external_data();
      e->set_key(key);
      e->set_value(value);
    }
    b.Write(dir_ / "model/m.onnx");
    return ImportOnnx(dir_ / "model/m.onnx");
  }

  TempDir dir_;
};

TEST_F(ExternalOnnx, IsMappedAtAnyOffsetAndKeptOutOfTheInputs) {
  for (const int64_t elements : {2, 3000}) {
    const absl::StatusOr<Graph> g =
        Import(elements,
               {{"location", "w.bin"}, {"offset", "4"}, {"length", std::to_string(4 * elements)}, {"checksum", "x"}});
    ASSERT_TRUE(g.ok()) << g.status();
    ASSERT_EQ(g->inputs.size(), 1u);
    const Tensor* w = g->Initializer("w");
    ASSERT_NE(w, nullptr);
    EXPECT_EQ(w->elements(), elements);
    EXPECT_EQ(*ToFloat(*w), std::vector<float>(static_cast<size_t>(elements), 1.0f));
    EXPECT_TRUE(g->value_info.contains("y") || g->outputs[0].has_shape);
  }
}

TEST_F(ExternalOnnx, PathsThatLeaveTheFolderAreRefused) {
  std::filesystem::create_symlink("../secret", dir_ / "model/link");
  std::filesystem::create_directory_symlink("..", dir_ / "model/up");
  for (const std::string& location :
       {std::string("../secret"), std::string("a/../../secret"), (dir_ / "secret").string(), std::string("link"),
        std::string("up/secret"), std::string("..\\secret"), std::string("/etc/passwd"), std::string("."),
        std::string("/proc/self/mem")}) {
    const absl::Status s = Import(2, {{"location", location}}).status();
    EXPECT_EQ(s.code(), kInvalid) << location << ": " << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr("\"w\"")) << location;
  }
}

TEST_F(ExternalOnnx, RangesAndEntriesAreChecked) {
  const struct {
    std::vector<std::pair<std::string, std::string>> entries;
    const char* says;
  } cases[] = {
      {{{"location", "absent.bin"}}, "is not there"},
      {{{"offset", "0"}}, "no location"},
      {{{"location", "w.bin"}, {"offset", "12000"}}, "past its end"},
      {{{"location", "w.bin"}, {"offset", "9223372036854775807"}}, "past its end"},
      {{{"location", "w.bin"}, {"offset", "18446744073709551616"}}, "not a number"},
      {{{"location", "w.bin"}, {"offset", "-4"}}, "not a number"},
      {{{"location", "w.bin"}, {"offset", "0x4"}}, "not a number"},
      {{{"location", "w.bin"}, {"offset", ""}}, "not a number"},
      {{{"location", "w.bin"}, {"length", "4"}}, "length is 4"},
      {{{"location", "w.bin"}, {"location", "secret"}}, "repeats"},
      {{{"location", "w.bin"}, {"__class__", "evil"}}, "unknown key"},
  };
  for (const auto& c : cases) {
    const absl::Status s = Import(2, c.entries).status();
    EXPECT_EQ(s.code(), kInvalid) << s;
    EXPECT_THAT(std::string(s.message()), HasSubstr(c.says));
  }
  EXPECT_THAT(std::string(Import(int64_t{1} << 33, {{"location", "w.bin"}}).status().message()),
              HasSubstr("past its end"));
}

}  // namespace
}  // namespace quant
