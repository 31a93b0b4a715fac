// SPDX-License-Identifier: Apache-2.0
// On a model of two blocks, each h + down(relu(up(norm(h))) * gate(norm(h))): wide enough to tell methods apart, small
// enough to check everything.
#include "worker/quantize/language/driver.h"

#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quantize/language/awq_block.h"
#include "worker/runtime/executable.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kVocab = 50, kHidden = 32, kWide = 48;

std::vector<float> Normal(std::mt19937& random, int64_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values;
  values.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values.push_back(normal(random));
  return values;
}

Tensor Weights(std::mt19937& random, int64_t rows, int64_t cols) {
  const std::vector<float> values = Normal(random, rows * cols, 1.0f / std::sqrt(static_cast<float>(cols)));
  return *Cast(Tensor::Of<float>({rows, cols}, values), DType::kBFloat16);
}

struct Model {
  Graph graph;
  std::vector<std::string> cuts;
};

void Add(Graph& g, const std::string& op, std::vector<std::string> in, const std::string& out,
         std::map<std::string, Attribute> attributes = {}) {
  g.nodes.push_back(
      {.name = out, .op_type = op, .inputs = std::move(in), .outputs = {out}, .attributes = std::move(attributes)});
}

Model TwoBlocks() {
  std::mt19937 random(3);
  Model m;
  Graph& g = m.graph;
  g.opset = 23;
  g.inputs = {{.name = "input_ids", .dtype = DType::kInt64, .has_shape = true, .shape = {{}, {}}}};
  g.initializers["embed"] = Tensor::Of<float>({kVocab, kHidden}, Normal(random, kVocab * kHidden, 1));
  Add(g, "Gather", {"embed", "input_ids"}, "h0");
  m.cuts = {"h0"};
  for (int b = 0; b < 2; ++b) {
    const std::string p = "b" + std::to_string(b) + ".";
    const std::string h = m.cuts.back();
    // Channels of very different sizes: what act-order and AWQ live on.
    std::vector<float> gamma = Normal(random, kHidden, 1);
    for (float& v : gamma) v = std::exp(v);
    g.initializers[p + "gamma"] = *Cast(Tensor::Of<float>({kHidden}, gamma), DType::kBFloat16);
    g.initializers[p + "up.weight"] = Weights(random, kWide, kHidden);
    g.initializers[p + "gate.weight"] = Weights(random, kWide, kHidden);
    g.initializers[p + "down.weight"] = Weights(random, kHidden, kWide);
    Add(g, "Cast", {p + "gamma"}, p + "gamma.f32", {{"to", int64_t{1}}});
    Add(g, "RMSNormalization", {h, p + "gamma.f32"}, p + "norm", {{"axis", int64_t{-1}}});
    const std::string up = AppendLinear(&g, p + "up", p + "norm", p + "up.weight");
    const std::string gate = AppendLinear(&g, p + "gate", p + "norm", p + "gate.weight");
    Add(g, "Relu", {gate}, p + "act");
    Add(g, "Mul", {p + "act", up}, p + "product");
    const std::string down = AppendLinear(&g, p + "down", p + "product", p + "down.weight");
    m.cuts.push_back("h" + std::to_string(b + 1));
    Add(g, "Add", {h, down}, m.cuts.back());
  }
  g.outputs = {{.name = m.cuts.back(), .has_shape = true, .shape = {{}, {}, {}}}};
  EXPECT_TRUE(g.Validate().ok()) << g.Validate();
  return m;
}

std::vector<std::vector<int32_t>> Windows(int count) {
  std::mt19937 random(7);
  std::vector<std::vector<int32_t>> windows;
  for (int w = 0; w < count; ++w) {
    windows.emplace_back();
    for (int t = 0; t < 20 + w % 3; ++t) windows.back().push_back(static_cast<int32_t>(random() % kVocab));
  }
  return windows;
}

