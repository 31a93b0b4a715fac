// SPDX-License-Identifier: Apache-2.0
#include "worker/graph/graph.h"

#include "gtest/gtest.h"
#include "worker/graph/subgraph.h"

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

// x -> a -> b -> y; positions p join at the end.
Graph Chain() {
  Graph g;
  g.inputs = {{.name = "x"}, {.name = "p", .dtype = DType::kInt64}, {.name = "q"}};
  g.outputs = {{.name = "y"}};
  g.initializers["w"] = Tensor::Scalar(2.0f);
  g.initializers["v"] = Tensor::Scalar(3.0f);
  g.nodes = {MakeNode("n1", "Mul", {"x", "w"}, {"a"}), MakeNode("n2", "Mul", {"a", "v"}, {"b"}),
             MakeNode("n3", "Gather", {"b", "p"}, {"y"}), MakeNode("n4", "Add", {"b", "q"}, {"z"})};
  return g;
}

TEST(Subgraph, HoldsWhatLiesBetweenAndTheInputsItStillNeeds) {
  const Graph g = Chain();
  const std::vector<ValueInfo> from = {{.name = "a"}};
  const std::vector<std::string> to = {"y"};
  const absl::StatusOr<Graph> part = Subgraph(g, from, to);
  ASSERT_TRUE(part.ok()) << part.status();
  ASSERT_TRUE(part->Validate().ok()) << part->Validate();
  ASSERT_EQ(part->nodes.size(), 2u);
  EXPECT_EQ(part->nodes[0].name, "n2");
  EXPECT_EQ(part->nodes[1].name, "n3");
  ASSERT_EQ(part->inputs.size(), 2u);
  EXPECT_EQ(part->inputs[0].name, "a");
  EXPECT_EQ(part->inputs[1].name, "p");
  EXPECT_EQ(part->inputs[1].dtype, DType::kInt64);
  EXPECT_EQ(part->initializers.count("w"), 0u);
  EXPECT_EQ(part->initializers.count("v"), 1u);
}

TEST(Subgraph, NamesAValueThatTheGraphLacks) {
  const Graph g = Chain();
  const std::vector<std::string> to = {"nowhere"};
  const absl::StatusOr<Graph> part = Subgraph(g, {}, to);
  EXPECT_EQ(part.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(part.status().message().find("'nowhere'"), std::string::npos) << part.status();
}

}  // namespace
}  // namespace quant
