// SPDX-License-Identifier: Apache-2.0
// What is written: versions, names, external data; and that ONNX Runtime takes it and answers the same
// (same_in_onnxruntime.py, where python3-onnxruntime is installed).
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/formats/onnx/model_builder.h"
#include "worker/formats/onnx/onnx.h"
#include "worker/formats/testing.h"
#include "worker/graph/passes/passes.h"

namespace quant {
namespace {

using ::quant::testing::ReadFile;
using ::quant::testing::SharedData;
using ::quant::testing::TempDir;
using ::testing::ElementsAre;

Graph Sample() {
  Graph g;
  g.name = "sample";
  g.producer = "pytorch";
  g.opset = 13;
  g.other_opsets = {{"com.example", 2}};
  g.metadata = {{"author", "me"}, {"class_names", "a,b"}};
  g.inputs = {{.name = "in put:0", .has_shape = true, .shape = {{.symbol = "batch"}, {.value = 4}, {}}}};
  g.outputs = {{.name = "y"}};
  g.initializers["w"] = Tensor::Of<float>({4, 1}, std::vector<float>{1, 2, 3, 4});
  g.nodes = {{.name = "add", .op_type = "Add", .inputs = {"in put:0", "w"}, .outputs = {"a"}},
             {.name = "own",
              .op_type = "Own",
              .domain = "com.example",
              .inputs = {"a", "", "w"},
              .outputs = {"b"},
              .attributes = {{"f", 1.5f},
                             {"i", int64_t{-3}},
                             {"s", std::string("t")},
                             {"is", std::vector<int64_t>{1, 2}},
                             {"fs", std::vector<float>{0.5f}},
                             {"ss", std::vector<std::string>{"p", "q"}},
                             {"t", Tensor::Of<int64_t>({1}, std::vector<int64_t>{9})}}},
             {.name = "relu", .op_type = "Relu", .inputs = {"b"}, .outputs = {"y"}}};
  g.value_info["a"] = {.name = "a"};
  g.value_info["b"] = {.name = "b", .has_shape = true, .shape = {{.symbol = "batch"}, {.value = 4}, {.value = 7}}};
  return g;
}

onnx::ModelProto Load(const std::filesystem::path& file) {
  onnx::ModelProto m;
  EXPECT_TRUE(m.ParseFromString(ReadFile(file)));
  return m;
}

TEST(ExportOnnx, KeepsInterfaceVersionsAttributesAndMetadata) {
  const TempDir dir;
  const absl::Status s = ExportOnnx(Sample(), dir / "m.onnx");
  ASSERT_TRUE(s.ok()) << s;
  const onnx::ModelProto m = Load(dir / "m.onnx");
  EXPECT_EQ(m.producer_name(), "quantd");
  EXPECT_EQ(m.ir_version(), 7);
  EXPECT_EQ(m.opset_import(0).version(), 13);
  EXPECT_EQ(m.opset_import(1).domain(), "com.example");
  EXPECT_EQ(m.graph().input(0).type().tensor_type().shape().dim(0).dim_param(), "batch");
  EXPECT_EQ(m.graph().value_info_size(), 1);  // only what a reader cannot infer
  EXPECT_EQ(m.graph().value_info(0).name(), "b");

  const absl::StatusOr<Graph> back = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->producer, "pytorch");
  EXPECT_EQ(back->metadata, Sample().metadata);
  const Node& own = back->nodes[1];
  EXPECT_THAT(own.inputs, ElementsAre("a", "", "w"));
  EXPECT_EQ(own.Float("f", 0), 1.5f);
  EXPECT_EQ(own.Int("i", 0), -3);
  EXPECT_EQ(own.String("s", ""), "t");
  EXPECT_THAT(own.Ints("is"), ElementsAre(1, 2));
  EXPECT_THAT(own.Floats("fs"), ElementsAre(0.5f));
  EXPECT_THAT(std::get<std::vector<std::string>>(own.attributes.at("ss")), ElementsAre("p", "q"));
  EXPECT_THAT(*ToInt64(std::get<Tensor>(own.attributes.at("t"))), ElementsAre(9));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1) << "a temporary file is left";
}

TEST(ExportOnnx, TheIrVersionFollowsTheOperatorSet) {
  const TempDir dir;
  for (const auto& [opset, ir] : {std::pair{13, 7}, {14, 7}, {15, 8}, {18, 8}, {19, 9}, {21, 10}, {22, 10}, {23, 11}}) {
    Graph g = Sample();
    g.opset = opset;
    ASSERT_TRUE(ExportOnnx(g, dir / "m.onnx", {.portable = false}).ok());
    EXPECT_EQ(Load(dir / "m.onnx").ir_version(), ir) << opset;
  }
  Graph g = Sample();
  g.opset = 23;  // beyond what is deployed
  ASSERT_TRUE(ExportOnnx(g, dir / "m.onnx").ok());
  EXPECT_EQ(Load(dir / "m.onnx").ir_version(), 10);
}