LinearMethod Method(LinearMethod::Kind kind, bool scaled = false) {
  LinearMethod m;
  m.kind = kind;
  m.name = scaled ? "awq" : kind == LinearMethod::Kind::kGptq ? "gptq" : "rtn";
  m.grid.bits = 3;
  m.grid.group_size = 16;
  m.scaled = scaled;
  return m;
}

std::vector<BlockResult> RunAll(const Model& m, const LinearMethod& method,
                                const std::vector<std::vector<int32_t>>& windows, int threads = 1) {
  DriverOptions options{
      .method_of = [&](const Linear&) { return method; }, .threads = threads, .spill_folder = ::testing::TempDir()};
  absl::StatusOr<BlockDriver> driver = BlockDriver::Create(m.graph, m.cuts, windows, options, nullptr);
  EXPECT_TRUE(driver.ok()) << driver.status();
  std::vector<BlockResult> results;
  while (!driver->done()) {
    absl::StatusOr<BlockResult> block = driver->Next(nullptr);
    EXPECT_TRUE(block.ok()) << block.status();
    if (!block.ok()) break;
    results.push_back(*std::move(block));
  }
  return results;
}

// One block, h + up(norm(h)) + 0 * gate(norm(h)). Input 0 is large. In `gate` all weights are alike, so that scales
// make its column 0 more exact; in `up` column 0 is the largest of its group already, and scaling it coarsens the
// others.
Model BlockThatIgnoresGate() {
  std::mt19937 random(13);
  Model m;
  Graph& g = m.graph;
  g.opset = 23;
  g.inputs = {{.name = "input_ids", .dtype = DType::kInt64, .has_shape = true, .shape = {{}, {}}}};
  g.initializers["embed"] = Tensor::Of<float>({kVocab, kHidden}, Normal(random, kVocab * kHidden, 1));
  Add(g, "Gather", {"embed", "input_ids"}, "h0");
  std::vector<float> gamma(kHidden, 1.0f);
  gamma[0] = 10;
  std::vector<float> up = Normal(random, kHidden * kHidden, 1), gate = Normal(random, kHidden * kHidden, 30);
  for (int64_t r = 0; r < kHidden; ++r) up[static_cast<size_t>(r * kHidden)] = 5;
  g.initializers["gamma"] = Tensor::Of<float>({kHidden}, gamma);
  g.initializers["up.weight"] = Tensor::Of<float>({kHidden, kHidden}, up);
  g.initializers["gate.weight"] = Tensor::Of<float>({kHidden, kHidden}, gate);
  g.initializers["nothing"] = Tensor::Of<float>({1}, {0.0f});
  Add(g, "RMSNormalization", {"h0", "gamma"}, "norm", {{"axis", int64_t{-1}}});
  const std::string u = AppendLinear(&g, "up", "norm", "up.weight");
  const std::string v = AppendLinear(&g, "gate", "norm", "gate.weight");
  Add(g, "Mul", {v, "nothing"}, "silent");
  Add(g, "Add", {u, "silent"}, "sum");
  Add(g, "Add", {"h0", "sum"}, "h1");
  m.cuts = {"h0", "h1"};
  g.outputs = {{.name = "h1", .has_shape = true, .shape = {{}, {}, {}}}};
  EXPECT_TRUE(g.Validate().ok()) << g.Validate();
  return m;
}

TEST(BlockDriver, LeavesOutScalesThatMakeTheBlocksOutputsWorse) {
  const Model m = BlockThatIgnoresGate();
  const auto windows = Windows(16);
  const auto results = RunAll(m, Method(LinearMethod::Kind::kRtn, /*scaled=*/true), windows);
  ASSERT_EQ(results.size(), 1u);
  ASSERT_EQ(results[0].notes.size(), 1u);
  EXPECT_THAT(results[0].notes[0], HasSubstr("up: not scaled, the block's outputs would be further off"));
  EXPECT_TRUE(results[0].changed.empty());
  // Where they help what the block makes of the layers, they stay.
  const auto used = RunAll(TwoBlocks(), Method(LinearMethod::Kind::kRtn, /*scaled=*/true), windows);
  EXPECT_TRUE(used[0].changed.contains("b0.gamma"));
}

