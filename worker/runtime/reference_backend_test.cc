// SPDX-License-Identifier: Apache-2.0
#include "worker/runtime/reference_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/runtime/testing/evaluate.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using testing::F;
using ::testing::HasSubstr;

// y = relu(x * w) + c, where c is folded from two constants.
std::shared_ptr<Graph> SmallGraph() {
  auto g = std::make_shared<Graph>();
  g->inputs = {{"x", DType::kFloat32, true, {{-1, "N"}, {2, ""}}}};
  g->outputs = {{"y"}, {"c"}, {"x"}};
  g->initializers["w"] = F({2, 2}, {1, -1, 2, -2});
  g->initializers["c1"] = F({2}, {10, 20});
  g->initializers["c2"] = F({2}, {1, 2});
  g->nodes = {
      {"sum", "Add", "", {"c1", "c2"}, {"c"}, {}},
      {"product", "MatMul", "", {"x", "w"}, {"p"}, {}},
      {"relu", "Relu", "", {"p"}, {"r"}, {}},
      {"add", "Add", "", {"r", "c"}, {"y"}, {}},
  };
  return g;
}

TEST(ReferenceBackend, RunsAGraphAndReturnsConstantsAndInputsAsOutputs) {
  const auto exe = CompileReference(SmallGraph(), {});
  ASSERT_TRUE(exe.ok()) << exe.status();
  const Tensor x = F({1, 2}, {3, 4});
  const auto out = (*exe)->Run({&x, 1});
  ASSERT_TRUE(out.ok()) << out.status();
  ASSERT_EQ(out->size(), 3u);
  EXPECT_THAT(testing::AsFloats((*out)[0]), ElementsAre(22, 22));
  EXPECT_THAT(testing::AsFloats((*out)[1]), ElementsAre(11, 22));
  EXPECT_THAT(testing::AsFloats((*out)[2]), ElementsAre(3, 4));
}

TEST(ReferenceBackend, MakesAPlanPerInputShapeAndKeepsTheNewest) {
  const auto exe = CompileReference(SmallGraph(), {.max_plans = 2});
  ASSERT_TRUE(exe.ok());
  for (const int64_t batch : {1, 3, 2, 3, 1, 0}) {
    const Tensor x = F({batch, 2}, std::vector<float>(static_cast<size_t>(2 * batch), 1));
    const auto out = (*exe)->Run({&x, 1});
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_EQ((*out)[0].shape(), Shape({batch, 2}));
    for (const float v : testing::AsFloats((*out)[0])) EXPECT_THAT(v, ::testing::AnyOf(14, 22));
  }
}

TEST(ReferenceBackend, ShowsTappedValuesInOrder) {
  std::vector<std::string> seen;
  CompileOptions options;
  options.taps = {"r", "p", "c", "x"};
  options.tap = [&seen](std::string_view name, const Tensor& t) {
    seen.push_back(std::string(name) + ShapeString(t.shape()));
    return absl::OkStatus();
  };
  const auto exe = CompileReference(SmallGraph(), options);
  ASSERT_TRUE(exe.ok());
  const Tensor x = F({1, 2}, {3, 4});
  ASSERT_TRUE((*exe)->Run({&x, 1}).ok());
  EXPECT_THAT(seen, ElementsAre("x[1,2]", "c[2]", "p[1,2]", "r[1,2]"));
}

TEST(ReferenceBackend, AnErrorOfTheTapEndsTheRun) {
  CompileOptions options;
  options.taps = {"p"};
  options.tap = [](std::string_view, const Tensor&) { return absl::CancelledError("enough"); };
  const auto exe = CompileReference(SmallGraph(), options);
  ASSERT_TRUE(exe.ok());
  const Tensor x = F({1, 2}, {3, 4});
  EXPECT_EQ((*exe)->Run({&x, 1}).status().code(), absl::StatusCode::kCancelled);
}

TEST(ReferenceBackend, RefusesBadInputsTapsOperatorsAndMemory) {
  CompileOptions unknown_tap;
  unknown_tap.taps = {"nothing"};
  EXPECT_THAT(std::string(CompileReference(SmallGraph(), unknown_tap).status().message()), HasSubstr("'nothing'"));

  const auto exe = CompileReference(SmallGraph(), {});
  const Tensor bad = F({1, 3}, {1, 2, 3});
  EXPECT_THAT(std::string((*exe)->Run({&bad, 1}).status().message()), HasSubstr("input 'x' is float32 [1,3]"));

  const auto small = CompileReference(SmallGraph(), {.max_plan_bytes = 100});
  const Tensor x = F({100, 2}, std::vector<float>(200, 1));
  EXPECT_EQ((*small)->Run({&x, 1}).status().code(), absl::StatusCode::kResourceExhausted);

  auto g = SmallGraph();
  g->nodes[2].op_type = "Frobnicate";
  EXPECT_EQ(CompileReference(g, {}).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ReferenceBackend, ReadsUnalignedBorrowedWeightsAndInputs) {
  auto g = SmallGraph();
  auto raw = std::make_shared<std::vector<std::byte>>(1 + 4 * sizeof(float));
  std::memcpy(raw->data() + 1, g->initializers["w"].bytes().data(), 4 * sizeof(float));
  g->initializers["w"] = *Tensor::Borrow(DType::kFloat32, {2, 2}, std::span(*raw).subspan(1), raw);
  std::vector<std::byte> input(1 + 2 * sizeof(float));
  const float values[] = {3, 4};
  std::memcpy(input.data() + 1, values, sizeof(values));
  const Tensor x = *Tensor::Borrow(DType::kFloat32, {1, 2}, std::span(input).subspan(1), nullptr);
  const auto exe = CompileReference(g, {});
  const auto out = (*exe)->Run({&x, 1});
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_THAT(testing::AsFloats((*out)[0]), ElementsAre(22, 22));
}

TEST(ReferenceBackend, DescribesItsPlanAndItsMemory) {
  const auto exe = CompileReference(SmallGraph(), {});
  const Tensor x = F({1, 2}, {3, 4});
  ASSERT_TRUE((*exe)->Run({&x, 1}).ok());
  EXPECT_EQ(
      (*exe)->DescribePlan(),
      "product MatMul reference float32[1,2]\nrelu Relu reference float32[1,2]\nadd Add reference float32[1,2]\n");
  EXPECT_EQ((*exe)->MemoryBytes(), (4 + 2 + 2) * 4 + 3 * 2 * 4);
}

}  // namespace
}  // namespace quant