TEST(ExportOnnx, FourBitWeightsRaiseTheOperatorSet) {
  const TempDir dir;
  Graph g = Sample();
  g.initializers["q"] = *Cast(g.initializers.at("w"), DType::kInt4);
  g.initializers["s"] = Tensor::Scalar(1.0f);
  g.initializers["axes"] = Tensor::Of<int64_t>({1}, std::vector<int64_t>{1});
  g.nodes[0].inputs[1] = "dq";
  g.nodes.insert(g.nodes.begin(),
                 Node{.name = "d", .op_type = "DequantizeLinear", .inputs = {"q", "s"}, .outputs = {"dq"}});
  g.nodes.push_back({.name = "mean",
                     .op_type = "ReduceMean",
                     .inputs = {"y"},
                     .outputs = {"m"},
                     .attributes = {{"axes", std::vector<int64_t>{1}}}});
  g.outputs.push_back({.name = "m"});
  const absl::Status s = ExportOnnx(g, dir / "m.onnx");
  ASSERT_TRUE(s.ok()) << s;
  const absl::StatusOr<Graph> back = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->opset, 21);
  EXPECT_THAT(*ToFloat(*back->Initializer("q")), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(back->nodes.back().inputs.size(), 2u);
  EXPECT_EQ(g.opset, 13) << "the caller's graph is not changed";
}

TEST(ExportOnnx, LargeWeightsGoToASecondFileAligned) {
  const TempDir dir;
  Graph g = Sample();
  std::vector<float> big(1000);
  for (size_t i = 0; i < big.size(); ++i) big[i] = static_cast<float>(i);
  g.initializers["big"] = Tensor::Of<float>({1000}, big);
  g.initializers["big2"] = Tensor::Of<float>({1000}, big);
  g.nodes[1].inputs.push_back("big");
  g.nodes[1].inputs.push_back("big2");
  ASSERT_TRUE(ExportOnnx(g, dir / "m.onnx", {.max_inline_bytes = 2000}).ok());
  const onnx::ModelProto m = Load(dir / "m.onnx");
  EXPECT_EQ(std::filesystem::file_size(dir / "m.onnx.data"), 4096u + 4000);
  int external = 0;
  for (const auto& t : m.graph().initializer()) external += t.data_location() == onnx::TensorProto::EXTERNAL;
  EXPECT_EQ(external, 2);  // w is small and stays
  const absl::StatusOr<Graph> back = ImportOnnx(dir / "m.onnx");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*ToFloat(*back->Initializer("big2")), big);
  ASSERT_TRUE(ExportOnnx(*back, dir / "n.onnx").ok());  // read from the mapping, written inline again
  EXPECT_EQ(*ToFloat(*ImportOnnx(dir / "n.onnx")->Initializer("big")), big);
}

TEST(ExportOnnx, AnInvalidGraphIsRefusedAndNothingIsWritten) {
  const TempDir dir;
  Graph g = Sample();
  g.nodes[0].inputs[0] = "nowhere";
  EXPECT_EQ(ExportOnnx(g, dir / "m.onnx").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_EQ(ExportOnnx(Sample(), dir / "missing/m.onnx").code(), absl::StatusCode::kNotFound);
}

// Our files in the deployment runtime: exported models must load there and answer as the originals do, as imported and
// after the passes that prepare a model for quantization.
class InOnnxRuntime : public ::testing::TestWithParam<bool> {};

TEST_P(InOnnxRuntime, EveryRealModelAnswersAsTheOriginal) {
  const std::filesystem::path models = SharedData("models");
  QUANT_SKIP_WITHOUT(models);
  if (std::system("python3 -c 'import onnxruntime' >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "python3-onnxruntime is not installed";
  const std::filesystem::path script = std::filesystem::path(QUANT_SOURCE_DIR) / "same_in_onnxruntime.py";
  const TempDir dir;
  std::string arguments;
  for (const auto& e : std::filesystem::recursive_directory_iterator(models)) {
    if (e.path().extension() != ".onnx") continue;
    absl::StatusOr<Graph> g = ImportOnnx(e.path());
    ASSERT_TRUE(g.ok()) << g.status();
    if (GetParam()) {
      const absl::StatusOr<PrepareResult> prepared = Prepare(*g, Evaluator());
      ASSERT_TRUE(prepared.ok()) << prepared.status();
    }
    const std::filesystem::path out = dir / e.path().filename().string();
    ASSERT_TRUE(ExportOnnx(*g, out).ok());
    // What ONNX Runtime cannot run as it is has nothing to be compared with: candy-style's operators were removed.
    const bool alone = e.path().filename() == "candy-style.onnx";
    arguments += " " + (alone ? std::string("-") : e.path().string()) + " " + out.string();
  }
  const std::string command = "python3 " + script.string() + arguments + " >" + (dir / "log").string() + " 2>&1";
  EXPECT_EQ(std::system(command.c_str()), 0) << ReadFile(dir / "log");
}

INSTANTIATE_TEST_SUITE_P(, InOnnxRuntime, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Prepared" : "AsImported"; });

}  // namespace
}  // namespace quant