// One block, h + sum over three experts of share * (x W), one expert per token; a bias keeps the last from being
// chosen.
Model MixtureOfThree() {
  std::mt19937 random(17);
  Model m;
  Graph& g = m.graph;
  g.opset = 23;
  g.inputs = {{.name = "input_ids", .dtype = DType::kInt64, .has_shape = true, .shape = {{}, {}}}};
  g.initializers["embed"] = Tensor::Of<float>({kVocab, kHidden}, Normal(random, kVocab * kHidden, 1));
  Add(g, "Gather", {"embed", "input_ids"}, "h0");
  g.initializers["router.weight"] = Weights(random, 3, kHidden);
  g.initializers["never"] = Tensor::Of<float>({3}, {0, 0, -100});
  g.initializers["one"] = Tensor::Of<int64_t>({1}, {1});
  Add(g, "Add", {AppendLinear(&g, "router", "h0", "router.weight"), "never"}, "logits");
  Add(g, "Softmax", {"logits"}, "softmax", {{"axis", int64_t{-1}}});
  g.nodes.push_back({.name = "top", .op_type = "TopK", .inputs = {"softmax", "one"}, .outputs = {"weights", "chosen"}});
  Add(g, "Shape", {"softmax"}, "shape");
  Add(g, "ConstantOfShape", {"shape"}, "zeros");
  Add(g, "ScatterElements", {"zeros", "chosen", "weights"}, "scattered", {{"axis", int64_t{-1}}});
  g.initializers["sizes"] = Tensor::Of<int64_t>({3}, {1, 1, 1});
  g.nodes.push_back({.name = "split",
                     .op_type = "Split",
                     .inputs = {"scattered", "sizes"},
                     .outputs = {"share0", "share1", "share2"},
                     .attributes = {{"axis", int64_t{-1}}}});
  std::string sum = "h0";
  for (int e = 0; e < 3; ++e) {
    const std::string p = "expert" + std::to_string(e);
    g.initializers[p + ".weight"] = Weights(random, kHidden, kHidden);
    Add(g, "Relu", {AppendLinear(&g, p, "h0", p + ".weight")}, p + ".act");
    Add(g, "Mul", {p + ".act", "share" + std::to_string(e)}, p + ".weighted");
    const std::string next = e == 2 ? "h1" : p + ".sum";
    Add(g, "Add", {sum, p + ".weighted"}, next);
    sum = next;
  }
  m.cuts = {"h0", "h1"};
  g.outputs = {{.name = "h1", .has_shape = true, .shape = {{}, {}, {}}}};
  EXPECT_TRUE(g.Validate().ok()) << g.Validate();
  return m;
}

TEST(BlockDriver, TellsHowManyTokensWereRoutedToEachExpert) {
  const auto windows = Windows(16);
  int64_t tokens = 0;
  for (const auto& w : windows) tokens += static_cast<int64_t>(w.size());
  const auto results = RunAll(MixtureOfThree(), Method(LinearMethod::Kind::kGptq), windows);
  ASSERT_EQ(results.size(), 1u);
  ASSERT_EQ(results[0].layers.size(), 4u);
  const auto routed = [&](size_t i) { return results[0].layers[i].outcome.routed_tokens; };
  EXPECT_EQ(routed(0), -1) << "the router serves all";
  EXPECT_GT(routed(1), 0);
  EXPECT_EQ(routed(1) + routed(2), tokens);
  EXPECT_EQ(routed(3), 0);
  // What no token taught it about, it learned from all of them.
  EXPECT_EQ(results[0].layers[3].outcome.method, "gptq");
  ASSERT_EQ(results[0].notes.size(), 1u);
  EXPECT_THAT(results[0].notes[0], HasSubstr("1 of 3 experts got few"));
  EXPECT_THAT(results[0].notes[0], HasSubstr("share2 (0)"));
}

