// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/graph.h"

#include "gtest/gtest.h"

namespace quant {
namespace {

Node MakeNode(std::string name, std::string op, std::vector<std::string> in, std::vector<std::string> out) {
  return {.name = std::move(name), .op_type = std::move(op), .inputs = std::move(in), .outputs = std::move(out)};
}

// x -> a -> y, plus a dead branch, given in the wrong order.
Graph Sample() {
  Graph g;
  g.inputs = {{.name = "x"}};
  g.outputs = {{.name = "y"}};
  g.initializers["w"] = Tensor::Scalar(2.0f);
  g.initializers["unused"] = Tensor::Scalar(3.0f);
  g.nodes = {MakeNode("second", "Relu", {"a"}, {"y"}), MakeNode("first", "Mul", {"x", "w"}, {"a"}),
             MakeNode("dead", "Neg", {"a"}, {"b"})};
  return g;
}

TEST(Graph, SortPutsProducersFirstAndValidateNoticesTheDifference) {
  Graph g = Sample();
  EXPECT_EQ(g.Validate().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(g.Sort().ok());
  EXPECT_EQ(g.nodes[0].name, "first");
  EXPECT_TRUE(g.Validate().ok());
}

TEST(Graph, SortNamesANodeOfACycle) {
  Graph g;
  g.outputs = {{.name = "a"}};
  g.nodes = {MakeNode("p", "Neg", {"b"}, {"a"}), MakeNode("q", "Neg", {"a"}, {"b"})};
  const absl::Status s = g.Sort();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(s.message().find("'p'"), std::string::npos) << s;
}

TEST(Graph, RemoveUnusedDropsDeadNodesAndConstantsButNotInputs) {
  Graph g = Sample();
  ASSERT_TRUE(g.Sort().ok());
  g.inputs.push_back({.name = "ignored"});
  g.RemoveUnused();
  EXPECT_EQ(g.nodes.size(), 2u);
  EXPECT_EQ(g.initializers.count("unused"), 0u);
  EXPECT_EQ(g.initializers.count("w"), 1u);
  EXPECT_EQ(g.inputs.size(), 2u);
}

TEST(Graph, ValidateRefusesASecondDefinitionAndUndefinedOutputs) {
  Graph g = Sample();
  ASSERT_TRUE(g.Sort().ok());
  g.nodes.push_back(MakeNode("again", "Neg", {"x"}, {"a"}));
  EXPECT_FALSE(g.Validate().ok());
  g.nodes.pop_back();
  g.outputs.push_back({.name = "nowhere"});
  EXPECT_FALSE(g.Validate().ok());
}

TEST(GraphIndex, KnowsProducersAndEveryReadingInput) {
  Graph g = Sample();
  ASSERT_TRUE(g.Sort().ok());
  g.nodes.push_back(MakeNode("square", "Mul", {"a", "a"}, {"c"}));
  const GraphIndex index(g);
  EXPECT_EQ(index.Producer("a"), 0);
  EXPECT_EQ(index.Producer("x"), -1);
  EXPECT_EQ(index.Consumers("a").size(), 4u);
  EXPECT_TRUE(index.Consumers("nothing").empty());
}

}  // namespace
}  // namespace quant
