// SPDX-License-Identifier: Apache-2.0
// What the executable promises whatever the operators: no allocation that grows, plans per shape, taps, repeatability,
// memory limits, dtypes, errors.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/runtime/onednn/testing/count_allocations.h"
#include "worker/runtime/onednn/testing/test_graph.h"

namespace quant {
namespace {

using quant::testing::Compare;
using quant::testing::TestGraph;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ints = std::vector<int64_t>;

// A small network with most kinds of steps, float and int8.
TestGraph Network(std::vector<std::string>* values = nullptr) {
  TestGraph g(3);
  const Ints pads = {1, 1, 1, 1};
  const std::string x = g.Input({1, 3, 12, 12});
  const std::string a = g.Op("Conv", {x, g.Random({16, 3, 3, 3})}, {{"pads", pads}});
  const std::string r = g.Op("Relu", {a});
  const std::string q = g.QuantizeDequantize(r, 0.05f, 0);
  const std::string b = g.Op("Conv", {q, g.Weights({16, 16, 3, 3}, 0, 64)}, {{"pads", pads}});
  const std::string sum = g.Op("Add", {b, q});
  const std::string p = g.Op("MaxPool", {sum}, {{"kernel_shape", Ints{2, 2}}, {"strides", Ints{2, 2}}});
  const std::string c = g.Op("Concat", {p, g.Op("Sigmoid", {p})}, {{"axis", int64_t{1}}});
  const std::string f = g.Op("Flatten", {g.Op("GlobalAveragePool", {c})});
  const std::string y = g.Op("Gemm", {f, g.Random({10, 32})}, {{"transB", int64_t{1}}});
  g.Output(g.Op("Softmax", {y}));
  g.Output(g.Op("ArgMax", {y}, {{"axis", int64_t{1}}}), DType::kInt64);
  if (values) *values = {x, a, r, q, b, sum, p, c, f, y};
  return g;
}

TEST(Plan, SecondRunAllocatesNothingThatGrows) {
  TestGraph g = Network();
  auto exe = Compile(g.Build(), {.threads = 2});
  ASSERT_TRUE(exe.ok()) << exe.status();
  for (const int64_t batch : {1, 16}) {
    const std::vector<Tensor> inputs = g.Inputs(batch);
    ASSERT_TRUE((*exe)->Run(inputs).ok());
    ASSERT_TRUE((*exe)->Run(inputs).ok());
    quant::testing::StartCountingAllocations();
    const bool ok = (*exe)->Run(inputs).ok();
    const quant::testing::Allocations made = quant::testing::StopCountingAllocations();
    ASSERT_TRUE(ok);
    // oneDNN makes a table of arguments in every call: a few small nodes. The smallest tensor of batch 16 is larger.
    EXPECT_LT(made.greatest_bytes, 512u) << "batch " << batch;
    EXPECT_LT(made.bytes, 32u << 10) << "batch " << batch;
  }
}

TEST(Plan, BatchMayChangeBetweenRunsAndPlansAreDropped) {
  TestGraph g = Network();
  const auto graph = g.Build();
  auto reference = *Compile(graph, {.backend = Backend::kReference});
  auto exe = *Compile(graph, {.threads = 2, .max_plans = 2});
  for (const int64_t batch : {1, 3, 1, 8, 3, 2, 1}) {
    const std::vector<Tensor> inputs = g.Inputs(batch);
    const auto want = reference->Run(inputs);
    const auto have = exe->Run(inputs);
    ASSERT_TRUE(want.ok() && have.ok()) << have.status();
    ASSERT_EQ((*have)[0].shape(), (Shape{batch, 10}));
    for (size_t i = 0; i < static_cast<size_t>(batch) * 10; ++i) {
      EXPECT_NEAR((*want)[0].data<float>()[i], (*have)[0].data<float>()[i], 1e-3);
    }
  }
  EXPECT_GT(exe->MemoryBytes(), 0);
}

TEST(Plan, ResultsRepeatBitForBitAndDoNotDependOnThreads) {
  TestGraph g = Network();
  const auto graph = g.Build();
  const std::vector<Tensor> inputs = g.Inputs(5);
  std::string first;
  for (const int threads : {1, 2, 1, 2}) {
    auto exe = *Compile(graph, {.threads = threads});
    for (int run = 0; run < 3; ++run) {
      const auto out = exe->Run(inputs);
      ASSERT_TRUE(out.ok());
      const std::span<const std::byte> bytes = (*out)[0].bytes();
      const std::string now(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (first.empty()) first = now;
      EXPECT_EQ(first, now) << threads << " threads, run " << run;
    }
  }
}

TEST(Plan, TapsShowEveryValueInOrderAsTheReferenceHasIt) {
  std::vector<std::string> values;
  TestGraph g = Network(&values);
  const auto graph = g.Build();
  const std::vector<Tensor> inputs = g.Inputs(2);
  std::map<std::string, std::vector<float>> shown[2];
  std::vector<std::string> order;
  for (const int i : {0, 1}) {
    CompileOptions options{.backend = i == 0 ? Backend::kReference : Backend::kOneDnn, .threads = 2, .taps = values};
    options.tap = [&](std::string_view name, const Tensor& t) {
      shown[i][std::string(name)] = *ToFloat(t);
      if (i == 1) order.emplace_back(name);
      return absl::OkStatus();
    };
    auto exe = *Compile(graph, options);
    ASSERT_TRUE(exe->Run(inputs).ok());
  }
  EXPECT_EQ(order, values);
  for (const std::string& v : values) {
    ASSERT_EQ(shown[0][v].size(), shown[1][v].size()) << v;
    for (size_t k = 0; k < shown[0][v].size(); ++k) EXPECT_NEAR(shown[0][v][k], shown[1][v][k], 0.06) << v << " " << k;
  }
}

TEST(Plan, AnErrorOfATapEndsTheRun) {
  std::vector<std::string> values;
  TestGraph g = Network(&values);
  CompileOptions options{.threads = 1, .taps = {values[4]}};
  options.tap = [](std::string_view, const Tensor&) { return absl::AbortedError("enough"); };
  auto exe = *Compile(g.Build(), options);
  const auto out = exe->Run(g.Inputs(1));
  EXPECT_EQ(out.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(out.status().message()), HasSubstr("enough"));
  options.taps = {"nothing"};
  EXPECT_EQ(Compile(g.Build(), options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Plan, MemoryLimitIsKept) {
  TestGraph g = Network();
  auto exe = *Compile(g.Build(), {.threads = 1, .max_plan_bytes = 100000});
  EXPECT_TRUE(exe->Run(g.Inputs(1)).ok());
  const auto out = exe->Run(g.Inputs(64));
  EXPECT_EQ(out.status().code(), absl::StatusCode::kResourceExhausted) << out.status();
  EXPECT_TRUE(exe->Run(g.Inputs(1)).ok()) << "a plan that does not fit must not spoil the others";
}

TEST(Plan, WrongInputsAreNamed) {
  TestGraph g = Network();
  auto exe = *Compile(g.Build(), {.threads = 1});
  EXPECT_EQ(exe->Run({}).status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<Tensor> wrong = {Tensor::Of<float>({1, 2}, std::vector<float>{1, 2})};
  EXPECT_EQ(exe->Run(wrong).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Plan, OutputsThatAreInputsConstantsOrAliases) {
  TestGraph g;
  const std::string x = g.Input({1, 4, 3, 3});
  const std::string r = g.Op("Relu", {x});
  const std::string flat = g.Op("Flatten", {r});
  g.Output(x);
  g.Output(g.Random({3}));
  g.Output(r);
  g.Output(flat);
  g.Output(g.Op("Identity", {x}));
  g.Output(g.Op("Identity", {flat}));
  const auto c = Compare(g.Build(), g.Inputs(2));
  EXPECT_EQ(c.greatest, 0) << c.plan;
}

TEST(Plan, HalfAndDoubleGraphsKeepTheirTypes) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat64}) {
    Graph graph;
    graph.inputs = {{"x", dtype, true, {Dim{-1, "n"}, Dim{3, ""}, Dim{5, ""}, Dim{5, ""}}}};
    graph.outputs = {{"y", dtype, false, {}}};
    TestGraph weights;
    graph.initializers["w"] = *Cast(Tensor::Of<float>({4, 3, 1, 1}, std::vector<float>(12, 0.25f)), dtype);
    graph.nodes = {{"conv", "Conv", "", {"x", "w"}, {"c"}, {}}, {"relu", "Relu", "", {"c"}, {"y"}, {}}};
    std::vector<Tensor> inputs = {*Cast(Tensor::Of<float>({1, 3, 5, 5}, std::vector<float>(75, 0.5f)), dtype)};
    std::vector<std::string> seen;
    CompileOptions options{.threads = 1, .taps = {"c"}};
    options.tap = [&](std::string_view name, const Tensor& t) {
      seen.push_back(absl::StrCat(std::string(name), " ", DTypeName(t.dtype())));
      return absl::OkStatus();
    };
    auto exe = *Compile(std::make_shared<const Graph>(graph), options);
    const auto out = exe->Run(inputs);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_EQ((*out)[0].dtype(), dtype);
    EXPECT_EQ((*ToFloat((*out)[0]))[0], 0.375f);
    EXPECT_THAT(seen, ElementsAre(absl::StrCat("c ", DTypeName(dtype))));
  }
}

TEST(Plan, EmptyBatch) {
  TestGraph g = Network();
  auto exe = *Compile(g.Build(), {.threads = 1});
  const auto out = exe->Run(g.Inputs(0));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ((*out)[0].shape(), (Shape{0, 10}));
}

}  // namespace
}  // namespace quant