double MeanError(const std::vector<BlockResult>& results) {
  double sum = 0, n = 0;
  for (const BlockResult& b : results) {
    for (const QuantizedLayer& l : b.layers) sum += l.relative_error, ++n;
  }
  return sum / n;
}

void ExpectSame(const std::vector<BlockResult>& a, const std::vector<BlockResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].layers.size(), b[i].layers.size());
    for (size_t l = 0; l < a[i].layers.size(); ++l) {
      const auto& x = std::get<GroupedMatrix>(*a[i].layers[l].weights);
      const auto& y = std::get<GroupedMatrix>(*b[i].layers[l].weights);
      EXPECT_EQ(x.codes, y.codes) << a[i].layers[l].outcome.name;
      EXPECT_EQ(x.scales, y.scales) << a[i].layers[l].outcome.name;
    }
  }
}

TEST(BlockDriver, GptqBeatsRoundToNearestOnHeldOutSamples) {
  const Model m = TwoBlocks();
  const auto windows = Windows(32);
  const auto rtn = RunAll(m, Method(LinearMethod::Kind::kRtn), windows);
  const auto gptq = RunAll(m, Method(LinearMethod::Kind::kGptq), windows);
  ASSERT_EQ(gptq.size(), 2u);
  ASSERT_EQ(gptq[0].layers.size(), 3u);
  EXPECT_EQ(gptq[0].layers[0].outcome.name, "b0.up");
  EXPECT_EQ(gptq[1].layers[2].outcome.name, "b1.down");
  EXPECT_LT(MeanError(gptq), 0.9 * MeanError(rtn));
  EXPECT_GT(MeanError(gptq), 0.01);
}

TEST(BlockDriver, TheBitsDoNotDependOnThreadsOrOnAResume) {
  const Model m = TwoBlocks();
  const auto windows = Windows(16);
  LinearMethod method = Method(LinearMethod::Kind::kGptq);
  const auto once = RunAll(m, method, windows, 1);
  ExpectSame(once, RunAll(m, method, windows, 2));

  const DriverOptions options{
      .method_of = [&](const Linear&) { return method; }, .threads = 2, .spill_folder = ::testing::TempDir()};
  std::vector<std::byte> state;
  {
    absl::StatusOr<BlockDriver> first = BlockDriver::Create(m.graph, m.cuts, windows, options, nullptr);
    ASSERT_TRUE(first.ok());
    ASSERT_TRUE(first->Next(nullptr).ok());
    state.assign(first->state().begin(), first->state().end());
  }
  absl::StatusOr<BlockDriver> second = BlockDriver::Create(m.graph, m.cuts, windows, options, nullptr);
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(second->Restore(1, std::span(state).first(4)).ok());
  ASSERT_TRUE(second->Restore(1, state).ok());
  std::vector<BlockResult> resumed = {once[0]};
  absl::StatusOr<BlockResult> block = second->Next(nullptr);
  ASSERT_TRUE(block.ok()) << block.status();
  EXPECT_TRUE(second->done());
  resumed.push_back(*std::move(block));
  ExpectSame(once, resumed);
}

