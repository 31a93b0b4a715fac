// SPDX-License-Identifier: Apache-2.0
// Importing what is well-formed: real models, and the forms exporters produce.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

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
using ::testing::ElementsAre;

std::vector<std::filesystem::path> SharedModels() {
  std::vector<std::filesystem::path> files;
  const std::filesystem::path root = SharedData("models");
  if (root.empty()) return files;
  for (const auto& e : std::filesystem::recursive_directory_iterator(root)) {
    if (e.path().extension() == ".onnx") files.push_back(e.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Same in all that a file carries.
void ExpectEqual(const Graph& a, const Graph& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.producer, b.producer);
  EXPECT_EQ(a.opset, b.opset);
  EXPECT_EQ(a.other_opsets, b.other_opsets);
  EXPECT_EQ(a.metadata, b.metadata);
  for (const auto member : {&Graph::inputs, &Graph::outputs}) {
    ASSERT_EQ((a.*member).size(), (b.*member).size());
    for (size_t i = 0; i < (a.*member).size(); ++i) {
      const ValueInfo& x = (a.*member)[i];
      const ValueInfo& y = (b.*member)[i];
      EXPECT_EQ(x.name, y.name);
      EXPECT_EQ(x.dtype, y.dtype);
      EXPECT_EQ(x.has_shape, y.has_shape);
      ASSERT_EQ(x.shape.size(), y.shape.size());
      for (size_t d = 0; d < x.shape.size(); ++d) {
        EXPECT_EQ(x.shape[d].value, y.shape[d].value);
        EXPECT_EQ(x.shape[d].symbol, y.shape[d].symbol);
      }
    }
  }
  ASSERT_EQ(a.nodes.size(), b.nodes.size());
  for (size_t i = 0; i < a.nodes.size(); ++i) {
    const Node& x = a.nodes[i];
    const Node& y = b.nodes[i];
    EXPECT_EQ(x.name, y.name);
    EXPECT_EQ(x.op_type, y.op_type);
    EXPECT_EQ(x.domain, y.domain);
    EXPECT_EQ(x.inputs, y.inputs);
    EXPECT_EQ(x.outputs, y.outputs);
    ASSERT_EQ(x.attributes.size(), y.attributes.size()) << x.name;
    for (const auto& [key, value] : x.attributes) {
      ASSERT_TRUE(y.Has(key)) << x.name << " " << key;
      EXPECT_EQ(value.index(), y.attributes.at(key).index());
      if (!std::holds_alternative<Tensor>(value)) {
        std::visit(
            [&](const auto& v) {
              using T = std::decay_t<decltype(v)>;
              if constexpr (!std::is_same_v<T, Tensor>) {
                EXPECT_EQ(v, std::get<T>(y.attributes.at(key))) << key;
              }
            },
            value);
      }
    }
  }
  ASSERT_EQ(a.initializers.size(), b.initializers.size());
  for (const auto& [name, t] : a.initializers) {
    const Tensor* u = b.Initializer(name);
    ASSERT_NE(u, nullptr) << name;
    EXPECT_EQ(t.dtype(), u->dtype()) << name;
    EXPECT_EQ(t.shape(), u->shape()) << name;
    EXPECT_TRUE(std::ranges::equal(t.bytes(), u->bytes())) << name;
  }
}

TEST(ImportOnnx, EveryRealModelIsReadAndComesBackTheSameAfterExport) {
  const std::vector<std::filesystem::path> models = SharedModels();
  if (models.empty()) GTEST_SKIP() << "real models are not there: set QUANT_SHARED";
  for (const std::filesystem::path& file : models) {
    SCOPED_TRACE(file.filename().string());
    const absl::StatusOr<Graph> graph = ImportOnnx(file);
    ASSERT_TRUE(graph.ok()) << graph.status();
    EXPECT_GE(graph->opset, 13);
    EXPECT_FALSE(graph->inputs.empty());
    for (const Node& n : graph->nodes) EXPECT_NE(n.op_type, "Constant");

    const TempDir dir;
    ASSERT_TRUE(ExportOnnx(*graph, dir / "a.onnx").ok());
    const absl::StatusOr<Graph> again = ImportOnnx(dir / "a.onnx");
    ASSERT_TRUE(again.ok()) << again.status();
    ExpectEqual(*graph, *again);
    ASSERT_TRUE(ExportOnnx(*again, dir / "b.onnx").ok());
    EXPECT_TRUE(ReadFile(dir / "a.onnx") == ReadFile(dir / "b.onnx")) << "export is not deterministic";
  }
}

TEST(ImportOnnx, CandyStyleIsRewrittenInStandardOperators) {
  const std::filesystem::path file = SharedData("models/candy-style.onnx");
  QUANT_SKIP_WITHOUT(file);
  const absl::StatusOr<Graph> graph = ImportOnnx(file);
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (const Node& n : graph->nodes) {
    EXPECT_TRUE(n.op_type != "Crop" && n.op_type != "ImageScaler" && n.op_type != "Affine") << n.name;
  }
}

TEST(ImportOnnx, InitializersListedAsInputsAreConstants) {
  const TempDir dir;
  ModelBuilder b(8, 3);
  b.Input("x", {1, 2}).Input("w", {2}).Floats("w", {2}, {1, 2}).Node("Add", {"x", "w"}, {"y"}).Output("y", {1, 2});
  b.Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  ASSERT_EQ(g->inputs.size(), 1u);
  EXPECT_EQ(g->inputs[0].name, "x");
  EXPECT_NE(g->Initializer("w"), nullptr);
}

TEST(ImportOnnx, NamelessAndRepeatedNodeNamesBecomeUniqueAndOthersStay) {
  const TempDir dir;
  ModelBuilder b(13);
  b.Input("x", {1}).Node("Relu", {"x"}, {"a"}, "same").Node("Neg", {"a"}, {"b"}, "same").Node("Abs", {"b"}, {"y"});
  b.Output("y", {1}).Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  ASSERT_EQ(g->nodes.size(), 3u);
  EXPECT_EQ(g->nodes[0].name, "same");
  EXPECT_EQ(g->nodes[1].name, "same_1");
  EXPECT_EQ(g->nodes[2].name, "Abs_2");
}

TEST(ImportOnnx, SymbolicUnknownAndMinusOneDimensionsAreKeptApart) {
  const TempDir dir;
  ModelBuilder b(13);
  b.Input("x", {1, -1, 4}).Node("Relu", {"x"}, {"y"}).Output("y", {1, -1, 4});
  auto* shape = b.graph().mutable_input(0)->mutable_type()->mutable_tensor_type()->mutable_shape();
  shape->mutable_dim(0)->set_dim_param("batch");
  b.Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  const std::vector<Dim>& dims = g->inputs[0].shape;
  EXPECT_EQ(dims[0].symbol, "batch");
  EXPECT_FALSE(dims[0].known());
  EXPECT_FALSE(dims[1].known());
  EXPECT_EQ(dims[1].symbol, "");
  EXPECT_EQ(dims[2].value, 4);
  ASSERT_TRUE(g->value_info.contains("y") || g->outputs[0].has_shape);
}

TEST(ImportOnnx, ConstantsAndSmallConstantOfShapeBecomeInitializers) {
  const TempDir dir;
  ModelBuilder b(13);
  b.Input("x", {3}).Ints("n", {1}, {3}).Node("ConstantOfShape", {"n"}, {"zeros"}).Node("Constant", {}, {"two"});
  b.Attribute("value_floats", std::vector<float>{2, 2, 2});
  b.Node("Mul", {"x", "two"}, {"a"}).Node("Add", {"a", "zeros"}, {"y"}).Output("y", {3}).Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  ASSERT_EQ(g->nodes.size(), 2u);
  EXPECT_THAT(*ToFloat(*g->Initializer("two")), ElementsAre(2, 2, 2));
  EXPECT_THAT(*ToFloat(*g->Initializer("zeros")), ElementsAre(0, 0, 0));
}

TEST(ImportOnnx, OutputsWithoutShapeAndGraphsWithoutNameAreRead) {
  const TempDir dir;
  ModelBuilder b(13);
  b.Input("x", {3}).Node("Relu", {"x"}, {"y"}).Output("y", {3});
  b.graph().clear_name();
  b.graph().mutable_output(0)->mutable_type()->mutable_tensor_type()->clear_shape();
  b.Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  // Inference fills it in.
  ASSERT_TRUE(g->outputs[0].has_shape);
  EXPECT_EQ(g->outputs[0].shape[0].value, 3);
}

TEST(ImportOnnx, InferredTypesOfInnerValuesAreThere) {
  const TempDir dir;
  ModelBuilder b(13);
  b.Input("x", {2, 3}).Node("Transpose", {"x"}, {"t"}).Node("Relu", {"t"}, {"y"}).Output("y", {3, 2});
  b.Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  ASSERT_TRUE(g->value_info.contains("t"));
  EXPECT_EQ(g->value_info.at("t").shape[0].value, 3);
}

TEST(ImportOnnx, EveryDtypeIsReadFromRawAndFromTypedData) {
  const TempDir dir;
  ModelBuilder b(21);
  b.Input("x", {1}).Node("Relu", {"x"}, {"y"}).Output("y", {1});
  const auto add = [&](const char* name, int type, int64_t n) {
    onnx::TensorProto* t = b.graph().add_initializer();
    t->set_name(name);
    t->set_data_type(type);
    t->add_dims(n);
    return t;
  };
  using onnx::TensorProto;
  add("raw_half", TensorProto::FLOAT16, 1)->set_raw_data(std::string("\x00\x3c", 2));
  add("half", TensorProto::FLOAT16, 1)->add_int32_data(0x3c00);
  add("bf16", TensorProto::BFLOAT16, 1)->add_int32_data(0x3f80);
  add("double", TensorProto::DOUBLE, 1)->add_double_data(1.0);
  add("i8", TensorProto::INT8, 1)->add_int32_data(-128);
  add("u8", TensorProto::UINT8, 1)->add_int32_data(255);
  add("i16", TensorProto::INT16, 1)->add_int32_data(-32768);
  add("u32", TensorProto::UINT32, 1)->add_uint64_data(4294967295u);
  add("u64", TensorProto::UINT64, 1)->add_uint64_data(7);
  add("bool", TensorProto::BOOL, 1)->set_raw_data(std::string("\x07", 1));
  // formats.md section 7: first element in the low nibble; three elements take two bytes.
  add("i4", TensorProto::INT4, 3)->set_raw_data("\xb8\x09");
  TensorProto* u4 = add("u4", TensorProto::UINT4, 3);
  u4->add_int32_data(0x21);
  u4->add_int32_data(0x03);
  b.Write(dir / "m.onnx");
  const absl::StatusOr<Graph> g = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(g.ok()) << g.status();
  const auto value = [&](const char* name) { return ToFloat(*g->Initializer(name))->front(); };
  EXPECT_EQ(value("raw_half"), 1);
  EXPECT_EQ(value("half"), 1);
  EXPECT_EQ(value("bf16"), 1);
  EXPECT_EQ(value("double"), 1);
  EXPECT_EQ(value("i8"), -128);
  EXPECT_EQ(value("u8"), 255);
  EXPECT_EQ(value("i16"), -32768);
  EXPECT_EQ(value("u32"), 4294967295.0f);
  EXPECT_EQ(value("u64"), 7);
  EXPECT_EQ(g->Initializer("bool")->bytes()[0], std::byte{1});
  EXPECT_THAT(*ToFloat(*g->Initializer("i4")), ElementsAre(-8, -5, -7));
  EXPECT_THAT(*ToFloat(*g->Initializer("u4")), ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace quant
