// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/placement.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quantize/layer_pattern.h"
#include "worker/quantize/selection.h"
#include "worker/quantize/testing_graphs.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

Placement PlaceAll(const Graph& g) {
  std::vector<int> layers;
  for (const WeightedLayer& l : FindWeightedLayers(g)) layers.push_back(l.node);
  return PlaceGrids(g, layers);
}

std::set<std::string> Values(const Placement& p) {
  std::set<std::string> names;
  for (const auto& [value, grid] : p.grid_of) names.insert(value);
  return names;
}

TEST(PlaceGrids, PutsTheGridBehindAFusedActivationAndLeavesTheOutputFloat) {
  const Graph g = GraphMaker({1, 3, 8, 8}).Conv("x", "a", 3, 4).Op("Relu", {"a"}, "r").Conv("r", "y", 4, 2).Output("y");
  EXPECT_THAT(Values(PlaceAll(g)), UnorderedElementsAre("x", "r"));
}

TEST(PlaceGrids, AValueReadTwiceIsPlacedBeforeItsActivationToo) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "a", 3, 4).Op("Relu", {"a"}, "r").Conv("r", "b", 4, 4).Op("Add", {"a", "b"}, "s").Conv("s", "y", 4, 2);
  EXPECT_THAT(Values(PlaceAll(m.Output("y"))), UnorderedElementsAre("x", "a", "r", "b", "s"));
}

TEST(PlaceGrids, MovingOperatorsPassTheirGridOn) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "a", 3, 4).Op("MaxPool", {"a"}, "p", {{"kernel_shape", std::vector<int64_t>{2, 2}}});
  m.Op("GlobalAveragePool", {"p"}, "g").Op("Flatten", {"g"}, "f").Normal("w", {4, 2}).Op("MatMul", {"f", "w"}, "y");
  const Placement p = PlaceAll(m.Output("y"));
  EXPECT_THAT(Values(p), UnorderedElementsAre("x", "a", "p", "g", "f"));
  EXPECT_EQ(p.grid_of.at("a"), p.grid_of.at("p"));
  EXPECT_EQ(p.grid_of.at("g"), p.grid_of.at("f"));
  EXPECT_NE(p.grid_of.at("p"), p.grid_of.at("g"));
  EXPECT_THAT(p.sources[static_cast<size_t>(p.grid_of.at("a"))], ElementsAre("a"));
}

TEST(PlaceGrids, ConcatGivesItsInputsAndOutputOneGrid) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "a", 3, 4)
      .Conv("x", "b", 3, 4)
      .Op("Concat", {"a", "b"}, "c", {{"axis", int64_t{1}}})
      .Conv("c", "y", 8, 2);
  const Placement p = PlaceAll(m.Output("y"));
  EXPECT_EQ(p.grid_of.at("a"), p.grid_of.at("b"));
  EXPECT_EQ(p.grid_of.at("a"), p.grid_of.at("c"));
  EXPECT_THAT(p.sources[static_cast<size_t>(p.grid_of.at("c"))], UnorderedElementsAre("a", "b"));
}

TEST(PlaceGrids, SoftmaxStaysInFloatingPoint) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "a", 3, 4).Op("Softmax", {"a"}, "s").Conv("s", "y", 4, 2);
  EXPECT_THAT(Values(PlaceAll(m.Output("y"))), UnorderedElementsAre("x", "a", "s"));
  GraphMaker head({1, 3, 8, 8});
  head.Conv("x", "a", 3, 4).Op("Softmax", {"a"}, "y");
  EXPECT_THAT(Values(PlaceAll(head.Output("y"))), UnorderedElementsAre("x", "a"));
}

TEST(PlaceGrids, EndsOnADeepChainOfDiamonds) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "v0", 3, 4);
  for (int i = 0; i < 2000; ++i) {
    m.Op("Add", {"v" + std::to_string(i), "v" + std::to_string(i)}, "v" + std::to_string(i + 1));
  }
  m.Conv("v2000", "y", 4, 2);
  EXPECT_EQ(PlaceAll(m.Output("y")).grid_of.size(), 2002u);
}

TEST(SelectLayers, TheLastMatchingRuleDecidesAndIdleRulesAreTold) {
  GraphMaker m({1, 3, 8, 8});
  m.Conv("x", "stem", 3, 4).Conv("stem", "body", 4, 4).Conv("body", "head", 4, 2);
  const Graph g = m.Output("head");
  LayerSelection s;
  s.rules = {{.name = "*"}, {.name = "re:^body", .skip = false}, {.name = "nothing?"}};
  std::vector<std::string> notes;
  const auto reasons = *SelectLayers(g, s, &notes);
  EXPECT_NE(reasons.at("stem_node"), "");
  EXPECT_EQ(reasons.at("body_node"), "");
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("nothing?"), std::string::npos);
  s = {.skip_first = true, .skip_last = true};
  const auto ends = *SelectLayers(g, s, &notes);
  EXPECT_NE(ends.at("stem_node"), "");
  EXPECT_EQ(ends.at("body_node"), "");
  EXPECT_NE(ends.at("head_node"), "");
}

TEST(SelectLayers, RefusesBrokenRegularExpressionsAndUnknownOperators) {
  const Graph g = GraphMaker({1, 3, 8, 8}).Conv("x", "y", 3, 4).Output("y");
  std::vector<std::string> notes;
  EXPECT_EQ(SelectLayers(g, {.rules = {{.name = "re:("}}}, &notes).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SelectLayers(g, {.op_types = {"Convolution"}}, &notes).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GlobMatches, StarsAndQuestionMarks) {
  EXPECT_TRUE(GlobMatches("*", ""));
  EXPECT_TRUE(GlobMatches("layer?.*.conv", "layer1.0.conv"));
  EXPECT_TRUE(GlobMatches("a*b*c", "a__b_b__c"));
  EXPECT_FALSE(GlobMatches("a*b", "a__c"));
  EXPECT_FALSE(GlobMatches("a?", "a"));
  EXPECT_FALSE(GlobMatches(std::string(30, '*') + "b", std::string(3000, 'a')));
}

}  // namespace
}  // namespace quant