TEST(BlockDriver, KeepsWhatItIsToldToKeepAndNamesWhatIsNotFinite) {
  Model m = TwoBlocks();
  const auto windows = Windows(8);
  DriverOptions options{.method_of =
                            [](const Linear& l) {
                              LinearMethod method = Method(LinearMethod::Kind::kRtn);
                              if (l.name == "b0.gate") method = {.reason = "told so"};
                              return method;
                            },
                        .threads = 1,
                        .spill_folder = ::testing::TempDir()};
  absl::StatusOr<BlockDriver> driver = BlockDriver::Create(m.graph, m.cuts, windows, options, nullptr);
  ASSERT_TRUE(driver.ok());
  absl::StatusOr<BlockResult> block = driver->Next(nullptr);
  ASSERT_TRUE(block.ok());
  EXPECT_FALSE(block->layers[1].weights.has_value());
  EXPECT_EQ(block->layers[1].outcome.fallback, "told so");

  std::vector<float> broken(kHidden, 1.0f);
  broken[5] = INFINITY;
  m.graph.initializers["b0.gamma"] = Tensor::Of<float>({kHidden}, broken);
  driver = BlockDriver::Create(m.graph, m.cuts, windows, options, nullptr);
  ASSERT_TRUE(driver.ok());
  block = driver->Next(nullptr);
  EXPECT_EQ(block.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(block.status().message()), HasSubstr("b0.norm"));
}

std::vector<float> Values(const DecoderBlock& block, const std::string& value, const HiddenStates& hidden,
                          const std::vector<std::vector<int32_t>>& windows) {
  std::vector<float> all;
  const std::vector<std::string> wanted = {value};
  absl::StatusOr<BlockRunner> runner = block.Runner(wanted, 1);
  EXPECT_TRUE(runner.ok()) << runner.status();
  for (size_t s = 0; s < windows.size(); ++s) {
    const absl::StatusOr<std::span<const Tensor>> v = runner->Run(hidden, s, windows[s]);
    EXPECT_TRUE(v.ok()) << v.status();
    all.insert(all.end(), (*v)[0].data<float>().begin(), (*v)[0].data<float>().end());
  }
  return all;
}

TEST(ScaleGroup, TheBlockComputesTheSameAndItsNormChanges) {
  const Model m = TwoBlocks();
  const auto windows = Windows(4);
  std::vector<int64_t> tokens;
  tokens.reserve(windows.size());
  for (const auto& w : windows) tokens.push_back(static_cast<int64_t>(w.size()));
  absl::StatusOr<HiddenStates> hidden = HiddenStates::Create(tokens, kHidden, 1 << 20, ::testing::TempDir());
  ASSERT_TRUE(hidden.ok());
  std::mt19937 random(11);
  for (size_t s = 0; s < tokens.size(); ++s) {
    ASSERT_TRUE(
        hidden->Write(s, Tensor::Of<float>({1, tokens[s], kHidden}, Normal(random, tokens[s] * kHidden, 1))).ok());
  }
  absl::StatusOr<DecoderBlock> block = DecoderBlock::Cut(m.graph, m.cuts[0], m.cuts[1]);
  ASSERT_TRUE(block.ok()) << block.status();
  const std::vector<float> before = Values(*block, block->output(), *hidden, windows);
  std::map<std::string, Tensor> changed;
  const std::vector<InputGroup> groups = block->Groups();
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].linears.size(), 2u);
  for (const InputGroup& group : groups) {
    absl::StatusOr<Hessian> h = Hessian::Create(group.linears[0].cols);
    ASSERT_TRUE(h.ok());
    const std::vector<float> x = Values(*block, group.input, *hidden, windows);
    ASSERT_TRUE(h->Add(x, static_cast<int64_t>(x.size()) / h->cols()).ok());
    const absl::StatusOr<std::string> note = ScaleGroup(&block->graph(), group, (*std::move(h)).Finish(),
                                                        Method(LinearMethod::Kind::kRtn, true), 1, &changed);
    ASSERT_TRUE(note.ok()) << note.status();
    EXPECT_EQ(*note, "");
  }
  EXPECT_TRUE(changed.contains("b0.gamma"));
  EXPECT_EQ(changed.at("b0.gamma").dtype(), DType::kBFloat16);
  EXPECT_TRUE(changed.contains("b0.up.weight")) << "up -> down";
  const std::vector<float> after = Values(*block, block->output(), *hidden, windows);
  ASSERT_EQ(before.size(), after.size());
  double worst = 0, magnitude = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    worst = std::max(worst, std::fabs(static_cast<double>(before[i]) - after[i]));
    magnitude = std::max(magnitude, std::fabs(static_cast<double>(before[i])));
  }
  EXPECT_LT(worst, 1e-5 * magnitude);  // float32 sums of 48 terms, scaled and scaled back
}

