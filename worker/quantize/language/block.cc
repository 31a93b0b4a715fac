// SPDX-License-Identifier: Apache-2.0
#include "worker/quantize/language/block.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/graph/subgraph.h"

namespace quant {
namespace {

constexpr char kIds[] = "input_ids";

ValueInfo HiddenInfo(const std::string& name) {
  return {.name = name, .dtype = DType::kFloat32, .has_shape = true, .shape = {{}, {}, {}}};
}

}  // namespace

absl::StatusOr<DecoderBlock> DecoderBlock::Cut(const Graph& model, const std::string& input,
                                               const std::string& output) {
  DecoderBlock block;
  block.input_ = input;
  block.output_ = output;
  const std::vector<ValueInfo> from = {HiddenInfo(input)};
  const std::vector<std::string> to = {output};
  ASSIGN_OR_RETURN(block.graph_, Subgraph(model, from, to));
  for (const ValueInfo& v : block.graph_.inputs) {
    if (v.name == input || v.name == kIds) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the block from '", input, "' to '", output, "' needs input '", v.name, "'"));
  }
  return block;
}

std::vector<InputGroup> DecoderBlock::Groups() const {
  std::vector<InputGroup> groups;
  for (Linear& linear : FindLinears(graph_)) {
    const auto it =
        std::find_if(groups.begin(), groups.end(), [&](const InputGroup& g) { return g.input == linear.input; });
    InputGroup& group =
        it == groups.end() ? groups.emplace_back(InputGroup{.input = linear.input, .linears = {}}) : *it;
    group.linears.push_back(std::move(linear));
  }
  return groups;
}

absl::StatusOr<BlockRunner> DecoderBlock::Runner(std::span<const std::string> values, int threads) const {
  BlockRunner runner;
  runner.input_ = input_;
  runner.values_.assign(values.begin(), values.end());
  // The input is no output of a graph: it is handed on as it is.
  std::vector<std::string> computed;
  for (const std::string& v : values) {
    if (v != input_) computed.push_back(v);
  }
  if (computed.empty()) return runner;
  const std::vector<ValueInfo> from = {HiddenInfo(input_)};
  ASSIGN_OR_RETURN(Graph part, Subgraph(graph_, from, computed));
  for (const ValueInfo& v : part.inputs) runner.inputs_.push_back(v.name);
  ASSIGN_OR_RETURN(runner.executable_,
                   Compile(std::make_shared<const Graph>(std::move(part)), {.threads = threads, .max_plans = 2}));
  return runner;
}

absl::StatusOr<std::span<const Tensor>> BlockRunner::Run(const HiddenStates& hidden, size_t sample,
                                                         std::span<const int32_t> ids) {
  ASSIGN_OR_RETURN(const Tensor x, hidden.Read(sample));
  std::span<const Tensor> out;
  if (executable_ != nullptr) {
    std::vector<Tensor> given;
    for (const std::string& name : inputs_) {
      if (name == input_) {
        given.push_back(x);
        continue;
      }
      ASSIGN_OR_RETURN(Tensor tokens, Tensor::Allocate(DType::kInt64, {1, static_cast<int64_t>(ids.size())}));
      std::copy(ids.begin(), ids.end(), tokens.mutable_data<int64_t>().begin());
      given.push_back(std::move(tokens));
    }
    ASSIGN_OR_RETURN(out, executable_->Run(given));
  }
  shown_.clear();
  size_t next = 0;
  for (const std::string& v : values_) shown_.push_back(v == input_ ? x : out[next++]);
  return std::span<const Tensor>(shown_);
}

}  // namespace quant