TEST(QuantizeLinear, KeepsRoundToNearestWhereTheMethodDoesNotGeneralise) {
  std::mt19937 random(5);
  const int64_t rows = 8, cols = 32;
  const std::vector<float> w = Normal(random, rows * cols, 1);
  // Learned from one direction, judged on all of them: what GPTQ does for the first costs more on the others.
  absl::StatusOr<Hessian> fit = Hessian::Create(cols), judge = Hessian::Create(cols);
  std::vector<float> x = Normal(random, cols, 1);
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(fit->Add(x, 1).ok());
  const std::vector<float> noise = Normal(random, 512 * cols, 1);
  ASSERT_TRUE(judge->Add(noise, 512).ok());
  const HessianMatrix f = (*std::move(fit)).Finish(), j = (*std::move(judge)).Finish();
  LayerInputs other(f, j);
  absl::StatusOr<LinearResult> r = QuantizeLinear(Method(LinearMethod::Kind::kGptq), {w, rows, cols}, &other, 1);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->method, "rtn");
  EXPECT_THAT(r->fallback, HasSubstr("round to nearest kept"));
  LayerInputs same(f, f);
  r = QuantizeLinear(Method(LinearMethod::Kind::kGptq), {w, rows, cols}, &same, 1);
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->method, "gptq");
}

TEST(QuantizeLinear, JudgesCompensatedWeightsByTheOriginalOutputs) {
  std::mt19937 random(6);
  const int64_t rows = 8, cols = 32, tokens = 4096;
  const std::vector<float> w = Normal(random, rows * cols, 1);
  const std::vector<float> y = Normal(random, tokens * cols, 1);
  std::vector<float> moved = y;  // x = 2 y: earlier layers have halved the inputs
  for (float& v : moved) v *= 2;
  const auto cross_of = [&](const std::vector<float>& x) {
    CrossMoment cross = *CrossMoment::Create(cols);
    EXPECT_TRUE(cross.Add(x, y, tokens).ok());
    return std::move(cross).Finish();
  };
  Hessian hessian = *Hessian::Create(cols);
  ASSERT_TRUE(hessian.Add(y, tokens).ok());
  const HessianMatrix h = std::move(hessian).Finish();
  const CrossMomentMatrix halved = cross_of(moved), alike = cross_of(y);
  LayerInputs inputs(h, h);
  inputs.fit_cross = inputs.judge_cross = &halved;
  absl::StatusOr<LinearResult> r = QuantizeLinear(Method(LinearMethod::Kind::kGptq), {w, rows, cols}, &inputs, 1);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->method, "gptq");
  std::vector<float> q(w.size());
  DequantizeRows(r->weights, 0, rows, q);
  double along = 0, size = 0;
  for (size_t i = 0; i < w.size(); ++i) along += q[i] * w[i], size += w[i] * w[i];
  EXPECT_NEAR(along / size, 2, 0.2) << "the weights make up for it";

  // Learned where inputs had been halved, judged where they are as they were: exact for what it was asked to be, and
  // twice what the original gives.
  inputs.judge_cross = &alike;
  r = QuantizeLinear(Method(LinearMethod::Kind::kGptq), {w, rows, cols}, &inputs, 1);
  ASSERT_TRUE(r.ok()) << r.status();
  EXPECT_EQ(r->method, "rtn");
  EXPECT_THAT(r->fallback, HasSubstr("nearer to the original's outputs"));
}

}  // namespace
}  // namespace quant
